//! What a session waits for before it begins or is released: its turn, and room on the disk.
//!
//! A start that waits has nothing under way, so a stop ends it at once. There is no number of tries: it is tried again
//! whenever there is more room, until it is stopped or its deadline passes.

use std::{sync::Arc, time::Instant};

use muster_proto::v1::Workspace;
use tokio::sync::OwnedSemaphorePermit;

use super::{Op, Session, TURN_FOR};
use crate::room;

impl Session {
    /// Queues for a start. The queue is the semaphore's: first come, first served.
    pub(super) async fn wait_for_turn(&mut self) {
        self.decide(|attempt| attempt.on_wait(Instant::now())).await;
        let Some(run) = self.run.as_ref() else { return };
        let (attempt, span) = (run.attempt.start.attempt, run.span.clone());
        let context = Arc::clone(&self.context);
        self.work(attempt, "wait for a start", span, async move {
            let turn = Arc::clone(&context.starts).acquire_owned().await;
            Op::Turn(turn.expect("the semaphore is never closed"))
        });
    }

    pub(super) fn on_turn(&mut self, turn: OwnedSemaphorePermit) {
        let Some(run) = self.run.as_mut() else { return };
        run.turn = Some(turn);
        run.attempt.on_turn();
        let (attempt, span) = (run.attempt.start.attempt, run.span.clone());
        if run.attempt.is_preparing() {
            self.make_workspace();
        } else {
            self.launch();
        }
        self.work(attempt, "bound a start", span, async move {
            tokio::time::sleep(TURN_FOR).await;
            Op::TurnOver
        });
    }

    pub(super) fn end_turn(&mut self) {
        if let Some(run) = self.run.as_mut() {
            run.turn = None;
        }
    }

    /// claude was not started, and the reason.
    pub(super) async fn on_launch_failed(&mut self, reason: String, now: Instant) {
        let begun = self.run.as_ref().is_some_and(|run| run.dir.was_started());
        if !begun && room::speaks_of_full(&reason, self.dir.path()) {
            self.hold_for_room(&reason).await;
        } else {
            self.decide(|attempt| attempt.on_launch_failed(reason, now)).await;
        }
    }

    /// The disk has no room for a start. Unless it is to end, it waits.
    pub(super) async fn hold_for_room(&mut self, reason: &str) {
        tracing::warn!(session.id = %self.id, reason, "disk is full, the session begins when there is room");
        self.set_held(|held| held.start = true);
        self.end_turn();
        self.decide(|attempt| attempt.on_wait(Instant::now())).await;
        let Some(run) = self.run.as_ref() else { return };
        let (attempt, span, path) = (run.attempt.start.attempt, run.span.clone(), self.dir.path().to_owned());
        let path = path.parent().unwrap_or(&path).to_owned();
        self.work(attempt, "wait for room", span, async move {
            room::wait(&path).await;
            Op::Room
        });
    }

    /// As [`Self::hold_for_room`], for a release. The controller is told nothing yet: for it the release goes on.
    pub(super) fn release_when_there_is_room(&mut self, workspace: Workspace, reason: &str) {
        tracing::warn!(session.id = %self.id, reason, "disk is full, the workspace is released when there is room");
        self.releasing = true;
        let path = self.dir.path().to_owned();
        self.work(0, "wait for room", tracing::Span::current(), async move {
            room::wait(&path).await;
            Op::ReleaseAgain(workspace)
        });
    }
}

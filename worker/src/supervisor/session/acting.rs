//! Performing what an attempt decided: events made durable first, then orders, launches, the rest.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use muster_proto::v1::{Activity, EndReason, SessionEvent, session_event::Body};
use muster_runtime::task;
use tracing::info_span;

use super::{Attempt, Draft, Effect, Held, Obstacle, Op, Session, launching};
use crate::{
    local_state, room,
    shim::protocol::ToShim,
    supervisor::{setup, transcripts},
};

/// Activity is told at most this often.
const ACTIVITY_EVERY: Duration = Duration::from_secs(1);
/// Between tries to write when the disk takes nothing.
const DISK_RETRY: Duration = Duration::from_secs(1);

impl Session {
    pub(super) async fn decide(&mut self, decide: impl FnOnce(&mut Attempt) -> Vec<Effect>) {
        let Some(run) = self.run.as_mut() else { return };
        let effects = decide(&mut run.attempt);
        self.perform(effects).await;
    }

    /// Events first and durable, then the rest in order.
    pub(super) async fn perform(&mut self, effects: Vec<Effect>) {
        let Some(run) = self.run.as_mut() else { return };
        if effects.contains(&Effect::Over) {
            // Before the end is told: whoever hears of it may use the slot at once.
            run.slot = None;
            let dir = run.dir.clone();
            setup::end(&dir, &self.id.to_string()).await;
        }
        let Some(run) = &self.run else { return };
        let number = run.attempt.start.attempt;
        let (mut drafts, mut others) = (Vec::new(), Vec::new());
        for effect in effects {
            match effect {
                Effect::Emit(cursor, mut body) => {
                    if let Body::AttemptEnded(ended) = &mut body {
                        ended.spool_end_offset = self.spool_end();
                        ended.resumable = self.record.began;
                        crate::metrics::ended(self.id, &run.attempt.start, run.began, ended);
                    }
                    // Of a fenced attempt only the end is told: the answer to the order.
                    if self.fencing != Some(number) || matches!(body, Body::AttemptEnded(_)) {
                        drafts.push(Draft { attempt: number, cursor, body });
                    }
                }
                other => others.push(other),
            }
        }
        if !drafts.is_empty() {
            let last_input = run.attempt.last_input();
            self.entry.update(|view| view.last_input = last_input);
            self.append(drafts).await;
        }
        for effect in others {
            self.act(effect).await;
        }
    }

    pub(super) async fn act(&mut self, effect: Effect) {
        match effect {
            Effect::Emit(..) => {}
            Effect::Activity(_) if self.fencing.is_some() => {}
            Effect::Activity(text) => self.tell_activity(text),
            // Boxed: what waits may end at once, which leads back here.
            Effect::Begin => Box::pin(self.wait_for_turn()).await,
            Effect::Launch => self.launch(),
            Effect::Order(order) => self.order(order).await,
            Effect::KillShim => self.kill_shim(),
            Effect::EndSetup => {
                if let Some(run) = &self.run {
                    run.stop.send_replace(true);
                }
            }
            Effect::Over => {
                if let Some(run) = self.run.take() {
                    self.record.note_usage(run.attempt.fold.raw_usage());
                    self.remove_temporary(run.attempt.start.attempt);
                    self.keep_transcript();
                }
                let end = self.spool_end();
                let began = !std::mem::take(&mut self.held).start;
                self.entry.update(|view| {
                    view.running = false;
                    view.standing = None;
                    view.end_offset = view.end_offset.max(end);
                });
                if began {
                    self.write_record().await;
                }
                if self.fencing.is_some() {
                    self.set_aside().await;
                }
                if let Some(next) = self.next.take() {
                    // Boxed: on_start leads back here.
                    Box::pin(self.on_start(next, Instant::now())).await;
                }
            }
        }
    }

    pub(super) async fn order(&mut self, order: ToShim) {
        // Without a link the order is lost; it is given again when the shim is found.
        if let Some(link) = self.run.as_ref().and_then(|run| run.link.as_ref()) {
            link.order(order).await;
        }
    }

    pub(super) fn kill_shim(&self) {
        let Some(run) = &self.run else { return };
        tracing::error!(session.id = %self.id, "shim does not end its session, killing the shim");
        launching::kill_shim(&run.dir);
    }

    pub(super) fn make_workspace(&mut self) {
        let Some(run) = &self.run else { return };
        let span = info_span!(parent: &run.span, "workspace.create", session.id = %self.id);
        let attempt = run.attempt.start.attempt;
        let (context, start) = (Arc::clone(&self.context), run.attempt.start.clone());
        let (session_dir, record) = (self.dir.clone(), self.record.clone());
        let mut stop = run.stop.subscribe();
        self.work(attempt, "make workspace", span, async move {
            let fetches = launching::fetches(&context, &start);
            let stopped = async {
                // What git does in a directory of the operator's takes moments and is let finish.
                if !fetches || stop.wait_for(|stop| *stop).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            let began = Instant::now();
            tokio::select! {
                prepared = launching::prepare(&context, &start, &record, &session_dir) => {
                    crate::metrics::prepared(began, prepared.is_err());
                    Op::Workspace(prepared)
                }
                () = stopped => {
                    let text = "ended before its workspace was made".to_owned();
                    Op::Workspace(Err(Obstacle::Fatal(EndReason::WorkspaceFailed, text)))
                }
            }
        });
    }

    pub(super) fn launch(&mut self) {
        let Some(run) = &self.run else { return };
        let span = info_span!(parent: &run.span, "claude.run", session.id = %self.id);
        let (attempt, dir) = (run.attempt.start.attempt, run.dir.clone());
        let traceparent = span.in_scope(muster_runtime::telemetry::traceparent);
        let launch = launching::order(
            &self.context,
            &run.attempt.start,
            &launching::Facts {
                session: self.id,
                place: self.record.place.as_ref(),
                began: self.record.began,
                spool: self.dir.spool(),
                base_offset: self.record.base_offset,
                output_start: self.spool_end(),
                traceparent: &traceparent,
            },
        );
        let place = launching::Place {
            session: self.id.to_string(),
            session_dir: self.dir.path().to_owned(),
            dir,
            temporary: self.temporary(attempt),
            lease_bound: run.attempt.start.lease_bound,
            stop: run.stop.subscribe(),
        };
        let context = Arc::clone(&self.context);
        self.work(attempt, "launch", span, async move {
            Op::Launched(launching::launch(&context, launch, place).await)
        });
    }

    fn temporary(&self, attempt: u32) -> Option<PathBuf> {
        local_state::attempt_temporary(&self.context.config.state_dir, self.id, attempt)
    }

    /// In the background: tools may have left much there. What resists is found by the next cleaning.
    fn remove_temporary(&self, attempt: u32) {
        let Some(path) = self.temporary(attempt) else { return };
        task::spawn_blocking("remove temporary", move || {
            if let Err(error) = local_state::remove_attempt_temporary(&path) {
                tracing::warn!(path = %path.display(), error = %error, "temporary files of a session stay");
            }
        })
        .detach();
    }

    /// In the background. A disk that takes none has claude's own copy still, and the next attempt tries again.
    fn keep_transcript(&self) {
        let (config, session) = (self.context.config.claude.clone(), self.id.to_string());
        let to = self.dir.transcripts();
        task::spawn_blocking("keep transcript", move || {
            if let Err(error) = transcripts::keep(&config, &session, &to) {
                tracing::warn!(session.id = session, error = %error, "the transcript is not kept with the session");
            }
        })
        .detach();
    }

    pub(super) fn tell_activity(&mut self, text: String) {
        let Some(event) = self.activity(text) else { return };
        if self.last_activity.elapsed() >= ACTIVITY_EVERY {
            self.last_activity = Instant::now();
            self.entry.update(|view| view.activity = Some(event));
        } else {
            self.entry.keep_activity(event);
        }
    }

    fn activity(&self, text: String) -> Option<SessionEvent> {
        let run = self.run.as_ref()?;
        let permission_mode = run.attempt.fold.permission_mode().to_owned();
        let blocked = if self.held == Held::default() { "" } else { "disk_full" }.to_owned();
        Some(SessionEvent {
            session_id: self.id.to_string(),
            attempt: run.attempt.start.attempt,
            event_seq: 0,
            at: Some(muster_proto::time::now()),
            body: Some(Body::Activity(Activity { text, permission_mode, blocked })),
        })
    }

    /// Says at once whether the disk holds the session; said again on each new link for as long as it does.
    pub(super) fn set_held(&mut self, change: impl FnOnce(&mut Held)) {
        let before = self.held;
        change(&mut self.held);
        let blocked = self.held != Held::default();
        if blocked == (before != Held::default()) {
            return;
        }
        let text =
            if blocked { "held: the worker's disk is full" } else { "the worker's disk has room again" };
        let Some(event) = self.activity(text.to_owned()) else { return };
        self.entry.update(|view| {
            view.standing = blocked.then(|| event.clone());
            view.activity = Some(event);
        });
    }

    /// Until the disk takes it: what is not durable must not be told, and what is not told would be lost.
    pub(super) async fn append(&mut self, drafts: Vec<Draft>) {
        loop {
            let (entry, batch) = (Arc::clone(&self.entry), drafts.clone());
            match task::spawn_blocking("append events", move || entry.append(batch)).await {
                Ok(Ok(())) => return self.set_held(|held| held.own = false),
                Ok(Err(error)) if self.never_began(&drafts, &error) => {
                    return self.entry.append_volatile(drafts);
                }
                Ok(Err(error)) => {
                    tracing::warn!(session.id = %self.id, error = %error, "disk takes no events, trying again");
                    self.set_held(|held| held.own = true);
                }
                Err(error) => {
                    tracing::error!(session.id = %self.id, error = %error, "events are lost");
                    return;
                }
            }
            tokio::time::sleep(DISK_RETRY).await;
        }
    }

    /// Whether this is the end of an attempt that a full disk kept from beginning, and nothing on disk says otherwise.
    fn never_began(&self, drafts: &[Draft], error: &std::io::Error) -> bool {
        let [Draft { attempt, body: Body::AttemptEnded(_), .. }] = drafts else { return false };
        self.held.start && room::is_full(error) && self.dir.remove_start(*attempt).is_ok()
    }

    /// What a record says is found again by replaying the output, so a disk that does not take it holds up nobody: it
    /// is written again later.
    pub(super) async fn write_record(&mut self) {
        let (dir, record) = (self.dir.clone(), self.record.clone());
        let written = task::spawn_blocking("write record", move || dir.write_record(&record)).await;
        self.record_again = None;
        if let Ok(Err(error)) = &written {
            tracing::warn!(session.id = %self.id, error = %error, "disk takes no record, trying again");
            self.record_again = Some(Instant::now() + DISK_RETRY);
        }
        let held = self.record_again.is_some();
        self.set_held(|state| state.own = held);
    }
}

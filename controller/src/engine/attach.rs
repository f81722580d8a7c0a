//! A worker that connects: what it holds against what it should hold.
//!
//! | the worker | the engine | what happens |
//! |---|---|---|
//! | holds the attempt | wants it | adopted; inputs it has not applied are sent |
//! | holds the attempt | wants it stopped | StopAttempt |
//! | holds an attempt that was started elsewhere since | | StopAttempt, fenced |
//! | runs another attempt, or one that ended, or one of another worker | | StopAttempt for that attempt |
//! | holds it not, never reported it | wants it | StartSession again: starting is idempotent |
//! | holds it not, never reported it | wants it stopped | StopAttempt: it answers that it does not hold it |
//! | holds it not, reported it before | | the attempt ended: WORKER_LOST |
//! | has a workspace to release | | ReleaseWorkspace |

use std::collections::HashSet;

use muster_proto::{
    error::{Error, ErrorCode},
    ids::{SessionId, WorkerId},
    v1::{
        AttemptEnded, ConnectResponse, End, EndReason, HeldSession, Project, StopAttempt,
        connect_response::Body,
    },
};
use tracing::{error, info, warn};

use super::{Attach, Attached, archive, events, input, place, resume, run::Engine, stage::Stage, stop};
use crate::{
    fleet::Arrival,
    session::{Phase, Session},
};

impl Engine {
    /// Links a worker and reconciles. Returns the commands it is to be given first.
    /// One that somebody else may be has to wait.
    ///
    /// # Errors
    /// DUPLICATE_WORKER when somebody else is it, too.
    pub(super) fn attach(&mut self, attach: Attach, stage: &mut Stage) -> Result<Attached, Error> {
        let Attach { worker, incarnation, hello, protocol, link } = attach;
        let now = self.now();
        match self.fleet.arrives(&worker, &incarnation, now) {
            Arrival::Welcome => {}
            Arrival::Wait => return Ok(Attached::Wait),
            Arrival::Twins { news } => {
                if news {
                    error!(worker.id = %worker, incarnation = %incarnation,
                        "two live processes show the identity of one worker; both are refused");
                    self.plan_due = true;
                    self.note("worker.duplicate", worker.to_string(), "two live processes show its identity");
                }
                return Err(twins(&worker));
            }
        }
        self.announce(&worker, &hello.projects, stage);
        // Of one session it may still hold an older attempt and not have got the newest.
        let held: HashSet<(SessionId, u32)> = hello
            .held
            .iter()
            .filter_map(|held| Some((held.session_id.parse().ok()?, held.attempt)))
            .collect();
        let mut commands: Vec<Body> = Vec::new();
        for held in &hello.held {
            self.reconcile_held(&worker, held, stage, &mut commands);
        }
        for id in stage.active_on(&self.book, &worker) {
            if let Some(mut session) = stage.copy(&self.book, id)
                && resume::machine_is_back(&mut session, &hello.boot_id)
            {
                warn!(worker.id = %worker, session.id = %id, in_a_row = session.state.crashes_in_a_row,
                    "the machine of a session is another boot than before");
                stage.put(session);
            }
            let attempt = stage.get(&self.book, id).map_or(0, |session| session.state.attempt);
            if !held.contains(&(id, attempt)) {
                self.reconcile_missing(&worker, id, stage, &mut commands);
            }
        }
        let releasing: Vec<_> = self.book.releasing(&worker).collect();
        commands
            .extend(releasing.iter().filter_map(|id| Some(archive::release(stage.get(&self.book, *id)?))));
        info!(worker.id = %worker, incarnation = %incarnation, held = held.len(), commands = commands.len(),
            "a worker connected");
        stage.reporters.insert(worker.clone());
        self.fleet.attach(worker, incarnation, hello, protocol, link, now);
        self.plan_due = true;
        Ok(Attached::Linked(commands.into_iter().map(|body| ConnectResponse { body: Some(body) }).collect()))
    }

    fn announce(&self, worker: &WorkerId, projects: &[Project], stage: &mut Stage) {
        for project in projects {
            let known =
                self.book.projects().get(&project.name).and_then(|workers| workers.get(worker.as_str()));
            if known != Some(project) {
                stage.project(worker, project.clone());
            }
        }
    }

    fn reconcile_held(&self, worker: &WorkerId, held: &HeldSession, stage: &Stage, commands: &mut Vec<Body>) {
        let session = held.session_id.parse().ok().and_then(|id| stage.get(&self.book, id));
        let own = session.filter(|session| {
            session.is_on(worker) && session.state.attempt == held.attempt && session.phase().is_active()
        });
        match own {
            Some(session) if session.phase() == Phase::Stopping => commands.push(stop::command(session)),
            // One that has ended there reports so; what it did not take waits for the next attempt.
            Some(_) if !held.running => {}
            Some(session) => {
                let missing = session.inputs.range(held.last_input + 1..);
                commands.extend(missing.map(|(_, input)| input::apply_input(session, input)));
            }
            // Also of one that has ended there: what it left must not be sent.
            None if session.is_some_and(|session| is_fenced(session, worker, held.attempt)) => {
                warn!(worker.id = %worker, session.id = held.session_id, attempt = held.attempt,
                    "the worker comes back with an attempt that was started elsewhere since");
                self.note(
                    "worker.fenced",
                    worker.to_string(),
                    &format!("session {}, attempt {}", held.session_id, held.attempt),
                );
                let session_id = held.session_id.clone();
                commands.push(Body::Stop(StopAttempt { session_id, attempt: held.attempt, fenced: true }));
            }
            None if held.running => {
                warn!(worker.id = %worker, session.id = held.session_id, attempt = held.attempt,
                    "the worker runs what nobody wants; it is stopped");
                let session_id = held.session_id.clone();
                commands.push(Body::Stop(StopAttempt { session_id, attempt: held.attempt, fenced: false }));
            }
            None => {}
        }
    }

    fn reconcile_missing(
        &self,
        worker: &WorkerId,
        id: SessionId,
        stage: &mut Stage,
        commands: &mut Vec<Body>,
    ) {
        let Some(mut session) = stage.copy(&self.book, id) else { return };
        if session.state.seen {
            // Also when it is to be stopped: asked to, a worker that lost its disk would answer with a number
            // that its earlier reports have used.
            warn!(worker.id = %worker, session.id = %id, attempt = session.state.attempt,
                "the worker no longer holds the attempt; it is lost");
            let ended = lost(&session, worker, self.outputs.end(id));
            if let Err(illegal) = events::attempt_ended(&mut session, ended, muster_proto::time::now(), stage)
            {
                warn!(session.id = %id, error = %illegal, "a lost attempt could not be ended");
            }
            stage.put(session);
        } else if session.phase() == Phase::Stopping {
            // It answers that it does not hold it, after anything that was still on its way.
            commands.push(stop::command(&session));
        } else {
            commands.extend(place::start(&self.book, &session));
        }
    }
}

/// Whether the session was taken from the worker, which held that attempt.
fn is_fenced(session: &Session, worker: &WorkerId, attempt: u32) -> bool {
    let was_taken = session.state.fenced.iter().any(|fenced| fenced == worker.as_str());
    was_taken && !(session.is_on(worker) && attempt >= session.state.attempt)
}

fn twins(worker: &WorkerId) -> Error {
    let message = format!("another live process shows the identity of the worker {worker}");
    Error::new(ErrorCode::DuplicateWorker, message)
        .hint("End one of the two, or revoke the worker and have each machine join by its own name.")
}

fn lost(session: &Session, worker: &WorkerId, output_end: u64) -> AttemptEnded {
    let message = format!("{worker} came back without it");
    AttemptEnded {
        end: Some(End { reason: EndReason::WorkerLost.into(), message, ..End::default() }),
        spool_end_offset: output_end,
        resumable: session.state.conversation,
        ..AttemptEnded::default()
    }
}

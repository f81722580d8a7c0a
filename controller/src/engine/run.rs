//! The engine's loop: gathers a batch, applies it, commits it once, then tells.

use std::time::{Duration, Instant};

use muster_proto::{
    error::{Error, ErrorCode},
    ids::WorkerId,
    v1::{HeartbeatAck, SessionEvent, connect_response::Body, session_event},
};
use muster_runtime::shutdown::Shutdown;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use super::{
    Change, Config, Message, book::Book, events, maintain::Waiter, observe, read::Viewer,
    recover::boot_value, stage::Stage, stop, watch::Watchers,
};
use crate::{
    fleet::{Registry, link::Closing},
    output::Replicas,
    store::{Shared, keys},
};

/// Messages of one batch at most: bounds how long the first one waits.
const BATCH: usize = 256;
/// Bits of a revision below the number of the start: changes of one life of the process.
const BOOT_SHIFT: u32 = 32;

pub(super) struct Engine {
    pub(super) config: Config,
    pub(super) store: Shared,
    pub(super) book: Book,
    pub(super) fleet: Registry,
    pub(super) watchers: Watchers,
    pub(super) outputs: Replicas,
    pub(super) mailbox: mpsc::Receiver<Message>,
    /// Grows with every change of any session, over restarts too.
    pub(super) revision: u64,
    /// Something may be placed that could not before.
    pub(super) plan_due: bool,
    pub(super) started: Instant,
    /// Number of this start, while the store could not write it down.
    pub(super) boot_owed: Option<u64>,
    /// Watchers were told of the workers that never came back after the start.
    pub(super) absent_told: bool,
    /// When to look next for sessions to forget.
    pub(super) expire_at: Instant,
    /// When to look next at what only adds up.
    pub(super) sample_at: Instant,
    pub(super) waiting_for_empty: Vec<Waiter>,
    /// How far its clock is ahead of the machine's: tests let time pass.
    pub(super) ahead: Duration,
}

impl Engine {
    /// The revision every session has at the start number `boot`. The seconds tell starts apart that could
    /// not be counted, one after the other on a full disk; what changes then is little and not durable.
    pub(super) fn first_revision(boot: u64) -> u64 {
        let seconds = u32::try_from(muster_proto::time::now().seconds).unwrap_or(0);
        (boot << BOOT_SHIFT) + u64::from(seconds)
    }

    /// By the clock that never goes back.
    pub(super) fn now(&self) -> Instant {
        Instant::now() + self.ahead
    }

    /// Notes in the audit log what was done without being asked.
    pub(super) fn note(&self, action: &str, subject: String, detail: &str) {
        if let Some(audit) = &self.config.audit {
            audit.note(action, subject, detail);
        }
    }

    /// Runs until `stop`; at `leaving` the workers are sent away.
    pub(super) async fn run(mut self, leaving: Shutdown, stop: Shutdown) {
        let mut tick = interval(self.config.tick);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut has_left = false;
        loop {
            let mut stage = Stage::new(&self.book);
            tokio::select! {
                biased;
                () = stop.requested() => break,
                () = leaving.requested(), if !has_left => {
                    has_left = true;
                    self.fleet.close_all(Closing::Shutdown);
                }
                _ = tick.tick() => {
                    self.tick();
                    self.expire(&mut stage);
                    self.interrupt_drained(&mut stage);
                    self.lapse(&mut stage);
                }
                message = self.mailbox.recv() => {
                    let Some(message) = message else { break };
                    self.gather(message, &mut stage);
                }
            }
            self.place(&mut stage);
            self.commit(stage).await;
            observe::sample(&mut self);
        }
        self.store.close().await;
    }

    fn gather(&mut self, first: Message, stage: &mut Stage) {
        let mut next = Some(first);
        let mut taken = 0;
        while let Some(message) = next {
            match message {
                Message::Change(change) => self.apply(change, stage),
                Message::Read(read) => self.read(read),
            }
            taken += 1;
            next = if taken < BATCH { self.mailbox.try_recv().ok() } else { None };
        }
    }

    // Whoever waits for a reply may have gone away: that is never an error here.
    pub(super) fn apply(&mut self, change: Change, stage: &mut Stage) {
        match change {
            Change::Spawn { request, scope, reply } => {
                let result = self.spawn(*request, &scope, stage);
                stage.answer(move |viewer, commit| {
                    let seen = commit.and(result).map(|(id, replayed)| (viewer.must_view(id), replayed));
                    let _ = reply.send(seen);
                });
            }
            Change::Input { request, scope, reply } => {
                let result = self.input(request, &scope, stage);
                stage.answer(move |viewer, commit| {
                    let seen = commit.and(result);
                    let _ = reply
                        .send(seen.map(|done| (viewer.must_view(done.id), done.replayed, done.delivery)));
                });
            }
            Change::Stop { session, reason, reply } => {
                let result = stop::apply(&self.book, stage, &session, &reason);
                stage.answer(move |viewer, commit| {
                    let seen = commit.and(result).map(|(id, changed)| (viewer.must_view(id), changed));
                    let _ = reply.send(seen);
                });
            }
            Change::Archive { session, reply } => {
                let result = self.archive(&session, stage);
                stage.answer(move |viewer, commit| {
                    let seen = commit.and(result).map(|(id, changed)| (viewer.must_view(id), changed));
                    let _ = reply.send(seen);
                });
            }
            Change::Attach { hello, reply } => {
                let arriving = observe::arriving(self, &hello);
                let attached = self.attach(*hello, stage);
                if matches!(attached, Ok(super::Attached::Linked(_))) {
                    arriving.connected();
                }
                stage.answer(move |_, commit| drop(reply.send(commit.and(attached))));
            }
            Change::Detach { worker, link } => {
                observe::disconnected(&worker);
                self.fleet.detach(&worker, link);
                self.plan_due = true;
            }
            Change::Heartbeat { worker, link, heartbeat } => {
                // With its first it has a lease.
                self.plan_due |= heartbeat.seq > 0 && !self.fleet.is_leased(&worker);
                if self.fleet.heard(&worker, link, Some(heartbeat), self.now()) && heartbeat.seq > 0 {
                    let ack = HeartbeatAck { seq: heartbeat.seq };
                    self.fleet.send(&worker, Body::HeartbeatAck(ack));
                }
                // There may be memory or disk again.
                self.plan_due |= self.fleet.is_limited(&worker);
            }
            Change::Event { worker, link, event } => {
                // A link that was replaced: the new one reports it again.
                let now = self.now();
                if self.fleet.heard(&worker, link, None, now) {
                    stage.reporters.insert(worker.clone());
                    self.note_mirror(&worker, &event);
                    if events::says_broken(&event) {
                        self.fleet.could_not_start(&worker, now);
                    }
                    events::apply(&self.book, stage, &worker, *event);
                }
            }
            Change::PutProject { policy, if_revision, caller, reply } => {
                let name = policy.name.clone();
                let result = self.put_project(*policy, if_revision, &caller, stage);
                stage.answer(move |viewer, commit| {
                    let put = commit.and(result).map(|replaced| (viewer.declared(&name), replaced));
                    let _ = reply.send(put);
                });
            }
            Change::RemoveProject { name, reply } => {
                let result = self.remove_project(&name, stage);
                stage.answer(move |_, commit| drop(reply.send(commit.and(result))));
            }
            Change::Maintain { worker, order, reply } => {
                let result = self.maintain(&worker, order, stage);
                stage.answer(move |viewer, commit| {
                    let _ = reply.send(commit.and(result).map(|()| viewer.worker(&worker)));
                });
            }
        }
    }

    /// A worker that made the workspace of a declared project has its mirror from then on.
    fn note_mirror(&mut self, worker: &WorkerId, event: &SessionEvent) {
        if !matches!(event.body, Some(session_event::Body::WorkspaceReady(_))) {
            return;
        }
        let session = event.session_id.parse().ok().and_then(|id| self.book.get(id));
        if let Some(session) =
            session.filter(|session| session.fixed.policy.is_some() && session.is_on(worker))
        {
            self.fleet.mirrors(worker, &session.spec().project);
        }
    }

    pub(super) async fn commit(&mut self, mut stage: Stage) {
        let mut txn = stage.txn(&self.book);
        let writes = !txn.is_empty();
        if let Some(boot) = self.boot_owed.filter(|_| writes) {
            txn.put(keys::BOOT, boot_value(boot));
        }
        let began = Instant::now();
        if writes && let Err(error) = self.store.commit(txn).await {
            observe::stored(&stage, began, true);
            let refused = Error::new(ErrorCode::StoreUnavailable, error.to_string())
                .hint("Nothing was changed. Free space in the state folder or look at the controller's log.");
            for worker in std::mem::take(&mut stage.reporters) {
                self.fleet.cut(&worker, Closing::Store);
            }
            self.plan_due = true;
            let viewer = self.viewer();
            for answer in stage.answers {
                answer(&viewer, Err(refused.clone()));
            }
            return;
        }
        if writes {
            self.boot_owed = None;
            observe::stored(&stage, began, false);
        }
        observe::committed(&self.book, &stage);
        let revision = &mut self.revision;
        let changed = stage.install(&mut self.book, || {
            *revision += 1;
            *revision
        });
        for (worker, command) in stage.commands {
            self.fleet.send(&worker, command);
        }
        let viewer = self.viewer();
        for answer in stage.answers {
            answer(&viewer, Ok(()));
        }
        for id in changed {
            self.watchers.mark(id);
        }
        self.tell_empty();
    }

    /// What only time changes: silence.
    pub(super) fn tick(&mut self) {
        let now = self.now();
        let mut told: Vec<WorkerId> = self.fleet.changed_liveness(now);
        // One that waits for a warm worker may have waited long enough.
        self.plan_due |=
            !told.is_empty() || !(self.config.policy.warm_wait.is_zero() || self.book.queue().is_empty());
        if !self.absent_told && now.duration_since(self.started) >= self.config.unreachable_after {
            self.absent_told = true;
            told.extend(
                self.book.active_workers().filter(|worker| self.fleet.is_silent(worker, now)).cloned(),
            );
        }
        for worker in told {
            let silent = self.fleet.is_silent(&worker, now);
            tracing::warn!(worker.id = %worker, silent, "a worker's silence began or ended");
            let sessions: Vec<_> = self.book.active(&worker).collect();
            for id in sessions {
                self.watchers.mark(id);
            }
        }
    }

    pub(super) fn viewer(&self) -> Viewer<'_> {
        Viewer::new(&self.book, &self.fleet, &self.outputs, &self.config.policy, self.now())
    }
}

//! How attempts come to a session: ordered by the controller, or found on disk after a restart.

use std::time::{Instant, SystemTime};

use muster_proto::v1::{AttemptEnded, EndReason, StartSession, session_event::Body};
use muster_runtime::task;
use tokio::sync::watch;
use tracing::info_span;

use super::{Attempt, Draft, Effect, Op, Reader, Record, Run, Session, Slot, ending, locate};

impl Session {
    pub(super) async fn on_start(&mut self, start: Box<StartSession>, now: Instant) {
        if let Some(run) = &self.run {
            if start.attempt > run.attempt.start.attempt {
                tracing::warn!(session.id = %self.id, attempt = start.attempt, "newer attempt ordered, ending the older");
                self.next = Some(start);
                self.decide(|attempt| attempt.on_stop(now)).await;
            }
            return;
        }
        if start.attempt <= self.entry.outbox(|outbox| outbox.ended_attempt()) {
            tracing::debug!(session.id = %self.id, attempt = start.attempt, "start of an attempt that has ended; ignored");
            return;
        }
        self.begin(*start, now).await;
    }

    pub(super) async fn begin(&mut self, start: StartSession, now: Instant) {
        let number = start.attempt;
        let Some(slot) = self.context.take_slot() else {
            let text = format!("worker {} has no free slot", self.context.config.name);
            self.say_ended(number, ending::without_process(EndReason::StartFailed, text)).await;
            return;
        };
        if self.record.handle.is_empty() {
            // Known so far only from an order that came before its start.
            self.record = Record::new(&start.handle, start.output_base_offset);
            let base = start.output_base_offset;
            self.entry.update(|view| (view.base_offset, view.end_offset) = (base, base));
        }
        self.record.released = false;
        self.launch_error = None;
        self.dir.remove_release();
        self.enter(start, self.spool_end(), Some(slot), now);
        self.perform(vec![Effect::Begin]).await;
    }

    /// Takes an attempt on. `output_start`: where its output begins.
    pub(super) fn enter(&mut self, start: StartSession, output_start: u64, slot: Option<Slot>, now: Instant) {
        let number = start.attempt;
        let span = info_span!("session.start", session.id = %self.id, attempt = number);
        muster_runtime::telemetry::set_parent_from_traceparent(&span, &start.traceparent);
        let left = start.deadline.as_ref().map(muster_proto::time::to_system);
        let left = left.map(|at| at.duration_since(SystemTime::now()).unwrap_or_default());
        let deadline = left.and_then(|left| now.checked_add(left));
        let mut attempt = Attempt::new(
            start,
            *self.id.as_uuid(),
            output_start,
            self.record.usage(),
            self.context.config.timing,
            now,
            deadline,
        );
        if !self.record.began {
            attempt.open_anew();
        }
        let last_input = attempt.last_input();
        self.run = Some(Run {
            attempt,
            dir: self.dir.attempt(number),
            link: None,
            reader: Reader::new(&self.dir.spool(), self.record.base_offset),
            position: output_start,
            began: SystemTime::now(),
            span,
            slot,
            turn: None,
            stop: watch::Sender::new(false),
        });
        self.entry.update(|view| {
            view.attempt = number;
            view.running = true;
            view.released = false;
            view.fenced = false;
            view.last_input = last_input;
        });
    }

    /// claude knows nothing of the conversation (it was killed before it wrote any of it down): the same attempt runs
    /// once more, as a first one. Killed on the way, it comes here again or finds an attempt that never began.
    pub(super) async fn begin_anew(&mut self) {
        tracing::warn!(session.id = %self.id, "claude has no conversation to resume; it is given the prompt again");
        self.record.began = false;
        self.write_record().await;
        let Some(mut run) = self.run.take() else { return };
        let dir = run.dir.clone();
        let forgot = task::spawn_blocking("forget a run", move || dir.forget_run());
        if let Ok(Err(error)) = forgot.await {
            tracing::error!(session.id = %self.id, error = %error, "a run cannot be forgotten");
        }
        self.enter(run.attempt.start, self.spool_end(), run.slot.take(), Instant::now());
        Box::pin(self.perform(vec![Effect::Begin])).await;
    }

    /// Goes on with an attempt found on disk.
    pub(super) async fn resume(&mut self, start: StartSession) {
        let now = Instant::now();
        let dir = self.dir.attempt(start.attempt);
        let launch = dir.read_launch().ok();
        let output_start = launch.map_or_else(|| self.spool_end(), |launch| launch.output_start);
        // Restored sessions run already: they are counted, over the limit if need be.
        let slot = Some(self.context.force_slot());
        self.enter(start, output_start, slot, now);
        self.find_shim();
    }

    pub(super) fn find_shim(&mut self) {
        let Some(run) = &self.run else { return };
        let (dir, session) = (run.dir.clone(), self.id.to_string());
        self.work(run.attempt.start.attempt, "find shim", run.span.clone(), async move {
            Op::Located(locate(&dir, &session).await)
        });
    }

    /// An attempt that never came here is over, and stays so should its start arrive late.
    pub(super) async fn refuse_stop(&mut self, attempt: u32) {
        let waits = self.next.as_ref().is_some_and(|next| next.attempt == attempt);
        if waits {
            self.next = None;
        }
        if self.entry.outbox(|outbox| outbox.ended_attempt()) >= attempt || self.run.is_some() && !waits {
            return;
        }
        let end = ending::without_process(EndReason::WorkerLost, "this worker does not hold the attempt");
        self.say_ended(attempt, end).await;
    }

    pub(super) async fn say_ended(&mut self, attempt: u32, end: muster_proto::v1::End) {
        let ended = AttemptEnded {
            end: Some(end),
            spool_end_offset: self.spool_end(),
            resumable: self.record.began,
            ..AttemptEnded::default()
        };
        self.append(vec![Draft { attempt, cursor: 0, body: Body::AttemptEnded(ended) }]).await;
    }
}

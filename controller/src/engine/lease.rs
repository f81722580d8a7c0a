//! Sessions whose worker is cut off, and who may be started elsewhere then.
//!
//! A worker runs an attempt that is bound to its lease for no longer than the lease from the moment it sent the
//! last heartbeat that was acknowledged, by its own clock. The controller counts from the moment it had that
//! heartbeat, which is later, adds the time a stop takes and a margin, and only then lets a new attempt be placed.
//! Invariant: no two attempts of a session can ever run at once, whatever becomes of connections and processes.
//! Both count with clocks that never go back; after a start the controller counts from the start.

use std::time::Duration;

use muster_proto::{
    ids::{SessionId, WorkerId},
    v1::{AttemptEnded, End, EndReason},
};
use tracing::warn;

use super::{events, resume, run::Engine, stage::Stage};
use crate::{
    fleet::link::Closing,
    session::{
        Phase, Session,
        phase::{Event, Outcome},
    },
};

/// Sessions taken from lost workers at once: bounds one transaction and the time it takes. The others follow
/// with the next tick.
const AT_ONCE: usize = 256;

impl Engine {
    /// After how long nothing that was bound to a lease runs any more.
    fn lease_is_over_after(&self) -> Duration {
        self.config.lease + self.config.lease_margin
    }

    /// Takes sessions from workers that have been silent for so long that nothing of them runs there.
    pub(super) fn lapse(&mut self, stage: &mut Stage) {
        if self.config.lease.is_zero() {
            return;
        }
        let (now, over) = (self.now(), self.lease_is_over_after());
        let is_over = |worker: &WorkerId| self.fleet.is_unacknowledged_for(worker, over, now);
        let workers = self.book.active_workers().filter(|worker| is_over(worker));
        let active = workers.flat_map(|worker| self.book.active(worker));
        let is_bound = |id: &SessionId| self.book.get(*id).is_some_and(|session| session.state.lease_bound);
        // Ended with the lease there, said so, and the worker is away again.
        let waits = |id: &&SessionId| {
            let session = self.book.get(**id).filter(|session| session.state.lapsed);
            session.and_then(Session::worker).is_some_and(|worker| is_over(&worker))
        };
        let queued = self.book.queue().values().filter(waits).copied();
        let lost: Vec<_> = active.filter(is_bound).chain(queued).take(AT_ONCE).collect();
        for id in lost {
            if !stage.is_touched(id) {
                self.lose(id, stage);
            }
        }
    }

    fn lose(&mut self, id: SessionId, stage: &mut Stage) {
        let Some(mut session) = stage.copy(&self.book, id) else { return };
        let Some(worker) = session.worker() else { return };
        let at = muster_proto::time::now();
        // What still lies on a link that seems to hold must not arrive after all, such as the start of this attempt.
        self.fleet.cut(&worker, Closing::Overflow);
        // From here on nothing more of the old attempt is taken, so that the next one's output has its place.
        let output_end = self.outputs.fence(id);
        let starts_again = session.phase() != Phase::Stopping && resume::may_go_on_after_loss(&session, at);
        warn!(worker.id = %worker, session.id = %id, attempt = session.state.attempt, starts_again,
            "the lease of a worker is over; nothing of the session runs there any more");
        if starts_again {
            if session.phase().is_active()
                && let Err(illegal) = session.happens(Event::Ended(Outcome::MessagesLeft), at)
            {
                warn!(session.id = %id, error = %illegal, "a lost attempt could not be ended");
                return;
            }
            session.state.interruptions += 1;
            session.state.lost_in_a_row += 1;
            session.start_anew(output_end);
            session.state.queue_ticket = stage.ticket();
        } else if session.phase().is_active() {
            let message = format!("{worker} was cut off for longer than its lease");
            let ended = AttemptEnded {
                end: Some(End { reason: EndReason::LeaseLapsed.into(), message, ..End::default() }),
                spool_end_offset: output_end,
                resumable: session.state.conversation,
                ..AttemptEnded::default()
            };
            if let Err(illegal) = events::attempt_ended(&mut session, ended, at, stage) {
                warn!(session.id = %id, error = %illegal, "a lost attempt could not be ended");
                return;
            }
        } else {
            session.state.lapsed = false;
        }
        stage.put(session);
        self.note(
            "session.lost",
            id.to_string(),
            &format!("the lease of {worker} is over; starts again: {starts_again}"),
        );
        self.plan_due = true;
    }
}

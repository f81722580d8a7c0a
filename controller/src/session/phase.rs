//! The life of one session, as the controller sees it.
//!
//! ```text
//!            ┌───────────────── message ──────────────────┐
//!            ▼                                            │
//!  spawn ─► Queued ──place──► Starting ──began──► Working ──ended──► Completed | Failed
//!            │ ▲                 │                 │    ▲
//!            │ │              ask│             ask │    │ answered, withdrawn
//!           stop └─ended with ─┐ ▼                 ▼    │
//!            │    messages left└─────────────── NeedsAttention ──ended──► Completed | Failed
//!            ▼
//!         Stopped ◄──ended── Stopping ◄──stop── Starting | Working | NeedsAttention
//! ```
//! `unreachable` is no phase: it is what we know of a worker, added where a session is shown.

/// Where in its life a session is. Numbers are stored: they are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum Phase {
    /// Waits for a worker.
    Queued = 0,
    /// Placed; the worker sets it up.
    Starting = 1,
    /// claude works.
    Working = 2,
    /// claude waits for an answer.
    NeedsAttention = 3,
    /// Stop is wanted, and the attempt is not proven gone.
    Stopping = 4,
    /// The last turn ended well.
    Completed = 5,
    /// The last turn ended badly.
    Failed = 6,
    /// Stopped on request, for ever.
    Stopped = 7,
}

/// What happens to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The scheduler chose a worker.
    Place,
    /// claude began to work.
    Began,
    /// claude asked something.
    Asked,
    /// No question is open any more.
    Unasked,
    /// A caller wants it stopped.
    Stop,
    /// Nothing of the attempt runs any more.
    Ended(Outcome),
    /// A caller has a message for its next turn.
    Resume,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Well.
    Completed,
    /// Badly.
    Failed,
    /// With messages that wait for another attempt.
    MessagesLeft,
}

/// An event that cannot happen in a phase: accepting it would hide a defect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{event:?} cannot happen to a session that is {phase:?}")]
pub struct Illegal {
    /// Where it was.
    pub phase: Phase,
    /// What was to happen.
    pub event: Event,
}

impl Phase {
    /// The phase after `event`. Late and repeated events that are harmless change nothing.
    ///
    /// # Errors
    /// [`Illegal`] when the event cannot happen here.
    pub const fn transition(self, event: Event) -> Result<Self, Illegal> {
        use Event::{Asked, Began, Ended, Place, Resume, Stop, Unasked};
        use Phase::{Completed, Failed, NeedsAttention, Queued, Starting, Stopped, Stopping, Working};
        Ok(match (self, event) {
            (Queued, Place) => Starting,
            (Queued, Resume) => Queued,
            (Queued, Stop) => Stopped,
            (Starting | Working, Began) | (NeedsAttention, Unasked) => Working,
            (NeedsAttention, Began) => NeedsAttention,
            (Starting | Working | NeedsAttention, Asked) => NeedsAttention,
            (Starting | Working, Unasked) => self,
            (Starting | Working | NeedsAttention, Stop) => Stopping,
            (Starting | Working | NeedsAttention, Ended(Outcome::Completed)) => Completed,
            (Starting | Working | NeedsAttention, Ended(Outcome::Failed)) => Failed,
            (Starting | Working | NeedsAttention, Ended(Outcome::MessagesLeft)) => Queued,
            (Stopping, Began | Asked | Unasked | Stop) => Stopping,
            (Stopping, Ended(_)) => Stopped,
            (Completed | Failed, Resume) => Queued,
            (Completed | Failed | Stopped, Stop) => self,
            _ => return Err(Illegal { phase: self, event }),
        })
    }

    /// Whether a worker may hold an attempt of it: such a session takes a slot.
    #[must_use]
    pub const fn is_active(self) -> bool {
        matches!(self, Self::Starting | Self::Working | Self::NeedsAttention | Self::Stopping)
    }

    /// Whether it is over until a message comes, if one may.
    #[must_use]
    pub const fn has_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Stopped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHASES: [Phase; 8] = [
        Phase::Queued,
        Phase::Starting,
        Phase::Working,
        Phase::NeedsAttention,
        Phase::Stopping,
        Phase::Completed,
        Phase::Failed,
        Phase::Stopped,
    ];

    #[test]
    fn a_stop_is_never_refused_and_never_undone() {
        for phase in PHASES {
            let stopped = phase.transition(Event::Stop).expect("a stop is always legal");
            assert!(stopped == Phase::Stopping || stopped.has_ended());
        }
        for event in [Event::Place, Event::Began, Event::Asked, Event::Unasked, Event::Resume] {
            assert!(Phase::Stopped.transition(event).is_err(), "{event:?}");
            let next = Phase::Stopping.transition(event).unwrap_or(Phase::Stopping);
            assert_eq!(next, Phase::Stopping, "{event:?}");
        }
        for outcome in [Outcome::Completed, Outcome::Failed, Outcome::MessagesLeft] {
            assert_eq!(Phase::Stopping.transition(Event::Ended(outcome)), Ok(Phase::Stopped));
        }
    }

    #[test]
    fn only_a_queued_session_is_placed_and_only_an_active_one_ends() {
        for phase in PHASES {
            assert_eq!(phase.transition(Event::Place).is_ok(), phase == Phase::Queued, "{phase:?}");
            let ended = phase.transition(Event::Ended(Outcome::Completed));
            assert_eq!(ended.is_ok(), phase.is_active(), "{phase:?}");
            assert!(!(phase.is_active() && phase.has_ended()));
        }
    }

    #[test]
    fn the_main_road() {
        let road = [
            (Event::Place, Phase::Starting),
            (Event::Began, Phase::Working),
            (Event::Asked, Phase::NeedsAttention),
            (Event::Unasked, Phase::Working),
            (Event::Ended(Outcome::Completed), Phase::Completed),
            (Event::Resume, Phase::Queued),
            (Event::Place, Phase::Starting),
            (Event::Asked, Phase::NeedsAttention),
            (Event::Ended(Outcome::MessagesLeft), Phase::Queued),
            (Event::Stop, Phase::Stopped),
        ];
        let mut phase = Phase::Queued;
        for (event, next) in road {
            phase = phase.transition(event).expect("legal");
            assert_eq!(phase, next, "{event:?}");
        }
    }
}

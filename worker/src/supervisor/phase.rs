//! The life of one attempt, as the worker sees it. Pure: no clock, no I/O.
//!
//! ```text
//! Preparing ──workspace──► Launching ──shim up──► Working ──idle, nothing waits──► Ending(Finish, Close)
//!     │                        │                     │ stop, time-out, hang               │ grace over
//!     │ failed                 │ failed              ▼                                    ▼
//!     │                        │        Ending(why, Interrupt ► Close ► Terminate ► Kill)
//!     ▼                        ▼                     │ exited
//!   Ended ◄────────────────────┴─────────────────────┘
//! any but Ended ──shim gone──► Ended
//! ```

/// Why an attempt is being ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// Its work is done.
    Finish,
    /// Ordered.
    Stop,
    /// Its deadline passed.
    TimedOut,
    /// Silent for too long.
    Hung,
}

/// How hard we try. Only ever grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    Interrupt,
    Close,
    Terminate,
    Kill,
}

impl Step {
    /// What follows when this one did not help.
    pub(crate) const fn next(self) -> Self {
        match self {
            Self::Interrupt => Self::Close,
            Self::Close => Self::Terminate,
            Self::Terminate | Self::Kill => Self::Kill,
        }
    }
}

/// Where an attempt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its workspace is being made.
    Preparing,
    /// Its shim is being started or found.
    Launching,
    /// claude runs.
    Working,
    /// claude is being ended.
    Ending(Why, Step),
    /// Nothing runs.
    Ended,
}

/// What changes a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trigger {
    WorkspaceReady,
    ShimUp,
    /// Ends it, beginning with this step.
    End(Why, Step),
    /// The step did not help in time, or has done its work.
    Escalate,
    /// Nothing runs any more, or never did.
    Gone,
}

impl Phase {
    /// The only way to change phase. `None`: the trigger means nothing here (a second stop, a late answer of a helper).
    #[must_use]
    pub(crate) const fn transition(self, trigger: Trigger) -> Option<Self> {
        match (self, trigger) {
            (Self::Preparing, Trigger::WorkspaceReady) => Some(Self::Launching),
            (Self::Launching, Trigger::ShimUp) => Some(Self::Working),
            (Self::Working, Trigger::End(why, step)) => Some(Self::Ending(why, step)),
            // A stop outranks a finish and is told as what it is; the steps go on from where they are.
            (Self::Ending(Why::Finish, step), Trigger::End(why, _)) => Some(Self::Ending(why, step)),
            (Self::Ending(why, step), Trigger::Escalate) => Some(Self::Ending(why, step.next())),
            (Self::Ended, _) => None,
            (_, Trigger::Gone) => Some(Self::Ended),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_outranks_a_finish_and_nothing_outranks_a_stop() {
        let finishing = Phase::Ending(Why::Finish, Step::Terminate);
        let stop = Trigger::End(Why::Stop, Step::Interrupt);
        assert_eq!(finishing.transition(stop), Some(Phase::Ending(Why::Stop, Step::Terminate)));
        let stopping = Phase::Ending(Why::Stop, Step::Interrupt);
        assert_eq!(stopping.transition(Trigger::End(Why::TimedOut, Step::Interrupt)), None);
    }

    #[test]
    fn every_way_ends_and_an_end_is_final() {
        for phase in
            [Phase::Preparing, Phase::Launching, Phase::Working, Phase::Ending(Why::Hung, Step::Kill)]
        {
            assert_eq!(phase.transition(Trigger::Gone), Some(Phase::Ended));
        }
        for trigger in
            [Trigger::Gone, Trigger::ShimUp, Trigger::Escalate, Trigger::End(Why::Stop, Step::Close)]
        {
            assert_eq!(Phase::Ended.transition(trigger), None);
        }
    }
}

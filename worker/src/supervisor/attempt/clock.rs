//! Ending an attempt step by step, and everything that time does to one: graces, deadline, watchdog.

use std::time::{Duration, Instant};

use super::{Attempt, Effect, Phase, Step, Trigger, Why};
use crate::{agent::claude::protocol, shim::protocol::ToShim};

/// Linux's number of SIGTERM.
const SIGTERM: u32 = 15;

impl Attempt {
    /// Ordered to end.
    pub(in crate::supervisor) fn on_stop(&mut self, now: Instant) -> Vec<Effect> {
        self.end_or_remember(Why::Stop, now)
    }

    pub(super) fn end_or_remember(&mut self, why: Why, now: Instant) -> Vec<Effect> {
        if matches!(self.phase, Phase::Preparing | Phase::Launching) {
            let why = *self.end_early.get_or_insert(why);
            return match self.phase {
                _ if self.waits => self.over(self.early_end(why), now),
                _ => vec![Effect::EndSetup],
            };
        }
        self.end(why, now)
    }

    pub(super) fn end(&mut self, why: Why, now: Instant) -> Vec<Effect> {
        let works = self.fold.is_running() || self.message.is_some() && !self.is_idle(now);
        let first = if why == Why::Finish || !works { Step::Close } else { Step::Interrupt };
        if !self.go(Trigger::End(why, first), now) {
            return Vec::new();
        }
        self.take_step()
    }

    pub(super) fn escalate(&mut self, now: Instant) -> Vec<Effect> {
        if self.go(Trigger::Escalate, now) { self.take_step() } else { Vec::new() }
    }

    pub(super) fn take_step(&mut self) -> Vec<Effect> {
        let Phase::Ending(_, step) = self.phase else { return Vec::new() };
        let order = match step {
            Step::Interrupt => ToShim::Input { seq: 0, bytes: protocol::interrupt(0) },
            Step::Close => ToShim::CloseStdin,
            Step::Terminate => ToShim::Signal(SIGTERM),
            Step::Kill => ToShim::KillTree,
        };
        vec![Effect::Order(order)]
    }

    pub(super) fn grace(&self, why: Why, step: Step) -> Duration {
        match (why, step) {
            (Why::Finish, Step::Close) => self.timing.exit_grace,
            (_, Step::Interrupt) => self.timing.interrupt_grace,
            (_, Step::Close) => self.timing.close_grace,
            (_, Step::Terminate) => self.timing.term_grace,
            (_, Step::Kill) => self.timing.kill_grace,
        }
    }

    /// When [`Self::on_tick`] is due next.
    pub(in crate::supervisor) fn next_wake(&self) -> Option<Instant> {
        let deadline = self.deadline.filter(|_| self.end_early.is_none());
        match self.phase {
            Phase::Ended => None,
            Phase::Ending(why, step) => Some(self.phase_since + self.grace(why, step)),
            Phase::Preparing | Phase::Launching => deadline,
            Phase::Working => {
                let settle = self.idle_since.map(|since| since + self.timing.settle);
                let settle = settle.filter(|_| self.message.as_ref().is_some_and(|(_, taken)| !taken));
                let silence = self.is_watched().then(|| self.last_event + self.timing.silence);
                [deadline, settle, silence, self.offer_after].into_iter().flatten().min()
            }
        }
    }

    /// Whether silence means that claude hangs.
    pub(super) fn is_watched(&self) -> bool {
        !self.fold.waits_for_answer() && !self.fold.runs_tool()
    }

    /// Time passed.
    pub(in crate::supervisor) fn on_tick(&mut self, now: Instant) -> Vec<Effect> {
        if let Phase::Ending(why, step) = self.phase {
            if now < self.phase_since + self.grace(why, step) {
                return Vec::new();
            }
            if step == Step::Kill {
                self.phase_since = now;
                return if std::mem::replace(&mut self.shim_killed, true) {
                    Vec::new()
                } else {
                    vec![Effect::KillShim]
                };
            }
            return self.escalate(now);
        }
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            let minutes = self.start.spec.as_ref().map(|spec| spec.timeout_minutes).unwrap_or_default();
            self.detail = format!("the session ran longer than its {minutes} minutes");
            self.deadline = None;
            return self.end_or_remember(Why::TimedOut, now);
        }
        if self.phase != Phase::Working {
            return Vec::new();
        }
        let effects = self.settle(now);
        if effects.is_empty() && self.is_watched() && now >= self.last_event + self.timing.silence {
            self.detail =
                format!("claude said nothing for {} s while it worked", self.timing.silence.as_secs());
            return self.end(Why::Hung, now);
        }
        effects
    }
}

//! Two processes that show the identity of one worker: a machine that was cloned, a key that was copied.
//!
//! ```text
//!  Hello of another incarnation
//!      │ no link, or its link is silent          ──► the new one is the worker
//!      │ the old one is heard, twice, meanwhile  ──► twins: both refused
//!      └ not known yet                           ──► it waits a moment and asks again
//! ```
//! Seen late rather than too early: a restart closes the connection of the process before it, and what that had
//! on its way is heard once at most. Twins are over when one of them has not tried for long enough.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use muster_proto::ids::Incarnation;

/// How often the old process has to be heard after the new one said Hello.
const PROVEN: u32 = 2;
/// Incarnations remembered of twins: each restart is a new one.
const REMEMBERED: usize = 16;

/// Somebody who says to be a worker that has a link.
#[derive(Debug)]
pub(super) struct Claim {
    by: Incarnation,
    heard: u32,
    counted_at: Instant,
}

impl Claim {
    pub(super) const fn new(by: Incarnation, now: Instant) -> Self {
        Self { by, heard: 0, counted_at: now }
    }

    pub(super) fn is_by(&self, incarnation: &Incarnation) -> bool {
        self.by == *incarnation
    }

    /// The process that has the link was heard. What it says in one go counts once.
    pub(super) fn heard(&mut self, now: Instant, heartbeat: Duration) {
        if now.saturating_duration_since(self.counted_at) >= heartbeat / 2 {
            self.heard += 1;
            self.counted_at = now;
        }
    }

    pub(super) const fn is_proven(&self) -> bool {
        self.heard >= PROVEN
    }
}

/// Who showed one identity, and when last.
#[derive(Debug, Default)]
pub(super) struct Twins(BTreeMap<String, Instant>);

impl Twins {
    /// `incarnation` tries; true: another one tried within `gone`.
    pub(super) fn tries(&mut self, incarnation: &Incarnation, now: Instant, gone: Duration) -> bool {
        self.0.retain(|_, at| now.saturating_duration_since(*at) < gone);
        let name = incarnation.to_string();
        if self.0.len() < REMEMBERED || self.0.contains_key(&name) {
            self.0.insert(name, now);
        }
        self.0.len() > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_word_of_the_old_process_proves_nothing_and_silence_of_one_ends_it() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut claim = Claim::new(Incarnation::generate(), start);
        claim.heard(start, second);
        claim.heard(start + second, second);
        claim.heard(start + second, second);
        assert!(!claim.is_proven(), "all of it was on its way");
        claim.heard(start + second * 2, second);
        assert!(claim.is_proven());
        let (a, b) = (Incarnation::generate(), Incarnation::generate());
        let mut twins = Twins::default();
        twins.tries(&a, start, second * 10);
        assert!(twins.tries(&b, start + second, second * 10));
        assert!(twins.tries(&b, start + second * 9, second * 10), "the other may be back any moment");
        assert!(!twins.tries(&b, start + second * 11, second * 10), "the other is gone");
    }
}

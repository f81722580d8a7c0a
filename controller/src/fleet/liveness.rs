//! When silence counts. Pure.

use std::time::{Duration, Instant};

/// How long a worker may be silent.
#[derive(Debug, Clone, Copy)]
pub struct Liveness {
    /// After this long nobody knows what its sessions do. Never called dead.
    pub unreachable_after: Duration,
}

impl Liveness {
    /// Whether a worker last heard at `last_seen` is silent at `now`. A lost link alone is no silence yet: it
    /// is usually back within the time.
    #[must_use]
    pub fn is_silent(self, last_seen: Instant, now: Instant) -> bool {
        now.saturating_duration_since(last_seen) >= self.unreachable_after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_silent_exactly_from_the_limit_on() {
        let liveness = Liveness { unreachable_after: Duration::from_secs(10) };
        let seen = Instant::now();
        for (after, silent) in [(0, false), (9_999, false), (10_000, true), (60_000, true)] {
            assert_eq!(liveness.is_silent(seen, seen + Duration::from_millis(after)), silent, "{after} ms");
        }
        assert!(!liveness.is_silent(seen + Duration::from_secs(1), seen), "heard after now was read");
    }
}

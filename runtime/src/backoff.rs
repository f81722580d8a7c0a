//! How long to wait before the next try, so that a thousand workers do not come back in the same millisecond.

use std::time::Duration;

/// Exponential delays with full jitter: each is uniform between zero and a ceiling that doubles up to `max`.
///
/// Full jitter spreads a reconnecting fleet best; see <https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/>.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    ceiling: Duration,
}

impl Backoff {
    /// The first delay is at most `first`, every delay at most `max`.
    #[must_use]
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, ceiling: first.min(max) }
    }

    /// The delay before the next try.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.ceiling.mul_f64(rand::random::<f64>());
        self.ceiling = self.ceiling.saturating_mul(2).min(self.max);
        delay
    }

    /// After a success: the next failure begins small again.
    pub fn reset(&mut self) {
        self.ceiling = self.first.min(self.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_bound_and_start_again_after_a_success() {
        let (first, max) = (Duration::from_millis(100), Duration::from_secs(2));
        let mut backoff = Backoff::new(first, max);
        assert!(backoff.next_delay() <= first);
        for _ in 0..50 {
            assert!(backoff.next_delay() <= max);
        }
        assert_eq!(backoff.ceiling, max);
        backoff.reset();
        assert!(backoff.next_delay() <= first);
    }
}

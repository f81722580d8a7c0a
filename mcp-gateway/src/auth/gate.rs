//! How much one caller may ask for: requests a second, and requests open at the same time.
//!
//! What gives way is the request past the bound: it is refused with the time after which another may come.
//! Nothing is kept of callers that ask for nothing.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{by_key::ByKey, config::CallerLimits};

/// Wrong tokens from one address: at once, and a second over time.
const WRONG_AT_ONCE: u32 = 30;
const WRONG_A_SECOND: u32 = 2;
/// Addresses that showed wrong tokens and are remembered.
const ADDRESSES: usize = 10_000;

/// A token bucket.
#[derive(Debug)]
struct Bucket {
    left: f64,
    filled: Instant,
}

impl Bucket {
    fn full(burst: u32) -> Self {
        Self { left: f64::from(burst), filled: Instant::now() }
    }

    fn fill(&mut self, per_second: u32, burst: u32) {
        let now = Instant::now();
        let more = now.duration_since(self.filled).as_secs_f64() * f64::from(per_second);
        self.left = (self.left + more).min(f64::from(burst));
        self.filled = now;
    }

    /// Takes one, or says when there will be one.
    fn take(&mut self, per_second: u32, burst: u32) -> Result<(), Duration> {
        self.fill(per_second, burst);
        if self.left >= 1.0 {
            self.left -= 1.0;
            return Ok(());
        }
        let missing = (1.0 - self.left) / f64::from(per_second.max(1));
        Err(Duration::from_secs_f64(missing))
    }
}

/// Why a request is refused for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// Too many in a short time.
    TooFast {
        /// Until another may come.
        after: Duration,
    },
    /// Too many are being answered.
    TooMany {
        /// The bound.
        most: u32,
    },
}

/// What one caller is using.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<(Option<Bucket>, u32)>,
}

/// A request that is being answered.
#[derive(Debug)]
pub(crate) struct Place(Arc<Gate>);

impl Gate {
    pub(crate) fn enter(self: &Arc<Self>, limits: &CallerLimits) -> Result<Place, Full> {
        let mut state = self.lock();
        if state.1 >= limits.open {
            return Err(Full::TooMany { most: limits.open });
        }
        let bucket = state.0.get_or_insert_with(|| Bucket::full(limits.burst));
        bucket.take(limits.per_second, limits.burst).map_err(|after| Full::TooFast { after })?;
        state.1 += 1;
        drop(state);
        Ok(Place(self.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, (Option<Bucket>, u32)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.lock().1 -= 1;
    }
}

/// The gates there are. One lives a while after its caller has gone, so that leaving and coming back fills no
/// bucket: as long as its tokens are remembered.
#[derive(Debug, Default)]
pub(crate) struct Gates {
    gates: Mutex<ByKey<Gate>>,
}

impl Gates {
    pub(crate) fn of(&self, name: &str) -> Arc<Gate> {
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        gates.get(name.as_bytes(), Arc::default)
    }
}

/// Who shows wrong tokens, by address.
#[derive(Debug, Default)]
pub(crate) struct Guesses {
    buckets: Mutex<HashMap<IpAddr, Bucket>>,
}

impl Guesses {
    /// Whether another wrong token from there would be too many.
    pub(crate) fn check(&self, from: IpAddr) -> Result<(), Duration> {
        let mut buckets = self.lock();
        let Some(bucket) = buckets.get_mut(&from) else { return Ok(()) };
        bucket.fill(WRONG_A_SECOND, WRONG_AT_ONCE);
        if bucket.left >= 1.0 {
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - bucket.left) / f64::from(WRONG_A_SECOND)))
    }

    pub(crate) fn wrong(&self, from: IpAddr) {
        let mut buckets = self.lock();
        if buckets.len() >= ADDRESSES && !buckets.contains_key(&from) {
            for bucket in buckets.values_mut() {
                bucket.fill(WRONG_A_SECOND, WRONG_AT_ONCE);
            }
            buckets.retain(|_, bucket| bucket.left < f64::from(WRONG_AT_ONCE));
            if buckets.len() >= ADDRESSES {
                // A flood from everywhere: the controller's own bound is what is left.
                return;
            }
        }
        let bucket = buckets.entry(from).or_insert_with(|| Bucket::full(WRONG_AT_ONCE));
        let _ = bucket.take(WRONG_A_SECOND, WRONG_AT_ONCE);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Bucket>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_caller_has_a_burst_then_a_rate_and_a_bound_of_open_requests() {
        let limits = CallerLimits { per_second: 2, burst: 3, open: 2, sessions: 1 };
        let gate = Arc::new(Gate::default());
        let first = gate.enter(&limits).expect("room");
        let second = gate.enter(&limits).expect("room");
        assert_eq!(gate.enter(&limits).expect_err("full"), Full::TooMany { most: 2 });
        drop(first);
        let third = gate.enter(&limits).expect("room");
        drop((second, third));
        let Full::TooFast { after } = gate.enter(&limits).expect_err("too fast") else { panic!("open") };
        assert!(after <= Duration::from_millis(500) && after > Duration::ZERO, "{after:?}");
        tokio::time::advance(after + Duration::from_millis(1)).await;
        gate.enter(&limits).expect("a moment later");
    }

    #[tokio::test(start_paused = true)]
    async fn guessing_slows_down_the_one_address() {
        let guesses = Guesses::default();
        let (bad, good) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        for _ in 0..WRONG_AT_ONCE {
            guesses.check(bad).expect("a few are nothing");
            guesses.wrong(bad);
        }
        let after = guesses.check(bad).expect_err("too many");
        guesses.check(good).expect("another address");
        tokio::time::advance(after).await;
        guesses.check(bad).expect("later");
        for number in 0..20_000_u32 {
            guesses.wrong(IpAddr::from(number.to_be_bytes()));
        }
        assert!(guesses.lock().len() <= ADDRESSES);
    }
}

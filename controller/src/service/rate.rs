//! How many calls one caller may make: a bucket each, filled at a steady rate.
//!
//! Called by the gate once it knows who calls. Streams count as the one call they begin with, so that output and the
//! reports of workers are never slowed. Whoever calls from the controller's own machine without a token is not limited.
//! Bounded: a bucket that is full again is forgotten.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use muster_proto::error::{Error, ErrorCode};

/// Callers with a bucket that is not full.
const CALLERS: usize = 10_000;

/// How many calls one caller may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Calls a second, over time. 0: no limit.
    pub each_second: u32,
    /// Calls in one go.
    pub at_once: u32,
}

impl Default for Rate {
    /// A gateway with hundreds of waits polls less.
    fn default() -> Self {
        Self { each_second: 500, at_once: 5000 }
    }
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

/// The buckets of all callers. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Buckets {
    rate: Rate,
    of: Arc<Mutex<HashMap<String, Bucket>>>,
}

impl Buckets {
    pub(super) fn new(rate: Rate) -> Self {
        Self { rate, of: Arc::default() }
    }

    /// Takes a call of `caller` out of its bucket.
    ///
    /// # Errors
    /// LIMIT_REACHED when it is empty.
    pub(super) fn take(&self, caller: &str, now: Instant) -> Result<(), Error> {
        let Rate { each_second, at_once } = self.rate;
        if each_second == 0 {
            return Ok(());
        }
        let (fill, most) = (f64::from(each_second), f64::from(at_once.max(1)));
        let filled = |bucket: &Bucket| {
            let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
            (bucket.left + passed * fill).min(most)
        };
        let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        if of.len() >= CALLERS && !of.contains_key(caller) {
            of.retain(|_, bucket| filled(bucket) < most);
            if of.len() >= CALLERS {
                return Err(too_many("more callers are busy than the controller keeps count of"));
            }
        }
        let bucket = of.entry(caller.to_owned()).or_insert(Bucket { left: most, at: now });
        let left = filled(bucket);
        *bucket = Bucket { left: if left >= 1.0 { left - 1.0 } else { left }, at: now };
        if left >= 1.0 {
            return Ok(());
        }
        Err(too_many(&format!("{caller} makes more than {each_second} calls a second")))
    }
}

fn too_many(why: &str) -> Error {
    Error::new(ErrorCode::LimitReached, why).hint("Wait a second and try again.")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_caller_has_its_bucket_and_nobody_elses_and_it_fills_again() {
        let (buckets, start) = (Buckets::new(Rate { each_second: 2, at_once: 3 }), Instant::now());
        for _ in 0..3 {
            buckets.take("ann", start).expect("at the limit");
        }
        let error = buckets.take("ann", start).expect_err("past it");
        assert_eq!((error.code, error.retryable()), (ErrorCode::LimitReached, true));
        buckets.take("ben", start).expect("not his");
        let later = start + Duration::from_millis(500);
        buckets.take("ann", later).expect("one again");
        buckets.take("ann", later).expect_err("and no more");
    }

    #[test]
    fn what_is_remembered_is_bounded_and_full_buckets_make_room() {
        let (buckets, start) = (Buckets::new(Rate { each_second: 1, at_once: 1 }), Instant::now());
        for number in 0..CALLERS {
            buckets.take(&number.to_string(), start).expect("room");
        }
        buckets.take("one more", start).expect_err("no room");
        buckets.take("one more", start + Duration::from_secs(2)).expect("the others are full again");
        assert_eq!(buckets.of.lock().expect("there").len(), 1);
    }
}

//! Waiting for a condition with a deadline: tests never sleep for a guessed time.

use std::{
    future::Future,
    time::{Duration, Instant},
};

/// Generous on purpose: two cores may run a dozen claudes. Reaching it always means a defect.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Asks again every few milliseconds until `check` gives a value.
///
/// # Panics
/// When `limit` passes first; the message names `what`.
pub async fn eventually<T, F, Fut>(what: &str, limit: Duration, mut check: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The same for code without a runtime. Gives `None` when `limit` passes first.
pub fn poll_until<T>(limit: Duration, mut check: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = check() {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

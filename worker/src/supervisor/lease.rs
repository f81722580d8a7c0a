//! Until when attempts that are bound by a lease may run. The uplink moves it on with each heartbeat the controller
//! acknowledged, from the moment that heartbeat was sent; the shims hold it and end what outlasts it.

use std::time::Duration;

use tokio::sync::watch;

use crate::clock::boot_time;

/// How long a start waits for the first word of a controller after this process began.
const WORD_WITHIN: Duration = Duration::from_secs(30);

/// See the module. Milliseconds since boot, as the shims have it.
#[derive(Debug, Clone)]
pub(crate) struct Lease {
    until: watch::Sender<Option<u64>>,
}

impl Lease {
    pub(super) fn new() -> Self {
        Self { until: watch::Sender::new(None) }
    }

    /// Granted for `life` from `sent`, a time since boot. An older word changes nothing.
    pub(crate) fn grant(&self, sent: Duration, life: Duration) {
        let until = u64::try_from((sent + life).as_millis()).unwrap_or(u64::MAX);
        self.until.send_if_modified(|now| {
            let later = now.is_none_or(|now| now < until);
            if later {
                *now = Some(until);
            }
            later
        });
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Option<u64>> {
        self.until.subscribe()
    }

    /// The end for an attempt that is about to begin; `None`: it is over, or nobody granted one.
    pub(super) async fn for_start(&self) -> Option<u64> {
        let mut changes = self.subscribe();
        let granted = tokio::time::timeout(WORD_WITHIN, changes.wait_for(Option::is_some)).await;
        let until = (*granted.ok()?.ok()?)?;
        (boot_time() < Duration::from_millis(until)).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_moved_on_from_when_it_was_asked_for_and_never_back() {
        let lease = Lease::new();
        let now = boot_time();
        lease.grant(now, Duration::from_secs(60));
        let first = lease.for_start().await.expect("granted");
        lease.grant(now.saturating_sub(Duration::from_secs(1)), Duration::from_secs(60));
        assert_eq!(lease.for_start().await, Some(first), "the acknowledgement of an older one came late");
        let old = Lease::new();
        old.grant(Duration::ZERO, Duration::from_millis(1));
        assert_eq!(old.for_start().await, None, "it is over");
    }
}

//! The clock that leases and certificates are measured by: it never goes back, is the same for all processes of a boot, and
//! goes on while the machine sleeps.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Time since the machine was started.
#[must_use]
pub fn boot_time() -> Duration {
    // Every Linux since 2.6.39 has it.
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from);
    now.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on() {
        let first = boot_time();
        assert!(first > Duration::ZERO && boot_time() >= first);
    }
}

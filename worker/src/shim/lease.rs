//! The lease of an attempt: until when it may run without word from its worker. Held here so that it ends in time also when
//! the worker is dead or frozen, and right after the machine woke up from a sleep that outlasted it.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
    time::Duration,
};

use nix::sys::{
    time::TimeSpec,
    timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
};

use crate::clock::boot_time;

/// See the module. Only ever moved on.
#[derive(Debug)]
pub(super) struct Lease {
    timer: Option<TimerFd>,
    /// Milliseconds since boot.
    until: u64,
}

impl Lease {
    /// `until` in milliseconds since boot; `None`: none binds it.
    pub(super) fn new(until: Option<u64>) -> io::Result<Self> {
        let Some(until) = until else { return Ok(Self { timer: None, until: 0 }) };
        let timer =
            TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
        let mut lease = Self { timer: Some(timer), until: 0 };
        lease.set(until)?;
        Ok(lease)
    }

    /// Moves the end on. An earlier one changes nothing.
    pub(super) fn extend(&mut self, until: u64) {
        if self.timer.is_some() && until > self.until && self.set(until).is_err() {
            // The old end stays, which is the safe side.
        }
    }

    fn set(&mut self, until: u64) -> io::Result<()> {
        if let Some(timer) = &self.timer {
            // Zero would disarm it.
            let at = TimeSpec::from_duration(Duration::from_millis(until.max(1)));
            timer.set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
        }
        self.until = until;
        Ok(())
    }

    /// Whether it is over.
    pub(super) fn is_over(&self) -> bool {
        self.timer.is_some() && boot_time() >= Duration::from_millis(self.until)
    }

    /// Readable once it is over; `None`: there is none, or it was over before.
    pub(super) fn timer(&self) -> Option<BorrowedFd<'_>> {
        self.timer.as_ref().filter(|_| !self.is_over()).map(|timer| timer.as_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis() -> u64 {
        u64::try_from(boot_time().as_millis()).expect("small")
    }

    #[test]
    fn it_is_only_moved_on() {
        let mut lease = Lease::new(Some(millis() + 60_000)).expect("a timer");
        assert!(!lease.is_over() && lease.timer().is_some());
        let until = lease.until;
        lease.extend(until - 50_000);
        assert_eq!(lease.until, until);
        lease.extend(until + 1);
        assert_eq!(lease.until, until + 1);
        assert!(Lease::new(Some(0)).expect("a timer").is_over());
        let mut none = Lease::new(None).expect("none");
        none.extend(0);
        assert!(!none.is_over() && none.timer().is_none());
    }
}

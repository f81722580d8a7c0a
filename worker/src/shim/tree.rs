//! The processes below the shim. As a subreaper it inherits every orphan, so "below" misses nobody who daemonised.
//!
//! claude's tools run in sessions of their own: a signal to its group would miss them.

use std::{
    collections::HashMap,
    fs,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, getpid},
};

use super::cgroup::Cgroup;

/// How long SIGKILL is repeated. Longer only helps against uninterruptible sleep, which may last for ever.
const KILL_FOR: Duration = Duration::from_secs(5);

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Code(i32),
    Signal(i32),
}

/// Reaps all that can be reaped now. Returns how `child` ended if it was among them, and whether any child is left.
pub(super) fn reap(child: Pid) -> (Option<Ended>, bool) {
    let mut ended = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == child => ended = Some(Ended::Code(code)),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                ended = Some(Ended::Signal(signal as i32));
            }
            Ok(WaitStatus::StillAlive) => return (ended, true),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return (ended, false),
        }
    }
}

/// Every process below this one, by /proc. A process that forks meanwhile is found by the next call.
pub(super) fn descendants() -> Vec<Pid> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if let Some(parent) = parent_of(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let (mut found, mut next) = (Vec::new(), vec![getpid().as_raw()]);
    while let Some(pid) = next.pop() {
        for child in children.remove(&pid).unwrap_or_default() {
            found.push(Pid::from_raw(child));
            next.push(child);
        }
    }
    found
}

/// Field 4 of /proc/PID/stat; the name before it is in brackets and may hold anything.
fn parent_of(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Sends `signal` to every descendant, and to everything in the group.
pub(super) fn signal_all(signal: Signal, group: Option<&Cgroup>) {
    let below = descendants();
    let beside = group.map(Cgroup::pids).unwrap_or_default().into_iter().filter(|pid| !below.contains(pid));
    for pid in below.iter().copied().chain(beside) {
        let _ = kill(pid, signal); // gone meanwhile: nothing to do
    }
}

/// Kills until no child is left and the group is empty: a child that dies hands its own children to us. Returns how
/// `child` ended and how many resisted.
pub(super) fn kill_all(child: Pid, group: Option<&Cgroup>) -> (Option<Ended>, u32) {
    let until = Instant::now() + KILL_FOR;
    let mut ended = None;
    loop {
        if let Some(group) = group {
            group.kill();
        }
        signal_all(Signal::SIGKILL, None);
        let (reaped, left) = reap(child);
        ended = ended.or(reaped);
        let beside = group.map_or(0, |group| group.pids().len());
        if !left && beside == 0 {
            return (ended, 0);
        }
        if Instant::now() > until {
            let resisted = descendants().len().max(beside);
            return (ended, u32::try_from(resisted).unwrap_or(u32::MAX));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

//! Shims, and what a killed shim left behind, become children of this process when their parent leaves: under a PID 1 that
//! reaps nothing (containers) they would stay as defunct processes for ever. They are reaped here, each by its pid.
//!
//! Children that this process started itself are the runtime's to reap and are never touched: those share its terminal
//! session, while a shim and whatever it ran began sessions of their own. What a git left that was killed is of its group,
//! which such a child leads and an orphan does not.

use std::{fs, io, time::Duration};

use muster_runtime::task::{self, Task};
use nix::{
    sys::{
        prctl,
        wait::{WaitPidFlag, waitpid},
    },
    unistd::{Pid, getpgrp, getpid, getsid},
};
use tokio::signal::unix::{SignalKind, signal};

/// Between looks: many children end together.
const AT_MOST_EVERY: Duration = Duration::from_millis(100);

/// Adopts orphans from now on and reaps them until the task is dropped.
///
/// # Errors
/// The kernel's or the runtime's. Without it everything works, but defunct processes may stay.
pub(crate) fn adopt() -> io::Result<Task<()>> {
    let mut ended = signal(SignalKind::child())?;
    prctl::set_child_subreaper(true)?;
    Ok(task::spawn("orphans", async move {
        while ended.recv().await.is_some() {
            let _ = task::spawn_blocking("reap orphans", reap).await; // logged by the task itself
            tokio::time::sleep(AT_MOST_EVERY).await;
        }
    }))
}

fn reap() {
    let Ok(own) = getsid(None) else { return };
    let Ok(entries) = fs::read_dir("/proc") else { return };
    for pid in entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
        if is_dead_orphan(pid, own) {
            let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
        }
    }
}

/// A zombie, a child of ours, and of another terminal session. The name before the fields is in brackets and may hold
/// anything.
fn is_dead_orphan(pid: i32, own: Pid) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let Some((_, rest)) = stat.rsplit_once(')') else { return false };
    let mut fields = rest.split_whitespace();
    let state = fields.next();
    let mut number = || fields.next().and_then(|text| text.parse::<i32>().ok());
    let (parent, group, session) = (number(), number(), number());
    let led_by_another = group.is_some_and(|group| group != pid && group != getpgrp().as_raw());
    state == Some("Z")
        && parent == Some(getpid().as_raw())
        && (led_by_another || session.is_some_and(|session| session != own.as_raw()))
}

//! Processes of a session whose shim is gone. claude got a hang-up when the shim's PTY closed, but a tool that ignores it
//! would live on: every process of a session carries its id in the environment, and those are killed.

use std::{
    fs,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, getpid},
};

use crate::agent::claude::command::SESSION_VARIABLE;

/// How long they may take to go. Longer only helps against uninterruptible sleep.
const KILL_FOR: Duration = Duration::from_secs(5);

/// Kills until none is left; returns how many resisted. Blocks.
pub(super) fn kill_session(session: &str) -> usize {
    let mark = format!("{SESSION_VARIABLE}={session}");
    let until = Instant::now() + KILL_FOR;
    loop {
        let left = marked(mark.as_bytes());
        if left.is_empty() || Instant::now() > until {
            return left.len();
        }
        for pid in left {
            let _ = kill(pid, Signal::SIGKILL); // gone meanwhile: nothing to do
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn marked(mark: &[u8]) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.map(Pid::from_raw).filter(|pid| *pid != getpid() && carries(*pid, mark)).collect()
}

/// A zombie has no environment any more, so it does not count.
fn carries(pid: Pid, mark: &[u8]) -> bool {
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|environ| environ.split(|byte| *byte == 0).any(|variable| variable == mark))
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt as _, process::Command};

    use super::*;

    #[test]
    fn what_carries_the_mark_is_killed_and_nothing_else() {
        let session = format!("leftover-test-{}", std::process::id());
        let start = |value: &str| {
            Command::new("/bin/sleep").arg("600").env(SESSION_VARIABLE, value).spawn().expect("it starts")
        };
        let (mut ours, mut other) = (start(&session), start("another"));
        let waiter = std::thread::spawn(move || ours.wait().expect("it ends").signal());
        assert_eq!(kill_session(&session), 0);
        assert_eq!(waiter.join().expect("it ran"), Some(9));
        assert!(other.try_wait().expect("it runs").is_none());
        other.kill().expect("killed");
        other.wait().expect("it ends");
    }
}

//! Processes of a session whose shim is gone. claude got a hang-up when the shim's PTY closed, but a tool that ignores it
//! would live on. The attempt's control group holds them all, where there is one; and every process of a session carries
//! its id in the environment. Who clears that escapes where no control group can be made.

use std::{
    fs,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, getpid},
};

use crate::{
    agent::claude::command::SESSION_VARIABLE,
    shim::{cgroup::Cgroup, files::AttemptDir},
};

/// How long they may take to go. Longer only helps against uninterruptible sleep.
const KILL_FOR: Duration = Duration::from_secs(5);

/// Kills what is in the attempt's control group, if it has one; returns how many resisted. Blocks.
pub(super) fn kill_group(dir: &AttemptDir) -> usize {
    let Some(group) = Cgroup::noted(&dir.cgroup()) else { return 0 };
    let left = group.kill_all(KILL_FOR);
    dir.forget_cgroup(&group);
    left
}

/// Kills until none is left; returns how many resisted. Blocks.
///
/// One look at `/proc` is not a picture of one moment: a process may have forked behind it, or be between two programs
/// (see [`Mark::Hidden`]). So it ends only after two looks in a row that found nothing and could read everything.
pub(super) fn kill_session(session: &str) -> usize {
    let mark = format!("{SESSION_VARIABLE}={session}");
    let until = Instant::now() + KILL_FOR;
    let mut clean_looks = 0;
    loop {
        let look = look(mark.as_bytes());
        clean_looks = if look.carrying.is_empty() && !look.hidden { clean_looks + 1 } else { 0 };
        if clean_looks == 2 || Instant::now() > until {
            return look.carrying.len();
        }
        for pid in look.carrying {
            let _ = kill(pid, Signal::SIGKILL); // gone meanwhile: nothing to do
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

struct Look {
    carrying: Vec<Pid>,
    /// Some process could not be judged.
    hidden: bool,
}

fn look(mark: &[u8]) -> Look {
    let mut look = Look { carrying: Vec::new(), hidden: false };
    let Ok(entries) = fs::read_dir("/proc") else { return look };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    for pid in pids.map(Pid::from_raw).filter(|pid| *pid != getpid()) {
        match mark_of(pid, mark) {
            Mark::Carried => look.carrying.push(pid),
            Mark::Hidden => look.hidden = true,
            Mark::Absent => {}
        }
    }
    look
}

enum Mark {
    Carried,
    Absent,
    /// In the middle of `execve`: the old program's environment is gone and the new one's not yet there, so
    /// `/proc/<pid>/environ` reads as empty. Taking that for "not ours" would let the process live on.
    Hidden,
}

/// Zombies and kernel threads have no environment, so they do not count.
fn mark_of(pid: Pid, mark: &[u8]) -> Mark {
    let Ok(environ) = fs::read(format!("/proc/{pid}/environ")) else { return Mark::Absent };
    if environ.split(|byte| *byte == 0).any(|variable| variable == mark) {
        Mark::Carried
    } else if environ.is_empty()
        && fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| in_exec(&stat))
    {
        Mark::Hidden
    } else {
        Mark::Absent
    }
}

/// Whether `/proc/<pid>/stat` shows a living user process whose environment has no address yet. A program started with
/// an empty environment has one. Fields by proc(5): 3 state, 9 flags, 50 `env_start`.
fn in_exec(stat: &str) -> bool {
    const KERNEL_THREAD: u32 = 0x0020_0000; // PF_KTHREAD
    let Some((_, fields)) = stat.rsplit_once(") ") else { return false };
    let field = |number: usize| fields.split_whitespace().nth(number - 3).unwrap_or_default();
    let kernel_thread = field(9).parse::<u32>().is_ok_and(|flags| flags & KERNEL_THREAD != 0);
    !matches!(field(3), "Z" | "X") && !kernel_thread && field(50) == "0"
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

    /// Starting again and again hits the moment within `execve` in which the environment cannot be read.
    #[test]
    fn what_is_just_being_started_is_killed_too() {
        for round in 0..100 {
            let session = format!("starting-test-{}-{round}", std::process::id());
            let mut child = Command::new("/bin/sleep")
                .arg("600")
                .env(SESSION_VARIABLE, &session)
                .spawn()
                .expect("starts");
            assert_eq!(kill_session(&session), 0);
            // Killed is not yet ended for a zombie's parent, so the end is looked for, not awaited.
            let state = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
            let gone = state.rsplit_once(") ").is_none_or(|(_, fields)| fields.starts_with(['Z', 'X']));
            child.kill().expect("killed");
            let status = child.wait().expect("it ends");
            assert!(gone, "round {round}: it was left alive; at the end {status}");
        }
    }

    #[test]
    fn only_a_living_process_without_an_environment_yet_is_between_programs() {
        let stat = |state: &str, flags: u32, env_start: &str| {
            let mut fields = vec!["1"; 50];
            (fields[0], fields[47]) = (state, env_start);
            let flags = flags.to_string();
            fields[6] = &flags;
            format!("42 (a ) name) {}", fields.join(" "))
        };
        assert!(in_exec(&stat("R", 0, "0")));
        assert!(!in_exec(&stat("S", 0, "140722")), "started with an empty environment");
        assert!(!in_exec(&stat("S", 0x0020_0000, "0")), "a kernel thread");
        assert!(!in_exec(&stat("Z", 0, "0")), "a zombie");
    }
}

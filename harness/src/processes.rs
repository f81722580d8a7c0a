//! Which processes belong to a test, found in `/proc`: whatever forks, detaches or is adopted keeps its
//! environment.
//!
//! A fleet puts `MUSTER_TEST_ID` into everything it starts. A process counts as its own when its environment
//! carries that id, or its working directory or command line lies in the fleet's folder.

use std::{fs, io::Write as _, path::Path, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::eventually::poll_until;

/// Environment variable that marks the processes of one fleet.
pub const TEST_ID: &str = "MUSTER_TEST_ID";

/// A process, as far as a failing test wants to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survivor {
    /// Process id.
    pub pid: i32,
    /// Its command line, cut at 200 characters.
    pub command: String,
}

/// Live processes of the fleet with this id or folder, this process left out. Zombies do not count.
#[must_use]
pub fn of_fleet(id: &str, folder: &Path) -> Vec<Survivor> {
    let mark = format!("{TEST_ID}={id}");
    let own = std::process::id().cast_signed();
    let folder = folder.to_string_lossy().into_owned();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| *pid != own)
        .filter_map(|pid| {
            let process = Path::new("/proc").join(pid.to_string());
            let command = fs::read(process.join("cmdline")).ok().filter(|line| !line.is_empty())?;
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            let environment = fs::read(process.join("environ")).unwrap_or_default();
            let marked = environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes());
            let inside = fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(&folder));
            let command = command.trim_end();
            (marked || inside || command.contains(&folder))
                .then(|| Survivor { pid, command: command.chars().take(200).collect() })
        })
        .collect()
}

/// Waits until none of them lives.
///
/// # Errors
/// Those left when `limit` passes.
pub fn gone(id: &str, folder: &Path, limit: Duration) -> Result<(), Vec<Survivor>> {
    let empty = || of_fleet(id, folder).is_empty().then_some(());
    poll_until(limit, empty).ok_or_else(|| of_fleet(id, folder))
}

/// Kills them by pid until none is left: a last resort, for processes that carry our own mark.
pub fn kill_all(id: &str, folder: &Path) {
    let left = poll_until(Duration::from_secs(10), || {
        let survivors = of_fleet(id, folder);
        for survivor in &survivors {
            let _ = kill(Pid::from_raw(survivor.pid), Signal::SIGKILL);
        }
        survivors.is_empty().then_some(())
    });
    if left.is_none() {
        let _ = writeln!(std::io::stderr(), "processes outlive SIGKILL: {:?}", of_fleet(id, folder));
    }
}

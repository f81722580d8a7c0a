//! One process of a fleet. Its output goes to a log file; dropping it kills it by pid.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::START_LIMIT;
use crate::eventually::poll_until;

/// A running process.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with stdin closed and stdout and stderr appended to `<logs>/<name>.log`.
    pub(crate) fn start(name: &str, command: tokio::process::Command, logs: &Path) -> anyhow::Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let file = open_log(&log)?;
        let mut command: Command = command.into_std();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("starting {name}: {}", command.get_program().to_string_lossy()))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All it has logged.
    #[must_use]
    pub fn log_text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for the address it writes to `port_file` once it listens.
    pub(crate) async fn listening(&mut self, port_file: &Path) -> anyhow::Result<SocketAddr> {
        let deadline = tokio::time::Instant::now() + START_LIMIT;
        loop {
            if let Ok(text) = fs::read_to_string(port_file) {
                return text
                    .trim()
                    .parse()
                    .with_context(|| format!("{} wrote {text:?} as its address", self.name));
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}: {}", self.name, self.log_text());
            }
            if tokio::time::Instant::now() > deadline {
                bail!("{} wrote no address within {START_LIMIT:?}: {}", self.name, self.log_text());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), signal);
    }

    /// Whether it has ended.
    pub fn has_left(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }

    /// Asks it to leave and waits for it. False: it had to be killed after `limit`.
    pub fn leave(&mut self, limit: Duration) -> bool {
        self.signal(Signal::SIGTERM);
        let left = poll_until(limit, || self.child.try_wait().ok().flatten());
        left.is_some()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        if let Err(error) = self.child.wait() {
            let _ = writeln!(std::io::stderr(), "{} could not be waited for: {error}", self.name);
        }
    }
}

pub(super) fn open_log(path: &Path) -> anyhow::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true).open(path).with_context(|| format!("opening {}", path.display()))
}

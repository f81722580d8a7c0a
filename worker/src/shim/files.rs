//! The files of one attempt's directory: names, formats, and how they are written.
//!
//! The worker writes `launch.json`; everything else is the shim's. `exit.json` appears by rename and only when nothing
//! of the attempt runs any more, so whoever sees it may rely on it. The lock file is held (flock) for the shim's
//! whole life: a lock that can be had means that no shim lives, without any guess about process ids.

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::cgroup::Cgroup;

/// Format of `launch.json` this build writes and reads.
pub const LAUNCH_VERSION: u32 = 1;

/// Room for `exit.json`, twice: for the blocks of its directory too.
const RESERVE_BYTES: usize = 8 << 10;

/// `launch.json`: what a shim is to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// [`LAUNCH_VERSION`].
    pub version: u32,
    /// Absolute path of the program.
    pub program: PathBuf,
    /// Arguments after the program's name.
    pub args: Vec<String>,
    /// The environment, but for what is secret.
    pub env: BTreeMap<String, String>,
    /// Names of the variables whose values come through the shim's stdin, as a JSON object, and are on no disk.
    #[serde(default)]
    pub secret_env: Vec<String>,
    /// Where it runs.
    pub cwd: PathBuf,
    /// Height of the PTY.
    pub rows: u16,
    /// Width of the PTY.
    pub cols: u16,
    /// The session's spool; appended to.
    pub spool: PathBuf,
    /// Offset, in the session's output, of the spool file's first byte.
    pub spool_base: u64,
    /// Offset at which the output of this attempt begins.
    pub output_start: u64,
    /// Bytes the spool file may hold; the tree is killed when they are reached. 0: any number.
    #[serde(default)]
    pub spool_limit: u64,
    /// Until when it may run unless that is moved on, in milliseconds since boot. `None`: no lease binds it.
    #[serde(default)]
    pub lease_until: Option<u64>,
}

/// `exit.json`: how it ended. Nothing of the attempt ran any more when this was written, unless `survivors`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code of the program.
    pub code: Option<i32>,
    /// Signal that ended it.
    pub signal: Option<i32>,
    /// Why it could not be started, for people.
    pub start_error: Option<String>,
    /// End of the output, as an offset of the session.
    pub spool_end: u64,
    /// Descendants that even SIGKILL did not end in time (uninterruptible sleep).
    pub survivors: u32,
    /// Whether the disk never took the last bytes.
    pub output_lost: bool,
    /// Whether it was killed because its spool reached the limit.
    #[serde(default)]
    pub output_limit: bool,
    /// Whether it was killed because its lease was over.
    #[serde(default, skip_serializing_if = "is_false")]
    pub lease_lapsed: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // what serde wants
const fn is_false(value: &bool) -> bool {
    !*value
}

/// The directory of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptDir(PathBuf);

impl AttemptDir {
    /// Names a directory; creates nothing.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn lock_file(&self) -> PathBuf {
        self.0.join("shim.lock")
    }

    /// Written once the shim owns the lock, before claude is started: its process id.
    #[must_use]
    pub fn pid_file(&self) -> PathBuf {
        self.0.join("shim.pid")
    }

    /// claude's stderr, at most [`super::stderr::CAP_BYTES`]; what is older is in `stderr.log.1`.
    #[must_use]
    pub fn stderr_log(&self) -> PathBuf {
        self.0.join("stderr.log")
    }

    /// Path of the control group that holds every process of the attempt, where there is one.
    #[must_use]
    pub fn cgroup(&self) -> PathBuf {
        self.0.join("cgroup")
    }

    /// Removes the control group, and the note of it once it is gone.
    pub(crate) fn forget_cgroup(&self, group: &Cgroup) {
        if group.remove() {
            let _ = fs::remove_file(self.cgroup());
        }
    }

    /// Every numbered input, durable before claude saw it.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.0.join("journal")
    }

    /// Name of the socket within the directory.
    pub(super) const SOCKET: &str = "shim.sock";

    /// The launch order.
    ///
    /// # Errors
    /// Missing, malformed, or of a version this build does not know.
    pub fn read_launch(&self) -> io::Result<Launch> {
        let launch: Launch = serde_json::from_slice(&fs::read(self.0.join("launch.json"))?)?;
        if launch.version == LAUNCH_VERSION {
            Ok(launch)
        } else {
            Err(io::Error::other(format!("launch.json has version {}", launch.version)))
        }
    }

    /// Writes the launch order, durably.
    ///
    /// # Errors
    /// Any of the file system.
    pub fn write_launch(&self, launch: &Launch) -> io::Result<()> {
        write_durably(&self.0.join("launch.json"), &serde_json::to_vec_pretty(launch)?)
    }

    /// How it ended; `None` while that is not known.
    ///
    /// # Errors
    /// Any of the file system but "not found", and a malformed file.
    pub fn read_exit(&self) -> io::Result<Option<Exit>> {
        match fs::read(self.0.join("exit.json")) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn reserve(&self) -> PathBuf {
        self.0.join("exit.reserve")
    }

    /// Takes room on the disk for `exit.json`, so that a full one does not make the session look lost.
    pub(super) fn reserve_exit(&self) -> io::Result<()> {
        fs::write(self.reserve(), [0; RESERVE_BYTES])
    }

    pub(super) fn write_exit(&self, exit: &Exit) -> io::Result<()> {
        let _ = fs::remove_file(self.reserve()); // there is none on the second try
        write_durably(&self.0.join("exit.json"), &serde_json::to_vec(exit)?)
    }

    /// Whether a shim lives here: whether its lock is held.
    ///
    /// # Errors
    /// Any of the file system but "not found".
    pub fn shim_lives(&self) -> io::Result<bool> {
        let file = match File::open(self.lock_file()) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Whether claude was to go on with a conversation.
    pub(crate) fn resumed(&self) -> bool {
        self.read_launch().is_ok_and(|launch| launch.args.iter().any(|arg| arg.starts_with("--resume=")))
    }

    /// Takes back that a program ran here: the next shim starts one. Only for a run that told its end.
    pub(crate) fn forget_run(&self) -> io::Result<()> {
        // The end last: what was interrupted is done again then.
        for path in [self.journal(), self.pid_file(), self.0.join("exit.json")] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// What is left of a shim that was killed, when none lives here any more.
    pub(crate) fn leftovers(&self) -> impl Iterator<Item = PathBuf> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten().map(|entry| entry.path());
        entries.filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.ends_with(".tmp") || [Self::SOCKET, "exit.reserve"].contains(&&*name)
        })
    }

    /// Whether a shim ever got as far as starting claude.
    #[must_use]
    pub fn was_started(&self) -> bool {
        self.pid_file().exists()
    }
}

/// Puts `bytes` at `path` so that a reader sees the old file or the new one, also after a power cut.
///
/// # Errors
/// Any of the file system; the old file stays.
pub fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let parent = path.parent().ok_or_else(|| io::Error::other("a file needs a directory"))?;
    let mut name = path.file_name().ok_or_else(|| io::Error::other("a file needs a name"))?.to_owned();
    name.push(".tmp");
    let temporary = parent.join(name);
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(parent)?.sync_all()
}

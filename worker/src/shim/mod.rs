//! The small process that owns one attempt: its PTY, its child, its spool. It outlives the worker.
//!
//! Started as `<shim_program> shim <dir>` before any runtime exists; it forks away from the worker, becomes a subreaper
//! and runs one poll loop. It talks to workers over a unix socket ([`protocol`]) but never depends on one: bytes go to
//! disk first, and how it ended goes to `exit.json` once nothing of it runs any more.

pub(crate) mod cgroup;
pub mod client;
mod clients;
mod exec;
pub mod files;
pub mod journal;
mod lease;
pub mod protocol;
mod serve;
mod spool;
pub mod stderr;
mod stdin;
mod tree;

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{fs::OpenOptionsExt as _, net::UnixListener},
    },
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use nix::{
    fcntl::OFlag,
    sys::{
        prctl,
        stat::{SFlag, fstat},
    },
    unistd::{self, ForkResult},
};

use self::files::{AttemptDir, Exit};

/// Why an attempt is not begun any more.
pub(crate) const LEASE_IS_OVER: &str = "the lease of this attempt was over before it began";
/// Most bytes of secret variables, as JSON: 64 files of 64 KiB, escaped, with room.
const SECRETS_BYTES: u64 = 32 << 20;
/// How long to wait for the lock: a worker that looks whether a shim lives holds it for a moment.
const LOCK_FOR: Duration = Duration::from_secs(2);

/// Runs the shim of the attempt whose directory is `dir`. Returns, in the process that was called, as soon as the
/// program runs (success) or could not be started (failure, with the reason on stderr); the shim itself goes on in a
/// process of its own. A second call for the same directory fails while the first shim lives.
#[must_use]
pub fn main(dir: &Path) -> ExitCode {
    exec::close_inherited();
    match detach(dir) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(reason)) => {
            let _ = writeln!(io::stderr(), "{reason}");
            ExitCode::FAILURE
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "shim of {}: {error}", dir.display());
            ExitCode::FAILURE
        }
    }
}

/// Forks. In the caller: waits for word from the shim, `Some` being why it failed. The shim never returns.
fn detach(dir: &Path) -> io::Result<Option<String>> {
    let dir = AttemptDir::new(dir.canonicalize()?);
    let (ready, tell) = unistd::pipe2(OFlag::O_CLOEXEC)?;
    match exec::fork()? {
        ForkResult::Parent { .. } => {
            drop(tell);
            let mut word = String::new();
            File::from(ready).read_to_string(&mut word)?;
            Ok(match word.strip_prefix("ok") {
                Some(_) => None,
                None if word.is_empty() => Some("the shim died before it could say why".to_owned()),
                None => Some(word),
            })
        }
        ForkResult::Child => {
            drop(ready);
            let code = match run(&dir, tell) {
                Ok(()) => 0,
                Err(_) => 1, // told through `tell`, or written to exit.json
            };
            std::process::exit(code)
        }
    }
}

/// The life of the shim.
fn run(dir: &AttemptDir, tell: OwnedFd) -> io::Result<()> {
    let mut tell = File::from(tell);
    let prepared = prepare(dir);
    let (mut shim, _lock) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            let _ = tell.write_all(error.to_string().as_bytes());
            return Err(error);
        }
    };
    let _ = tell.write_all(b"ok");
    drop(tell);
    shim.serve()
}

/// Everything up to a running claude. An exec failure is the attempt's end and goes to `exit.json` too.
fn prepare(dir: &AttemptDir) -> io::Result<(serve::Shim, File)> {
    unistd::setsid()?;
    prctl::set_child_subreaper(true)?;
    std::env::set_current_dir("/")?;
    let secrets = read_secrets()?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    unistd::dup2_stdin(&null)?;
    unistd::dup2_stdout(&null)?;
    unistd::dup2_stderr(&null)?;
    let started_before = || io::Error::other("this attempt was started before");
    if dir.was_started() {
        return Err(started_before());
    }
    let lock = lock(dir)?;
    let mut launch = dir.read_launch()?;
    for name in &launch.secret_env {
        let value =
            secrets.get(name).ok_or_else(|| io::Error::other(format!("variable {name} was not told")))?;
        launch.env.insert(name.clone(), value.clone());
    }
    drop(secrets);
    if dir.was_started() {
        return Err(started_before());
    }
    let listener = listen(dir)?;
    let signals = serve::take_signals()?;
    let spool = spool::Spool::open(&launch)?;
    let journal = journal::Journal::open(&dir.journal())?;
    let log = stderr::StderrLog::open(&dir.stderr_log())?;
    let lease = lease::Lease::new(launch.lease_until)?;
    if lease.is_over() {
        return Err(io::Error::other(LEASE_IS_OVER));
    }
    dir.reserve_exit()?;
    // From here on a vanished shim means a lost claude, not one that never began.
    files::write_durably(&dir.pid_file(), std::process::id().to_string().as_bytes())?;
    // Without a note of it a killed shim would leave it for ever, so then it is not used.
    let group = cgroup::Cgroup::make();
    let group = group.filter(|group| group.note(&dir.cgroup()).is_ok() || !group.remove());
    match exec::start(&launch, group.as_ref()) {
        Ok(started) => {
            let shim = serve::Shim::new(
                dir.clone(),
                started,
                serve::Parts { spool, journal, log, listener, signals, group, lease },
            )?;
            Ok((shim, lock))
        }
        Err(error) => {
            let exit =
                Exit { start_error: Some(error.to_string()), spool_end: spool.end(), ..Exit::default() };
            if let Some(group) = &group {
                dir.forget_cgroup(group);
            }
            dir.write_exit(&exit)?;
            Err(error)
        }
    }
}

/// What the worker tells through a pipe; nothing where stdin is none.
fn read_secrets() -> io::Result<BTreeMap<String, String>> {
    let stdin = io::stdin();
    let kind = SFlag::from_bits_truncate(fstat(&stdin)?.st_mode) & SFlag::S_IFMT;
    if kind != SFlag::S_IFIFO {
        return Ok(BTreeMap::new());
    }
    let mut told = Vec::new();
    stdin.lock().take(SECRETS_BYTES).read_to_end(&mut told)?;
    if told.is_empty() { Ok(BTreeMap::new()) } else { Ok(serde_json::from_slice(&told)?) }
}

fn lock(dir: &AttemptDir) -> io::Result<File> {
    let file =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(dir.lock_file())?;
    let until = Instant::now() + LOCK_FOR;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(TryLockError::WouldBlock) => return Err(io::Error::other("another shim runs this attempt")),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// Path of the socket that is short whatever the directory's is: a socket address holds 107 bytes. Valid while the
/// returned file is open.
fn socket_path(dir: &Path) -> io::Result<(File, PathBuf)> {
    let handle = File::open(dir)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{}", handle.as_raw_fd(), AttemptDir::SOCKET));
    Ok((handle, path))
}

fn listen(dir: &AttemptDir) -> io::Result<UnixListener> {
    let (_handle, path) = socket_path(dir.path())?;
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

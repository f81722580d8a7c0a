//! The git program, with guards. Sessions can write the repository's config and hooks, so nothing in there may run
//! code in the worker's name: hooks and fsmonitor are off, and so are prompts and the `ext::` transport.
//!
//! What `-c` cannot switch off (filters of a repository's own config) runs as the same user as the session itself, so
//! it gains nothing. The user's own global config stays in force: large-file filters and `safe.directory` live there.

use std::{
    ffi::{OsStr, OsString},
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
};

/// Given to every call.
const GUARDS: [&str; 10] = [
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "core.fsmonitor=false",
    "-c",
    "gc.auto=0",
    "-c",
    "protocol.ext.allow=never",
    "-c",
    // The operator declared the directory as a project; whoever owns it, it is meant.
    "safe.directory=*",
];
/// Variables git gets from the worker.
const PASSED: [&str; 6] = ["HOME", "PATH", "XDG_CONFIG_HOME", "TMPDIR", "USER", "LOGNAME"];

/// Complaints of a long-running git that are kept.
const SAID_BYTES: u64 = 64 << 10;

/// A git command that did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// There is no git, or it cannot be run.
    #[error("git does not run: {0}")]
    Run(#[from] io::Error),
    /// It took longer than allowed and was killed.
    #[error("git {verb} took longer than {} s", limit.as_secs())]
    TimedOut {
        /// Which.
        verb: String,
        /// How long it had.
        limit: Duration,
    },
    /// It said no.
    #[error("git {verb} failed: {said}")]
    Failed {
        /// Which.
        verb: String,
        /// Its exit code; 128 is git's own failure.
        code: i32,
        /// Its stderr in one line.
        said: String,
    },
}

/// git, run in one directory.
#[derive(Debug, Clone)]
pub struct Git {
    dir: PathBuf,
    extra: Vec<(OsString, OsString)>,
}

impl Git {
    /// git as run in `dir`.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), extra: Vec::new() }
    }

    /// As [`Self::new`], in a repository of the worker's own: no configuration of machine or user counts, so that nothing but
    /// what the worker wrote can name a program to run.
    #[must_use]
    pub fn strict(dir: &Path) -> Self {
        Self::new(dir)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_LFS_SKIP_SMUDGE", "1")
    }

    /// With one more environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.extra.push((name.into(), value.as_ref().into()));
        self
    }

    /// Runs it and returns its stdout, without the last newline.
    ///
    /// # Errors
    /// [`GitError`].
    pub async fn run<S: AsRef<OsStr>>(&self, limit: Duration, args: &[S]) -> Result<String, GitError> {
        let run = async {
            let mut command = self.command(args);
            let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
            let group = Group::of(&child);
            let output = child.wait_with_output().await;
            group.release();
            output
        };
        let output = match tokio::time::timeout(limit, run).await {
            Ok(output) => output?,
            Err(_) => return Err(GitError::TimedOut { verb: verb(args), limit }),
        };
        if output.status.success() {
            let text = String::from_utf8_lossy(&output.stdout);
            return Ok(text.trim_end_matches('\n').to_owned());
        }
        Err(failed(args, output.status, &output.stderr))
    }

    /// As [`Self::run`], with something to read.
    ///
    /// # Errors
    /// [`GitError`].
    pub async fn run_with<S: AsRef<OsStr>>(
        &self,
        limit: Duration,
        args: &[S],
        input: Vec<u8>,
    ) -> Result<String, GitError> {
        let run = async {
            let mut command = self.command(args);
            let mut child =
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
            let mut stdin =
                child.stdin.take().ok_or_else(|| io::Error::other("git was started without its pipes"))?;
            let write = async move {
                // One that does not read to the end says why by its exit.
                let _ = stdin.write_all(&input).await;
            };
            let (output, ()) = tokio::join!(child.wait_with_output(), write);
            output
        };
        let output = match tokio::time::timeout(limit, run).await {
            Ok(output) => output?,
            Err(_) => return Err(GitError::TimedOut { verb: verb(args), limit }),
        };
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim_end_matches('\n').to_owned());
        }
        Err(failed(args, output.status, &output.stderr))
    }

    /// Runs it to its end and keeps `most` bytes of its stdout from `from` on, however much there is.
    ///
    /// # Errors
    /// [`GitError`]. There is no time limit: the caller drops the future, which kills git.
    pub async fn page<S: AsRef<OsStr>>(&self, args: &[S], from: u64, most: usize) -> Result<Page, GitError> {
        let mut child = self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let missing = || io::Error::other("git was started without its pipes");
        let mut stdout = child.stdout.take().ok_or_else(missing)?;
        let mut stderr = child.stderr.take().ok_or_else(missing)?.take(SAID_BYTES);
        let mut said = Vec::new();
        let read = async {
            let (mut page, mut buffer) = (Page::default(), vec![0; 64 << 10]);
            loop {
                let got = stdout.read(&mut buffer).await?;
                if got == 0 {
                    return Ok::<_, io::Error>(page);
                }
                let skip = usize::try_from(from.saturating_sub(page.total)).unwrap_or(got).min(got);
                let room = most - page.bytes.len();
                page.bytes.extend_from_slice(&buffer[skip..got.min(skip.saturating_add(room))]);
                page.total += got as u64;
            }
        };
        let complain = async {
            let read = stderr.read_to_end(&mut said).await;
            let mut rest = stderr.into_inner();
            tokio::io::copy(&mut rest, &mut tokio::io::sink()).await.and(read)
        };
        let (page, complained) = tokio::join!(read, complain);
        let status = child.wait().await?;
        complained?;
        if status.success() { Ok(page?) } else { Err(failed(args, status, &said)) }
    }

    fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new("git");
        command.args(GUARDS).args(args).current_dir(&self.dir).env_clear();
        command.envs(std::env::vars_os().filter(|(name, _)| PASSED.iter().any(|passed| name == passed)));
        command.env("LC_ALL", "C").env("GIT_TERMINAL_PROMPT", "0").env("GIT_ASKPASS", "/bin/false");
        command.env("GIT_OPTIONAL_LOCKS", "0").envs(self.extra.iter().map(|(name, value)| (name, value)));
        // A group of its own: what it starts to talk to a remote is ended with it.
        command.stdin(Stdio::null()).kill_on_drop(true).process_group(0);
        command
    }

    /// Runs it; `None` when it says no (any exit code of its own), which for a question is an answer.
    ///
    /// # Errors
    /// [`GitError`] when it could not run or took too long.
    pub async fn ask<S: AsRef<OsStr>>(
        &self,
        limit: Duration,
        args: &[S],
    ) -> Result<Option<String>, GitError> {
        match self.run(limit, args).await {
            Ok(said) => Ok(Some(said)),
            Err(GitError::Failed { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The processes of one git; killed when it is dropped before git has ended.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw))
    }

    fn release(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            let _ = killpg(leader, Signal::SIGKILL); // gone meanwhile: nothing to do
        }
    }
}

/// A part of what git printed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The part.
    pub bytes: Vec<u8>,
    /// Length of the whole.
    pub total: u64,
}

fn verb<S: AsRef<OsStr>>(args: &[S]) -> String {
    let set = args.iter().take_while(|arg| arg.as_ref() == "-c").count();
    args.get(set * 2).map(|arg| arg.as_ref().to_string_lossy().into_owned()).unwrap_or_default()
}

fn failed<S: AsRef<OsStr>>(args: &[S], status: std::process::ExitStatus, stderr: &[u8]) -> GitError {
    let said = String::from_utf8_lossy(stderr);
    // A remote's words are a stranger's: nothing that moves a terminal's cursor.
    let said: String = said.chars().filter(|char| *char == '\n' || !char.is_control()).collect();
    let said = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    GitError::Failed { verb: verb(args), code: status.code().unwrap_or(-1), said }
}

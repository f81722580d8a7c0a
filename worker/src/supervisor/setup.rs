//! The set-up command of a project: run once in a new worktree before claude starts, under a shim of its own, so that its whole
//! tree is killed when it takes too long, is stopped or outlasts its lease, and a worker that comes back finds it again.
//!
//! `<session dir>/setup.done` says that it succeeded; it is not run again then. Its output goes to the attempt's stderr log.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use muster_proto::v1::ProjectPolicy;
use muster_runtime::task;
use tokio::sync::watch;

use super::{
    environment::Secrets,
    launching::NotLaunched,
    locate::{Found, locate},
};
use crate::shim::{
    client::{self, LinkError, ShimLink, Word},
    files::{AttemptDir, Exit, LAUNCH_VERSION, Launch},
    protocol::ToShim,
};

/// How long it has when the policy does not say.
const DEFAULT_SECONDS: u32 = 600;
/// Longest a policy may say.
const MOST_SECONDS: u32 = 7200;
/// Output of it that is let run up before it is ended.
const OUTPUT_BYTES: u64 = 64 << 20;
/// Last bytes of its output that are kept in the log.
const LOG_BYTES: u64 = 64 << 10;
/// Last characters of its output that an error quotes.
const SAID_CHARS: usize = 1000;
/// From a kill to giving its shim up. The shim itself kills for 5 s.
const GONE_WITHIN: Duration = Duration::from_secs(15);

/// What a set-up is run with.
#[derive(Debug)]
pub(super) struct Setup<'a> {
    pub(super) shim_program: &'a Path,
    pub(super) session: &'a str,
    pub(super) session_dir: &'a Path,
    pub(super) attempt: &'a AttemptDir,
    pub(super) policy: &'a ProjectPolicy,
    pub(super) cwd: &'a Path,
    pub(super) env: BTreeMap<String, String>,
    pub(super) secrets: &'a Secrets,
    pub(super) lease_until: Option<u64>,
}

fn done(session_dir: &Path) -> PathBuf {
    session_dir.join("setup.done")
}

/// Whether there is something to run.
pub(super) fn is_due(session_dir: &Path, policy: &ProjectPolicy) -> bool {
    !policy.setup_command.is_empty() && !done(session_dir).exists()
}

impl Setup<'_> {
    /// Runs it, or waits for the one that runs. `stop`: true ends it.
    pub(super) async fn run(&self, stop: &mut watch::Receiver<bool>) -> Result<(), NotLaunched> {
        let place = AttemptDir::new(self.attempt.path().join("setup"));
        let failed = |text: String| NotLaunched::Setup(self.secrets.redact(&text));
        fs::create_dir_all(place.path()).map_err(|error| failed(format!("it cannot be started: {error}")))?;
        let seconds = match self.policy.setup_timeout_seconds {
            0 => DEFAULT_SECONDS,
            seconds => seconds.min(MOST_SECONDS),
        };
        let mut found = locate(&place, self.session).await;
        if matches!(found, Found::Never) {
            let launch = self.launch(&place);
            place.write_launch(&launch).map_err(|error| failed(format!("it cannot be started: {error}")))?;
            found = match client::launch_with(self.shim_program, &place, &self.secrets.0).await {
                Ok(link) => Found::Link(link),
                Err(error @ (LinkError::Start(_) | LinkError::Lapsed)) => return Err(error.into()),
                // It may have come and gone already: only its directory knows.
                Err(_) => locate(&place, self.session).await,
            };
        }
        let link = match found {
            Found::Link(link) => link,
            Found::Exited(exit) => return self.judge(&place, Some(&exit), None).await,
            Found::Lost | Found::Never => return self.judge(&place, None, None).await,
        };
        link.order(ToShim::CloseStdin).await;
        let mut why = None;
        let ended = tokio::select! {
            ended = ended(&place, link, self.session) => ended,
            () = tokio::time::sleep(Duration::from_secs(seconds.into())) => {
                why = Some(format!("it took longer than {seconds} s"));
                kill(&place, self.session).await
            }
            true = async { stop.wait_for(|stop| *stop).await.is_ok() } => {
                why = Some("the session was ended first".to_owned());
                kill(&place, self.session).await
            }
        };
        self.judge(&place, ended.as_ref(), why).await
    }

    fn launch(&self, place: &AttemptDir) -> Launch {
        Launch {
            version: LAUNCH_VERSION,
            program: PathBuf::from("/bin/sh"),
            args: vec!["-c".to_owned(), self.policy.setup_command.clone()],
            env: self.env.clone(),
            secret_env: self.secrets.0.keys().cloned().collect(),
            cwd: self.cwd.to_owned(),
            rows: 50,
            cols: 200,
            spool: place.path().join("output"),
            spool_base: 0,
            output_start: 0,
            spool_limit: OUTPUT_BYTES,
            lease_until: self.lease_until,
        }
    }

    async fn judge(
        &self,
        place: &AttemptDir,
        exit: Option<&Exit>,
        why: Option<String>,
    ) -> Result<(), NotLaunched> {
        let said = self.keep_output(place).await;
        if exit.is_some_and(|exit| exit.lease_lapsed) {
            return Err(NotLaunched::Link(LinkError::Lapsed));
        }
        let why = match (why, exit) {
            (Some(why), _) => why,
            (None, None) => "the process that owned it died".to_owned(),
            (None, Some(exit)) => match (exit.code, exit.signal, &exit.start_error) {
                (Some(0), ..) if !exit.output_limit => {
                    let path = done(self.session_dir);
                    return fs::File::create(path)
                        .and_then(|file| file.sync_all())
                        .map_err(|error| NotLaunched::Setup(format!("its end cannot be noted: {error}")));
                }
                _ if exit.output_limit => format!("it printed more than {OUTPUT_BYTES} bytes"),
                (_, _, Some(error)) => format!("it cannot be started: {error}"),
                (Some(code), ..) => format!("it ended with code {code}"),
                (None, Some(signal), _) => format!("it was killed by signal {signal}"),
                (None, None, None) => "nobody knows how it ended".to_owned(),
            },
        };
        // Another attempt runs it anew.
        let from = said.char_indices().rev().nth(SAID_CHARS).map_or(0, |(at, _)| at);
        let said = said[from..].trim();
        let text = if said.is_empty() { why } else { format!("{why}: {said}") };
        Err(NotLaunched::Setup(self.secrets.redact(&text)))
    }

    /// Puts the end of its output into the attempt's log, without secrets; the rest goes. Returns it, cleaned.
    async fn keep_output(&self, place: &AttemptDir) -> String {
        let (output, complaints) = (place.path().join("output"), place.stderr_log());
        let (log, secrets) = (self.attempt.stderr_log(), self.secrets.clone());
        let kept = task::spawn_blocking("keep set-up output", move || {
            let mut said = tail(&output).unwrap_or_default();
            said.push_str(&tail(&complaints).unwrap_or_default());
            let said = secrets.redact(&said);
            let log = fs::OpenOptions::new().append(true).create(true).open(log);
            if let Ok(mut log) = log {
                let _ = log.write_all(format!("set-up command:\n{said}\n").as_bytes());
            }
            for path in [output, complaints.with_extension("log.1"), complaints] {
                let _ = fs::remove_file(path);
            }
            said.chars().filter(|char| *char == '\n' || !char.is_control()).collect()
        });
        kept.await.unwrap_or_default()
    }
}

/// Ends a set-up that a worker before this one left running; nothing of an attempt runs once its end is told.
pub(super) async fn end(attempt: &AttemptDir, session: &str) {
    let place = AttemptDir::new(attempt.path().join("setup"));
    if place.shim_lives().unwrap_or(false) {
        kill(&place, session).await;
    }
}

fn tail(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Waits for its end. `None`: its shim is lost.
async fn ended(place: &AttemptDir, mut link: ShimLink, session: &str) -> Option<Exit> {
    loop {
        match link.words.recv().await {
            Some(Word::Exited(exit)) => return Some(exit),
            Some(Word::Closed) | None => match locate(place, session).await {
                Found::Link(again) => link = again,
                Found::Exited(exit) => return Some(exit),
                Found::Lost | Found::Never => return None,
            },
            Some(_) => {}
        }
    }
}

/// Ends all of it.
async fn kill(place: &AttemptDir, session: &str) -> Option<Exit> {
    let killing = async {
        match locate(place, session).await {
            Found::Link(link) => {
                link.order(ToShim::KillTree).await;
                ended(place, link, session).await
            }
            Found::Exited(exit) => Some(exit),
            Found::Lost | Found::Never => None,
        }
    };
    if let Ok(exit) = tokio::time::timeout(GONE_WITHIN, killing).await {
        return exit;
    }
    super::launching::kill_shim(place);
    None
}

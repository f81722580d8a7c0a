//! What a worker keeps on disk, and where.
//!
//! ```text
//! <state_dir>/                       0700
//!   worker.lock                      held while a worker runs on this folder
//!   identity/                        what this machine keeps of having joined a farm; see crate::join
//!   fenced/<session id>-<attempt>/   what attempts left that were placed elsewhere meanwhile; for people, for a while
//!   mirrors/                         repositories of declared projects; see workspace::mirror
//!   temporary/                       indexes and bundles on their way; emptied at start
//!   tmp/<end of session id>-<n>/     what claude itself would leave in /tmp; gone with the attempt
//!   worktrees/<handle>/              a session's workspace; nothing outside is ever removed
//!   sessions/<session id>/
//!     session.json                   Record: what holds over all attempts
//!     workspace.json                 what the workspace is to be, written before it is made
//!     setup.done                     the project's set-up command succeeded in the workspace
//!     spool                          every byte of output of all attempts; byte 0 has offset `base_offset`
//!     events                         the outbox: events until the controller has them
//!     release.pb                     the workspace to be released, while that is not done
//!     transcripts/                   claude's own record of the conversation, `<session id>.jsonl` and what belongs to it
//!     attempt-<n>/
//!       setup/                       the shim of the project's set-up command, as an attempt's own
//!       start.pb                     the StartSession, durable before anything starts
//!       launch.json, shim.lock, shim.pid, shim.sock, journal, stderr.log, exit.json     see shim::files
//! ```
//!
//! A released session whose output the controller has keeps `session.json`, `workspace.json`, `events` and `transcripts`
//! until it is forgotten ([`crate::Timing::keep_ended`]), so that an order repeated much later gets the same answer.
//!
//! What is on the disk (synced) before anybody hears of it: orders, events, inputs, ends. Output is not, until its attempt
//! ends: it is in the controller's replica, which syncs it before it acknowledges. A power cut may take the spool's last
//! bytes; offsets that the replica has are never given to other bytes (see `uplink::output`).

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use muster_proto::{
    ids::SessionId,
    v1::{StartSession, Usage, Workspace},
};
use prost::Message as _;
use serde::{Deserialize, Serialize};

use crate::shim::files::{AttemptDir, write_durably};

/// What claude adds to its temporary folder for its longest socket; process ids have at most 7 digits.
const CLAUDE_SOCKET: &str = "/cc-socks/1234567.sock";
/// Longest path claude binds a socket to.
const SOCKET_PATH_BYTES: usize = 103;

/// Format of `session.json`.
const RECORD_VERSION: u32 = 1;

/// `session.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    /// Names the worktree.
    pub(crate) handle: String,
    /// Offset of the spool's first byte.
    pub(crate) base_offset: u64,
    /// claude has a conversation that can be resumed.
    pub(crate) began: bool,
    /// The workspace was released; the session is no longer held.
    pub(crate) released: bool,
    /// Where it works, once that is made.
    pub(crate) place: Option<Place>,
    /// claude's own sums at the end of the last attempt.
    #[serde(default)]
    spent: Spent,
}

/// Sums as they are kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Spent {
    input_tokens: u64,
    output_tokens: u64,
    cache_read_tokens: u64,
    cache_creation_tokens: u64,
    cost_usd: f64,
}

/// A workspace as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    path: String,
    worktree: bool,
    branch: String,
    base_commit: String,
}

impl From<&Workspace> for Place {
    fn from(workspace: &Workspace) -> Self {
        Self {
            path: workspace.path.clone(),
            worktree: workspace.worktree,
            branch: workspace.branch.clone(),
            base_commit: workspace.base_commit.clone(),
        }
    }
}

impl From<&Place> for Workspace {
    fn from(place: &Place) -> Self {
        Self {
            path: place.path.clone(),
            worktree: place.worktree,
            branch: place.branch.clone(),
            base_commit: place.base_commit.clone(),
            state: muster_proto::v1::WorkspaceState::Present.into(),
            ..Self::default()
        }
    }
}

impl Record {
    pub(crate) fn usage(&self) -> Usage {
        let Spent { input_tokens, output_tokens, cache_read_tokens, cache_creation_tokens, cost_usd } =
            self.spent;
        Usage { turns: 0, input_tokens, output_tokens, cache_read_tokens, cache_creation_tokens, cost_usd }
    }

    /// An attempt without a result says nothing about what was spent before.
    pub(crate) fn note_usage(&mut self, usage: &Usage) {
        if usage.turns > 0 {
            self.spent = Spent {
                input_tokens: usage.input_tokens,
                output_tokens: usage.output_tokens,
                cache_read_tokens: usage.cache_read_tokens,
                cache_creation_tokens: usage.cache_creation_tokens,
                cost_usd: usage.cost_usd,
            };
        }
    }

    pub(crate) fn new(handle: &str, base_offset: u64) -> Self {
        Self {
            version: RECORD_VERSION,
            handle: handle.to_owned(),
            base_offset,
            began: false,
            released: false,
            place: None,
            spent: Spent::default(),
        }
    }
}

/// The folder of one session.
#[derive(Debug, Clone)]
pub(crate) struct SessionDir(PathBuf);

impl SessionDir {
    pub(crate) fn new(state_dir: &Path, session: SessionId) -> Self {
        Self(session_path(state_dir, session))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn create(&self) -> io::Result<()> {
        fs::create_dir_all(&self.0)
    }

    pub(crate) fn spool(&self) -> PathBuf {
        self.0.join("spool")
    }

    /// Bytes in the spool file.
    pub(crate) fn spool_bytes(&self) -> u64 {
        fs::metadata(self.spool()).map(|metadata| metadata.len()).unwrap_or_default()
    }

    pub(crate) fn events(&self) -> PathBuf {
        self.0.join("events")
    }

    pub(crate) fn attempt(&self, attempt: u32) -> AttemptDir {
        AttemptDir::new(self.0.join(format!("attempt-{attempt}")))
    }

    /// `None` when there is none.
    pub(crate) fn read_record(&self) -> io::Result<Option<Record>> {
        match fs::read(self.record()) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn write_record(&self, record: &Record) -> io::Result<()> {
        write_durably(&self.record(), &serde_json::to_vec_pretty(record)?)
    }

    /// claude's own record of the conversation.
    pub(crate) fn transcripts(&self) -> PathBuf {
        self.0.join("transcripts")
    }

    pub(crate) fn record(&self) -> PathBuf {
        self.0.join("session.json")
    }

    /// Numbers of the attempts that have a folder.
    pub(crate) fn attempts(&self) -> io::Result<Vec<u32>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let name = entry?.file_name();
            found.extend(name.to_str().and_then(|name| name.strip_prefix("attempt-")?.parse::<u32>().ok()));
        }
        Ok(found)
    }

    /// Files that exist only while something is being done, or are left of it.
    pub(crate) fn leftovers(&self) -> impl Iterator<Item = PathBuf> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten().map(|entry| entry.path());
        entries.filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.ends_with(".tmp") || name.starts_with("snapshot.index")
        })
    }

    /// The newest order, if any.
    pub(crate) fn newest_start(&self) -> io::Result<Option<StartSession>> {
        let Some(number) = self.attempts()?.into_iter().max() else { return Ok(None) };
        match fs::read(self.attempt(number).path().join("start.pb")) {
            Ok(bytes) => Ok(Some(StartSession::decode(bytes.as_slice()).map_err(io::Error::other)?)),
            // Killed between the directory and the file: nothing began.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Forgets an order that nothing was begun of. Works on a full disk.
    pub(crate) fn remove_start(&self, attempt: u32) -> io::Result<()> {
        match fs::remove_file(self.attempt(attempt).path().join("start.pb")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The workspace that is to be released, if that was ordered and is not done.
    pub(crate) fn read_release(&self) -> Option<Workspace> {
        Workspace::decode(fs::read(self.0.join("release.pb")).ok()?.as_slice()).ok()
    }

    pub(crate) fn write_release(&self, workspace: &Workspace) -> io::Result<()> {
        write_durably(&self.0.join("release.pb"), &workspace.encode_to_vec())
    }

    pub(crate) fn remove_release(&self) {
        let _ = fs::remove_file(self.0.join("release.pb")); // released twice is released
    }

    pub(crate) fn write_start(&self, start: &StartSession) -> io::Result<()> {
        let attempt = self.attempt(start.attempt);
        fs::create_dir_all(attempt.path())?;
        write_durably(&attempt.path().join("start.pb"), &start.encode_to_vec())
    }
}

/// Folder of one session.
pub(crate) fn session_path(state_dir: &Path, session: SessionId) -> PathBuf {
    sessions(state_dir).join(session.to_string())
}

/// Folder of files that mean nothing once the process that made them has gone.
pub(crate) fn temporary(state_dir: &Path) -> PathBuf {
    state_dir.join("temporary")
}

/// Folder of the attempts' own temporary folders.
fn attempts_temporary(state_dir: &Path) -> PathBuf {
    state_dir.join("tmp")
}

/// The temporary folder of one attempt. `None` when its path is too long for the sockets that claude makes in it: claude
/// then uses the machine's own. Named by the random end of the id: its beginning is a time.
pub(crate) fn attempt_temporary(state_dir: &Path, session: SessionId, attempt: u32) -> Option<PathBuf> {
    let id = session.as_uuid().simple().to_string();
    let path = attempts_temporary(state_dir).join(format!("{}-{attempt}", &id[id.len() - 12..]));
    (path.as_os_str().len() + CLAUDE_SOCKET.len() <= SOCKET_PATH_BYTES).then_some(path)
}

/// Makes an attempt's temporary folder, for its owner only: claude refuses another.
pub(crate) fn make_attempt_temporary(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Removes an attempt's temporary folder.
pub(crate) fn remove_attempt_temporary(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Every temporary folder of an attempt.
pub(crate) fn list_attempts_temporary(state_dir: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(attempts_temporary(state_dir)) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Whether what is at `path` was last changed longer ago than this. Not what is gone, or changed in the future.
pub(crate) fn is_older(path: &Path, than: Duration) -> bool {
    let changed = path.symlink_metadata().and_then(|metadata| metadata.modified());
    changed.ok().and_then(|changed| changed.elapsed().ok()).is_some_and(|age| age >= than)
}

/// Removes what an earlier worker had under way. The lock of the state folder is held, so nobody uses it.
pub(crate) fn empty_temporary(state_dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(temporary(state_dir)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Folder of what fenced attempts left.
pub(crate) fn fenced(state_dir: &Path) -> PathBuf {
    state_dir.join("fenced")
}

/// Moves spool, journal and all else of an attempt to where nobody takes it for the session's. Safe to repeat.
pub(crate) fn set_aside(
    state_dir: &Path,
    session: SessionId,
    dir: &SessionDir,
    attempt: u32,
) -> io::Result<()> {
    let aside = fenced(state_dir).join(format!("{session}-{attempt}"));
    fs::create_dir_all(&aside)?;
    let attempts = dir.attempts().unwrap_or_default();
    let attempts = attempts.into_iter().map(|number| format!("attempt-{number}"));
    // The orders last: as long as they are there, this is done again.
    for name in ["spool", "session.json", "workspace.json"].into_iter().map(str::to_owned).chain(attempts) {
        match fs::rename(dir.path().join(&name), aside.join(&name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn sessions(state_dir: &Path) -> PathBuf {
    state_dir.join("sessions")
}

/// Makes the folders, readable by their owner only.
pub(crate) fn prepare(state_dir: &Path) -> io::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir)?;
    let state_dir = state_dir.canonicalize()?;
    fs::create_dir_all(sessions(&state_dir))?;
    fs::create_dir_all(state_dir.join("worktrees"))?;
    Ok(state_dir)
}

/// Every session with a folder.
pub(crate) fn list(state_dir: &Path) -> io::Result<Vec<SessionId>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(sessions(state_dir))? {
        found.extend(entry?.file_name().to_str().and_then(|name| name.parse::<SessionId>().ok()));
    }
    found.sort();
    Ok(found)
}

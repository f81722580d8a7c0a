//! Mirrors of declared projects: bare repositories that only the worker writes and no session works in.
//!
//! ```text
//! <state_dir>/mirrors/<project>-<hash of the URL>.git
//!   muster-mirror.json      Note: of what it is, when it was fetched; touched whenever it is used
//!   refs/remotes/origin/*   as the remote has them
//!   refs/heads/*            branches of sessions, taken from their workspaces
//!   refs/muster/*           work that is kept
//! ```
//! One lock each. Its configuration is written anew before each use and hooks are removed, so that whatever a session of the
//! same user put there is never believed. A mirror appears whole, by rename.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{QUICK, WorkspaceError, git::Git, io_error, url};
use crate::{config::DeclaredConfig, local_state::is_older, room, shim::files::write_durably};

/// Its whole configuration. Objects are never removed: workspaces borrow them.
const CONFIG: &str = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n[gc]\n\tauto = 0\n\tpruneExpire = never\n[maintenance]\n\tauto = false\n";
/// Between looks at how much a fetch has brought.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Variables a fetch gets from the worker besides those of every git.
const PASSED: [&str; 7] =
    ["SSH_AUTH_SOCK", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"];

/// `muster-mirror.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    version: u32,
    project: String,
    url: String,
    fetched_at_unix_seconds: u64,
}

/// All mirrors of one worker.
#[derive(Debug, Clone)]
pub struct Mirrors {
    root: PathBuf,
    config: DeclaredConfig,
    /// Whether `file` URLs are taken.
    files: bool,
    locks: Arc<Mutex<HashMap<PathBuf, Arc<Semaphore>>>>,
}

/// A mirror nobody else changes meanwhile.
#[derive(Debug)]
pub struct Locked {
    /// The bare repository.
    pub path: PathBuf,
    _permit: OwnedSemaphorePermit,
}

impl Mirrors {
    /// Mirrors below `<state_dir>/mirrors`. `local`: the controller is on this machine.
    #[must_use]
    pub fn new(state_dir: &Path, config: &DeclaredConfig, local: bool) -> Self {
        let files = config.file_urls.unwrap_or(local);
        Self { root: state_dir.join("mirrors"), config: config.clone(), files, locks: Arc::default() }
    }

    /// Where they are.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn path(&self, project: &str, url: &str) -> PathBuf {
        let digest = ring::digest::digest(&ring::digest::SHA256, url.as_bytes());
        let hash: String = digest.as_ref()[..6].iter().map(|byte| format!("{byte:02x}")).collect();
        self.root.join(format!("{project}-{hash}.git"))
    }

    async fn lock(&self, path: &Path) -> OwnedSemaphorePermit {
        let gate = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(locks.entry(path.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(1))))
        };
        gate.acquire_owned().await.expect("the semaphore is never closed")
    }

    /// The mirror of `project`, fetched if it was not for a while or does not know `wanted` (a branch, tag or commit; empty: the
    /// remote's HEAD), and the commit that is.
    ///
    /// # Errors
    /// [`WorkspaceError`]; an older state stays usable and the same call may be made again.
    pub async fn ready(
        &self,
        project: &str,
        url: &str,
        wanted: &str,
    ) -> Result<(Locked, String), WorkspaceError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !project.bytes().all(plain)
            || !(1..=64).contains(&project.len())
            || project.starts_with(['.', '-'])
        {
            return Err(WorkspaceError::Url(format!("{project:?} is no name of a declared project")));
        }
        url::check(url, self.files).map_err(WorkspaceError::Url)?;
        let path = self.path(project, url);
        let locked = Locked { _permit: self.lock(&path).await, path };
        if !locked.path.join("HEAD").exists() {
            self.make(&locked.path, project, url).await?;
        } else {
            sane(&locked.path)?;
            let note = read_note(&locked.path);
            let age =
                note.as_ref().map(|note| UNIX_EPOCH + Duration::from_secs(note.fetched_at_unix_seconds));
            let young =
                age.and_then(|at| at.elapsed().ok()).is_some_and(|age| age < self.config.refresh_after);
            let known = young && resolve(&locked.path, wanted).await?.is_some();
            if !known {
                match self.fetch(&locked.path, url).await {
                    Ok(()) => write_note(&locked.path, project, url)?,
                    // A commit that is here is the same wherever it came from.
                    Err(error) if is_commit(wanted) && resolve(&locked.path, wanted).await?.is_some() => {
                        tracing::warn!(project, error = %error, "a project cannot be fetched; the commit asked for is here");
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        touch(&locked.path);
        let found = resolve(&locked.path, wanted).await?;
        let commit = found.ok_or_else(|| match wanted {
            "" => WorkspaceError::NoCommits(PathBuf::from(format!("of project {project}"))),
            wanted => WorkspaceError::UnknownRef(wanted.to_owned()),
        })?;
        Ok((locked, commit))
    }

    /// Makes a mirror fit to run git in, whatever somebody put there.
    ///
    /// # Errors
    /// [`WorkspaceError`].
    pub fn secure(&self, mirror: &Path) -> Result<(), WorkspaceError> {
        touch(mirror);
        sane(mirror)
    }

    async fn make(&self, path: &Path, project: &str, url: &str) -> Result<(), WorkspaceError> {
        let half = path.with_extension("half");
        remove(&half)?;
        fs::create_dir_all(&self.root).map_err(io_error(self.root.display().to_string()))?;
        let half_name = half.to_string_lossy().into_owned();
        let init = ["init", "--quiet", "--bare", "--template=", "--", &half_name];
        Git::strict(&self.root).run(QUICK, &init).await?;
        sane(&half)?;
        let made = match self.fetch(&half, url).await {
            Ok(()) => write_note(&half, project, url)
                .and_then(|()| fs::rename(&half, path).map_err(io_error(path.display().to_string()))),
            Err(error) => Err(error),
        };
        if made.is_err() {
            let _ = remove(&half);
        }
        made
    }

    /// What a git that talks to a remote gets.
    pub(super) fn remote_git(&self, path: &Path) -> Git {
        let mut git = Git::strict(path);
        for (name, value) in PASSED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))) {
            git = git.env(name, value);
        }
        if let Some(config) = &self.config.git_config {
            git = git.env("GIT_CONFIG_GLOBAL", config);
        }
        let protocols = if self.files { "https:ssh:file" } else { "https:ssh" };
        git.env("GIT_ALLOW_PROTOCOL", protocols)
            .env("GIT_SSH_COMMAND", "ssh -oBatchMode=yes")
            .env("GIT_SSH_VARIANT", "ssh")
            .env("SSH_ASKPASS", "/bin/false")
            .env("SSH_ASKPASS_REQUIRE", "force")
    }

    async fn fetch(&self, path: &Path, url: &str) -> Result<(), WorkspaceError> {
        let git = self.remote_git(path);
        let args = [
            "-c",
            "fetch.fsckObjects=true",
            "fetch",
            "--quiet",
            "--prune",
            "--force",
            "--no-tags",
            "--no-auto-maintenance",
            "--no-write-fetch-head",
            "--recurse-submodules=no",
            "--",
            url,
            "+refs/heads/*:refs/remotes/origin/*",
            "+refs/tags/*:refs/tags/*",
        ];
        let most = self.config.mirror_limit_bytes;
        let too_large = async {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                if bytes_of(&path.join("objects")) > most {
                    return;
                }
            }
        };
        let too_large_now = || WorkspaceError::TooLarge(most);
        tokio::select! {
            fetched = git.run(self.config.fetch_limit, &args) => drop(fetched?),
            () = too_large => {
                remove_partial(path);
                return Err(too_large_now());
            }
        }
        if bytes_of(&path.join("objects")) > most {
            return Err(too_large_now());
        }
        // What the remote calls its own branch.
        let said = git.run(self.config.fetch_limit, &["ls-remote", "--symref", "--", url, "HEAD"]).await?;
        let named =
            said.lines().find_map(|line| line.strip_prefix("ref: refs/heads/")?.strip_suffix("\tHEAD"));
        if let Some(branch) = named {
            let target = format!("refs/remotes/origin/{branch}");
            Git::strict(path).run(QUICK, &["symbolic-ref", "refs/remotes/origin/HEAD", &target]).await?;
        }
        Ok(())
    }

    /// Names of the projects there are mirrors of, at most `most`.
    #[must_use]
    pub fn projects(&self, most: usize) -> Vec<String> {
        let mut found: Vec<String> = self.list().into_iter().map(|(_, note)| note.project).collect();
        found.sort();
        found.dedup();
        found.truncate(most);
        found
    }

    /// The mirror of a project that was used last.
    #[must_use]
    pub fn of_project(&self, project: &str) -> Option<PathBuf> {
        let mirrors = self.list().into_iter().filter(|(_, note)| note.project == project);
        mirrors.max_by_key(|(path, _)| used_at(path)).map(|(path, _)| path)
    }

    /// Where a mirror is fetched from.
    #[must_use]
    pub fn url_of(&self, mirror: &Path) -> Option<String> {
        read_note(mirror).map(|note| note.url)
    }

    fn list(&self) -> Vec<(PathBuf, Note)> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten().map(|entry| entry.path());
        entries.filter_map(|path| read_note(&path).map(|note| (path, note))).collect()
    }

    /// Removes what was left half made, and mirrors that nobody uses while the disk is wanted. `used`: those that workspaces
    /// borrow from, asked for once a mirror is locked. A mirror that holds work its remote does not have stays.
    pub async fn reap(&self, used: impl Fn() -> Vec<PathBuf>) -> usize {
        let wanted = self.config.disk_wanted_bytes;
        let mut reaped = 0;
        for (path, note) in self.list() {
            if room::available(&self.root).is_none_or(|free| free >= wanted)
                || !is_older(&path.join("muster-mirror.json"), self.config.keep_unused)
            {
                continue;
            }
            let _permit = self.lock(&path).await;
            let is_free = !used().contains(&path) && !holds_work(&path).await;
            if is_free && is_older(&path.join("muster-mirror.json"), self.config.keep_unused) {
                match remove(&path) {
                    Ok(()) => {
                        tracing::info!(project = note.project, "mirror that nobody used for long removed");
                        reaped += 1;
                    }
                    Err(error) => tracing::warn!(error = %error, "a mirror that nobody uses stays"),
                }
            }
        }
        reaped
    }
}

/// Whether a mirror holds commits of sessions that its remote does not have, or cannot say.
async fn holds_work(path: &Path) -> bool {
    let git = Git::strict(path);
    let args = [
        "rev-list",
        "--max-count=1",
        "--glob=refs/heads",
        "--glob=refs/muster",
        "--not",
        "--glob=refs/remotes",
        "--glob=refs/tags",
    ];
    let ours = ["for-each-ref", "--count=1", "refs/heads", "refs/muster"];
    match git.run(QUICK, &ours).await {
        Ok(said) if said.is_empty() => false,
        _ => git.run(QUICK, &args).await.map_or(true, |said| !said.is_empty()),
    }
}

/// The commit that `wanted` names in a mirror.
async fn resolve(mirror: &Path, wanted: &str) -> Result<Option<String>, WorkspaceError> {
    let git = Git::strict(mirror);
    let names: Vec<String> = if wanted.is_empty() {
        vec!["refs/remotes/origin/HEAD".to_owned()]
    } else if is_commit(wanted) {
        vec![wanted.to_owned()]
    } else {
        let bare =
            wanted.strip_prefix("refs/heads/").or_else(|| wanted.strip_prefix("origin/")).unwrap_or(wanted);
        let tag = wanted.strip_prefix("refs/tags/").unwrap_or(wanted);
        vec![format!("refs/remotes/origin/{bare}"), format!("refs/tags/{tag}")]
    };
    for name in names {
        // A name is a name: nothing of git's way to walk from one commit to another.
        if !is_commit(&name) && git.ask(QUICK, &["check-ref-format", &name]).await?.is_none() {
            continue;
        }
        let commit = format!("{name}^{{commit}}");
        let args = ["rev-parse", "--verify", "--quiet", "--end-of-options", &commit];
        if let Some(found) = git.ask(QUICK, &args).await? {
            return Ok(found.lines().last().map(str::to_owned));
        }
    }
    Ok(None)
}

/// Whether this is a whole commit id.
pub(super) fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Puts the configuration back and takes away what git would run or believe.
pub(super) fn sane(mirror: &Path) -> Result<(), WorkspaceError> {
    let config = mirror.join("config");
    let is_plain = config.symlink_metadata().is_ok_and(|metadata| metadata.is_file());
    if !is_plain || fs::read_to_string(&config).ok().as_deref() != Some(CONFIG) {
        write_durably(&config, CONFIG.as_bytes()).map_err(io_error(config.display().to_string()))?;
    }
    for name in ["hooks", "info", "worktrees", "config.worktree", "objects/info/alternates", "commondir"] {
        remove(&mirror.join(name))?;
    }
    Ok(())
}

fn read_note(mirror: &Path) -> Option<Note> {
    serde_json::from_slice(&fs::read(mirror.join("muster-mirror.json")).ok()?).ok()
}

fn write_note(mirror: &Path, project: &str, url: &str) -> Result<(), WorkspaceError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let note =
        Note { version: 1, project: project.to_owned(), url: url.to_owned(), fetched_at_unix_seconds: now };
    let bytes = serde_json::to_vec_pretty(&note).map_err(io::Error::other);
    let written = bytes.and_then(|bytes| write_durably(&mirror.join("muster-mirror.json"), &bytes));
    written.map_err(io_error("muster-mirror.json"))
}

/// Notes that it is used now. Best effort.
fn touch(mirror: &Path) {
    if let Ok(file) = fs::OpenOptions::new().append(true).open(mirror.join("muster-mirror.json")) {
        let _ = file.set_modified(SystemTime::now());
    }
}

fn used_at(mirror: &Path) -> Option<SystemTime> {
    mirror.join("muster-mirror.json").metadata().and_then(|metadata| metadata.modified()).ok()
}

fn bytes_of(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_of(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

/// What a fetch that was ended has brought so far.
fn remove_partial(mirror: &Path) {
    for entry in fs::read_dir(mirror.join("objects/pack")).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("tmp_") {
            let _ = fs::remove_file(entry.path());
        }
    }
    for entry in fs::read_dir(mirror.join("objects")).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("tmp_objdir") {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Not through a link; what is not there is removed.
fn remove(path: &Path) -> Result<(), WorkspaceError> {
    let removed = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => Ok(()),
    };
    removed.map_err(io_error(path.display().to_string()))
}

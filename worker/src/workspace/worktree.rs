//! Creating and releasing a session's worktree.
//!
//! `<state_dir>/worktrees/<handle>` on a branch of its own. What is about to be made is written down before
//! (`<session dir>/workspace.json`, the intent), so that a creation killed half way is recognised and done again, and
//! so that a release knows its worktree without believing anything the session could have written.

mod aside;
mod borrow;

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use muster_proto::v1::{Workspace, WorkspaceState};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::{
    QUICK, SLOW, WorkspaceError, copy,
    git::Git,
    io_error,
    mirror::Mirrors,
    race::{RETRY_AFTER, TRIES, is_race},
    snapshot,
};
use crate::shim::files::write_durably;

/// Worktrees made at a time in one repository: more only wait for each other's locks.
const AT_ONCE: usize = 2;

/// All worktrees of one worker.
#[derive(Debug, Clone)]
pub struct Worktrees {
    root: PathBuf,
    gates: Arc<Mutex<HashMap<PathBuf, Arc<Semaphore>>>>,
}

/// What a workspace is to be.
#[derive(Debug, Clone)]
pub struct Order<'a> {
    /// Directory of the session's own files.
    pub session_dir: &'a Path,
    /// The project's directory.
    pub project: &'a Path,
    /// Names the worktree.
    pub handle: &'a str,
    /// `None`: a worktree where there is a repository.
    pub worktree: Option<bool>,
    /// Empty: `muster/<handle>`.
    pub branch: &'a str,
    /// Empty: HEAD.
    pub from_ref: &'a str,
    /// Files not in git that a new worktree gets from the project's directory, as patterns of .gitignore.
    pub copy: &'a [String],
    /// Of a declared project, whose `project` is no directory here.
    pub mirrored: Option<Mirrored<'a>>,
}

/// Where the repository of a declared project comes from.
#[derive(Debug, Clone)]
pub struct Mirrored<'a> {
    /// The worker's mirrors.
    pub mirrors: &'a Mirrors,
    /// Its name.
    pub project: &'a str,
    /// Where it is cloned from.
    pub url: &'a str,
}

/// `workspace.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Intent {
    /// The repository's common git directory.
    repository: PathBuf,
    /// Root of the worktree.
    root: PathBuf,
    /// Where the session works: the root, or the project's place below it.
    path: PathBuf,
    branch: String,
    base_commit: String,
    /// The worktree was made whole.
    made: bool,
    /// The repository is a mirror, and the workspace a repository of its own that borrows from it.
    #[serde(default)]
    mirror: bool,
}

/// The work of a session.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// The repository's common git directory.
    pub(super) repository: PathBuf,
    /// The worktree, if it stands.
    pub(super) root: Option<PathBuf>,
    pub(super) branch: String,
    pub(super) base_commit: String,
    /// The repository is a mirror.
    pub(super) mirror: bool,
}

impl Intent {
    /// git in the repository.
    fn git(&self) -> Git {
        if self.mirror { Git::strict(&self.repository) } else { Git::new(&self.repository) }
    }

    fn place(&self) -> snapshot::Place<'_> {
        snapshot::Place {
            repository: &self.repository,
            root: &self.root,
            branch: &self.branch,
            base_commit: &self.base_commit,
            mirror: self.mirror,
        }
    }

    /// Of a worktree that no session knows.
    pub(super) const fn stray(
        repository: PathBuf,
        root: PathBuf,
        branch: String,
        base_commit: String,
    ) -> Self {
        Self { repository, root, path: PathBuf::new(), branch, base_commit, made: false, mirror: false }
    }

    fn read(session_dir: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(session_dir.join("workspace.json")).ok()?).ok()
    }

    fn write(&self, session_dir: &Path) -> Result<(), WorkspaceError> {
        let bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| WorkspaceError::Io("workspace.json".to_owned(), std::io::Error::other(error)))?;
        write_durably(&session_dir.join("workspace.json"), &bytes).map_err(io_error("workspace.json"))
    }

    fn workspace(&self) -> Workspace {
        Workspace {
            path: self.path.to_string_lossy().into_owned(),
            worktree: true,
            branch: self.branch.clone(),
            base_commit: self.base_commit.clone(),
            state: WorkspaceState::Present.into(),
            ..Workspace::default()
        }
    }
}

impl Worktrees {
    /// Worktrees below `<state_dir>/worktrees`. `state_dir` must be free of symlinks.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Self { root: state_dir.join("worktrees"), gates: Arc::default() }
    }

    /// Makes the workspace, or finds the one made before.
    ///
    /// # Errors
    /// [`WorkspaceError`]; the same call may be made again.
    pub async fn create(&self, order: &Order<'_>) -> Result<Workspace, WorkspaceError> {
        if let Some(intent) = Intent::read(order.session_dir) {
            if intent.made {
                return reopen(&intent.workspace());
            }
            self.undo(&intent).await?;
        }
        if let Some(mirrored) = &order.mirrored {
            return self.borrow(order, mirrored).await;
        }
        let git = Git::new(order.project);
        let asked = ["rev-parse", "--path-format=absolute", "--git-common-dir", "--show-prefix"];
        let Some(found) = git.ask(QUICK, &asked).await? else {
            if order.worktree == Some(true) {
                return Err(WorkspaceError::NotGit(order.project.to_owned()));
            }
            return Ok(directory(order.project, String::new()));
        };
        let (repository, prefix) = found.split_once('\n').unwrap_or((&found, ""));
        let head = git.ask(QUICK, &["rev-parse", "--verify", "--quiet", "HEAD^{commit}"]).await?;
        if order.worktree == Some(false) {
            return Ok(directory(order.project, head.unwrap_or_default()));
        }
        let base_commit = base_commit(&git, order, head).await?;
        let branch = branch_name(&git, order).await?;
        let root = self.root.join(order.handle);
        let path = if prefix.is_empty() { root.clone() } else { root.join(prefix.trim_end_matches('/')) };
        let repository = PathBuf::from(repository);
        let mut intent = Intent { repository, root, path, branch, base_commit, made: false, mirror: false };
        intent.write(order.session_dir)?;
        self.add(&intent).await?;
        fs::create_dir_all(&intent.path).map_err(io_error(intent.path.display().to_string()))?;
        copy::copy(order.project, &intent.path, order.copy).await?;
        intent.made = true;
        intent.write(order.session_dir)?;
        Ok(intent.workspace())
    }

    /// Keeps what is in the workspace, then removes it. A workspace without a worktree is only let go.
    ///
    /// # Errors
    /// [`WorkspaceError`]; the workspace stays then, and the same call may be made again.
    pub async fn release(
        &self,
        session_dir: &Path,
        session: &str,
        was: &Workspace,
    ) -> Result<Workspace, WorkspaceError> {
        let mut released = Workspace { state: WorkspaceState::Released.into(), ..was.clone() };
        let Some(intent) = Intent::read(session_dir) else {
            if was.worktree {
                return Err(WorkspaceError::NotOurs(PathBuf::from(&was.path)));
            }
            return Ok(released);
        };
        if intent.root.parent() != Some(self.root.as_path()) {
            return Err(WorkspaceError::NotOurs(intent.root));
        }
        let _permit = self.gate(&intent.repository).acquire_owned().await;
        let place = intent.place();
        if is_directory(&intent.root) {
            snapshot::keep(&place, session_dir, session).await?;
        }
        // Also when the directory is gone: a kill may have come before git forgot it.
        self.remove(&intent).await?;
        if let Some((name, commit)) = snapshot::kept(&place, session).await? {
            released.kept_ref = name;
            released.kept_commit = commit;
        }
        Ok(released)
    }

    /// Where the work of a session is: in a worktree that stands, or only in the repository. `project`: its directory,
    /// for a session of whose making nothing is on disk any more.
    pub(super) async fn find(
        &self,
        session_dir: &Path,
        project: &Path,
        was: &Workspace,
    ) -> Result<Option<Found>, WorkspaceError> {
        if let Some(intent) = Intent::read(session_dir).filter(|intent| intent.made) {
            let stands = intent.root.parent() == Some(self.root.as_path()) && is_directory(&intent.root);
            let Intent { repository, root, branch, base_commit, mirror, .. } = intent;
            let root = stands.then_some(root);
            return Ok(Some(Found { repository, root, branch, base_commit, mirror }));
        }
        let plain = |text: &str| !text.is_empty() && !text.starts_with('-') && !text.contains('\0');
        if !plain(&was.branch) || !plain(&was.base_commit) {
            return Ok(None);
        }
        let asked = ["rev-parse", "--path-format=absolute", "--git-common-dir"];
        let mirror = project.join("muster-mirror.json").exists();
        let git = if mirror { Git::strict(project) } else { Git::new(project) };
        let repository = git.ask(QUICK, &asked).await?;
        let (branch, base_commit) = (was.branch.clone(), was.base_commit.clone());
        Ok(repository.map(|repository| Found {
            repository: repository.into(),
            root: None,
            branch,
            base_commit,
            mirror,
        }))
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn gate(&self, repository: &Path) -> Arc<Semaphore> {
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(gates.entry(repository.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(AT_ONCE))))
    }

    async fn add(&self, intent: &Intent) -> Result<(), WorkspaceError> {
        fs::create_dir_all(&self.root).map_err(io_error(self.root.display().to_string()))?;
        let _permit = self.gate(&intent.repository).acquire_owned().await;
        let git = intent.git();
        let mut attempt = 0;
        loop {
            let made = git
                .run(
                    SLOW,
                    &[
                        "worktree".as_ref(),
                        "add".as_ref(),
                        "--quiet".as_ref(),
                        "--no-track".as_ref(),
                        "-b".as_ref(),
                        intent.branch.as_ref(),
                        "--".as_ref(),
                        intent.root.as_os_str(),
                        intent.base_commit.as_ref(),
                    ],
                )
                .await;
            attempt += 1;
            match made {
                Ok(_) => return Ok(()),
                Err(error) if attempt < TRIES && is_race(&error) => {
                    tracing::debug!(error = %error, "git raced with itself, trying again");
                    self.forget(intent).await?;
                    tokio::time::sleep(RETRY_AFTER * attempt).await;
                }
                Err(error) => {
                    self.forget(intent).await?;
                    return Err(error.into());
                }
            }
        }
    }

    /// Takes back a creation that was cut short: no session has ever worked in it.
    async fn undo(&self, intent: &Intent) -> Result<(), WorkspaceError> {
        if intent.root.parent() != Some(self.root.as_path()) {
            return Err(WorkspaceError::NotOurs(intent.root.clone()));
        }
        let _permit = self.gate(&intent.repository).acquire_owned().await;
        self.forget(intent).await
    }

    /// Removes the half-made worktree, and its branch while that is where it began.
    async fn forget(&self, intent: &Intent) -> Result<(), WorkspaceError> {
        self.remove(intent).await?;
        let git = intent.git();
        let name = format!("refs/heads/{}", intent.branch);
        // Only if it still is what we made: the old value is checked by git itself.
        let _ = git.ask(QUICK, &["update-ref", "-d", &name, &intent.base_commit]).await?;
        Ok(())
    }

    /// Removes the directory and git's record of it. The directory first: a session can forge `.git` so that git
    /// refuses or looks elsewhere, and the standard library follows no link on the way down.
    pub(super) async fn remove(&self, intent: &Intent) -> Result<(), WorkspaceError> {
        let root = intent.root.clone();
        if is_directory(&root) {
            let removed = tokio::task::spawn_blocking(move || fs::remove_dir_all(&root)).await;
            removed
                .map_err(std::io::Error::other)
                .and_then(|removed| removed)
                .map_err(io_error("worktree"))?;
        } else if root.symlink_metadata().is_ok() {
            fs::remove_file(&root).map_err(io_error(root.display().to_string()))?;
        }
        let git = intent.git();
        let root = intent.root.as_os_str();
        let args = [
            "worktree".as_ref(),
            "remove".as_ref(),
            "--force".as_ref(),
            "--force".as_ref(),
            "--".as_ref(),
            root,
        ];
        let mut attempt = 0;
        // Without a record there is nothing to forget; with one, git may have raced with another of its kind.
        while is_recorded(intent) {
            let Err(error) = git.run(QUICK, &args).await else { break };
            attempt += 1;
            if attempt == TRIES {
                return Err(error.into());
            }
            tracing::debug!(error = %error, "git did not forget a worktree, trying again");
            tokio::time::sleep(RETRY_AFTER * attempt).await;
        }
        Ok(())
    }
}

/// The mirror that the workspace of this folder's session borrows from, if it does.
pub(crate) fn mirror_of(session_dir: &Path) -> Option<PathBuf> {
    Intent::read(session_dir).filter(|intent| intent.mirror).map(|intent| intent.repository)
}

/// Root of the worktree that the session of this folder has, or is about to have.
pub(crate) fn root_of(session_dir: &Path) -> Option<PathBuf> {
    Intent::read(session_dir).map(|intent| intent.root)
}

/// Whether the repository has a record of the worktree, which outlives its directory.
fn is_recorded(intent: &Intent) -> bool {
    let dot_git = intent.root.join(".git");
    let records = fs::read_dir(intent.repository.join("worktrees")).into_iter().flatten().flatten();
    records
        .filter_map(|record| fs::read_to_string(record.path().join("gitdir")).ok())
        .any(|gitdir| Path::new(gitdir.trim_end()) == dot_git)
}

/// The workspace of an earlier attempt.
///
/// # Errors
/// [`WorkspaceError::Gone`].
pub fn reopen(workspace: &Workspace) -> Result<Workspace, WorkspaceError> {
    let path = Path::new(&workspace.path);
    if path.is_dir() { Ok(workspace.clone()) } else { Err(WorkspaceError::Gone(path.to_owned())) }
}

/// Not through a link.
fn is_directory(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())
}

fn directory(project: &Path, base_commit: String) -> Workspace {
    Workspace {
        path: project.to_string_lossy().into_owned(),
        worktree: false,
        base_commit,
        state: WorkspaceState::Present.into(),
        ..Workspace::default()
    }
}

async fn base_commit(git: &Git, order: &Order<'_>, head: Option<String>) -> Result<String, WorkspaceError> {
    if order.from_ref.is_empty() {
        return head.ok_or_else(|| WorkspaceError::NoCommits(order.project.to_owned()));
    }
    let unknown = || WorkspaceError::UnknownRef(order.from_ref.to_owned());
    if order.from_ref.starts_with('-') || order.from_ref.contains('\0') {
        return Err(unknown());
    }
    let commit = format!("{}^{{commit}}", order.from_ref);
    let args = ["rev-parse", "--verify", "--quiet", "--end-of-options", &commit];
    let found = git.ask(QUICK, &args).await?.ok_or_else(unknown)?;
    // Before git 2.30 the marker itself was echoed.
    found.lines().last().map(ToOwned::to_owned).ok_or_else(unknown)
}

async fn branch_name(git: &Git, order: &Order<'_>) -> Result<String, WorkspaceError> {
    let branch = match order.branch {
        "" => format!("muster/{}", order.handle),
        given => given.to_owned(),
    };
    let full = format!("refs/heads/{branch}");
    let bad = branch.starts_with('-') || branch.contains('\0') || branch == "HEAD";
    // A handle is always a valid name.
    let is_ours = order.branch.is_empty();
    if bad || !is_ours && git.ask(QUICK, &["check-ref-format", &full]).await?.is_none() {
        return Err(WorkspaceError::BadBranch(branch));
    }
    if git.ask(QUICK, &["rev-parse", "--verify", "--quiet", &full]).await?.is_some() {
        return Err(WorkspaceError::BranchExists(branch));
    }
    Ok(branch)
}

#[cfg(test)]
mod tests;

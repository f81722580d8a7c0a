//! Worktrees that no session has: what a worker left that was killed, or whose session's folder was lost.
//!
//! Ours is what lies directly below `<state_dir>/worktrees`; nothing else is looked at but locks of refs that only muster
//! makes. Work is kept in `refs/muster/orphan-<name>/final` before anything is removed; what cannot be kept stays.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    QUICK, WorkspaceError,
    git::Git,
    snapshot,
    worktree::{Intent, Worktrees},
};
use crate::local_state::is_older;

/// A lock of a ref is held for milliseconds.
const LOCK_FOR: Duration = Duration::from_secs(600);

/// A worktree without a session.
#[derive(Debug)]
struct Stray {
    name: String,
    root: PathBuf,
    /// The repository's common git directory; `None`: no project's repository says it is its own.
    repository: Option<PathBuf>,
}

/// Removes every worktree that is not among `known`, and stale locks of our refs. Returns how many of both went.
/// `known`: roots of all sessions' worktrees; to be asked for after this has listed what is there. `scratch`: a folder
/// for indexes.
pub(crate) async fn reap(
    worktrees: &Worktrees,
    projects: impl Iterator<Item = &Path>,
    known: impl FnOnce() -> HashSet<PathBuf>,
    scratch: &Path,
) -> usize {
    let repositories = repositories(projects).await;
    let mut strays = list(worktrees.root(), &repositories);
    let known = known();
    strays.retain(|stray| !known.contains(&stray.root));
    let mut reaped = repositories.iter().map(|repository| reap_locks(repository)).sum();
    for stray in strays {
        match remove(worktrees, &stray, scratch).await {
            Ok(true) => {
                tracing::info!(worktree = %stray.root.display(), "worktree without a session removed");
                reaped += 1;
            }
            Ok(false) => {
                tracing::warn!(worktree = %stray.root.display(),
                    "worktree without a session stays: it holds files and belongs to no project's repository");
            }
            Err(error) => {
                tracing::warn!(worktree = %stray.root.display(), error = %error, "worktree without a session stays");
            }
        }
    }
    reaped
}

async fn repositories(projects: impl Iterator<Item = &Path>) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for project in projects {
        let asked = ["rev-parse", "--path-format=absolute", "--git-common-dir"];
        if let Ok(Some(repository)) = Git::new(project).ask(QUICK, &asked).await {
            found.insert(PathBuf::from(repository));
        }
    }
    found
}

/// Everything below `root`, and everything that a repository says is there.
fn list(root: &Path, repositories: &BTreeSet<PathBuf>) -> Vec<Stray> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let repository = pointed_to(&entry.path(), repositories);
            found.insert(entry.path(), repository);
        }
    }
    for repository in repositories {
        for record in fs::read_dir(repository.join("worktrees")).into_iter().flatten().flatten() {
            let Ok(gitdir) = fs::read_to_string(record.path().join("gitdir")) else { continue };
            let recorded = Path::new(gitdir.trim_end()).parent().map(Path::to_owned);
            if let Some(recorded) = recorded.filter(|recorded| recorded.parent() == Some(root)) {
                found.insert(recorded, Some(repository.clone()));
            }
        }
    }
    let stray = |(root, repository): (PathBuf, Option<PathBuf>)| {
        let name = root.file_name()?.to_str()?.to_owned();
        Some(Stray { name, root, repository })
    };
    found.into_iter().filter_map(stray).collect()
}

/// The repository that the worktree's own `.git` names, if it is one of these.
fn pointed_to(root: &Path, repositories: &BTreeSet<PathBuf>) -> Option<PathBuf> {
    let text = fs::read_to_string(root.join(".git")).ok()?;
    let record = Path::new(text.strip_prefix("gitdir: ")?.trim_end());
    repositories.iter().find(|repository| record.starts_with(repository.join("worktrees"))).cloned()
}

/// False: it holds something and no repository could keep that.
async fn remove(worktrees: &Worktrees, stray: &Stray, scratch: &Path) -> Result<bool, WorkspaceError> {
    let Some(repository) = &stray.repository else {
        return Ok(remove_empty(&stray.root).is_ok());
    };
    let git = Git::new(repository);
    let branch = format!("muster/{}", stray.name);
    let head = git.run(QUICK, &["rev-parse", "--verify", "HEAD^{commit}"]).await?;
    let intent = Intent::stray(repository.clone(), stray.root.clone(), branch.clone(), head.clone());
    let _permit = worktrees.gate(repository).acquire_owned().await;
    if stray.root.symlink_metadata().is_ok_and(|found| found.is_dir()) {
        let place = snapshot::Place {
            repository,
            root: &stray.root,
            branch: &branch,
            base_commit: &head,
            mirror: false,
        };
        fs::create_dir_all(scratch).map_err(super::io_error("temporary folder"))?;
        snapshot::keep(&place, scratch, &format!("orphan-{}", stray.name)).await?;
    }
    worktrees.remove(&intent).await?;
    forget_branch(&git, &branch).await?;
    Ok(true)
}

/// Folders without a file in them.
fn remove_empty(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        remove_empty(&entry?.path())?;
    }
    fs::remove_dir(dir)
}

/// Removes the branch if another name, not one of muster's own, leads to all that is on it.
async fn forget_branch(git: &Git, branch: &str) -> Result<(), WorkspaceError> {
    let name = format!("refs/heads/{branch}");
    let Some(tip) = git.ask(QUICK, &["rev-parse", "--verify", "--quiet", &name]).await? else {
        return Ok(());
    };
    let contains = format!("--contains={tip}");
    let args = ["for-each-ref", "--format=%(refname)", &contains, "refs/heads", "refs/remotes", "refs/tags"];
    let names = git.run(QUICK, &args).await?;
    if names.lines().any(|other| !other.starts_with("refs/heads/muster/")) {
        git.run(QUICK, &["update-ref", "-d", &name, &tip]).await?;
    }
    Ok(())
}

/// Locks that a killed git left on refs of muster, which would be in the way for ever.
fn reap_locks(repository: &Path) -> usize {
    ["refs/heads/muster", "refs/muster"].iter().map(|refs| reap_locks_in(&repository.join(refs))).sum()
}

fn reap_locks_in(dir: &Path) -> usize {
    let mut reaped = 0;
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            reaped += reap_locks_in(&path);
        } else if path.extension().is_some_and(|kind| kind == "lock") && is_older(&path, LOCK_FOR) {
            tracing::info!(lock = %path.display(), "lock of a git that was killed removed");
            reaped += usize::from(fs::remove_file(path).is_ok());
        }
    }
    reaped
}

//! Keeps the state of a worktree in a ref: everything tracked, and everything untracked that is not ignored.
//!
//! Works on the repository's own git directory with an index of its own. The worktree's `.git`, its index and its HEAD
//! file are the session's to write and are believed in nothing but the commit they name.

use std::{collections::BTreeSet, fs, path::Path};

use super::{QUICK, SLOW, WorkspaceError, git::Git};

/// A worktree, by what the worker itself wrote down.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pub(super) repository: &'a Path,
    pub(super) root: &'a Path,
    pub(super) branch: &'a str,
    pub(super) base_commit: &'a str,
}

fn ref_name(session: &str) -> String {
    format!("refs/muster/{session}/final")
}

/// The ref that keeps a session's work, and its commit, when there is one.
pub(super) async fn kept(
    place: &Place<'_>,
    session: &str,
) -> Result<Option<(String, String)>, WorkspaceError> {
    let name = ref_name(session);
    let commit = Git::new(place.repository).ask(QUICK, &["rev-parse", "--verify", "--quiet", &name]).await?;
    Ok(commit.map(|commit| (name, commit)))
}

/// Keeps what the branch alone does not hold. Safe to repeat.
pub(super) async fn keep(place: &Place<'_>, session_dir: &Path, session: &str) -> Result<(), WorkspaceError> {
    let git = Git::new(place.repository);
    let tip = tip(&git, place).await?;
    let head =
        head(&git, place).await?.or_else(|| tip.clone()).unwrap_or_else(|| place.base_commit.to_owned());
    let index = session_dir.join("snapshot.index");
    let tree = write_tree(place, &index, &head).await;
    let _ = fs::remove_file(&index);
    let tree = tree?;
    let head_tree = git.run(QUICK, &["rev-parse", "--verify", &format!("{head}^{{tree}}")]).await?;
    if tree == head_tree && tip.as_deref() == Some(&head) {
        return Ok(());
    }
    let commit = if tree == head_tree {
        head // committed, but on no branch of ours: a detached HEAD or another branch
    } else {
        let message = format!("muster: state of session {session}");
        git.env("GIT_AUTHOR_NAME", "muster")
            .env("GIT_AUTHOR_EMAIL", "muster@localhost")
            .env("GIT_COMMITTER_NAME", "muster")
            .env("GIT_COMMITTER_EMAIL", "muster@localhost")
            .run(QUICK, &["commit-tree", &tree, "-p", &head, "-m", &message])
            .await?
    };
    Git::new(place.repository).run(QUICK, &["update-ref", &ref_name(session), &commit]).await?;
    Ok(())
}

async fn tip(git: &Git, place: &Place<'_>) -> Result<Option<String>, WorkspaceError> {
    let name = format!("refs/heads/{}^{{commit}}", place.branch);
    Ok(git.ask(QUICK, &["rev-parse", "--verify", "--quiet", &name]).await?)
}

/// What the worktree has checked out, by git's record of it; `None` when that is gone or forged.
async fn head(git: &Git, place: &Place<'_>) -> Result<Option<String>, WorkspaceError> {
    let list = git.run(QUICK, &["worktree", "list", "--porcelain", "-z"]).await?;
    let root = place.root.to_string_lossy();
    let mut ours = false;
    for field in list.split('\0') {
        if let Some(path) = field.strip_prefix("worktree ") {
            ours = path == root;
        } else if ours && let Some(commit) = field.strip_prefix("HEAD ") {
            let exists =
                git.ask(QUICK, &["cat-file", "-e", &format!("{commit}^{{commit}}")]).await?.is_some();
            return Ok(exists.then(|| commit.to_owned()));
        }
    }
    Ok(None)
}

async fn write_tree(place: &Place<'_>, index: &Path, head: &str) -> Result<String, WorkspaceError> {
    let git = Git::new(place.root)
        .env("GIT_DIR", place.repository)
        .env("GIT_WORK_TREE", place.root)
        .env("GIT_INDEX_FILE", index);
    let _ = fs::remove_file(index);
    git.run(QUICK, &["read-tree", head]).await?;
    let before = links(&git).await?;
    git.run(SLOW, &["-c", "advice.addEmbeddedRepo=false", "add", "--all", "--", "."]).await?;
    // A repository in the worktree becomes a mere pointer in the tree: its files would be lost.
    for path in links(&git).await? {
        let inside = place.root.join(&path);
        if inside.join(".git").symlink_metadata().is_ok() || (!before.contains(&path) && inside.exists()) {
            return Err(WorkspaceError::HoldsRepository(path));
        }
    }
    Ok(git.run(SLOW, &["write-tree"]).await?)
}

/// Paths of the index that are pointers into other repositories.
async fn links(git: &Git) -> Result<BTreeSet<String>, WorkspaceError> {
    let list = git.run(QUICK, &["ls-files", "--stage", "-z"]).await?;
    let path = |entry: &str| {
        let (mode, path) = (entry.split(' ').next()?, entry.split_once('\t')?.1);
        (mode == "160000").then(|| path.to_owned())
    };
    Ok(list.split('\0').filter_map(path).collect())
}

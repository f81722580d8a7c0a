//! Keeps the state of a worktree in a ref: everything tracked, and everything untracked that is not ignored.
//!
//! Works on the repository's own git directory with an index of its own. The worktree's `.git`, its index and its HEAD
//! file are the session's to write and are believed in nothing but the commit they name.

use std::{collections::BTreeSet, fs, path::Path};

use super::{QUICK, SLOW, WorkspaceError, borrowed, git::Git, race};

/// A worktree, by what the worker itself wrote down.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pub(super) repository: &'a Path,
    pub(super) root: &'a Path,
    pub(super) branch: &'a str,
    pub(super) base_commit: &'a str,
    /// The repository is a mirror, and the workspace a repository of its own.
    pub(super) mirror: bool,
}

impl Place<'_> {
    /// git in the repository.
    pub(super) fn git(&self) -> Git {
        if self.mirror { Git::strict(self.repository) } else { Git::new(self.repository) }
    }
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
    let commit = place.git().ask(QUICK, &["rev-parse", "--verify", "--quiet", &name]).await?;
    Ok(commit.map(|commit| (name, commit)))
}

/// Keeps all of it under a name of its own. Safe to repeat.
pub(super) async fn keep_as(
    place: &Place<'_>,
    session_dir: &Path,
    session: &str,
    name: &str,
) -> Result<(), WorkspaceError> {
    let git = place.git();
    let tree = Tree::of(place, &session_dir.join("snapshot.index"), Nested::Refuse).await?;
    let commit = tree.commit(&git, session, None).await?;
    git.run(QUICK, &["update-ref", name, &commit]).await?;
    Ok(())
}

/// Keeps what the branch alone does not hold. Safe to repeat.
pub(super) async fn keep(place: &Place<'_>, session_dir: &Path, session: &str) -> Result<(), WorkspaceError> {
    let git = place.git();
    let tree = Tree::of(place, &session_dir.join("snapshot.index"), Nested::Refuse).await?;
    if !tree.is_on_branch() {
        let commit = tree.commit(&git, session, None).await?;
        git.run(QUICK, &["update-ref", &ref_name(session), &commit]).await?;
    }
    Ok(())
}

/// What to do about a repository inside the worktree, of which a tree holds only a pointer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Nested {
    /// Its files would be lost.
    Refuse,
    /// Nothing is removed, so the pointer will do.
    Point,
}

/// What a worktree holds, as a tree in the repository.
pub(super) struct Tree {
    tree: String,
    /// What is checked out.
    head: String,
    head_tree: String,
    /// Of the branch; `None` when it was deleted.
    pub(super) tip: Option<String>,
}

impl Tree {
    /// Reads the worktree through an index of our own at `index`, which is removed again.
    pub(super) async fn of(place: &Place<'_>, index: &Path, nested: Nested) -> Result<Self, WorkspaceError> {
        let git = place.git();
        let head = head(&git, place).await?;
        let tip = tip(&git, place).await?;
        let head = head.or_else(|| tip.clone()).unwrap_or_else(|| place.base_commit.to_owned());
        let tree = write_tree(place, index, &head, nested).await;
        let _ = fs::remove_file(index);
        let tree = tree?;
        let head_tree = git.run(QUICK, &["rev-parse", "--verify", &format!("{head}^{{tree}}")]).await?;
        Ok(Self { tree, head, head_tree, tip })
    }

    /// Whether the branch alone holds all of it.
    pub(super) fn is_on_branch(&self) -> bool {
        self.tree == self.head_tree && self.tip.as_deref() == Some(&self.head)
    }

    /// A commit that holds it: what is checked out, or one on top. `known`: a commit to use again if it is that one.
    pub(super) async fn commit(
        &self,
        git: &Git,
        session: &str,
        known: Option<&str>,
    ) -> Result<String, WorkspaceError> {
        if self.tree == self.head_tree {
            // Committed, though perhaps on no branch of ours: a detached HEAD or another branch.
            return Ok(self.head.clone());
        }
        if let Some(known) = known {
            let args = ["rev-parse", &format!("{known}^{{tree}}"), &format!("{known}^1")];
            let said = git.ask(QUICK, &args).await?;
            if said.as_deref() == Some(&format!("{}\n{}", self.tree, self.head)) {
                return Ok(known.to_owned());
            }
        }
        let message = format!("muster: state of session {session}");
        let git = git
            .clone()
            .env("GIT_AUTHOR_NAME", "muster")
            .env("GIT_AUTHOR_EMAIL", "muster@localhost")
            .env("GIT_COMMITTER_NAME", "muster")
            .env("GIT_COMMITTER_EMAIL", "muster@localhost");
        Ok(git.run(QUICK, &["commit-tree", &self.tree, "-p", &self.head, "-m", &message]).await?)
    }
}

pub(super) async fn tip(git: &Git, place: &Place<'_>) -> Result<Option<String>, WorkspaceError> {
    let name = format!("refs/heads/{}^{{commit}}", place.branch);
    Ok(git.ask(QUICK, &["rev-parse", "--verify", "--quiet", &name]).await?)
}

/// What the worktree has checked out, by git's record of it; `None` when that is gone or forged.
async fn head(git: &Git, place: &Place<'_>) -> Result<Option<String>, WorkspaceError> {
    if place.mirror {
        return borrowed::bring(place.repository, place.root, place.branch).await;
    }
    // Fails while another session's worktree is being added: git reads that one's half-written record, too.
    let list = race::outlast(|| git.run(QUICK, &["worktree", "list", "--porcelain", "-z"])).await?;
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

async fn write_tree(
    place: &Place<'_>,
    index: &Path,
    head: &str,
    nested: Nested,
) -> Result<String, WorkspaceError> {
    let git = if place.mirror { Git::strict(place.root) } else { Git::new(place.root) };
    let git =
        git.env("GIT_DIR", place.repository).env("GIT_WORK_TREE", place.root).env("GIT_INDEX_FILE", index);
    let _ = fs::remove_file(index);
    git.run(QUICK, &["read-tree", head]).await?;
    let before = if nested == Nested::Refuse { links(&git).await? } else { BTreeSet::new() };
    git.run(SLOW, &["-c", "advice.addEmbeddedRepo=false", "add", "--all", "--", "."]).await?;
    // A repository in the worktree becomes a mere pointer in the tree: its files would be lost.
    let links = if nested == Nested::Refuse { links(&git).await? } else { BTreeSet::new() };
    for path in links {
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

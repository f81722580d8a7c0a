//! Where sessions work: a git worktree of their own, or the project's directory.
//!
//! Called by the session actor. Creation and release are idempotent: after a kill at any moment the same call again
//! reaches the same state. Nothing outside `<state_dir>/worktrees` is ever removed, and nothing at all before the work
//! in it is kept in a ref.

mod borrowed;
pub mod bundle;
pub mod changes;
mod copy;
pub mod git;
pub mod mirror;
pub mod push;
mod race;
pub mod snapshot;
pub(crate) mod strays;
pub mod url;
pub mod worktree;

use std::{path::PathBuf, time::Duration};

use self::git::GitError;

/// A workspace that cannot be made, found or released.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// A worktree was asked for where there is no repository.
    #[error("project directory {0} is not a git repository, so it cannot have a worktree")]
    NotGit(PathBuf),
    /// Nothing to start from.
    #[error("repository {0} has no commits; make one first, or ask for no worktree")]
    NoCommits(PathBuf),
    /// The ref names no commit.
    #[error("ref {0:?} does not name a commit of the repository")]
    UnknownRef(String),
    /// The branch name is not one git takes.
    #[error("{0:?} is not a valid branch name")]
    BadBranch(String),
    /// The branch is somebody else's.
    #[error("branch {0:?} exists already; give another branch name")]
    BranchExists(String),
    /// The session's directory is gone.
    #[error("workspace {0} is gone")]
    Gone(PathBuf),
    /// The path is not one of ours, so it is not touched.
    #[error("{0} is not a worktree of this worker")]
    NotOurs(PathBuf),
    /// Another repository inside the workspace holds work that no ref of this one can keep.
    #[error("workspace holds another repository at {0}, whose work cannot be kept; move it away first")]
    HoldsRepository(String),
    /// The URL, or the name, of a declared project.
    #[error("{0}")]
    Url(String),
    /// A fetch brought too much.
    #[error("the project's repository is larger than the {0} bytes this worker allows")]
    TooLarge(u64),
    /// git failed otherwise.
    #[error(transparent)]
    Git(#[from] GitError),
    /// The file system failed.
    #[error("{0}: {1}")]
    Io(String, std::io::Error),
}

/// Longest a git command that copies a tree may take; a checkout of 50,000 files takes seconds.
const SLOW: Duration = Duration::from_secs(600);
/// Longest any other git command may take.
const QUICK: Duration = Duration::from_secs(60);

fn io_error(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> WorkspaceError {
    let what = what.into();
    move |error| WorkspaceError::Io(what, error)
}

//! What a session changed, from its base commit to what is in its worktree now.
//!
//! Called for questions of the controller, while the session works or long after. Reads through an index of its own and
//! changes nothing but `refs/muster/<session>/work`, which keeps the commit made of what is uncommitted.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use muster_proto::v1::{ChangesFormat, ChangesQuery, QueryResult, Workspace};

use super::{
    QUICK, WorkspaceError,
    git::{Git, GitError, Page},
    snapshot::{self, Nested, Tree},
    worktree::{Found, Worktrees},
};

/// Longest text of one answer, in bytes.
const PAGE_BYTES: usize = 1 << 20;
/// How a tree is compared whatever the configuration says. Renames are found, as people expect.
const DIFF: [&str; 8] = [
    "diff-tree",
    "-r",
    "-M",
    "--no-commit-id",
    "--no-ext-diff",
    "--no-textconv",
    "--no-color",
    "--end-of-options",
];

/// A question that has no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// There is no work in git.
    #[error("the session has no work in git: {0}")]
    NothingKept(String),
    /// The operator does not let branches be pushed.
    #[error("project {0} does not let sessions' branches be pushed from this worker")]
    PushNotAllowed(String),
    /// The remote is none.
    #[error("{0}")]
    Remote(String),
    /// git or the file system failed.
    #[error(transparent)]
    Failed(#[from] WorkspaceError),
}

impl From<GitError> for QueryError {
    fn from(error: GitError) -> Self {
        Self::Failed(error.into())
    }
}

/// Which session is asked about.
#[derive(Debug, Clone)]
pub struct Asked<'a> {
    /// Id of the session.
    pub session: &'a str,
    /// Directory of the session's own files; it need not exist.
    pub session_dir: &'a Path,
    /// Where temporary files go.
    pub temporary: &'a Path,
    /// The project's directory.
    pub project: &'a Path,
    /// As the controller knows it.
    pub was: &'a Workspace,
}

/// The state of a session's work at one moment.
#[derive(Debug)]
pub struct State {
    pub(super) git: Git,
    pub(super) branch: String,
    pub(super) base: String,
    /// Tip of the branch.
    pub(super) head: String,
    /// Holds everything.
    pub(super) work: String,
    /// Keeps `work`; empty when the branch does.
    pub(super) kept_ref: String,
}

/// A file that goes when its name does.
#[derive(Debug)]
pub(super) struct Temporary(pub(super) PathBuf);

impl Temporary {
    pub(super) fn new(dir: &Path, kind: &str) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        fs::create_dir_all(dir)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(Self(dir.join(format!("{}-{number}.{kind}", std::process::id()))))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
        let mut lock = self.0.clone().into_os_string();
        lock.push(".lock"); // of a git that was killed while it wrote
        let _ = fs::remove_file(lock);
    }
}

/// Finds the state of a session's work; what is uncommitted is made a commit and kept.
///
/// # Errors
/// [`QueryError::NothingKept`] when there is none.
pub async fn state(worktrees: &Worktrees, asked: &Asked<'_>) -> Result<State, QueryError> {
    let found = worktrees.find(asked.session_dir, asked.project, asked.was).await?;
    let Some(Found { repository, root, branch, base_commit, mirror }) = found else {
        return Err(QueryError::NothingKept("it works outside a repository".to_owned()));
    };
    let git = if mirror { Git::strict(&repository) } else { Git::new(&repository) };
    let place = snapshot::Place {
        repository: &repository,
        root: root.as_deref().unwrap_or(&repository),
        branch: &branch,
        base_commit: &base_commit,
        mirror,
    };
    let (tip, kept) = match &root {
        Some(_) => {
            let index =
                Temporary::new(asked.temporary, "index").map_err(super::io_error("temporary file"))?;
            let tree = Tree::of(&place, &index.0, Nested::Point).await?;
            let kept = keep_work(&git, &tree, asked.session).await?;
            (tree.tip, kept)
        }
        None => (snapshot::tip(&git, &place).await?, snapshot::kept(&place, asked.session).await?),
    };
    let head = match (tip, &kept) {
        (Some(tip), _) => tip,
        (None, Some(_)) => base_commit.clone(),
        (None, None) => {
            return Err(QueryError::NothingKept(format!("branch {branch} is gone from the repository")));
        }
    };
    let (kept_ref, work) = kept.unwrap_or_else(|| (String::new(), head.clone()));
    Ok(State { git, branch, base: base_commit, head, work, kept_ref })
}

/// Keeps what the branch does not hold; forgets what an earlier question kept when it does.
async fn keep_work(
    git: &Git,
    tree: &Tree,
    session: &str,
) -> Result<Option<(String, String)>, WorkspaceError> {
    let name = format!("refs/muster/{session}/work");
    let known = git.ask(QUICK, &["rev-parse", "--verify", "--quiet", &name]).await?;
    if tree.is_on_branch() {
        if known.is_some() {
            git.run(QUICK, &["update-ref", "-d", &name]).await?;
        }
        return Ok(None);
    }
    let commit = tree.commit(git, session, known.as_deref()).await?;
    if known.as_ref() != Some(&commit) {
        git.run(QUICK, &["update-ref", &name, &commit]).await?;
    }
    Ok(Some((name, commit)))
}

impl State {
    /// Whether there is nothing that the base does not hold.
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        self.head == self.base && self.work == self.base
    }

    /// The state in the words of the contract, with what changed counted.
    ///
    /// # Errors
    /// [`QueryError::Failed`].
    pub async fn summary(&self) -> Result<QueryResult, QueryError> {
        let mut result = QueryResult {
            branch: self.branch.clone(),
            base_commit: self.base.clone(),
            head_commit: self.head.clone(),
            work_commit: self.work.clone(),
            kept_ref: self.kept_ref.clone(),
            ..QueryResult::default()
        };
        if !self.is_unchanged() {
            let [args @ .., last] = DIFF;
            let args: Vec<&str> =
                args.into_iter().chain(["--numstat", last, &self.base, &self.work]).collect();
            for line in self.git.run(QUICK, &args).await?.lines() {
                let mut columns = line.split('\t');
                // A binary file has "-" in both.
                let mut number = || columns.next().and_then(|text| text.parse::<u32>().ok()).unwrap_or(0);
                result.lines_added = result.lines_added.saturating_add(number());
                result.lines_deleted = result.lines_deleted.saturating_add(number());
                result.files_changed += 1;
            }
            let range = format!("{}..{}", self.base, self.head);
            let count = self.git.run(QUICK, &["rev-list", "--count", &range]).await?;
            result.commits = count.trim().parse().unwrap_or_default();
        }
        Ok(result)
    }

    /// The page of text that `query` asks for.
    ///
    /// # Errors
    /// [`QueryError::Failed`].
    pub async fn text(&self, query: &ChangesQuery) -> Result<Page, QueryError> {
        let format = i32::try_from(query.format).ok().and_then(|number| ChangesFormat::try_from(number).ok());
        let range = format!("{}..{}", self.base, self.head);
        let [diff @ .., last] = DIFF;
        let mut args: Vec<&str> = vec!["-c", "core.quotePath=false"];
        match format.unwrap_or_default() {
            ChangesFormat::Patch => {
                args.extend(diff.into_iter().chain(["--patch", last, &self.base, &self.work]));
            }
            ChangesFormat::Commits => args.extend([
                "log",
                "--no-show-signature",
                "--no-color",
                "--no-decorate",
                "--no-notes",
                "--format=%h %s",
                "--end-of-options",
                &range,
            ]),
            ChangesFormat::Stat | ChangesFormat::Unspecified => {
                args.extend(diff.into_iter().chain(["--numstat", last, &self.base, &self.work]));
            }
        }
        args.push("--");
        args.extend(query.paths.iter().map(String::as_str));
        let most = usize::try_from(query.limit_bytes).unwrap_or(PAGE_BYTES).min(PAGE_BYTES);
        let git = self.git.clone().env("GIT_LITERAL_PATHSPECS", "1");
        Ok(git.page(&args, query.from_offset, most).await?)
    }
}

#[cfg(test)]
mod tests;

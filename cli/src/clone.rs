//! A clone of the caller's, which gets what a session made: git commands in it, and the rules by which its
//! refs move.
//!
//! Used by `fetch`. Invariants: branches move forward or not at all; all refs of one fetch move or none; what
//! is in a bundle is checked by git before a ref points at it.

use std::{
    collections::HashMap,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use tokio::process::Command;

use crate::failure::{Exit, Failure};

/// What is to be in the clone afterwards.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Name of the local branch.
    pub branch: &'a str,
    /// What the session started from: the clone must have it.
    pub base_commit: &'a str,
    /// Tip of the session's branch.
    pub head_commit: &'a str,
    /// A commit on top that holds what is not committed, if there is something.
    pub work_commit: Option<&'a str>,
    /// Where that one is kept in the clone.
    pub work_ref: &'a str,
}

/// What became of the branch.
#[derive(Debug, PartialEq, Eq)]
pub enum BranchChange {
    /// It was not there.
    Created,
    /// It stood at an ancestor.
    Forwarded {
        /// Where it stood.
        from: String,
    },
    /// It holds the work already, and maybe more.
    Unchanged,
}

/// What was done.
#[derive(Debug, PartialEq, Eq)]
pub struct Brought {
    /// To the branch.
    pub branch: BranchChange,
}

/// A repository of the caller's.
#[derive(Debug)]
pub struct CallersClone {
    dir: PathBuf,
    /// Whether `dir` was named: then variables that name another repository do not count.
    named: bool,
    git_dir: PathBuf,
}

impl CallersClone {
    /// The repository around `into`, or around the current folder.
    pub async fn open(into: Option<&Path>) -> Result<Self, Failure> {
        let dir = into.unwrap_or_else(|| Path::new(".")).to_owned();
        if !dir.is_dir() {
            return Err(Failure::usage(format!("--into: {} is no folder", dir.display())));
        }
        let mut clone = Self { dir, named: into.is_some(), git_dir: PathBuf::new() };
        let answer = clone.git(&["rev-parse", "--path-format=absolute", "--git-common-dir"]).await?;
        if !answer.status.success() {
            let what = format!("{} is in no git repository", clone.shown_dir().display());
            return Err(Failure::usage(what)
                .hint("run it in a clone of the session's repository, or name one with --into DIR"));
        }
        clone.git_dir = PathBuf::from(text(&answer.stdout));
        Ok(clone)
    }

    /// The folder git keeps everything in.
    pub fn git_dir(&self) -> &Path {
        &self.git_dir
    }

    /// Refuses what cannot be a branch.
    pub async fn check_branch_name(&self, name: &str) -> Result<(), Failure> {
        let fits = !name.starts_with('-') && self.holds(&["check-ref-format", &branch_ref(name)]).await?;
        if fits { Ok(()) } else { Err(Failure::usage(format!("{name:?} cannot be the name of a branch"))) }
    }

    /// Brings what is wanted: from `bundle`, and what that leaves out (git leaves out what both sides have)
    /// from the clone itself.
    pub async fn bring(&self, wanted: &Wanted<'_>, bundle: Option<&Path>) -> Result<Brought, Failure> {
        self.check_branch_name(wanted.branch).await?;
        for commit in [wanted.base_commit, wanted.head_commit].into_iter().chain(wanted.work_commit) {
            if !is_object_id(commit) {
                return Err(defect(format!("{commit:?} is no id of a commit")));
            }
        }
        let branch = branch_ref(wanted.branch);
        let held = match bundle {
            Some(bundle) => self.verified(wanted, bundle).await?,
            None => HashMap::new(),
        };
        let old = self.resolve(&branch).await?;
        let mut refspecs = Vec::new();
        if let Some(work) = wanted.work_commit {
            let source = source(&held, work, "refs/muster/")
                .ok_or_else(|| defect(format!("the bundle lacks the uncommitted work {work}")))?;
            refspecs.push(format!("+{source}:{}", wanted.work_ref));
        }
        let change = self.planned(wanted, old.as_deref()).await?;
        let from_bundle = source(&held, wanted.head_commit, "refs/heads/");
        if change != BranchChange::Unchanged {
            match from_bundle {
                Some(source) => refspecs.push(format!("{source}:{branch}")),
                None => self.check_known(wanted, old.as_deref()).await?,
            }
        }
        if let (Some(bundle), false) = (bundle, refspecs.is_empty()) {
            self.fetch(wanted, bundle, &refspecs, old.as_deref()).await?;
        }
        if change != BranchChange::Unchanged && from_bundle.is_none() {
            self.point(wanted, &branch, old.as_deref()).await?;
        }
        Ok(Brought { branch: change })
    }

    /// The refs of a bundle that this clone can take, by name.
    async fn verified(&self, wanted: &Wanted<'_>, bundle: &Path) -> Result<HashMap<String, String>, Failure> {
        let file = bundle.as_os_str();
        let verified =
            self.git(&[OsStr::new("bundle"), OsStr::new("verify"), OsStr::new("-q"), file]).await?;
        if !verified.status.success() {
            let base = wanted.base_commit;
            if !self.has(base).await? {
                return Err(self.lacks(base));
            }
            return Err(said("the session's bundle does not fit this clone", &verified)
                .hint("a shallow clone may lack what it builds on: `git fetch --unshallow` completes it"));
        }
        let listed = self.git(&[OsStr::new("bundle"), OsStr::new("list-heads"), file]).await?;
        if !listed.status.success() {
            return Err(said("the session's bundle cannot be read", &listed));
        }
        let lines = text(&listed.stdout);
        let pairs = lines.lines().filter_map(|line| line.split_once(' '));
        Ok(pairs.map(|(commit, name)| (name.to_owned(), commit.to_owned())).collect())
    }

    /// What is to become of the branch, as far as can be told before the fetch.
    async fn planned(&self, wanted: &Wanted<'_>, old: Option<&str>) -> Result<BranchChange, Failure> {
        let Some(old) = old else { return Ok(BranchChange::Created) };
        let head = wanted.head_commit;
        if old == head || (self.has(head).await? && self.is_ancestor(head, old).await?) {
            return Ok(BranchChange::Unchanged);
        }
        if let Some(place) = self.checked_out_at(wanted.branch).await? {
            let what = format!("branch {} is checked out in {}", wanted.branch, place.display());
            return Err(Failure::new(Exit::Failed, what).hint(
                "bring it in under another name with --branch NAME and merge that, or switch that worktree \
                 to another branch",
            ));
        }
        Ok(BranchChange::Forwarded { from: old.to_owned() })
    }

    /// The branch's tip is not in the bundle: the clone must have it.
    async fn check_known(&self, wanted: &Wanted<'_>, old: Option<&str>) -> Result<(), Failure> {
        if !self.has(wanted.head_commit).await? {
            return Err(self.lacks(wanted.head_commit));
        }
        match old {
            Some(old) if !self.is_ancestor(old, wanted.head_commit).await? => Err(diverged(wanted)),
            _ => Ok(()),
        }
    }

    async fn fetch(
        &self,
        wanted: &Wanted<'_>,
        bundle: &Path,
        refspecs: &[String],
        old: Option<&str>,
    ) -> Result<(), Failure> {
        let mut args: Vec<&OsStr> = [
            // Checked before a ref points at it: it is another agent's.
            "-c",
            "fetch.fsckObjects=true",
            "-c",
            "protocol.file.allow=always",
            "fetch",
            "--quiet",
            "--atomic",
            "--no-tags",
            "--no-prune",
            "--no-auto-gc",
            "--no-write-fetch-head",
            "--no-recurse-submodules",
            "--end-of-options",
        ]
        .map(OsStr::new)
        .to_vec();
        args.push(bundle.as_os_str());
        args.extend(refspecs.iter().map(OsStr::new));
        let fetched = self.git(&args).await?;
        if fetched.status.success() {
            return Ok(());
        }
        // The objects come before the refs, so that a refused ref can be looked into.
        if let Some(old) = old
            && self.has(wanted.head_commit).await?
            && !self.is_ancestor(old, wanted.head_commit).await?
        {
            return Err(diverged(wanted));
        }
        Err(said("git cannot bring the session's work into this clone", &fetched))
    }

    /// Points the branch at a commit the clone has, unless somebody moved it meanwhile.
    async fn point(&self, wanted: &Wanted<'_>, branch: &str, old: Option<&str>) -> Result<(), Failure> {
        // What `update-ref` takes for "must not exist".
        let nothing = &"0".repeat(wanted.head_commit.len());
        let moved = self
            .git(&["update-ref", "-m", "muster fetch", branch, wanted.head_commit, old.unwrap_or(nothing)])
            .await?;
        if moved.status.success() {
            return Ok(());
        }
        Err(said(&format!("branch {} cannot be set", wanted.branch), &moved))
    }

    fn lacks(&self, commit: &str) -> Failure {
        let what = format!("this clone lacks commit {commit}, which the session started from");
        let hint = "bring the clone up to date (`git fetch`), or use a clone of the session's repository: \
                    the project is that of `muster status`";
        Failure::new(Exit::Failed, what).hint(format!("{hint}; looked in {}", self.git_dir.display()))
    }

    async fn resolve(&self, name: &str) -> Result<Option<String>, Failure> {
        let answer = self.git(&["rev-parse", "--verify", "--quiet", name]).await?;
        Ok(Some(text(&answer.stdout)).filter(|commit| answer.status.success() && !commit.is_empty()))
    }

    async fn has(&self, commit: &str) -> Result<bool, Failure> {
        self.holds(&["cat-file", "-e", &format!("{commit}^{{commit}}")]).await
    }

    async fn is_ancestor(&self, ancestor: &str, of: &str) -> Result<bool, Failure> {
        self.holds(&["merge-base", "--is-ancestor", ancestor, of]).await
    }

    /// The worktree, if any, in which a branch is checked out: a ref that moves under one makes its files
    /// look changed.
    async fn checked_out_at(&self, branch: &str) -> Result<Option<PathBuf>, Failure> {
        let listed = self.git(&["worktree", "list", "--porcelain"]).await?;
        let mut place = None;
        for line in text(&listed.stdout).lines() {
            if let Some(path) = line.strip_prefix("worktree ") {
                place = Some(PathBuf::from(path));
            } else if line.strip_prefix("branch ") == Some(branch_ref(branch).as_str()) {
                return Ok(place);
            }
        }
        Ok(None)
    }

    /// Whether git says yes.
    async fn holds(&self, args: &[&str]) -> Result<bool, Failure> {
        Ok(self.git(args).await?.status.success())
    }

    /// The caller's own git with the caller's own configuration, in words we know.
    async fn git<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<Output, Failure> {
        let mut command = Command::new("git");
        command
            .arg("-C")
            .arg(&self.dir)
            .args(args)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        if self.named {
            for variable in ["GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE"] {
                command.env_remove(variable);
            }
        }
        command.output().await.map_err(|error| {
            Failure::new(Exit::Failed, "git cannot be run").caused_by(&error).hint("install git")
        })
    }

    fn shown_dir(&self) -> PathBuf {
        std::path::absolute(&self.dir).unwrap_or_else(|_| self.dir.clone())
    }
}

/// What comes from elsewhere must not be taken for an option or a revision expression.
fn is_object_id(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn branch_ref(name: &str) -> String {
    format!("refs/heads/{name}")
}

/// The ref of a bundle that points at a commit.
fn source<'a>(held: &'a HashMap<String, String>, commit: &str, prefix: &str) -> Option<&'a str> {
    let mut names: Vec<&str> = held
        .iter()
        .filter(|(name, at)| name.starts_with(prefix) && at.as_str() == commit)
        .map(|(name, _)| name.as_str())
        .collect();
    names.sort_unstable();
    names.first().copied()
}

fn diverged(wanted: &Wanted<'_>) -> Failure {
    let what = format!("branch {} has commits here that the session does not have", wanted.branch);
    Failure::new(Exit::Failed, what)
        .hint("nothing was changed; bring it in under another name with --branch NAME and merge that")
}

fn defect(what: String) -> Failure {
    Failure::new(Exit::Failed, what).hint("this is a defect in muster; the worker's log says more")
}

/// A failure with git's own words.
fn said(what: &str, output: &Output) -> Failure {
    let mut failure = Failure::new(Exit::Failed, what);
    let errors = String::from_utf8_lossy(&output.stderr);
    let lines = errors.lines().map(str::trim).filter(|line| !line.is_empty());
    failure.causes.extend(lines.take(8).map(str::to_owned));
    failure
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\n').to_owned()
}

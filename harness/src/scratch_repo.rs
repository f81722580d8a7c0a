//! A git repository made for one test.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};

/// A repository with one commit on `main`. Its folder belongs to the caller.
#[derive(Debug, Clone)]
pub struct ScratchRepo {
    path: PathBuf,
}

impl ScratchRepo {
    /// Makes it at `path`, with a README and one source file.
    ///
    /// # Errors
    /// When git or the disk refuses.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        let repo = Self::empty(path)?;
        repo.write("README.md", "# scratch\n\nA repository to try things in.\n")?;
        repo.write("src/greet.py", "def greet(name):\n    return \"hello \" + name\n")?;
        repo.commit("first")?;
        Ok(repo)
    }

    /// One without any commit.
    ///
    /// # Errors
    /// When git or the disk refuses.
    pub fn empty(path: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))?;
        let repo = Self { path: path.to_owned() };
        repo.git(&["init", "--quiet", "--initial-branch=main"])?;
        Ok(repo)
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file, folders included.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let file = self.path.join(name);
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))
    }

    /// Commits everything. Returns the commit.
    ///
    /// # Errors
    /// When git refuses.
    pub fn commit(&self, message: &str) -> anyhow::Result<String> {
        self.git(&["add", "--all"])?;
        self.git(&["commit", "--quiet", "--message", message])?;
        self.git(&["rev-parse", "HEAD"])
    }

    /// Runs git in it; no configuration of the machine takes part. Returns stdout, trimmed.
    ///
    /// # Errors
    /// When git fails: with its stderr.
    pub fn git(&self, arguments: &[&str]) -> anyhow::Result<String> {
        git(&self.path, arguments)
    }

    /// All that a branch changed since it left `main`, as a diff.
    ///
    /// # Errors
    /// When the branch is unknown.
    pub fn diff_of(&self, branch: &str) -> anyhow::Result<String> {
        self.git(&["diff", &format!("main...{branch}")])
    }
}

/// Runs git in `folder`, see [`ScratchRepo::git`].
///
/// # Errors
/// When git fails: with its stderr.
pub fn git(folder: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("git")
        .args(["-c", "user.name=scratch", "-c", "user.email=scratch@localhost", "-c", "commit.gpgsign=false"])
        .args(arguments)
        .current_dir(folder)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .output()
        .context("running git")?;
    if !output.status.success() {
        bail!(
            "git {} in {}: {}",
            arguments.join(" "),
            folder.display(),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

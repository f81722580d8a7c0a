//! Which claude a worker runs.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail, ensure};

/// The claudes every scenario is run with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claude {
    /// Ours: a few milliseconds, and faults on demand.
    Scripted,
    /// The oldest release that is supported, from npm.
    V2_1_197,
    /// The newest release that was pinned, from npm.
    Latest,
    /// Any other program.
    At(PathBuf),
}

impl Claude {
    /// Its program. Real ones are installed into `.tools/` of the repository when they are missing.
    ///
    /// # Errors
    /// When it is not built, or cannot be installed.
    pub fn program(&self) -> anyhow::Result<PathBuf> {
        match self {
            Self::Scripted => built("scripted-claude"),
            Self::V2_1_197 => installed("2.1.197"),
            Self::Latest => installed("latest"),
            Self::At(path) => Ok(path.clone()),
        }
    }

    /// Whether it asks a Messages API.
    #[must_use]
    pub fn is_real(&self) -> bool {
        *self != Self::Scripted
    }
}

/// Where cargo puts programs: the folder of the running one, or its parent for a test.
///
/// # Errors
/// When the running program cannot be located.
pub fn programs_folder() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("locating the running program")?;
    let folder = own.parent().context("the running program lies in no folder")?;
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    Ok(folder.to_owned())
}

/// The `muster` under test: `$MUSTER_BIN`, or the one built beside this program.
pub(crate) fn muster() -> anyhow::Result<PathBuf> {
    match std::env::var_os("MUSTER_BIN") {
        Some(path) => Ok(PathBuf::from(path)),
        None => built("muster"),
    }
}

fn built(name: &str) -> anyhow::Result<PathBuf> {
    let path = programs_folder()?.join(name);
    ensure!(path.exists(), "{} is missing; run `cargo build --workspace --bins` first", path.display());
    Ok(path)
}

fn installed(version: &str) -> anyhow::Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("claude/install.sh");
    let output =
        Command::new(&script).arg(version).output().with_context(|| format!("{}", script.display()))?;
    if !output.status.success() {
        bail!("installing Claude Code {version}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim_end()))
}

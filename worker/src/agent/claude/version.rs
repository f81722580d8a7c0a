//! Finds claude and asks its version, once, when the worker starts: a worker without claude must not take sessions.

use std::{
    env, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::process::Command;

use crate::config::ClaudeConfig;

/// claude answers in well under a second; a cold disk takes longer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// claude cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// There is none.
    #[error(
        "claude is not found at {0:?}: install it with `npm install -g @anthropic-ai/claude-code`, \
         or set claude.program in the worker's configuration"
    )]
    Missing(PathBuf),
    /// It is there and does not work.
    #[error("{0:?} --version failed: {1}: check claude.program in the worker's configuration")]
    Broken(PathBuf, String),
}

/// claude as it is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Absolute path.
    pub program: PathBuf,
    /// What `claude --version` printed, without the product's name.
    pub version: String,
}

/// Looks a program up as a shell would.
#[must_use]
pub fn find(program: &Path) -> Option<PathBuf> {
    let absolute = |path: &Path| std::path::absolute(path).ok().filter(|path| path.is_file());
    if program.components().count() > 1 {
        return absolute(program);
    }
    env::split_paths(&env::var_os("PATH")?).find_map(|dir| absolute(&dir.join(program)))
}

/// Finds claude and asks its version.
///
/// # Errors
/// [`FindError`], with what to do about it.
pub async fn ask(config: &ClaudeConfig) -> Result<Installed, FindError> {
    let program = find(&config.program).ok_or_else(|| FindError::Missing(config.program.clone()))?;
    let mut command = Command::new(&program);
    command.arg("--version").env_clear().envs(super::command::base_env(config));
    command.stdin(Stdio::null()).kill_on_drop(true);
    let broken = |why: String| FindError::Broken(program.clone(), why);
    let output = tokio::time::timeout(TIMEOUT, command.output())
        .await
        .map_err(|_| broken(format!("no answer within {} s", TIMEOUT.as_secs())))?
        .map_err(|error: io::Error| broken(error.to_string()))?;
    if !output.status.success() {
        return Err(broken(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())));
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let version = said.split_whitespace().next().unwrap_or_default().to_owned();
    Ok(Installed { program, version })
}

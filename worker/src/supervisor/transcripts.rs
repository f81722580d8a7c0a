//! claude's own record of a conversation, kept in the session's folder when an attempt ends: claude removes its copy after
//! some weeks, and the session's directory, by which it is filed, goes with the workspace.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{agent::claude::command, config::ClaudeConfig};

/// Copies `<config>/projects/<directory>/<session>.jsonl`, and what belongs to it (big results of tools), to `to`. A file
/// is linked where that is possible: claude only appends. Returns whether there was any.
pub(super) fn keep(config: &ClaudeConfig, session: &str, to: &Path) -> io::Result<bool> {
    let Some(projects) = config_dir(config).map(|dir| dir.join("projects")) else { return Ok(false) };
    let mut found = false;
    for directory in fs::read_dir(projects).into_iter().flatten().flatten() {
        for name in [format!("{session}.jsonl"), session.to_owned()] {
            let from = directory.path().join(&name);
            if from.symlink_metadata().is_ok() {
                fs::create_dir_all(to)?;
                take(&from, &to.join(&name))?;
                found = true;
            }
        }
    }
    Ok(found)
}

fn config_dir(config: &ClaudeConfig) -> Option<PathBuf> {
    let env = command::base_env(config);
    let own = env.get("CLAUDE_CONFIG_DIR").map(PathBuf::from);
    own.or_else(|| Some(PathBuf::from(env.get("HOME")?).join(".claude")))
}

/// Files and folders; a link is not followed.
fn take(from: &Path, to: &Path) -> io::Result<()> {
    let kind = from.symlink_metadata()?.file_type();
    if kind.is_dir() {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let name = entry?.file_name();
            take(&from.join(&name), &to.join(&name))?;
        }
    } else if kind.is_file() {
        match fs::remove_file(to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(drop))?;
    }
    Ok(())
}

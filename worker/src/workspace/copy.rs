//! Files that are not in git and that a new worktree gets from the project's directory: those that the project's policy or the
//! repository's `.worktreeinclude` names, as patterns of .gitignore.
//!
//! git says which files match and are not tracked. They are copied never through a link, in either place, and never over a file
//! that is there.

use std::{
    fs, io,
    path::{Component, Path},
};

use super::{SLOW, WorkspaceError, git::Git};

/// Most files copied.
const FILES: usize = 10_000;
/// Most bytes copied.
const BYTES: u64 = 2 << 30;
/// Most patterns of a policy.
const PATTERNS: usize = 64;

/// Copies what matches from `project` to `root`; both are the top of a tree. Returns how many files.
///
/// # Errors
/// [`WorkspaceError`]; what was copied by then stays.
pub(super) async fn copy(project: &Path, root: &Path, patterns: &[String]) -> Result<usize, WorkspaceError> {
    let include = project.join(".worktreeinclude");
    let included = include.symlink_metadata().is_ok_and(|metadata| metadata.is_file());
    if patterns.is_empty() && !included {
        return Ok(0);
    }
    let mut args =
        vec!["ls-files".to_owned(), "--others".to_owned(), "--ignored".to_owned(), "-z".to_owned()];
    args.extend(patterns.iter().take(PATTERNS).map(|pattern| format!("--exclude={pattern}")));
    if included {
        args.push(format!("--exclude-from={}", include.display()));
    }
    let listed = Git::new(project).run(SLOW, &args).await?;
    let paths: Vec<String> = listed.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect();
    if paths.len() > FILES {
        let text =
            format!("{} files match what a new worktree is to get, at most {FILES} are copied", paths.len());
        return Err(WorkspaceError::Io(text, io::ErrorKind::FileTooLarge.into()));
    }
    let (project, root) = (project.to_owned(), root.to_owned());
    let copied = tokio::task::spawn_blocking(move || {
        let (mut count, mut bytes) = (0, 0);
        for path in paths {
            let length = take(&project, &root, Path::new(&path))
                .map_err(|error| WorkspaceError::Io(format!("copying {path}"), error))?;
            count += usize::from(length.is_some());
            bytes += length.unwrap_or_default();
            if bytes > BYTES {
                let text = format!("the files a new worktree is to get have more than {BYTES} bytes");
                return Err(WorkspaceError::Io(text, io::ErrorKind::FileTooLarge.into()));
            }
        }
        Ok(count)
    });
    copied.await.map_err(|error| WorkspaceError::Io("copying".to_owned(), io::Error::other(error)))?
}

/// Copies one file; `None`: it is none, or a link is in the way, or there is one already.
fn take(from: &Path, to: &Path, path: &Path) -> io::Result<Option<u64>> {
    let parts: Vec<_> = path.components().collect();
    if parts.is_empty()
        || !parts.iter().all(|part| matches!(part, Component::Normal(name) if *name != ".git"))
    {
        return Ok(None);
    }
    let (mut source, mut target) = (from.to_owned(), to.to_owned());
    for part in &parts[..parts.len() - 1] {
        source.push(part);
        target.push(part);
        if !source.symlink_metadata()?.is_dir() {
            return Ok(None);
        }
        match target.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Ok(None),
            Err(_) => fs::create_dir(&target)?,
        }
    }
    source.push(parts[parts.len() - 1]);
    target.push(parts[parts.len() - 1]);
    if !source.symlink_metadata()?.is_file() || target.symlink_metadata().is_ok() {
        return Ok(None);
    }
    fs::copy(&source, &target).map(Some)
}

//! A session's work as a git bundle: its branch and, when there is more, the ref that keeps the rest. The base commit is
//! a prerequisite, so the file is as small as the work and whoever takes it has a clone of the project.

use std::{fs::File, path::Path};

use super::{
    SLOW, WorkspaceError,
    changes::{QueryError, State, Temporary},
    io_error,
};

/// A bundle on disk. Its file is gone from the directory already and goes with the handle.
///
/// `None` when nothing was changed: git makes no empty bundle, and there is nothing to take home.
///
/// # Errors
/// [`QueryError::Failed`].
pub async fn make(state: &State, temporary: &Path) -> Result<Option<File>, QueryError> {
    if state.is_unchanged() {
        return Ok(None);
    }
    let file = Temporary::new(temporary, "bundle").map_err(io_error("temporary file"))?;
    let path = file.0.to_string_lossy();
    let (branch, base) = (format!("refs/heads/{}", state.branch), format!("^{}", state.base));
    let mut args = vec!["bundle", "create", "--quiet", &*path];
    if state.head != state.base {
        args.push(&branch);
    }
    if !state.kept_ref.is_empty() {
        args.push(&state.kept_ref);
    }
    args.push(&base);
    state.git.run(SLOW, &args).await?;
    let opened = File::open(&file.0);
    Ok(Some(opened.map_err(|error| WorkspaceError::Io(path.into_owned(), error))?))
}

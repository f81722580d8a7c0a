//! Putting aside the workspace of an attempt whose session went on elsewhere.

use std::path::Path;

use super::{Intent, Worktrees, is_directory};
use crate::workspace::{QUICK, WorkspaceError, snapshot};

impl Worktrees {
    /// Keeps what is in the workspace as `refs/muster/<session>/<kept_as>`, then removes it and gives its branch name free.
    /// Returns the ref. Safe to repeat.
    ///
    /// # Errors
    /// [`WorkspaceError`]; the workspace stays then.
    pub async fn set_aside(
        &self,
        session_dir: &Path,
        session: &str,
        kept_as: &str,
    ) -> Result<Option<String>, WorkspaceError> {
        let Some(intent) = Intent::read(session_dir) else { return Ok(None) };
        if intent.root.parent() != Some(self.root.as_path()) {
            return Err(WorkspaceError::NotOurs(intent.root));
        }
        let _permit = self.gate(&intent.repository).acquire_owned().await;
        let place = intent.place();
        let name = format!("refs/muster/{session}/{kept_as}");
        let git = intent.git();
        if is_directory(&intent.root) {
            snapshot::keep_as(&place, session_dir, session, &name).await?;
        }
        self.remove(&intent).await?;
        let branch = format!("refs/heads/{}", intent.branch);
        if let Some(tip) = snapshot::tip(&git, &place).await? {
            let holds = ["merge-base", "--is-ancestor", &tip, &name];
            if git.ask(QUICK, &holds).await?.is_none() {
                git.run(QUICK, &["update-ref", &format!("{name}-branch"), &tip]).await?;
            }
            git.run(QUICK, &["update-ref", "-d", &branch, &tip]).await?;
        }
        Ok(git.ask(QUICK, &["rev-parse", "--verify", "--quiet", &name]).await?.map(|_| name))
    }
}

//! Making the workspace of a declared project's session.

use muster_proto::v1::Workspace;

use super::{Intent, Mirrored, Order, Worktrees, branch_name};
use crate::workspace::{QUICK, WorkspaceError, borrowed, git::Git};

impl Worktrees {
    /// A workspace of a declared project: a repository of its own.
    pub(super) async fn borrow(
        &self,
        order: &Order<'_>,
        from: &Mirrored<'_>,
    ) -> Result<Workspace, WorkspaceError> {
        if order.worktree == Some(false) {
            let text = "a declared project has no directory on this worker to work in without a worktree";
            return Err(WorkspaceError::Url(text.to_owned()));
        }
        let (mirror, base_commit) = from.mirrors.ready(from.project, from.url, order.from_ref).await?;
        let git = Git::strict(&mirror.path);
        let branch = branch_name(&git, order).await?;
        let root = self.root.join(order.handle);
        let (repository, path) = (mirror.path.clone(), root.clone());
        let mut intent = Intent { repository, root, path, branch, base_commit, made: false, mirror: true };
        intent.write(order.session_dir)?;
        let name = format!("refs/heads/{}", intent.branch);
        // Only if nobody has it: git itself looks.
        let none = "0".repeat(intent.base_commit.len());
        git.run(QUICK, &["update-ref", &name, &intent.base_commit, &none]).await?;
        let plan = borrowed::Plan {
            mirror: &mirror.path,
            root: &intent.root,
            branch: &intent.branch,
            base_commit: &intent.base_commit,
            url: from.url,
        };
        if let Err(error) = borrowed::make(&plan).await {
            self.forget(&intent).await?;
            return Err(error);
        }
        intent.made = true;
        intent.write(order.session_dir)?;
        Ok(intent.workspace())
    }
}

//! Archiving an ended session: hidden, closed to input, its worktree released.

use muster_proto::{
    error::{Error, ErrorCode},
    ids::SessionId,
    v1::{ReleaseWorkspace, WorkspaceState, connect_response::Body},
};

use super::{Named, run::Engine, stage::Stage};
use crate::session::Session;

impl Engine {
    /// Archives a session; false: it was archived before. A release that failed is ordered again.
    pub(super) fn archive(&mut self, session: &Named, stage: &mut Stage) -> Result<(SessionId, bool), Error> {
        let Named { text, scope } = session;
        let id = self.book.resolve(text, scope)?;
        let gone = || Error::new(ErrorCode::SessionNotFound, format!("there is no session {text:?}"));
        let mut session = stage.copy(&self.book, id).ok_or_else(gone)?;
        if !session.phase().has_ended() {
            let message = format!("{} has not ended", session.fixed.handle);
            return Err(
                Error::new(ErrorCode::SessionRunning, message).hint("Stop it first, or wait for its end.")
            );
        }
        let changed = !session.state.archived;
        session.state.archived = true;
        session.state.archived_at = session.state.archived_at.or_else(|| Some(muster_proto::time::now()));
        let waiting: Vec<_> = session.inputs.keys().copied().collect();
        for seq in waiting {
            session.drop_input(seq);
        }
        if let Some(workspace) = &mut session.state.workspace
            && workspace.worktree
            && workspace.state() != WorkspaceState::Released
        {
            workspace.set_state(WorkspaceState::Releasing);
            if let Some(worker) = session.worker() {
                stage.send(&worker, release(&session));
            }
        }
        stage.put(session);
        Ok((id, changed))
    }
}

/// The command that releases the workspace of `session`.
pub(super) fn release(session: &Session) -> Body {
    Body::Release(ReleaseWorkspace {
        session_id: session.id.to_string(),
        workspace: session.state.workspace.clone(),
        project: session.spec().project.clone(),
    })
}

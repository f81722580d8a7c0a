//! Sessions that spawn sessions: who is whose child, how deep a tree grows and how large.
//!
//! Called by the engine's spawn. Invariant: what is above a session is noted when it is spawned and never
//! changes, so that a tree is known also when a session in the middle is long forgotten.

use muster_proto::{
    error::{Error, ErrorCode},
    ids::SessionId,
};

use super::{Scope, run::Engine, stage::Stage};
use crate::session::Session;

/// How far sessions may spawn sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeLimits {
    /// Levels below a session that nobody's session spawned.
    pub depth: u32,
    /// Sessions of one tree that are not archived, its root included.
    pub sessions: u32,
}

impl Default for TreeLimits {
    /// Three levels, fifty sessions.
    fn default() -> Self {
        Self { depth: 3, sessions: 50 }
    }
}

impl Engine {
    /// What is above a session that `scope` spawns with `parent` named, the root first. Empty: it is a root.
    pub(super) fn ancestors(
        &self,
        parent: &str,
        scope: &Scope,
        stage: &Stage,
    ) -> Result<Vec<SessionId>, Error> {
        let field = |error: Error| Error { field: "parentSession".to_owned(), ..error };
        let id = match scope.parent() {
            Some(forced) => forced,
            None if parent.is_empty() => return Ok(Vec::new()),
            None => self.book.resolve(parent, scope).map_err(field)?,
        };
        let gone = || Error::new(ErrorCode::SessionNotFound, format!("there is no session {id}"));
        let parent = stage.get(&self.book, id).filter(|parent| scope.may_spawn_below(parent));
        let parent = parent.ok_or_else(|| field(gone()))?;
        let handle = &parent.fixed.handle;
        let TreeLimits { depth, sessions } = self.config.tree;
        let above = parent.ancestors();
        if above.len() >= depth as usize {
            let message = format!(
                "{handle} is {} levels deep in a tree of sessions, and {depth} are allowed",
                above.len()
            );
            return Err(Error::new(ErrorCode::TreeLimit, message)
                .hint("Do the work in this session, or have it spawned by one further up."));
        }
        let root = above.first().copied().unwrap_or(id);
        let there = stage.tree_size(&self.book, root);
        if there >= sessions {
            let message = format!("the tree of {handle} has {there} sessions, and {sessions} are allowed");
            return Err(
                Error::new(ErrorCode::TreeLimit, message).hint("Archive sessions of it that have ended.")
            );
        }
        Ok(above.into_iter().chain([id]).collect())
    }
}

/// The root of the tree a session is in: itself, when it is nobody's child.
pub(super) fn root(session: &Session) -> SessionId {
    session.ancestors().first().copied().unwrap_or(session.id)
}

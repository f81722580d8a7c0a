//! Which sessions a caller may know of. One it may not see does not exist for it.

use std::{collections::BTreeSet, sync::Arc};

use muster_proto::ids::SessionId;

use crate::session::Session;

/// What a caller may see: every limit must allow it. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    callers: Vec<Arc<str>>,
    projects: Option<Arc<BTreeSet<String>>>,
    trees: Vec<SessionId>,
}

impl Scope {
    /// Everything.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Only what this caller spawned, or, when it is a gateway, somebody it spoke for.
    #[must_use]
    pub fn of_caller(mut self, caller: &str) -> Self {
        self.callers.push(caller.into());
        self
    }

    /// Only what is in these projects; none named: no limit.
    #[must_use]
    pub fn in_projects(mut self, projects: &[String]) -> Self {
        if projects.is_empty() {
            return self;
        }
        let is_left = |project: &&String| self.has_project(project);
        self.projects = Some(Arc::new(projects.iter().filter(is_left).cloned().collect()));
        self
    }

    /// Only what is below `session`, which itself is not: it would answer its own questions.
    #[must_use]
    pub fn below(mut self, session: SessionId) -> Self {
        self.trees.push(session);
        self
    }

    /// The session that what it spawns is a child of.
    #[must_use]
    pub fn parent(&self) -> Option<SessionId> {
        self.trees.last().copied()
    }

    /// Whether it may know of `session`.
    #[must_use]
    pub fn sees(&self, session: &Session) -> bool {
        self.callers.iter().all(|caller| is_of(session.caller(), caller))
            && self.has_project(&session.spec().project)
            && self.trees.iter().all(|root| session.is_below(*root))
    }

    /// Whether it may have children of `parent`: it sees it, or it is for that session.
    #[must_use]
    pub fn may_spawn_below(&self, parent: &Session) -> bool {
        self.trees.iter().all(|root| parent.id == *root || parent.is_below(*root))
    }

    /// Whether it may know of `project`.
    #[must_use]
    pub fn has_project(&self, project: &str) -> bool {
        self.projects.as_ref().is_none_or(|projects| projects.contains(project))
    }
}

/// Whether `caller` is `name`, or came through the gateway `name`.
fn is_of(caller: &str, name: &str) -> bool {
    caller.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A session as a caller named it: an id, a handle or a prefix, and what the caller may see.
#[derive(Debug, Clone)]
pub(super) struct Named {
    pub(super) text: String,
    pub(super) scope: Scope,
}

//! Which sessions a caller may know of. One it may not see does not exist for it.

use std::{collections::BTreeSet, sync::Arc};

use crate::session::Session;

/// What a caller may see. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    caller: Option<Arc<str>>,
    projects: Option<Arc<BTreeSet<String>>>,
}

impl Scope {
    /// Everything.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Only what this caller spawned.
    #[must_use]
    pub fn of_caller(mut self, caller: &str) -> Self {
        self.caller = Some(caller.into());
        self
    }

    /// Only what is in these projects; none named: no limit.
    #[must_use]
    pub fn in_projects(mut self, projects: &[String]) -> Self {
        self.projects = (!projects.is_empty()).then(|| Arc::new(projects.iter().cloned().collect()));
        self
    }

    /// Whether it may know of `session`.
    #[must_use]
    pub fn sees(&self, session: &Session) -> bool {
        self.caller.as_deref().is_none_or(|caller| caller == session.caller())
            && self.has_project(&session.spec().project)
    }

    /// Whether it may know of `project`.
    #[must_use]
    pub fn has_project(&self, project: &str) -> bool {
        self.projects.as_ref().is_none_or(|projects| projects.contains(project))
    }
}

/// A session as a caller named it: an id, a handle or a prefix, and what the caller may see.
#[derive(Debug, Clone)]
pub(super) struct Named {
    pub(super) text: String,
    pub(super) scope: Scope,
}

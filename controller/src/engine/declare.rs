//! Declaring projects, and what a session may do by them.

use muster_proto::{
    error::{Error, ErrorCode},
    v1::{DeclaredProject, ProjectPolicy, SessionSpec},
};

use super::{book::Book, run::Engine, stage::Stage};
use crate::{projects, session::Session};

/// Declared projects at most: all are looked through by people.
const PROJECTS: usize = 1000;

impl Engine {
    /// Declares a project; true: one of the name was declared before. The same again changes nothing.
    pub(super) fn put_project(
        &mut self,
        policy: ProjectPolicy,
        if_revision: u64,
        caller: &str,
        stage: &mut Stage,
    ) -> Result<bool, Error> {
        let name = policy.name.clone();
        let before = stage.declared(&self.book, &name).cloned();
        if let Some(there) = before.as_ref().filter(|there| there.policy.as_ref() == Some(&policy)) {
            tracing::debug!(project = name, revision = there.revision, "it is declared so already");
            return Ok(true);
        }
        let revision = before.as_ref().map_or(0, |there| there.revision);
        if if_revision != 0 && if_revision != revision {
            let message = format!("the project {name} is at revision {revision}, not {if_revision}");
            let error = Error::new(ErrorCode::RequestIdConflict, message)
                .hint("Read it, then change what is there now.");
            return Err(Error { field: "ifRevision".to_owned(), ..error });
        }
        if before.is_none() && self.book.declared().len() >= PROJECTS {
            let message = format!("{PROJECTS} projects are declared already");
            return Err(Error::new(ErrorCode::LimitReached, message).hint("Remove one that is not needed."));
        }
        let now = Some(muster_proto::time::now());
        let replaced = before.is_some();
        let declared = DeclaredProject {
            policy: Some(policy),
            declared_at: before.and_then(|there| there.declared_at).or(now),
            changed_at: now,
            changed_by: caller.to_owned(),
            revision: revision + 1,
        };
        tracing::info!(project = name, revision = declared.revision, by = caller, "a project is declared");
        stage.declare(name, Some(declared));
        // A cap may have been raised.
        self.plan_due = true;
        Ok(replaced)
    }

    /// Takes no new sessions of a project any more.
    pub(super) fn remove_project(&self, name: &str, stage: &mut Stage) -> Result<(), Error> {
        if stage.declared(&self.book, name).is_none() {
            let message = format!("no project {name} is declared");
            let error = Error::new(ErrorCode::ProjectNotFound, message);
            return Err(Error { field: "name".to_owned(), ..error });
        }
        tracing::info!(project = name, "a project is not declared any more");
        stage.declare(name.to_owned(), None);
        Ok(())
    }
}

/// The policy an attempt of `session` goes by; none: the worker's own counts alone.
pub(super) fn policy_of(book: &Book, session: &Session) -> Option<ProjectPolicy> {
    let now = book.policy(&session.spec().project);
    session.fixed.policy.as_ref().map(|accepted| projects::narrowed(accepted, now))
}

/// What the next attempt of `session` is to do.
pub(super) fn spec_of(book: &Book, session: &Session) -> SessionSpec {
    // One that was accepted before its project was declared is held to what was declared since.
    let policy = policy_of(book, session).or_else(|| book.policy(&session.spec().project).cloned());
    match policy {
        Some(policy) => projects::of_attempt(session.spec(), &policy, session.caller()),
        None => session.spec().clone(),
    }
}

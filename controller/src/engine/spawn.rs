//! Accepting a session.

use std::collections::{BTreeMap, BTreeSet};

use muster_proto::{
    error::{Error, ErrorCode},
    ids::{Handle, SessionId},
    v1::{Project, SessionSpec},
};

use super::{Scope, SpawnRequest, run::Engine, stage::Stage};
use crate::{
    projects,
    session::{Session, record::Fixed},
};

impl Engine {
    /// Queues a session; true: the same request was accepted before.
    pub(super) fn spawn(
        &mut self,
        request: SpawnRequest,
        scope: &Scope,
        stage: &mut Stage,
    ) -> Result<(SessionId, bool), Error> {
        let SpawnRequest { mut spec, request_id, traceparent, caller } = request;
        let known = (caller.clone(), request_id.clone());
        if let Some(id) = stage.by_request(&self.book, &known).filter(|_| !request_id.is_empty()) {
            return match stage.get(&self.book, id) {
                Some(earlier) if is_same(earlier, &spec) => Ok((id, true)),
                _ => Err(conflict(&request_id)),
            };
        }
        let asked = spec.clone();
        spec.project = self.project(&spec, scope, stage)?;
        let policy = stage.declared(&self.book, &spec.project).and_then(|declared| declared.policy.clone());
        if let Some(policy) = &policy {
            projects::resolve(policy, &caller, &mut spec)?;
        }
        let ancestors = self.ancestors(&spec.parent_session, scope, stage)?;
        spec.parent_session = ancestors.last().map(SessionId::to_string).unwrap_or_default();
        let title = if spec.title.is_empty() { &spec.prompt } else { &spec.title };
        let mut handle = Handle::generate(title);
        while stage.is_handle_taken(&self.book, handle.as_str()) {
            handle = Handle::generate(title);
        }
        let asked_project = asked.project.clone();
        let differs = asked != SessionSpec { project: asked_project.clone(), ..spec.clone() };
        let fixed = Fixed {
            handle: handle.to_string(),
            spec: Some(spec),
            // The prompt is large and the same.
            asked: differs.then(|| SessionSpec { prompt: String::new(), ..asked }),
            ancestors: ancestors.iter().map(SessionId::to_string).collect(),
            policy,
            created_at: Some(muster_proto::time::now()),
            request_id,
            asked_project,
            traceparent,
            caller,
        };
        let session = Session::new(SessionId::generate(), fixed, stage.ticket());
        let id = session.id;
        stage.add(session);
        Ok((id, false))
    }

    /// The project a spec means, of those that workers announced, ever, or operators declared, and the caller
    /// may know of.
    fn project(&self, spec: &SessionSpec, scope: &Scope, stage: &Stage) -> Result<String, Error> {
        let announced = self.book.projects().keys().map(String::as_str);
        let known: BTreeSet<&str> = announced
            .chain(stage.declared_names(&self.book))
            .filter(|name| scope.has_project(name))
            .collect();
        let listed = || known.iter().copied().collect::<Vec<_>>().join(", ");
        let name = if spec.project.is_empty() {
            match (known.len(), known.first()) {
                (1, Some(name)) => *name,
                (0, _) | (_, None) => {
                    return Err(no_project("no worker has announced a project yet, and none is declared"));
                }
                _ => {
                    return Err(Error::invalid("project", "several projects are known and none is named")
                        .hint(format!("Name one of: {}.", listed())));
                }
            }
        } else {
            known.get(spec.project.as_str()).copied().ok_or_else(|| {
                let error = no_project(format!(
                    "no worker serves a project {:?}, and it is not declared",
                    spec.project
                ));
                if known.is_empty() { error } else { error.hint(format!("Known projects: {}.", listed())) }
            })?
        };
        let workers = self.book.projects().get(name);
        let is_declared = stage.declared(&self.book, name).is_some();
        if spec.trust_mode && !is_declared && !workers.is_some_and(allows_trust) {
            let message = format!("the project {name} does not allow trust mode");
            return Err(Error {
                field: "trustMode".to_owned(),
                ..Error::new(ErrorCode::TrustNotAllowed, message)
            }
            .hint("Spawn without trustMode, or let the operator allow it in the worker's configuration."));
        }
        Ok(name.to_owned())
    }
}

fn allows_trust(workers: &BTreeMap<String, Project>) -> bool {
    workers.values().any(|project| project.allow_trust_mode)
}

fn no_project(message: impl Into<String>) -> Error {
    Error { field: "project".to_owned(), ..Error::new(ErrorCode::ProjectNotFound, message) }
        .hint("Start a worker that serves it, then try again.")
}

fn conflict(request_id: &str) -> Error {
    let message = format!("the request id {request_id:?} was used before with other arguments");
    Error { field: "requestId".to_owned(), ..Error::new(ErrorCode::RequestIdConflict, message) }
        .hint("Use a new request id for a new request.")
}

/// Whether `spec`, as the caller wrote it, is what `earlier` was spawned with.
fn is_same(earlier: &Session, spec: &SessionSpec) -> bool {
    let accepted = earlier.spec();
    let asked = match &earlier.fixed.asked {
        Some(asked) => SessionSpec { prompt: accepted.prompt.clone(), ..asked.clone() },
        None => SessionSpec { project: earlier.fixed.asked_project.clone(), ..accepted.clone() },
    };
    asked == *spec
}

//! Accepting a session.

use std::collections::BTreeMap;

use muster_proto::{
    error::{Error, ErrorCode},
    ids::{Handle, SessionId},
    v1::{Project, SessionSpec},
};

use super::{Scope, SpawnRequest, run::Engine, stage::Stage};
use crate::session::{Session, record::Fixed};

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
        spec.project = self.project(&spec, scope)?;
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
            policy: None,
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

    /// The project a spec means, checked against what workers announced, ever, and the caller may know of.
    fn project(&self, spec: &SessionSpec, scope: &Scope) -> Result<String, Error> {
        let known: BTreeMap<_, _> =
            self.book.projects().iter().filter(|(name, _)| scope.has_project(name)).collect();
        let listed = || known.keys().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
        let (name, workers) = if spec.project.is_empty() {
            match (known.len(), known.first_key_value()) {
                (1, Some((name, workers))) => (*name, *workers),
                (0, _) | (_, None) => return Err(no_project("no worker has announced a project yet")),
                _ => {
                    return Err(Error::invalid("project", "several projects are known and none is named")
                        .hint(format!("Name one of: {}.", listed())));
                }
            }
        } else {
            known.get_key_value(&spec.project).map(|(name, workers)| (*name, *workers)).ok_or_else(|| {
                let error = no_project(format!("no worker serves a project {:?}", spec.project));
                if known.is_empty() { error } else { error.hint(format!("Known projects: {}.", listed())) }
            })?
        };
        if spec.trust_mode && !allows_trust(workers) {
            let message = format!("the project {name} does not allow trust mode");
            return Err(Error {
                field: "trustMode".to_owned(),
                ..Error::new(ErrorCode::TrustNotAllowed, message)
            }
            .hint("Spawn without trustMode, or let the operator allow it in the worker's configuration."));
        }
        Ok(name.clone())
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

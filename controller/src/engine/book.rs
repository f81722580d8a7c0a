//! What is installed: every session, and the ways to find one. Always equal to what the store holds.

use std::collections::{BTreeMap, BTreeSet, HashMap, hash_map::Entry};

use muster_proto::{
    error::{Error, ErrorCode},
    ids::{SessionId, WorkerId},
    v1::{Project, WorkspaceState},
};

use super::{Scope, tree};
use crate::{
    fleet::maintenance::Maintenance,
    scheduler::Usage,
    session::{Phase, Session},
};

/// Shortest prefix that names a session.
const PREFIX: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Book {
    sessions: BTreeMap<SessionId, Session>,
    /// Ids and handles.
    names: BTreeMap<String, SessionId>,
    /// Request ids of spawns, each of its caller.
    requests: HashMap<(String, String), SessionId>,
    /// By ticket: first come, first served.
    queue: BTreeMap<u64, SessionId>,
    active: HashMap<WorkerId, BTreeSet<SessionId>>,
    /// Of the active ones, how many are starting.
    starting: HashMap<WorkerId, u32>,
    /// Active sessions by caller and project.
    usage: Usage,
    /// Workers that take no session.
    maintenance: BTreeMap<WorkerId, Maintenance>,
    /// Sessions whose workspace a worker was told to release.
    releasing: HashMap<WorkerId, BTreeSet<SessionId>>,
    /// Sessions that are not archived, by the root of their tree.
    trees: HashMap<SessionId, u32>,
    /// Every project ever announced, by name and worker.
    projects: BTreeMap<String, BTreeMap<String, Project>>,
    last_ticket: u64,
}

impl Book {
    pub(super) fn get(&self, id: SessionId) -> Option<&Session> {
        self.sessions.get(&id)
    }

    /// Oldest first.
    pub(super) fn sessions(&self) -> impl DoubleEndedIterator<Item = &Session> {
        self.sessions.values()
    }

    pub(super) fn queue(&self) -> &BTreeMap<u64, SessionId> {
        &self.queue
    }

    /// Place from 1 of a ticket. Counted from the nearer end: whoever spawns into a long queue
    /// asks for the last.
    pub(super) fn queue_position(&self, ticket: u64) -> u32 {
        let mut behind = self.queue.range(ticket + 1..);
        let mut ahead = self.queue.range(..ticket);
        let mut counted = 0;
        let position = loop {
            if ahead.next().is_none() {
                break counted + 1;
            }
            if behind.next().is_none() {
                break self.queue.len() - counted;
            }
            counted += 1;
        };
        u32::try_from(position).unwrap_or(u32::MAX)
    }

    pub(super) fn active(&self, worker: &WorkerId) -> impl Iterator<Item = SessionId> {
        self.active.get(worker).into_iter().flatten().copied()
    }

    pub(super) fn active_count(&self, worker: &WorkerId) -> usize {
        self.active.get(worker).map_or(0, BTreeSet::len)
    }

    pub(super) fn starting_count(&self, worker: &WorkerId) -> u32 {
        self.starting.get(worker).copied().unwrap_or(0)
    }

    /// Sessions of the tree of `root` that are not archived.
    pub(super) fn tree_size(&self, root: SessionId) -> u32 {
        self.trees.get(&root).copied().unwrap_or(0)
    }

    pub(super) const fn usage(&self) -> &Usage {
        &self.usage
    }

    pub(super) const fn maintenance(&self) -> &BTreeMap<WorkerId, Maintenance> {
        &self.maintenance
    }

    pub(super) fn set_maintenance(&mut self, worker: WorkerId, maintenance: Option<Maintenance>) {
        match maintenance {
            Some(maintenance) => drop(self.maintenance.insert(worker, maintenance)),
            None => drop(self.maintenance.remove(&worker)),
        }
    }

    /// Whether anything is known of a worker of this name.
    pub(super) fn knows_worker(&self, worker: &WorkerId) -> bool {
        self.active.contains_key(worker)
            || self.maintenance.contains_key(worker)
            || self.projects.values().any(|workers| workers.contains_key(worker.as_str()))
    }

    /// Workers that hold, or should hold, an attempt.
    pub(super) fn active_workers(&self) -> impl Iterator<Item = &WorkerId> {
        self.active.keys()
    }

    pub(super) fn releasing(&self, worker: &WorkerId) -> impl Iterator<Item = SessionId> {
        self.releasing.get(worker).into_iter().flatten().copied()
    }

    pub(super) fn by_request(&self, request: &(String, String)) -> Option<SessionId> {
        self.requests.get(request).copied()
    }

    pub(super) fn is_named(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    pub(super) const fn last_ticket(&self) -> u64 {
        self.last_ticket
    }

    pub(super) fn projects(&self) -> &BTreeMap<String, BTreeMap<String, Project>> {
        &self.projects
    }

    pub(super) fn set_project(&mut self, worker: &str, project: Project) {
        self.projects.entry(project.name.clone()).or_default().insert(worker.to_owned(), project);
    }

    /// The session that `text` names to whoever sees `scope`: an id, a handle, or a unique prefix of either.
    pub(super) fn resolve(&self, text: &str, scope: &Scope) -> Result<SessionId, Error> {
        let name = text.to_ascii_lowercase();
        let is_seen = |id: &&SessionId| self.get(**id).is_some_and(|session| scope.sees(session));
        if let Some(id) = self.names.get(&name).filter(is_seen) {
            return Ok(*id);
        }
        let shown: String = text.chars().take(64).collect();
        if name.is_empty() {
            return Err(Error::invalid("session", "no session is named"));
        }
        let mut found = BTreeSet::new();
        if name.len() >= PREFIX {
            let matching = self.names.range(name.clone()..).take_while(|(known, _)| known.starts_with(&name));
            found.extend(matching.map(|(_, id)| id).filter(is_seen).take(32));
        }
        let mut ids = found.iter();
        match (ids.next(), ids.next()) {
            (Some(id), None) => Ok(*id),
            (Some(_), Some(_)) => {
                let handles: Vec<_> = found
                    .iter()
                    .take(5)
                    .filter_map(|id| Some(self.get(*id)?.fixed.handle.as_str()))
                    .collect();
                let error =
                    Error::new(ErrorCode::AmbiguousSession, format!("several sessions begin with {shown:?}"));
                Err(Error { field: "session".to_owned(), ..error }
                    .hint(format!("Give more characters; for example {}.", handles.join(", "))))
            }
            _ => {
                let error = Error::new(ErrorCode::SessionNotFound, format!("there is no session {shown:?}"));
                Err(Error { field: "session".to_owned(), ..error }
                    .hint("List the sessions to find its id or handle."))
            }
        }
    }

    /// Puts a session, durable by now, in the place of what it was.
    pub(super) fn install(&mut self, session: Session) {
        let id = session.id;
        match self.sessions.remove(&id) {
            Some(old) => self.unindex(&old),
            None => {
                self.names.insert(id.to_string(), id);
                self.names.insert(session.fixed.handle.clone(), id);
                if !session.fixed.request_id.is_empty() {
                    self.requests.insert(session.request(), id);
                }
            }
        }
        self.last_ticket = self.last_ticket.max(session.state.queue_ticket);
        if !session.state.archived {
            *self.trees.entry(tree::root(&session)).or_default() += 1;
        }
        if session.phase() == Phase::Queued {
            self.queue.insert(session.state.queue_ticket, id);
        }
        if let Some(worker) = session.worker() {
            if session.phase().is_active() {
                self.active.entry(worker.clone()).or_default().insert(id);
                self.usage.add(session.caller(), &session.spec().project);
            }
            if session.phase() == Phase::Starting {
                *self.starting.entry(worker.clone()).or_default() += 1;
            }
            if is_releasing(&session) {
                self.releasing.entry(worker).or_default().insert(id);
            }
        }
        self.sessions.insert(id, session);
    }

    /// Forgets a session: its names and its request ids may be used again.
    pub(super) fn remove(&mut self, id: SessionId) {
        let Some(session) = self.sessions.remove(&id) else { return };
        self.unindex(&session);
        self.names.remove(&id.to_string());
        self.names.remove(&session.fixed.handle);
        self.requests.remove(&session.request());
    }

    fn unindex(&mut self, old: &Session) {
        if !old.state.archived
            && let Entry::Occupied(mut count) = self.trees.entry(tree::root(old))
        {
            *count.get_mut() = count.get().saturating_sub(1);
            if *count.get() == 0 {
                count.remove();
            }
        }
        if old.phase() == Phase::Queued {
            self.queue.remove(&old.state.queue_ticket);
        }
        let Some(worker) = old.worker() else { return };
        if old.phase().is_active() {
            self.usage.remove(old.caller(), &old.spec().project);
        }
        if old.phase() == Phase::Starting
            && let Some(count) = self.starting.get_mut(&worker)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.starting.remove(&worker);
            }
        }
        for index in [&mut self.active, &mut self.releasing] {
            if let Some(ids) = index.get_mut(&worker) {
                ids.remove(&old.id);
                if ids.is_empty() {
                    index.remove(&worker);
                }
            }
        }
    }
}

/// Whether a worker was told to release its workspace and has not said that it did.
fn is_releasing(session: &Session) -> bool {
    session.state.workspace.as_ref().is_some_and(|workspace| workspace.state() == WorkspaceState::Releasing)
}

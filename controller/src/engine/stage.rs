//! One batch before it is durable: changed copies of sessions, and what is to be said once they are
//! installed.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use muster_proto::{
    error::Error,
    ids::{SessionId, WorkerId},
    v1::{EventAck, Project, connect_response::Body},
};

use super::{book::Book, read::Viewer, tree};
use crate::{
    fleet::{Load, maintenance::Maintenance},
    scheduler::Usage,
    session::{Phase, Session, stored},
    store::{Txn, keys, value::Kind},
};

/// Something said to a caller after the commit: it is given what is installed then, or why nothing changed.
pub(super) type Answer = Box<dyn FnOnce(&Viewer<'_>, Result<(), Error>) + Send>;

#[derive(Default)]
pub(super) struct Stage {
    touched: BTreeMap<SessionId, Session>,
    handles: HashSet<String>,
    requests: HashMap<(String, String), SessionId>,
    projects: Vec<(WorkerId, Project)>,
    maintenance: BTreeMap<WorkerId, Option<Maintenance>>,
    removed: Vec<SessionId>,
    last_ticket: u64,
    pub(super) commands: Vec<(WorkerId, Body)>,
    /// Highest event of each session to acknowledge.
    acks: BTreeMap<(WorkerId, SessionIdText), u64>,
    /// Workers that must connect again when the commit fails: what they reported would be lost otherwise.
    pub(super) reporters: HashSet<WorkerId>,
    pub(super) answers: Vec<Answer>,
}

/// What sessions take once a batch is installed.
pub(super) struct LoadChanges {
    /// By how much the active and the starting sessions of a worker differ from what is installed.
    workers: HashMap<WorkerId, (i64, i64)>,
    /// By caller and project, all of it.
    pub(super) usage: Usage,
}

impl LoadChanges {
    fn count(&mut self, session: &Session, more: bool) {
        let phase = session.phase();
        let Some(worker) = session.worker().filter(|_| phase.is_active()) else { return };
        let by = if more { 1 } else { -1 };
        let (active, starting) = self.workers.entry(worker).or_default();
        *active += by;
        *starting += if phase == Phase::Starting { by } else { 0 };
        let project = &session.spec().project;
        if more {
            self.usage.add(session.caller(), project);
        } else {
            self.usage.remove(session.caller(), project);
        }
    }

    /// What `worker` holds.
    pub(super) fn load(&self, book: &Book, worker: &WorkerId) -> Load {
        let (active, starting) = self.workers.get(worker).copied().unwrap_or_default();
        let sum = |installed: i64, change: i64| u32::try_from(installed + change).unwrap_or(0);
        Load {
            active: sum(i64::try_from(book.active_count(worker)).unwrap_or(i64::MAX), active),
            starting: sum(book.starting_count(worker).into(), starting),
        }
    }
}

/// As the worker wrote it: an event of an unknown session is acknowledged under its own name.
type SessionIdText = String;

impl Stage {
    pub(super) fn new(book: &Book) -> Self {
        Self { last_ticket: book.last_ticket(), ..Self::default() }
    }

    /// A session as this batch has left it so far.
    pub(super) fn get<'a>(&'a self, book: &'a Book, id: SessionId) -> Option<&'a Session> {
        self.touched.get(&id).or_else(|| book.get(id))
    }

    /// A copy to change; nothing happens until it is [`Stage::put`].
    pub(super) fn copy(&self, book: &Book, id: SessionId) -> Option<Session> {
        self.get(book, id).cloned()
    }

    pub(super) fn put(&mut self, session: Session) {
        self.touched.insert(session.id, session);
    }

    /// Adds a new session.
    pub(super) fn add(&mut self, session: Session) {
        self.handles.insert(session.fixed.handle.clone());
        if !session.fixed.request_id.is_empty() {
            self.requests.insert(session.request(), session.id);
        }
        self.put(session);
    }

    /// Forgets a session for good.
    pub(super) fn remove(&mut self, id: SessionId) {
        self.touched.remove(&id);
        self.removed.push(id);
    }

    pub(super) fn touched(&self) -> impl Iterator<Item = &Session> {
        self.touched.values()
    }

    pub(super) fn is_touched(&self, id: SessionId) -> bool {
        self.touched.contains_key(&id)
    }

    pub(super) fn is_handle_taken(&self, book: &Book, handle: &str) -> bool {
        self.handles.contains(handle) || book.is_named(handle)
    }

    pub(super) fn by_request(&self, book: &Book, request: &(String, String)) -> Option<SessionId> {
        self.requests.get(request).copied().or_else(|| book.by_request(request))
    }

    /// The next place in the queue.
    pub(super) fn ticket(&mut self) -> u64 {
        self.last_ticket += 1;
        self.last_ticket
    }

    pub(super) fn project(&mut self, worker: &WorkerId, project: Project) {
        self.projects.push((worker.clone(), project));
    }

    /// How `worker` is kept from sessions, as this batch has left it so far.
    pub(super) fn maintenance_of<'a>(&'a self, book: &'a Book, worker: &WorkerId) -> Option<&'a Maintenance> {
        match self.maintenance.get(worker) {
            Some(staged) => staged.as_ref(),
            None => book.maintenance().get(worker),
        }
    }

    pub(super) fn maintain(&mut self, worker: WorkerId, maintenance: Option<Maintenance>) {
        self.maintenance.insert(worker, maintenance);
    }

    pub(super) fn send(&mut self, worker: &WorkerId, body: Body) {
        self.commands.push((worker.clone(), body));
    }

    pub(super) fn ack(&mut self, worker: &WorkerId, session: &str, event_seq: u64) {
        let highest = self.acks.entry((worker.clone(), session.to_owned())).or_default();
        *highest = event_seq.max(*highest);
    }

    pub(super) fn answer(&mut self, answer: impl FnOnce(&Viewer<'_>, Result<(), Error>) + Send + 'static) {
        self.answers.push(Box::new(answer));
    }

    /// Sessions of the tree of `root` that are not archived, as this batch has left them so far.
    pub(super) fn tree_size(&self, book: &Book, root: SessionId) -> u32 {
        let counts = |session: &&Session| !session.state.archived && tree::root(session) == root;
        let now = self.touched().filter(counts).count();
        let before = self.touched().filter_map(|session| book.get(session.id)).filter(counts).count();
        let count = |sessions: usize| u32::try_from(sessions).unwrap_or(u32::MAX);
        (book.tree_size(root) + count(now)).saturating_sub(count(before))
    }

    /// Sessions that hold an attempt on `worker`.
    pub(super) fn active_on(&self, book: &Book, worker: &WorkerId) -> Vec<SessionId> {
        let untouched = book.active(worker).filter(|id| !self.is_touched(*id));
        let touched = self.touched().filter(|s| s.phase().is_active() && s.is_on(worker)).map(|s| s.id);
        untouched.chain(touched).collect()
    }

    /// How what sessions take differs from what is installed.
    pub(super) fn load_changes(&self, book: &Book) -> LoadChanges {
        let mut changes = LoadChanges { workers: HashMap::new(), usage: book.usage().clone() };
        for session in self.touched() {
            if let Some(old) = book.get(session.id) {
                changes.count(old, false);
            }
            changes.count(session, true);
        }
        changes
    }

    /// What the store has to hold for all of it.
    pub(super) fn txn(&self, book: &Book) -> Txn {
        let mut txn = Txn::new();
        for session in self.touched() {
            stored::write(&mut txn, book.get(session.id), session);
        }
        for session in self.removed.iter().filter_map(|id| book.get(*id)) {
            stored::erase(&mut txn, session);
        }
        for (worker, project) in &self.projects {
            let sealed: Bytes = stored::sealed(Kind::Project, project);
            txn.put(keys::project(&project.name, worker.as_str()), sealed);
        }
        for (worker, maintenance) in &self.maintenance {
            let key = keys::worker(worker.as_str());
            match maintenance {
                Some(maintenance) => txn.put(key, stored::sealed(Kind::Worker, maintenance)),
                None => txn.delete(key),
            };
        }
        txn
    }

    /// Installs it all; returns the sessions that changed.
    pub(super) fn install(&mut self, book: &mut Book, mut revision: impl FnMut() -> u64) -> Vec<SessionId> {
        for (worker, project) in self.projects.drain(..) {
            book.set_project(worker.as_str(), project);
        }
        for (worker, maintenance) in std::mem::take(&mut self.maintenance) {
            book.set_maintenance(worker, maintenance);
        }
        for id in self.removed.drain(..) {
            book.remove(id);
        }
        let mut changed = Vec::with_capacity(self.touched.len());
        for (id, mut session) in std::mem::take(&mut self.touched) {
            session.revision = revision();
            book.install(session);
            changed.push(id);
        }
        let acks = std::mem::take(&mut self.acks).into_iter();
        self.commands.extend(acks.map(|((worker, session_id), event_seq)| {
            (worker, Body::EventAck(EventAck { session_id, event_seq }))
        }));
        changed
    }
}

//! Reading what is installed.

use std::{cell::OnceCell, collections::HashMap, time::Instant};

use muster_proto::{
    error::{Error, ErrorCode},
    ids::{SessionId, WorkerId},
    v1::{self, SessionStatus},
};
use prost_types::Timestamp;

use super::{Named, Read, Scope, book::Book, place, run::Engine, watch::Selection};
use crate::{
    fleet::{Load, Registry, maintenance::Maintenance},
    output::Replicas,
    scheduler::{self, Candidate, Policy},
    session::{
        Phase, Session,
        view::{self, Moment},
    },
};

/// Which sessions to list, and from where on.
#[derive(Debug, Default)]
pub struct ListQuery {
    /// None: all.
    pub statuses: Vec<SessionStatus>,
    /// Empty: all.
    pub project: String,
    /// All must match.
    pub labels: HashMap<String, String>,
    /// Archived ones too.
    pub include_archived: bool,
    /// Most sessions of the answer.
    pub limit: usize,
    /// The last one of the page before.
    pub after: Option<Place>,
}

/// Where a session stands in a list: those that need attention first, then newest first.
pub type Place = (bool, SessionId);

/// A page.
#[derive(Debug)]
pub struct Listed {
    /// In order.
    pub sessions: Vec<v1::Session>,
    /// Where the next page begins; none at the end.
    pub next: Option<Place>,
    /// Over everything that matches but for status and paging.
    pub counts: Vec<v1::StatusCount>,
    /// Sessions that match, over all pages.
    pub total: u32,
}

/// What a reader of output has to know.
#[derive(Debug, Clone, Copy)]
pub struct OutputState {
    /// The session.
    pub id: SessionId,
    /// It has ended, and all that the worker said it printed is held from this offset on.
    pub complete_at: Option<u64>,
}

/// Shows sessions as they are installed.
pub(super) struct Viewer<'a> {
    book: &'a Book,
    fleet: &'a Registry,
    outputs: &'a Replicas,
    policy: &'a Policy,
    now: Instant,
    /// Made for the first queued session.
    candidates: OnceCell<Vec<Candidate<'a>>>,
}

impl<'a> Viewer<'a> {
    pub(super) fn new(
        book: &'a Book,
        fleet: &'a Registry,
        outputs: &'a Replicas,
        policy: &'a Policy,
        now: Instant,
    ) -> Self {
        Self { book, fleet, outputs, policy, now, candidates: OnceCell::new() }
    }

    pub(super) fn view(&self, id: SessionId) -> Option<v1::Session> {
        self.book.get(id).map(|session| self.show(session))
    }

    /// The view of a session that the caller has just installed.
    pub(super) fn must_view(&self, id: SessionId) -> v1::Session {
        self.view(id).unwrap_or_default()
    }

    fn show(&self, session: &Session) -> v1::Session {
        let queue = (session.phase() == Phase::Queued)
            .then(|| (self.book.queue_position(session.state.queue_ticket), self.why(session).sentence));
        let unreachable = self.is_unreachable(session);
        let last_heard = session.worker().filter(|_| unreachable).and_then(|worker| {
            // After a start nothing was heard of it yet but what it had reported of the session.
            let reported = session.state.activity_at.or(session.state.changed_at);
            self.fleet.last_seen_at(&worker).or(reported)
        });
        let moment = Moment { unreachable, last_heard, queue, output_end: self.outputs.end(session.id) };
        view::view(session, moment)
    }

    fn status(&self, session: &Session) -> SessionStatus {
        view::status(session, self.is_unreachable(session))
    }

    fn is_unreachable(&self, session: &Session) -> bool {
        let silent = |worker: WorkerId| self.fleet.is_silent(&worker, self.now);
        session.phase().is_active() && session.worker().is_some_and(silent)
    }

    fn candidates(&self) -> &[Candidate<'a>] {
        self.candidates.get_or_init(|| {
            let load = |worker: &WorkerId| Load {
                active: u32::try_from(self.book.active_count(worker)).unwrap_or(u32::MAX),
                starting: self.book.starting_count(worker),
            };
            let kept = |worker: &WorkerId| Some(self.book.maintenance().get(worker)?.sentence());
            self.fleet.candidates(self.now, load, kept)
        })
    }

    fn why(&self, session: &Session) -> scheduler::Why {
        let now = place::millis(muster_proto::time::now());
        scheduler::why(
            &place::request(session, self.book),
            self.candidates(),
            self.book.usage(),
            self.policy,
            now,
        )
    }

    fn list(&self, query: &ListQuery, scope: &Scope) -> Listed {
        let mut counts: HashMap<SessionStatus, u32> = HashMap::new();
        let mut found: Vec<(Place, &Session)> = Vec::new();
        let seen = self.book.sessions().filter(|session| scope.sees(session) && matches(session, query));
        for session in seen {
            let status = self.status(session);
            *counts.entry(status).or_default() += 1;
            if query.statuses.is_empty() || query.statuses.contains(&status) {
                found.push(((status == SessionStatus::NeedsAttention, session.id), session));
            }
        }
        found.sort_unstable_by_key(|(place, _)| std::cmp::Reverse(*place));
        let total = u32::try_from(found.len()).unwrap_or(u32::MAX);
        let start = query.after.map_or(0, |after| found.partition_point(|(place, _)| *place >= after));
        let page = &found[start..found.len().min(start + query.limit)];
        let is_last = start + page.len() == found.len();
        let mut counts: Vec<_> = counts
            .into_iter()
            .map(|(status, count)| v1::StatusCount { status: status.into(), count })
            .collect();
        counts.sort_unstable_by_key(|count| count.status);
        Listed {
            sessions: page.iter().map(|(_, session)| self.show(session)).collect(),
            next: if is_last { None } else { page.last().map(|(place, _)| *place) },
            counts,
            total,
        }
    }

    fn explain(&self, session: &Session) -> Result<v1::ExplainSessionResponse, Error> {
        let handle = &session.fixed.handle;
        let phase = session.phase();
        if phase.has_ended() {
            return Err(Error::new(ErrorCode::SessionEnded, format!("{handle} is not queued: it has ended")));
        }
        if phase != Phase::Queued {
            let worker = session.worker().map(String::from).unwrap_or_default();
            return Err(Error::new(
                ErrorCode::SessionRunning,
                format!("{handle} is not queued: it is on {worker}"),
            ));
        }
        let why = self.why(session);
        let request = place::request(session, self.book);
        let now = place::millis(muster_proto::time::now());
        let verdict = |(worker, refusal): (WorkerId, scheduler::Refusal)| v1::WorkerVerdict {
            worker: worker.into(),
            filter: refusal.filter().to_owned(),
            reason: refusal.to_string(),
        };
        Ok(v1::ExplainSessionResponse {
            queue_position: self.book.queue_position(session.state.queue_ticket),
            reason: why.sentence,
            verdicts: why.refusals.into_iter().map(verdict).collect(),
            held_by: why.hold.map_or_else(String::new, |hold| hold.name().to_owned()),
            effective_priority: scheduler::level(request.priority, request.since, now),
            waiting_since: session.state.changed_at.or(session.fixed.created_at),
            earliest_start_at: why.warm_until.map(|at| Timestamp {
                seconds: at.div_euclid(1000),
                nanos: i32::try_from(at.rem_euclid(1000)).unwrap_or(0) * 1_000_000,
            }),
        })
    }

    fn workers(&self) -> Vec<v1::Worker> {
        let mut workers = self.fleet.list(self.now);
        for worker in &mut workers {
            if let Ok(name) = worker.worker.parse() {
                self.complete(&name, worker);
            }
        }
        workers
    }

    /// A project that was declared just now.
    pub(super) fn declared(&self, name: &str) -> v1::DeclaredProject {
        self.book.declared().get(name).cloned().unwrap_or_default()
    }

    /// One worker; of one that was not seen since the start only what is stored.
    pub(super) fn worker(&self, name: &WorkerId) -> v1::Worker {
        let unseen = || v1::Worker {
            worker: name.to_string(),
            health: v1::WorkerHealth::Unreachable.into(),
            ..v1::Worker::default()
        };
        let mut worker = self.fleet.show(name, self.now).unwrap_or_else(unseen);
        self.complete(name, &mut worker);
        worker
    }

    /// Adds what the fleet does not know.
    fn complete(&self, name: &WorkerId, worker: &mut v1::Worker) {
        worker.running = u32::try_from(self.book.active_count(name)).unwrap_or(u32::MAX);
        worker.maintenance = self.book.maintenance().get(name).map(Maintenance::view);
    }
}

fn matches(session: &Session, query: &ListQuery) -> bool {
    let spec = session.spec();
    (query.include_archived || !session.state.archived)
        && (query.project.is_empty() || query.project == spec.project)
        && query.labels.iter().all(|(key, value)| spec.labels.get(key) == Some(value))
}

impl Engine {
    // Whoever asked may have gone away: that is never an error here.
    pub(super) fn read(&mut self, read: Read) {
        let viewer = self.viewer();
        let find = |Named { text, scope }: &Named| {
            let id = self.book.resolve(text, scope)?;
            let gone = || Error::new(ErrorCode::SessionNotFound, format!("there is no session {text:?}"));
            self.book.get(id).ok_or_else(gone)
        };
        match read {
            Read::Get { session, reply } => {
                let _ = reply.send(find(&session).map(|session| viewer.show(session)));
            }
            Read::List { query, scope, reply } => {
                let _ = reply.send(Ok(viewer.list(&query, &scope)));
            }
            Read::Explain { session, reply } => {
                let _ = reply.send(find(&session).and_then(|session| viewer.explain(session)));
            }
            Read::Workers { reply } => {
                let _ = reply.send(Ok(viewer.workers()));
            }
            Read::Empty { worker, reply } => self.waiting_for_empty.push((worker, reply)),
            Read::Views { ids, scope, reply } => {
                let seen = ids.into_iter().filter_map(|id| self.book.get(id)).filter(|s| scope.sees(s));
                let _ = reply.send(Ok(seen.map(|session| viewer.show(session)).collect()));
            }
            Read::Output { session, reply } => {
                let _ = reply.send(find(&session).map(|session| OutputState {
                    id: session.id,
                    complete_at: session.phase().has_ended().then_some(session.state.output_complete_at),
                }));
            }
            Read::Projects { scope, reply } => {
                let seen = self.book.declared().iter().filter(|(name, _)| scope.has_project(name));
                let _ = reply.send(Ok(seen.map(|(_, declared)| declared.clone()).collect()));
            }
            Read::Lives { session, reply } => {
                let lives = self.book.get(session).is_some_and(|session| !session.phase().has_ended());
                let _ = reply.send(Ok(lives));
            }
            Read::Resolve { session: Named { text, scope }, reply } => {
                let _ = reply.send(self.book.resolve(&text, &scope));
            }
            Read::Link { worker, incarnation, reply } => {
                let link = self.fleet.link(&worker, &incarnation);
                let _ = reply.send(Ok(link.map(crate::fleet::link::Link::watch)));
            }
            Read::Holds { worker, session, attempt, reply } => {
                let own = |session: &Session| session.is_on(&worker) && session.state.attempt == attempt;
                let _ = reply.send(Ok(self.book.get(session).is_some_and(own)));
            }
            Read::Workplace { session, purpose, reply } => {
                let _ = reply.send(find(&session).and_then(|session| self.workplace(session, purpose)));
            }
            Read::Query { worker, link, query, reply } => {
                let _ = reply.send(self.query(&worker, link, *query));
            }
            Read::Watch { sessions, scope, reply } => {
                let selected = if sessions.is_empty() {
                    let live =
                        self.book.sessions().filter(|session| !session.state.archived && scope.sees(session));
                    Ok((Selection::All, live.map(|session| viewer.show(session)).collect()))
                } else {
                    let ids: Result<Vec<_>, _> =
                        sessions.iter().map(|text| self.book.resolve(text, &scope)).collect();
                    ids.map(|ids| {
                        let views = ids.iter().filter_map(|id| viewer.view(*id)).collect();
                        (Selection::These(ids.into_iter().collect()), views)
                    })
                };
                // In the same step as the views, so that no change falls between.
                let watching = selected.map(|(selection, views)| (self.watchers.add(&selection), views));
                let _ = reply.send(watching);
            }
        }
    }
}

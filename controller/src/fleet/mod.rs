//! The workers: who is linked, what each serves, when it was last heard.
//!
//! [`Registry`] is a plain value owned by the engine; [`link`] is the pipe to one worker, [`queries`] are the
//! questions callers wait on. All of it is memory: after a restart the Hellos bring it back. Invariant: at most
//! one link per worker name, the newest.

pub mod link;
pub mod liveness;
pub mod maintenance;
pub mod queries;
mod twins;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::{Duration, Instant},
};

use muster_proto::{
    ids::{Incarnation, WorkerId},
    v1::{self, ConnectResponse, Heartbeat, Hello, connect_response::Body},
};
use prost_types::Timestamp;

use self::{
    link::{Closing, Link, LinkId},
    liveness::Liveness,
    twins::{Claim, Twins},
};
use crate::scheduler::Candidate;

/// How long a failed start counts against a worker.
const FAILED_LATELY: Duration = Duration::from_secs(10 * 60);
/// Failed starts remembered of each worker.
const FAILURES: usize = 16;

/// Mirrors remembered of each worker.
const MIRRORED: usize = 1000;
/// Version of the protocol from which on workers know leases and declared projects.
const LEASES: u32 = 2;
/// Heartbeats after which a link is taken to be left over from a process that is gone.
const SILENT: u32 = 2;
/// How often the time of silence has to pass until one of twins counts as gone.
const GONE: u32 = 3;

/// What is made of a process that says to be a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It is.
    Welcome,
    /// Another one has the link, and it is not known yet whether that lives.
    Wait,
    /// Another one is, too. `news`: that is known just now.
    Twins {
        /// It was not known before.
        news: bool,
    },
}

/// A worker as it last introduced itself.
#[derive(Debug)]
pub struct Worker {
    incarnation: Incarnation,
    version: String,
    claude_version: String,
    capacity: v1::Capacity,
    boot: String,
    labels: HashMap<String, String>,
    projects: Vec<v1::Project>,
    /// Project and whether trust mode is allowed there.
    policies: BTreeMap<String, bool>,
    link: Option<Link>,
    last_seen: Instant,
    last_seen_at: Timestamp,
    heartbeat: Option<Heartbeat>,
    /// When sessions could not be started there, lately.
    failures: VecDeque<Instant>,
    protocol: u32,
    serves_declared: bool,
    /// Declared projects of which it has a mirror.
    mirrored: BTreeSet<String>,
    /// Up to when a lease may have begun: the last acknowledged heartbeat, or the Hello.
    acknowledged: Instant,
    /// A heartbeat of this link was acknowledged: it has a lease.
    leased: bool,
    /// Somebody else says to be it.
    claim: Option<Claim>,
    /// What callers were last told.
    was_silent: bool,
}

/// What sessions take of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Sessions it holds.
    pub active: u32,
    /// Of these, how many are starting.
    pub starting: u32,
}

/// Every worker seen since the controller started.
#[derive(Debug)]
pub struct Registry {
    workers: BTreeMap<WorkerId, Worker>,
    liveness: Liveness,
    heartbeat_interval: Duration,
    /// Identities that two processes show.
    twins: BTreeMap<WorkerId, Twins>,
    /// When the controller started: a worker that has not come back yet is silent since then.
    since: Instant,
}

impl Registry {
    /// An empty one.
    #[must_use]
    pub const fn new(liveness: Liveness, heartbeat_interval: Duration, since: Instant) -> Self {
        Self { workers: BTreeMap::new(), liveness, heartbeat_interval, twins: BTreeMap::new(), since }
    }

    /// Whether the process that says to be `worker` is to be believed.
    pub fn arrives(&mut self, worker: &WorkerId, incarnation: &Incarnation, now: Instant) -> Arrival {
        let gone = self.liveness.unreachable_after * GONE;
        if let Some(twins) = self.twins.get_mut(worker) {
            if twins.tries(incarnation, now, gone) {
                return Arrival::Twins { news: false };
            }
            self.twins.remove(worker);
        }
        let Some(there) = self.workers.get_mut(worker) else { return Arrival::Welcome };
        if there.incarnation == *incarnation || there.link.is_none() {
            return Arrival::Welcome;
        }
        if there.claim.as_ref().is_none_or(|claim| !claim.is_by(incarnation)) {
            there.claim = Some(Claim::new(incarnation.clone(), now));
        }
        if there.claim.as_ref().is_some_and(Claim::is_proven) {
            let twins = self.twins.entry(worker.clone()).or_default();
            twins.tries(&there.incarnation, now, gone);
            twins.tries(incarnation, now, gone);
            there.claim = None;
            self.cut(worker, Closing::Duplicate);
            return Arrival::Twins { news: true };
        }
        let is_silent = now.saturating_duration_since(there.last_seen) >= self.heartbeat_interval * SILENT;
        if is_silent { Arrival::Welcome } else { Arrival::Wait }
    }

    /// Takes in a worker that said Hello. A link it had is replaced and ends with ABORTED.
    pub fn attach(
        &mut self,
        worker: WorkerId,
        incarnation: Incarnation,
        hello: Hello,
        protocol: u32,
        link: Link,
        now: Instant,
    ) {
        let mut failures = VecDeque::new();
        if let Some(old) = self.workers.remove(&worker) {
            if let Some(link) = old.link {
                link.close(Closing::Replaced);
            }
            failures = old.failures;
        }
        let policies = hello.projects.iter().map(|p| (p.name.clone(), p.allow_trust_mode)).collect();
        let worker_now = Worker {
            incarnation,
            version: hello.version,
            claude_version: hello.claude_version,
            capacity: hello.capacity.unwrap_or_default(),
            boot: hello.boot_id,
            labels: hello.labels,
            projects: hello.projects,
            policies,
            link: Some(link),
            last_seen: now,
            last_seen_at: muster_proto::time::now(),
            heartbeat: None,
            protocol,
            serves_declared: hello.serves_declared && protocol >= LEASES,
            mirrored: hello.mirrored_projects.into_iter().collect(),
            acknowledged: now,
            leased: false,
            claim: None,
            failures,
            was_silent: false,
        };
        self.workers.insert(worker, worker_now);
    }

    /// Notes that `worker` was heard over `link`; false when that link is no longer its own.
    pub fn heard(
        &mut self,
        worker: &WorkerId,
        link: LinkId,
        heartbeat: Option<Heartbeat>,
        now: Instant,
    ) -> bool {
        let interval = self.heartbeat_interval;
        let Some(worker) =
            self.workers.get_mut(worker).filter(|w| w.link.as_ref().is_some_and(|l| l.id == link))
        else {
            return false;
        };
        worker.last_seen = now;
        worker.last_seen_at = muster_proto::time::now();
        if let Some(claim) = &mut worker.claim {
            claim.heard(now, interval);
        }
        if let Some(beat) = &heartbeat {
            // It is acknowledged next: what counts is that it was sent before now.
            if beat.seq > 0 {
                worker.acknowledged = now;
                worker.leased = true;
            }
            worker.heartbeat = heartbeat;
        }
        true
    }

    /// Forgets a link that ended. The worker stays known.
    pub fn detach(&mut self, worker: &WorkerId, link: LinkId) {
        if let Some(worker) = self.workers.get_mut(worker) {
            worker.link.take_if(|own| own.id == link);
        }
    }

    /// Ends the link of `worker`, which then connects again and reconciles.
    pub fn cut(&mut self, worker: &WorkerId, why: Closing) {
        if let Some(link) = self.workers.get_mut(worker).and_then(|worker| worker.link.take()) {
            link.close(why);
        }
    }

    /// Ends every link.
    pub fn close_all(&mut self, why: Closing) {
        for link in self.workers.values_mut().filter_map(|worker| worker.link.take()) {
            link.close(why);
        }
    }

    /// Sends a command. Without a link it is dropped: the next Hello makes up for it. A full link is cut, for
    /// the same reason.
    pub fn send(&mut self, worker: &WorkerId, body: Body) {
        let Some(link) = self.workers.get(worker).and_then(|worker| worker.link.as_ref()) else { return };
        if !link.offer(ConnectResponse { body: Some(body) }) {
            tracing::warn!(worker.id = %worker, "the worker takes its commands too slowly; its link is cut");
            self.cut(worker, Closing::Overflow);
        }
    }

    /// The link of `worker` if it is of `incarnation`.
    #[must_use]
    pub fn link(&self, worker: &WorkerId, incarnation: &Incarnation) -> Option<&Link> {
        let worker = self.workers.get(worker).filter(|worker| worker.incarnation == *incarnation)?;
        worker.link.as_ref()
    }

    /// The link of `worker`, whatever its incarnation.
    #[must_use]
    pub fn current_link(&self, worker: &WorkerId) -> Option<&Link> {
        self.workers.get(worker)?.link.as_ref()
    }

    /// Whether nothing was heard of `worker` for so long that nobody knows what its sessions do.
    #[must_use]
    pub fn is_silent(&self, worker: &WorkerId, now: Instant) -> bool {
        match self.workers.get(worker) {
            Some(worker) => self.liveness.is_silent(worker.last_seen, now),
            None => self.liveness.is_silent(self.since, now),
        }
    }

    /// When `worker` was last heard, by the wall clock; none since the start.
    #[must_use]
    pub fn last_seen_at(&self, worker: &WorkerId) -> Option<Timestamp> {
        self.workers.get(worker).map(|worker| worker.last_seen_at)
    }

    /// Whether no heartbeat of `worker` was acknowledged for so long, nor any Hello taken.
    #[must_use]
    pub fn is_unacknowledged_for(&self, worker: &WorkerId, long: Duration, now: Instant) -> bool {
        let since = self.workers.get(worker).map_or(self.since, |worker| worker.acknowledged);
        now.saturating_duration_since(since) >= long
    }

    /// Whether a heartbeat of its link was acknowledged.
    #[must_use]
    pub fn is_leased(&self, worker: &WorkerId) -> bool {
        self.workers.get(worker).is_some_and(|worker| worker.leased)
    }

    /// Notes that `worker` has a mirror of a declared project.
    pub fn mirrors(&mut self, worker: &WorkerId, project: &str) {
        if let Some(worker) = self.workers.get_mut(worker)
            && worker.mirrored.len() < MIRRORED
            && !worker.mirrored.contains(project)
        {
            worker.mirrored.insert(project.to_owned());
        }
    }

    /// Workers whose silence began or ended since the last call.
    pub fn changed_liveness(&mut self, now: Instant) -> Vec<WorkerId> {
        let liveness = self.liveness;
        let changed = self.workers.iter_mut().filter_map(|(name, worker)| {
            let silent = liveness.is_silent(worker.last_seen, now);
            (std::mem::replace(&mut worker.was_silent, silent) != silent).then(|| name.clone())
        });
        changed.collect()
    }

    /// Whether anything was heard of a worker of this name.
    #[must_use]
    pub fn knows(&self, worker: &WorkerId) -> bool {
        self.workers.contains_key(worker)
    }

    /// Whether `worker` last introduced itself as this process.
    #[must_use]
    pub fn is_incarnation(&self, worker: &WorkerId, incarnation: &Incarnation) -> bool {
        self.workers.get(worker).is_some_and(|worker| worker.incarnation == *incarnation)
    }

    /// Which boot of its machine a worker runs in; empty: not known.
    #[must_use]
    pub fn boot(&self, worker: &WorkerId) -> &str {
        self.workers.get(worker).map_or("", |worker| &worker.boot)
    }

    /// Whether it has room depends on what it reports of its machine.
    #[must_use]
    pub fn is_limited(&self, worker: &WorkerId) -> bool {
        self.workers.get(worker).is_some_and(|worker| {
            worker.capacity.memory_per_session_bytes > 0 || worker.capacity.disk_reserve_bytes > 0
        })
    }

    /// Notes that a session could not be started there.
    pub fn could_not_start(&mut self, worker: &WorkerId, now: Instant) {
        if let Some(worker) = self.workers.get_mut(worker) {
            worker.failures.push_back(now);
            if worker.failures.len() > FAILURES {
                worker.failures.pop_front();
            }
        }
    }

    /// The fleet as the scheduler sees it; `load` tells what a worker holds, `kept` why it is kept from
    /// sessions.
    pub fn candidates(
        &self,
        now: Instant,
        load: impl Fn(&WorkerId) -> Load,
        kept: impl Fn(&WorkerId) -> Option<String>,
    ) -> Vec<Candidate<'_>> {
        let shaped = self.workers.iter().map(|(name, worker)| {
            let Load { active, starting } = load(name);
            let recent = |at: &&Instant| now.saturating_duration_since(**at) < FAILED_LATELY;
            Candidate {
                worker: name,
                connected: worker.link.is_some() && !self.liveness.is_silent(worker.last_seen, now),
                maintenance: kept(name),
                slots: worker.capacity.slots,
                active,
                starting,
                starts_at_once: worker.capacity.starts_at_once,
                memory: worker.heartbeat.map(|beat| beat.memory_available_bytes),
                memory_per_session: worker.capacity.memory_per_session_bytes,
                disk: worker.heartbeat.map(|beat| beat.disk_available_bytes),
                disk_reserve: worker.capacity.disk_reserve_bytes,
                failures: u32::try_from(worker.failures.iter().filter(recent).count()).unwrap_or(u32::MAX),
                labels: &worker.labels,
                projects: &worker.policies,
                protocol: worker.protocol,
                serves_declared: worker.serves_declared,
                mirrored: &worker.mirrored,
                leased: worker.leased,
            }
        });
        shaped.collect()
    }

    /// Every worker, for operators.
    #[must_use]
    pub fn list(&self, now: Instant) -> Vec<v1::Worker> {
        self.workers.keys().filter_map(|name| self.show(name, now)).collect()
    }

    /// One worker, for operators.
    #[must_use]
    pub fn show(&self, name: &WorkerId, now: Instant) -> Option<v1::Worker> {
        let worker = self.workers.get(name)?;
        let silent = worker.link.is_none() || self.liveness.is_silent(worker.last_seen, now);
        let health = if self.twins.contains_key(name) {
            v1::WorkerHealth::Duplicate
        } else if silent {
            v1::WorkerHealth::Unreachable
        } else {
            v1::WorkerHealth::Connected
        };
        Some(v1::Worker {
            worker: name.to_string(),
            incarnation: worker.incarnation.to_string(),
            version: worker.version.clone(),
            health: health.into(),
            capacity: Some(worker.capacity),
            running: 0,
            labels: worker.labels.clone(),
            projects: worker.projects.clone(),
            last_seen_at: Some(worker.last_seen_at),
            heartbeat: worker.heartbeat,
            claude_version: worker.claude_version.clone(),
            maintenance: None,
            serves_declared: worker.serves_declared,
            mirrored_projects: worker.mirrored.iter().cloned().collect(),
            certificate_expires_at: None,
        })
    }
}

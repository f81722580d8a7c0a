//! Which session runs where. Pure: the same queue, fleet and time give the same plan, and nothing here waits
//! or writes.
//!
//! `order` says whose turn it is: priority with what waiting adds, then the smallest share by weight, then
//! first come. A session that cannot be placed now holds up nobody behind it. [`filter`] says which workers
//! can take it; those that have its project already come first (`warm`); among those the one with the fewest recent failures, then the greatest free share, then the
//! smaller name gets it. `why` tells all of that of a session that was left out. Called by the engine, which
//! makes the plan durable.

pub mod filter;
mod order;
pub mod policy;
mod warm;
mod why;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use muster_proto::ids::{SessionId, WorkerId};

pub use self::{
    filter::Refusal,
    order::level,
    policy::{Hold, Policy, Usage},
    why::{Why, why},
};

/// Able workers that are compared for one session. A small farm is looked at whole; in a large one the best of
/// so many is nearly as good as the best of all, and a plan stays a matter of milliseconds.
const COMPARED: usize = 16;

/// A queued session, as far as placing it goes.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// Which.
    pub session: SessionId,
    /// Its place in the queue: grows.
    pub ticket: u64,
    /// Since when it waits, in milliseconds since the Unix epoch.
    pub since: i64,
    /// As asked, -10 to 10.
    pub priority: i32,
    /// Who spawned it.
    pub caller: &'a str,
    /// The project it works on.
    pub project: &'a str,
    /// Whether it runs without permission prompts.
    pub trust: bool,
    /// Its project is declared at the controller: its policy must be understood.
    pub declared: bool,
    /// Workers may clone its project.
    pub cloneable: bool,
    /// It ends with the lease of its worker.
    pub lease_bound: bool,
    /// Workers it was taken from.
    pub fenced: &'a [String],
    /// Sessions of its project that may run at once; none: no limit of its own.
    pub project_max: Option<u32>,
    /// Labels its worker must carry.
    pub labels: &'a HashMap<String, String>,
    /// The worker that has its workspace: it runs there or waits.
    pub pinned: Option<WorkerId>,
    /// It was there each time its machine went down: it waits until somebody says to go on.
    pub quarantined: bool,
}

/// A worker, as far as placing goes.
#[derive(Debug, Clone)]
pub struct Candidate<'a> {
    /// Which.
    pub worker: &'a WorkerId,
    /// Whether it is linked and heard from.
    pub connected: bool,
    /// Cordoned or draining, and why.
    pub maintenance: Option<String>,
    /// Sessions it may hold.
    pub slots: u32,
    /// Sessions it holds.
    pub active: u32,
    /// Of these, how many are starting: what they take does not show in what it reports yet.
    pub starting: u32,
    /// Sessions that may be starting at once; 0: no limit.
    pub starts_at_once: u32,
    /// Free memory it reported, in bytes; none: nothing reported.
    pub memory: Option<u64>,
    /// Memory one session is expected to take; 0: memory is no limit.
    pub memory_per_session: u64,
    /// Free disk it reported, in bytes; none: nothing reported.
    pub disk: Option<u64>,
    /// Disk that stays free; 0: disk is no limit.
    pub disk_reserve: u64,
    /// Sessions that could not be started there lately: it may be broken.
    pub failures: u32,
    /// What it carries.
    pub labels: &'a HashMap<String, String>,
    /// What it serves, and whether trust mode is allowed there.
    pub projects: &'a BTreeMap<String, bool>,
    /// Version of the protocol it speaks.
    pub protocol: u32,
    /// It clones declared projects.
    pub serves_declared: bool,
    /// Those of which it has a mirror.
    pub mirrored: &'a BTreeSet<String>,
    /// It has a lease.
    pub leased: bool,
}

impl Candidate<'_> {
    /// Whether it can take any session at all now.
    #[must_use]
    pub fn has_room(&self) -> bool {
        filter::machine(self).is_ok()
    }

    fn take(&mut self) {
        self.active += 1;
        self.starting += 1;
    }
}

/// A session and the worker it goes to.
pub type Placement = (SessionId, WorkerId);

/// Places what can be placed. `fleet` and `usage` are left as they are after the plan.
pub fn plan(
    queue: &[Request<'_>],
    fleet: &mut [Candidate<'_>],
    usage: &mut Usage,
    policy: &Policy,
    now: i64,
) -> Vec<Placement> {
    let by_name: HashMap<&WorkerId, usize> =
        fleet.iter().enumerate().map(|(at, candidate)| (candidate.worker, at)).collect();
    let mut open: Vec<usize> = (0..fleet.len()).filter(|at| fleet[*at].has_room()).collect();
    let mut placements = Vec::new();
    let mut warmth = warm::Warmth::default();
    let mut turns = order::Turns::new(queue, now);
    while !open.is_empty() {
        let Some(request) = turns.next(usage, policy) else { break };
        if policy.hold(request, usage).is_some() {
            continue;
        }
        let found = match &request.pinned {
            Some(worker) => {
                by_name.get(worker).copied().filter(|at| filter::verdict(request, &fleet[*at]).is_ok())
            }
            None if request.cloneable => warmth.choose(request, fleet, &open, offset(request), policy, now),
            None => best(request, fleet, &open),
        };
        let Some(at) = found else { continue };
        fleet[at].take();
        usage.add(request.caller, request.project);
        placements.push((request.session, fleet[at].worker.clone()));
        if !fleet[at].has_room() {
            open.retain(|candidate| *candidate != at);
            warmth.full(at);
        }
    }
    placements
}

/// A place of the session's own.
fn offset(request: &Request<'_>) -> usize {
    crc32c::crc32c(request.session.as_uuid().as_bytes()) as usize
}

/// The best of the able workers. The look begins at a place of the session's own, so that in a large farm not
/// all of them compare the same few.
fn best(request: &Request<'_>, fleet: &[Candidate<'_>], open: &[usize]) -> Option<usize> {
    let start = offset(request) % open.len();
    let around = open[start..].iter().chain(&open[..start]).copied();
    let able = around.filter(|at| filter::verdict(request, &fleet[*at]).is_ok()).take(COMPARED);
    able.reduce(|best, other| if better(&fleet[other], &fleet[best]) { other } else { best })
}

/// Whether `a` failed less, or as much and has the greater free share, or the same and the smaller name.
fn better(a: &Candidate<'_>, b: &Candidate<'_>) -> bool {
    let free = |worker: &Candidate<'_>| u64::from(worker.slots.saturating_sub(worker.active));
    let left = free(a) * u64::from(b.slots);
    let right = free(b) * u64::from(a.slots);
    (b.failures, left, b.worker) > (a.failures, right, a.worker)
}

#[cfg(test)]
mod tests;

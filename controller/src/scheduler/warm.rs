//! Workers that have a project already: its directory, or a mirror of it.
//!
//! A session of a project that any worker may clone starts fastest there. Two of them and, when none has room, two of
//! the others are sampled at a place of the session's own. When those that have it are merely busy it waits a bounded
//! time for one of them. Pure; the lists are made once per plan and project.

use std::collections::HashMap;

use super::{
    Candidate, Request, better,
    filter::{self, Refusal},
    policy::Policy,
};

/// Workers compared of each kind.
const SAMPLED: usize = 2;

/// Those of one project.
struct Warm {
    /// With room.
    open: Vec<usize>,
    /// With room or without.
    all: Vec<usize>,
}

/// By project.
#[derive(Default)]
pub(super) struct Warmth<'a>(HashMap<&'a str, Warm>);

/// Whether `worker` has the project of `request` already.
pub(super) fn is_warm(request: &Request<'_>, worker: &Candidate<'_>) -> bool {
    worker.projects.contains_key(request.project) || worker.mirrored.contains(request.project)
}

/// Whether `worker` has the project of `request` and takes it as soon as it has room. One that never takes it (it speaks an
/// older protocol, lacks a label, is cordoned) is nothing to wait for.
pub(super) fn is_worth_a_wait(request: &Request<'_>, worker: &Candidate<'_>) -> bool {
    let busy = |refusal: &Refusal| {
        matches!(refusal, Refusal::Full(_) | Refusal::Starting(_) | Refusal::Memory(..) | Refusal::Disk(..))
    };
    is_warm(request, worker) && filter::verdict(request, worker).as_ref().err().is_none_or(busy)
}

/// Until when `request` waits for a warm worker, in milliseconds since the Unix epoch.
pub(super) fn waits_until(request: &Request<'_>, policy: &Policy) -> i64 {
    let wait = i64::try_from(policy.warm_wait.as_millis()).unwrap_or(i64::MAX);
    request.since.saturating_add(wait)
}

impl<'a> Warmth<'a> {
    /// The worker for a session whose project may be cloned anywhere; none: it waits.
    pub(super) fn choose(
        &mut self,
        request: &Request<'a>,
        fleet: &[Candidate<'_>],
        open: &[usize],
        start: usize,
        policy: &Policy,
        now: i64,
    ) -> Option<usize> {
        let warm = self.0.entry(request.project).or_insert_with(|| {
            let all = fleet.iter().enumerate().filter(|(_, worker)| is_warm(request, worker));
            let all: Vec<usize> = all.map(|(at, _)| at).collect();
            Warm { open: all.iter().copied().filter(|at| fleet[*at].has_room()).collect(), all }
        });
        if let Some(at) = sample(request, fleet, &warm.open, start, true) {
            return Some(at);
        }
        // The first that is busy ends the look: they are many only where all of them are.
        let waits = || warm.all.iter().any(|at| is_worth_a_wait(request, &fleet[*at]));
        if now < waits_until(request, policy) && waits() {
            return None;
        }
        sample(request, fleet, open, start, false)
    }

    /// `at` has no room any more.
    pub(super) fn full(&mut self, at: usize) {
        self.0.values_mut().for_each(|warm| warm.open.retain(|other| *other != at));
    }
}

/// The best of a few able ones, which are warm or not as wanted.
fn sample(
    request: &Request<'_>,
    fleet: &[Candidate<'_>],
    among: &[usize],
    start: usize,
    warm: bool,
) -> Option<usize> {
    let start = start % among.len().max(1);
    let around = among[start..].iter().chain(&among[..start]).copied();
    let wanted = around.filter(|at| is_warm(request, &fleet[*at]) == warm);
    let able = wanted.filter(|at| filter::verdict(request, &fleet[*at]).is_ok()).take(SAMPLED);
    able.reduce(|best, other| if better(&fleet[other], &fleet[best]) { other } else { best })
}

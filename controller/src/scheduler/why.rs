//! Why a session waits, for people and programs.

use muster_proto::ids::WorkerId;

use super::{
    Candidate, Request,
    filter::{self, Refusal},
    policy::{Hold, Policy, Usage},
    warm,
};

/// Why a session waits: a sentence for the whole, and a verdict per worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    /// For people.
    pub sentence: String,
    /// What holds the session itself.
    pub hold: Option<Hold>,
    /// When it starts at the latest if nothing else changes, in milliseconds since the Unix epoch: it waits for a worker
    /// that has its project already.
    pub warm_until: Option<i64>,
    /// Per worker, by name.
    pub refusals: Vec<(WorkerId, Refusal)>,
}

/// What stands against `request`, in itself and on each worker.
#[must_use]
pub fn why(request: &Request<'_>, fleet: &[Candidate<'_>], usage: &Usage, policy: &Policy, now: i64) -> Why {
    let hold = policy.hold(request, usage);
    let refused =
        |worker: &Candidate<'_>| Some((worker.worker.clone(), filter::verdict(request, worker).err()?));
    let refusals: Vec<_> = fleet.iter().filter_map(refused).collect();
    let refused_by = |name: &WorkerId| refusals.iter().any(|(worker, _)| worker == name);
    let could = |warm: bool| fleet.iter().any(|w| warm::is_warm(request, w) == warm && !refused_by(w.worker));
    let is_waiting = hold.is_none() && request.cloneable && request.pinned.is_none();
    let until = warm::waits_until(request, policy);
    let has_warm = fleet.iter().any(|w| warm::is_worth_a_wait(request, w));
    let warm_until = (is_waiting && has_warm && now < until && could(false) && !could(true)).then_some(until);
    let sentence = match &hold {
        Some(hold) => hold.to_string(),
        None if warm_until.is_some() => "waits a moment for a worker that has the project already".to_owned(),
        None => sentence(request, fleet.len(), &refusals),
    };
    Why { sentence, hold, warm_until, refusals }
}

fn sentence(request: &Request<'_>, workers: usize, refusals: &[(WorkerId, Refusal)]) -> String {
    let served: Vec<_> = refusals.iter().filter(|(_, refusal)| *refusal != Refusal::Project).collect();
    if refusals.len() < workers {
        "about to be placed".to_owned()
    } else if let Some(pinned) = &request.pinned {
        match refusals.iter().find(|(worker, _)| worker == pinned) {
            Some((_, refusal)) => format!("its workspace is on {pinned}: {refusal}"),
            None => format!("its workspace is on {pinned}: not connected"),
        }
    } else if refusals.is_empty() {
        "no worker is connected".to_owned()
    } else if served.is_empty() {
        format!("no connected worker serves the project {}", request.project)
    } else if served.iter().all(|(_, refusal)| matches!(refusal, Refusal::Full(_))) {
        "every worker that serves the project is full".to_owned()
    } else {
        match served.as_slice() {
            [(worker, refusal)] => format!("{worker}: {refusal}"),
            several => format!("none of {} workers that serve the project can take it", several.len()),
        }
    }
}

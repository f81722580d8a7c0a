//! Which session runs where. Pure: the same queue and fleet give the same plan, and nothing here waits or
//! writes.
//!
//! First come, first served, but a session no worker can take now holds up nobody behind it. Among the
//! workers that can take a session the one with the greatest free share gets it; the name breaks ties. Called
//! by the engine, which makes the plan durable. [`why`] gives, for a session the plan left out, what stands
//! against each worker.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use muster_proto::ids::{SessionId, WorkerId};

/// A queued session, as far as placing it goes.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// Which.
    pub session: SessionId,
    /// The project it works on.
    pub project: &'a str,
    /// Whether it runs without permission prompts.
    pub trust: bool,
    /// Labels its worker must carry.
    pub labels: &'a HashMap<String, String>,
    /// The worker that has its workspace: it runs there or waits.
    pub pinned: Option<WorkerId>,
}

/// A worker, as far as placing goes.
#[derive(Debug, Clone)]
pub struct Candidate<'a> {
    /// Which.
    pub worker: &'a WorkerId,
    /// Whether it is linked and heard from.
    pub connected: bool,
    /// Sessions it may hold.
    pub slots: u32,
    /// Sessions it holds.
    pub active: u32,
    /// What it carries.
    pub labels: &'a HashMap<String, String>,
    /// What it serves, and whether trust mode is allowed there.
    pub projects: &'a BTreeMap<String, bool>,
}

impl Candidate<'_> {
    /// Whether it can take any session at all now.
    #[must_use]
    pub const fn has_room(&self) -> bool {
        self.connected && self.active < self.slots
    }
}

/// A session and the worker it goes to.
pub type Placement = (SessionId, WorkerId);

/// Why a worker cannot take a session now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The session's workspace is on another worker.
    Elsewhere(WorkerId),
    /// The worker is silent.
    Silent,
    /// It does not serve the project.
    Project,
    /// It serves it without trust mode.
    Trust,
    /// It lacks a label.
    Label(String, String),
    /// All slots are taken.
    Full(u32),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Elsewhere(worker) => write!(f, "its workspace is on {worker}"),
            Self::Silent => f.write_str("not connected"),
            Self::Project => f.write_str("does not serve the project"),
            Self::Trust => f.write_str("does not allow trust mode in the project"),
            Self::Label(key, value) => write!(f, "lacks the label {key}={value}"),
            Self::Full(slots) => write!(f, "all {slots} slots are taken"),
        }
    }
}

/// Places what can be placed. `fleet` is left as it is after the plan.
pub fn plan<'a>(queue: impl IntoIterator<Item = Request<'a>>, fleet: &mut [Candidate<'_>]) -> Vec<Placement> {
    let mut room: u32 =
        fleet.iter().filter(|worker| worker.has_room()).map(|worker| worker.slots - worker.active).sum();
    let mut placements = Vec::new();
    for request in queue {
        if room == 0 {
            break;
        }
        let able = fleet.iter_mut().filter(|worker| verdict(&request, worker).is_ok());
        let Some(best) = able.reduce(|best, other| if better(other, best) { other } else { best }) else {
            continue;
        };
        best.active += 1;
        room -= 1;
        placements.push((request.session, best.worker.clone()));
    }
    placements
}

/// Whether `a` has the greater free share, or the same and the smaller name.
fn better(a: &Candidate<'_>, b: &Candidate<'_>) -> bool {
    let free = |worker: &Candidate<'_>| u64::from(worker.slots.saturating_sub(worker.active));
    let left = free(a) * u64::from(b.slots);
    let right = free(b) * u64::from(a.slots);
    (left, b.worker) > (right, a.worker)
}

/// Whether `worker` can take `request` now.
///
/// # Errors
/// The first thing that stands against it; what lasts longest first.
pub fn verdict(request: &Request<'_>, worker: &Candidate<'_>) -> Result<(), Refusal> {
    if let Some(pinned) = request.pinned.as_ref().filter(|pinned| *pinned != worker.worker) {
        return Err(Refusal::Elsewhere(pinned.clone()));
    }
    let trusted = worker.projects.get(request.project).ok_or(Refusal::Project)?;
    if request.trust && !trusted {
        return Err(Refusal::Trust);
    }
    let lacking = request.labels.iter().filter(|(key, value)| worker.labels.get(*key) != Some(value)).min();
    if let Some((key, value)) = lacking {
        return Err(Refusal::Label(key.clone(), value.clone()));
    }
    if !worker.connected {
        return Err(Refusal::Silent);
    }
    if worker.active >= worker.slots {
        return Err(Refusal::Full(worker.slots));
    }
    Ok(())
}

/// Why a session waits: a sentence for the whole, and a verdict per worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    /// For people.
    pub sentence: String,
    /// Per worker, by name.
    pub refusals: Vec<(WorkerId, Refusal)>,
}

/// What stands against `request` on each worker.
#[must_use]
pub fn why(request: &Request<'_>, fleet: &[Candidate<'_>]) -> Why {
    let refused = |worker: &Candidate<'_>| Some((worker.worker.clone(), verdict(request, worker).err()?));
    let refusals: Vec<_> = fleet.iter().filter_map(refused).collect();
    let served: Vec<_> = refusals.iter().filter(|(_, refusal)| *refusal != Refusal::Project).collect();
    let sentence = if refusals.len() < fleet.len() {
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
    };
    Why { sentence, refusals }
}

#[cfg(test)]
mod tests;

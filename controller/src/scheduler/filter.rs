//! What keeps a worker from taking a session. What lasts longest is told first.

use std::fmt;

use muster_proto::ids::WorkerId;

use super::{Candidate, Request};

/// Version of the protocol from which on policies are understood.
const DECLARED: u32 = 2;

/// Why a worker cannot take a session now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The session's workspace is on another worker.
    Elsewhere(WorkerId),
    /// The worker is silent.
    Silent,
    /// It does not serve the project.
    Project,
    /// It speaks a protocol that knows no declared projects and no leases.
    Protocol(u32),
    /// The session was taken from it.
    Fenced,
    /// It has no lease yet.
    NoLease,
    /// It serves it without trust mode.
    Trust,
    /// It lacks a label.
    Label(String, String),
    /// It is cordoned or drains; why.
    Maintenance(String),
    /// All slots are taken.
    Full(u32),
    /// So many sessions start there already.
    Starting(u32),
    /// Free and needed memory, in bytes.
    Memory(u64, u64),
    /// Free disk and what must stay free, in bytes.
    Disk(u64, u64),
}

impl Refusal {
    /// The name of the filter, as `WorkerVerdict.filter` documents it.
    #[must_use]
    pub const fn filter(&self) -> &'static str {
        match self {
            Self::Elsewhere(_) | Self::Fenced => "workspace",
            Self::Silent | Self::NoLease => "connection",
            Self::Project | Self::Protocol(_) => "project",
            Self::Trust => "trust_mode",
            Self::Label(..) => "label",
            Self::Maintenance(_) => "maintenance",
            Self::Full(_) => "slots",
            Self::Starting(_) => "starts",
            Self::Memory(..) => "memory",
            Self::Disk(..) => "disk",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: &u64| bytes >> 20;
        match self {
            Self::Elsewhere(worker) => write!(f, "its workspace is on {worker}"),
            Self::Silent => f.write_str("not connected"),
            Self::Project => f.write_str("does not serve the project"),
            Self::Protocol(version) => {
                write!(f, "speaks protocol {version}, which knows no declared projects")
            }
            Self::Fenced => f.write_str("lost an earlier attempt of it"),
            Self::NoLease => f.write_str("has sent no heartbeat yet"),
            Self::Trust => f.write_str("does not allow trust mode in the project"),
            Self::Label(key, value) => write!(f, "lacks the label {key}={value}"),
            Self::Maintenance(why) => f.write_str(why),
            Self::Full(slots) => write!(f, "all {slots} slots are taken"),
            Self::Starting(starting) => {
                write!(f, "{starting} are starting there, as many as allowed")
            }
            Self::Memory(free, needed) => {
                write!(f, "{} MiB of memory are free and {} are needed", mib(free), mib(needed))
            }
            Self::Disk(free, reserve) => {
                write!(f, "{} MiB of disk are free and {} must stay free", mib(free), mib(reserve))
            }
        }
    }
}

/// Whether `worker` can take `request` now.
///
/// # Errors
/// The first thing that stands against it.
pub fn verdict(request: &Request<'_>, worker: &Candidate<'_>) -> Result<(), Refusal> {
    if let Some(pinned) = request.pinned.as_ref().filter(|pinned| *pinned != worker.worker) {
        return Err(Refusal::Elsewhere(pinned.clone()));
    }
    if request.fenced.iter().any(|fenced| fenced == worker.worker.as_str()) {
        return Err(Refusal::Fenced);
    }
    let announced = worker.projects.get(request.project);
    if announced.is_none() && !(request.cloneable && worker.serves_declared) {
        return Err(Refusal::Project);
    }
    if request.declared && worker.protocol < DECLARED {
        return Err(Refusal::Protocol(worker.protocol));
    }
    // What a worker clones has no rule of its own: the policy was held against the session already.
    if request.trust && announced == Some(&false) {
        return Err(Refusal::Trust);
    }
    let lacking = request.labels.iter().filter(|(key, value)| worker.labels.get(*key) != Some(value)).min();
    if let Some((key, value)) = lacking {
        return Err(Refusal::Label(key.clone(), value.clone()));
    }
    machine(worker)?;
    if request.lease_bound && !worker.leased {
        return Err(Refusal::NoLease);
    }
    Ok(())
}

/// Whether `worker` can take anything now.
///
/// # Errors
/// As [`verdict`].
pub fn machine(worker: &Candidate<'_>) -> Result<(), Refusal> {
    if !worker.connected {
        return Err(Refusal::Silent);
    }
    if let Some(why) = &worker.maintenance {
        return Err(Refusal::Maintenance(why.clone()));
    }
    if worker.active >= worker.slots {
        return Err(Refusal::Full(worker.slots));
    }
    if let Some(free) = worker.disk.filter(|free| *free < worker.disk_reserve) {
        return Err(Refusal::Disk(free, worker.disk_reserve));
    }
    let needed = worker.memory_per_session.saturating_mul(u64::from(worker.starting) + 1);
    if let Some(free) = worker.memory.filter(|free| worker.memory_per_session > 0 && *free < needed) {
        return Err(Refusal::Memory(free, needed));
    }
    if worker.starts_at_once > 0 && worker.starting >= worker.starts_at_once {
        return Err(Refusal::Starting(worker.starting));
    }
    Ok(())
}

//! What the operator set: weights and caps. And what is used, to hold it against.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    time::Duration,
};

use super::Request;

/// How the farm is shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// How long a session waits for a worker that has its project already and is merely busy, before one that has to
    /// clone it first will do. Zero: not at all.
    pub warm_wait: Duration,
    /// Weight of a caller; 1 for those not named, 0 counts as 1. Twice the weight is twice the sessions while
    /// both wait.
    pub weights: BTreeMap<String, u32>,
    /// Sessions of one caller that may run at the same time; none: no limit.
    pub caller_cap: Option<u32>,
    /// As `caller_cap`, for the callers named.
    pub caller_caps: BTreeMap<String, u32>,
    /// Sessions of one project that may run at the same time; none: no limit.
    pub project_cap: Option<u32>,
    /// As `project_cap`, for the projects named.
    pub project_caps: BTreeMap<String, u32>,
}

impl Default for Policy {
    /// Everybody alike, ten seconds for a warm worker.
    fn default() -> Self {
        Self {
            warm_wait: Duration::from_secs(10),
            weights: BTreeMap::new(),
            caller_cap: None,
            caller_caps: BTreeMap::new(),
            project_cap: None,
            project_caps: BTreeMap::new(),
        }
    }
}

/// What holds a session back whatever the workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    /// It was there each time its machine went down.
    Quarantine,
    /// So many of its caller's sessions run, as many as allowed.
    Caller(u32),
    /// So many sessions of its project run, as many as allowed.
    Project(u32),
}

impl Hold {
    /// Its name, as `ExplainSessionResponse.held_by` documents it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Quarantine => "quarantine",
            Self::Caller(_) => "caller_cap",
            Self::Project(_) => "project_cap",
        }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quarantine => f.write_str(
                "in quarantine: its machine went down twice while it ran; a message lets it go on",
            ),
            Self::Caller(cap) => write!(f, "its caller has {cap} running, as many as allowed"),
            Self::Project(cap) => write!(f, "its project has {cap} running, as many as allowed"),
        }
    }
}

/// Sessions that hold a slot, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    callers: HashMap<String, u32>,
    projects: HashMap<String, u32>,
}

impl Usage {
    /// One more.
    pub fn add(&mut self, caller: &str, project: &str) {
        for (counts, name) in [(&mut self.callers, caller), (&mut self.projects, project)] {
            match counts.get_mut(name) {
                Some(count) => *count += 1,
                None => drop(counts.insert(name.to_owned(), 1)),
            }
        }
    }

    /// One less.
    pub fn remove(&mut self, caller: &str, project: &str) {
        for (counts, name) in [(&mut self.callers, caller), (&mut self.projects, project)] {
            if let Some(count) = counts.get_mut(name) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    counts.remove(name);
                }
            }
        }
    }

    /// Of one caller.
    #[must_use]
    pub fn of_caller(&self, caller: &str) -> u32 {
        self.callers.get(caller).copied().unwrap_or(0)
    }

    /// Of one project.
    #[must_use]
    pub fn of_project(&self, project: &str) -> u32 {
        self.projects.get(project).copied().unwrap_or(0)
    }
}

impl Policy {
    /// Weight of a caller, at least 1.
    #[must_use]
    pub fn weight(&self, caller: &str) -> u32 {
        self.weights.get(caller).copied().unwrap_or(1).max(1)
    }

    /// What holds `request` back, given what runs.
    #[must_use]
    pub fn hold(&self, request: &Request<'_>, usage: &Usage) -> Option<Hold> {
        if request.quarantined {
            return Some(Hold::Quarantine);
        }
        let cap = self.caller_caps.get(request.caller).copied().or(self.caller_cap);
        if let Some(cap) = cap.filter(|cap| usage.of_caller(request.caller) >= *cap) {
            return Some(Hold::Caller(cap));
        }
        let cap = self.project_caps.get(request.project).copied().or(self.project_cap);
        let cap = cap.into_iter().chain(request.project_max).min();
        cap.filter(|cap| usage.of_project(request.project) >= *cap).map(Hold::Project)
    }
}

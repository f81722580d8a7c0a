//! A worker that is kept from taking sessions, by an operator.

use muster_proto::v1::{self, MaintenanceMode};
use prost_types::Timestamp;

/// As stored: fields are added, numbers never reused.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Maintenance {
    #[prost(enumeration = "MaintenanceMode", tag = "1")]
    mode: i32,
    /// For people.
    #[prost(string, tag = "2")]
    pub reason: String,
    /// When it began.
    #[prost(message, optional, tag = "3")]
    pub since: Option<Timestamp>,
    /// Of a drain: when turns that still run are interrupted.
    #[prost(message, optional, tag = "4")]
    pub deadline: Option<Timestamp>,
    /// They were.
    #[prost(bool, tag = "5")]
    pub interrupted: bool,
}

impl Maintenance {
    /// Begins now.
    #[must_use]
    pub fn new(mode: MaintenanceMode, reason: String, deadline: Option<Timestamp>) -> Self {
        let since = Some(muster_proto::time::now());
        Self { mode: mode.into(), reason, since, deadline, interrupted: false }
    }

    /// Whether turns are to be interrupted now.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        let past = |at: Timestamp| (at.seconds, at.nanos) <= (now.seconds, now.nanos);
        !self.interrupted && self.deadline.is_some_and(past)
    }

    /// In a word.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self.mode() {
            MaintenanceMode::Draining => "draining",
            MaintenanceMode::Cordoned | MaintenanceMode::Unspecified => "cordoned",
        }
    }

    /// In words, for whoever asks why nothing is placed there.
    #[must_use]
    pub fn sentence(&self) -> String {
        let what = self.word();
        if self.reason.is_empty() { what.to_owned() } else { format!("{what}: {}", self.reason) }
    }

    /// As callers see it.
    #[must_use]
    pub fn view(&self) -> v1::Maintenance {
        v1::Maintenance {
            mode: self.mode,
            reason: self.reason.clone(),
            since: self.since,
            deadline: self.deadline,
        }
    }
}

//! Metrics: typed constants that say what they are, and do nothing until somebody wants to know.
//!
//! Each crate keeps its metrics as statics of [`Counter`], [`Amount`], [`Histogram`], [`Level`] and [`Gauge`] in one
//! module of its own, and lists them for [`reference`](mod@reference), which writes `docs/metrics.md`. What another
//! standard names has its name from [`semconv`](crate::telemetry::semconv).
//!
//! Until [`telemetry::init`](crate::telemetry::init) has set up somebody to tell (an OTLP endpoint or the address of
//! [`serve`]), a measurement is one relaxed load of a flag. Afterwards it is a few nanoseconds in memory; what is slow
//! (a collector, a scraper) only ever reads, on threads of its own.
//!
//! Invariant: a label has few values. The number of labels is part of an instrument's type; a label that could name a
//! session does not compile; what a program elsewhere chooses (a model's name) passes [`Distinct`] first.

mod disk;
mod distinct;
mod instrument;
mod process;
pub mod reference;
pub mod rpc;
pub mod serve;

use std::sync::atomic::{AtomicBool, Ordering};

pub use disk::watch_disk;
pub use distinct::{Distinct, OTHER};
pub use instrument::{Amount, Counter, Gauge, Histogram, Level, Sample};

/// Whether anybody reads.
static ENABLED: AtomicBool = AtomicBool::new(false);

/// Whether anybody reads what is measured. Who only computes something for a metric asks first.
#[must_use]
pub fn enabled() -> bool {
    ENABLED.load(Ordering::Relaxed)
}

/// From here on instruments measure. The global meter provider must be set by now: they bind to it once.
pub(crate) fn enable() {
    ENABLED.store(true, Ordering::Release);
    process::observe();
}

/// How a metric behaves over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// How often values fell where.
    Histogram,
    /// How many there are now; adds up over labels and processes.
    Level,
    /// What is now; does not add up.
    Gauge,
}

impl Kind {
    /// As the reference page calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Histogram => "histogram",
            Self::Level => "up-down counter",
            Self::Gauge => "gauge",
        }
    }
}

/// What a metric is, for the exporter and for the reference page.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Definition {
    /// As OpenTelemetry calls it, e.g. `muster.session.duration`.
    pub name: &'static str,
    /// In UCUM: `s`, `By`, `{session}`, or `1` for a share of one.
    pub unit: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// Names of its labels, in the order in which values are given.
    pub labels: &'static [&'static str],
    /// Upper bounds of a histogram's buckets, ascending; empty for the others.
    pub buckets: &'static [f64],
    /// One sentence without a full stop.
    pub help: &'static str,
}

impl Definition {
    /// Evaluated while compiling, since definitions are statics: a bad one is a build that fails.
    const fn checked(self) -> Self {
        let mut at = 0;
        while at < self.labels.len() {
            assert!(!names_one(self.labels[at]), "this label has a value for each session, input or person");
            at += 1;
        }
        let mut at = 1;
        while at < self.buckets.len() {
            assert!(self.buckets[at - 1] < self.buckets[at], "buckets must ascend");
            at += 1;
        }
        assert!(!self.help.is_empty() && !self.name.is_empty(), "a metric has a name and says what it is");
        self
    }

    /// The name under which `/metrics` shows it, without the `_bucket`, `_sum` and `_count` of a histogram.
    #[must_use]
    pub fn prometheus_name(&self) -> String {
        let mut name = self.name.replace('.', "_");
        match self.unit {
            "s" => name.push_str("_seconds"),
            "By" => name.push_str("_bytes"),
            "1" => name.push_str("_ratio"),
            _ => {}
        }
        if self.kind == Kind::Counter {
            name.push_str("_total");
        }
        name
    }
}

/// Labels that would have a value for each session, input, person, process or file.
const UNBOUNDED: &[&str] = &[
    "session.id",
    "muster.session.id",
    "muster.session.handle",
    "mcp.session.id",
    "gen_ai.conversation.id",
    "gen_ai.tool.call.id",
    "jsonrpc.request.id",
    "muster.request.id",
    "muster.attention.id",
    "user.id",
    "process.pid",
    "server.address",
    "client.address",
    "url.full",
    "file.path",
    "vcs.ref.head.name",
];

/// Whether a label names one thing of many.
pub(crate) const fn names_one(label: &str) -> bool {
    let mut at = 0;
    while at < UNBOUNDED.len() {
        if same(label.as_bytes(), UNBOUNDED[at].as_bytes()) {
            return true;
        }
        at += 1;
    }
    false
}

const fn same(left: &[u8], right: &[u8]) -> bool {
    if left.len() != right.len() {
        return false;
    }
    let mut at = 0;
    while at < left.len() {
        if left[at] != right[at] {
            return false;
        }
        at += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_that_names_a_session_is_known() {
        assert!(names_one("session.id") && names_one("gen_ai.conversation.id"));
        assert!(!names_one("muster.session.state") && !names_one("rpc.method"));
    }
}

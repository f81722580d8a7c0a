//! What a run did and found: counts, a timeline for when it failed, and the one table it ends in.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// Lines of the timeline shown after a failure.
const TIMELINE_SHOWN: usize = 400;

/// What was done to the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    KillWorker,
    KillController,
    KillGateway,
    KillShim,
    Connection,
    FillWorkerDisk,
    FillControllerDisk,
}

/// What must never be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Violation {
    /// Output that differs from what was said.
    Difference,
    /// One attempt, or one request, started twice.
    DoubleStart,
    /// Two live processes of one session.
    TwoAlive,
    DoubleAnswer,
    LostAnswer,
    DoubleMessage,
    LostMessage,
    /// An acknowledged session that does not exist.
    LostSession,
    StartAfterStop,
    /// A session that failed though nothing was done to its shim.
    Failed,
    /// A session that did not come to its end.
    Stuck,
    /// Processes after the end.
    Survivor,
    /// Files without a session.
    Orphan,
    TooFewFaults,
    TooFewBytes,
}

/// Counts of a run. Shared by all that takes part.
#[derive(Debug)]
pub struct Report {
    began: Instant,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    faults: BTreeMap<Fault, u64>,
    violations: BTreeMap<Violation, u64>,
    counts: BTreeMap<&'static str, u64>,
    notices: Vec<String>,
    timeline: Vec<String>,
}

impl Default for Report {
    fn default() -> Self {
        Self { began: Instant::now(), inner: Mutex::default() }
    }
}

impl Report {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line to the timeline.
    pub fn note(&self, line: impl fmt::Display) {
        let at = self.began.elapsed().as_secs_f64();
        self.inner().timeline.push(format!("{at:9.3} {line}"));
    }

    /// Something was done to the system.
    pub fn fault(&self, fault: Fault, how: impl fmt::Display) {
        self.note(format_args!("fault {fault:?}: {how}"));
        *self.inner().faults.entry(fault).or_default() += 1;
    }

    /// Something was that must never be.
    pub fn violation(&self, violation: Violation, what: impl fmt::Display) {
        self.note(format_args!("VIOLATION {violation:?}: {what}"));
        *self.inner().violations.entry(violation).or_default() += 1;
    }

    /// Adds to a count.
    pub fn count(&self, name: &'static str, more: u64) {
        *self.inner().counts.entry(name).or_default() += more;
    }

    pub fn counted(&self, name: &'static str) -> u64 {
        self.inner().counts.get(name).copied().unwrap_or_default()
    }

    /// Something that could not be tried here; stands below the table.
    pub fn skipped(&self, what: &str) {
        self.count("skipped", 1);
        self.inner().notices.push(format!("skipped: {what}"));
    }

    /// How often this was done.
    pub fn faults(&self, fault: Fault) -> u64 {
        self.inner().faults.get(&fault).copied().unwrap_or_default()
    }

    /// Whether nothing was that must never be.
    pub fn is_clean(&self) -> bool {
        self.inner().violations.is_empty()
    }

    /// The end of the timeline.
    pub fn timeline(&self) -> String {
        let inner = self.inner();
        let shown = &inner.timeline[inner.timeline.len().saturating_sub(TIMELINE_SHOWN)..];
        // What went wrong must not be cut off by what went on after it.
        let cut = inner.timeline.len() - shown.len();
        let earlier = inner.timeline[..cut].iter().filter(|line| line.contains("VIOLATION"));
        earlier.chain(shown).fold(String::new(), |mut text, line| {
            let _ = writeln!(text, "{line}");
            text
        })
    }

    /// All of it.
    pub fn whole_timeline(&self) -> String {
        self.inner().timeline.join("\n")
    }

    /// The table.
    pub fn table(&self, seed: u64) -> String {
        let inner = self.inner();
        let mut text = format!("chaos, seed {seed}, {:.0} s\n", self.began.elapsed().as_secs_f64());
        let mut row = |name: &str, figure: u64| {
            let _ = writeln!(text, "  {name:<34}{figure:>16}");
        };
        let fault = |fault| inner.faults.get(&fault).copied().unwrap_or_default();
        row("faults: worker killed", fault(Fault::KillWorker));
        row("faults: controller killed", fault(Fault::KillController));
        row("faults: gateway killed", fault(Fault::KillGateway));
        row("faults: shim killed", fault(Fault::KillShim));
        row("faults: connection", fault(Fault::Connection));
        row("faults: worker disk filled", fault(Fault::FillWorkerDisk));
        row("faults: controller disk filled", fault(Fault::FillControllerDisk));
        for (name, figure) in &inner.counts {
            row(name, *figure);
        }
        let found = |violation| inner.violations.get(&violation).copied().unwrap_or_default();
        row("differences", found(Violation::Difference));
        row("double starts", found(Violation::DoubleStart));
        row("two alive", found(Violation::TwoAlive));
        row("double answers", found(Violation::DoubleAnswer));
        row("lost answers", found(Violation::LostAnswer));
        row("double messages", found(Violation::DoubleMessage));
        row("lost messages", found(Violation::LostMessage));
        row("lost sessions", found(Violation::LostSession));
        row("starts after a stop", found(Violation::StartAfterStop));
        row("failed without a cause", found(Violation::Failed));
        row("stuck", found(Violation::Stuck));
        row("survivors", found(Violation::Survivor));
        row("orphans", found(Violation::Orphan));
        row("kinds of fault injected too rarely", found(Violation::TooFewFaults));
        row("bytes compared too few", found(Violation::TooFewBytes));
        for notice in &inner.notices {
            let _ = writeln!(text, "  {notice}");
        }
        text
    }
}

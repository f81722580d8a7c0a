//! Sessions side by side, one after the other in each lane, until enough was done.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use muster_runtime::task;

use crate::{plan::Plan, run::Run, session};

/// Sessions up to this size are read by pages, too.
const BY_PAGES: u64 = 300_000;

/// How much is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Sessions side by side.
    pub lanes: u64,
    /// Of output, over all sessions.
    pub bytes: u64,
    /// Of output of one session, about.
    pub session_bytes: u64,
}

/// Runs until the faults are done and the bytes are compared. Sessions that do not end are in the report.
pub async fn run(run: &Arc<Run>, effort: Effort) {
    let next = Arc::new(AtomicU64::new(0));
    let lanes: Vec<_> = (0..effort.lanes)
        .map(|_| {
            let (run, next) = (Arc::clone(run), Arc::clone(&next));
            task::spawn("chaos-lane", async move { lane(&run, &next, effort).await })
        })
        .collect();
    for lane in lanes {
        if let Err(error) = lane.await {
            run.report.note(format_args!("a lane of the load ended: {error}"));
        }
    }
}

async fn lane(run: &Arc<Run>, next: &AtomicU64, effort: Effort) {
    while !run.is_broken()
        && (run.has_faults_to_come() || run.report.counted("bytes compared") < effort.bytes)
    {
        let number = next.fetch_add(1, Ordering::SeqCst);
        // Some are small: they start and end between two faults.
        let enough = run.report.counted("bytes compared") >= effort.bytes;
        let small = enough || number.is_multiple_of(4);
        let bytes = if small { BY_PAGES / 6 } else { effort.session_bytes };
        let plan = Plan::new(run.seed, number, bytes);
        if let Err(error) = session::play(run, &plan, small).await {
            run.report.note(format_args!("{}: {error:#}", plan.title));
            run.report.count("sessions given up", 1);
            if run.report.counted("sessions given up") >= 2 * effort.lanes {
                return;
            }
        }
    }
}

//! Fifty sessions at once in one repository, over and over: each gets a worktree of its own.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use anyhow::Context as _;
use futures::future::join_all;
use muster_harness::{
    fleet::TestFleet,
    scenario::{Turn, scripted_prompt},
};
use serde_json::json;

use crate::{
    leftovers,
    report::{Report, Violation},
    run::Run,
};

/// At once.
const SESSIONS: usize = 50;
const LIMIT: Duration = Duration::from_secs(180);

/// Runs so many rounds.
///
/// # Errors
/// When the fleet does not come up.
pub async fn run(
    report: &Arc<Report>,
    builder: muster_harness::fleet::FleetBuilder,
    seed: u64,
    rounds: u64,
) -> anyhow::Result<()> {
    let fleet: TestFleet = builder.slots(64).start().await?;
    let run = Run::new(seed, &fleet, Arc::clone(report)).await?;
    for round in 0..rounds {
        let sessions = join_all((0..SESSIONS).map(|number| one(&run, round, number))).await;
        let mut paths = BTreeSet::new();
        for session in sessions {
            match session {
                Ok(path) if paths.insert(path.clone()) => report.count("worktrees spawned at once", 1),
                Ok(path) => report.violation(Violation::DoubleStart, format_args!("{path} was given twice")),
                Err(error) => report.violation(Violation::Failed, format_args!("{error:#}")),
            }
        }
        report.note(format_args!("round {round}: {} of {SESSIONS} worktrees", paths.len()));
    }
    report.count("worktrees asked for", rounds * SESSIONS as u64);
    leftovers::check(&run, &fleet).await?;
    run.close_gateway().await;
    end(report, fleet);
    Ok(())
}

/// Ends a fleet, which must leave no process.
pub fn end(report: &Report, fleet: TestFleet) {
    if let Err(survivors) = fleet.end() {
        for survivor in survivors {
            report.violation(Violation::Survivor, format_args!("after the end: {survivor:?}"));
        }
    }
}

/// Spawns, waits and archives. Gives the workspace.
async fn one(run: &Run, round: u64, number: usize) -> anyhow::Result<String> {
    let title = format!("tree {round} {number}");
    let prompt = scripted_prompt(&title, &[Turn::text("there")]);
    let spawned = run.ok("spawn_session", &json!({ "prompt": prompt, "title": title }), LIMIT).await?;
    let handle = spawned["sessionId"].as_str().context("no session id")?.to_owned();
    let ask = json!({ "sessionId": handle });
    loop {
        let wait = json!({ "sessionId": handle, "timeoutSeconds": 20 });
        let waited = run.ok("wait_for_completion", &wait, LIMIT).await?;
        if waited["timedOut"] == false {
            anyhow::ensure!(waited["ready"][0]["status"] == "completed", "{waited}");
            break;
        }
    }
    let status = run.ok("get_session_status", &ask, LIMIT).await?;
    run.acknowledged(status["id"].as_str().context("no id")?, &handle);
    let path = status["workspace"]["path"].as_str().context("no workspace")?.to_owned();
    run.ok("archive_session", &ask, LIMIT).await?;
    Ok(path)
}

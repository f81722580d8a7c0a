//! The same kills with the real claude and the offline model, at the two moments that hurt: in the middle of
//! a turn, and while it asks. The witness is what its commands did: each appends a line, once.

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use muster_harness::{
    fleet::{FleetBuilder, TestFleet},
    scenario::{Turn, scripted_prompt},
};
use serde_json::{Value, json};

use crate::{
    leftovers,
    report::{Fault, Report, Violation},
    run::Run,
    worktrees,
};

const CALL: Duration = Duration::from_secs(90);

/// Kills worker and controller in turn, `kills` times each.
///
/// # Errors
/// When the fleet does not come up, or not again.
pub async fn run(report: &Arc<Report>, builder: FleetBuilder, seed: u64, kills: u64) -> anyhow::Result<()> {
    let mut fleet = builder.start().await?;
    let run = Run::new(seed, &fleet, Arc::clone(report)).await?;
    for number in 0..2 * kills {
        // Over four rounds every process is killed at every moment.
        let (fault, asking) =
            (if number % 2 == 0 { Fault::KillWorker } else { Fault::KillController }, number / 2 % 2 == 0);
        if let Err(error) = one(&run, &mut fleet, number, fault, asking).await {
            report.violation(Violation::Stuck, format_args!("real claude, {number}: {error:#}"));
        }
    }
    leftovers::check(&run, &fleet).await?;
    run.close_gateway().await;
    worktrees::end(report, fleet);
    Ok(())
}

async fn one(
    run: &Run,
    fleet: &mut TestFleet,
    number: u64,
    fault: Fault,
    asking: bool,
) -> anyhow::Result<()> {
    let done = run.folder.join(format!("done-{number}"));
    let (go, waiting) =
        (run.folder.join(format!("go-{number}")), run.folder.join(format!("waiting-{number}")));
    let shown = |path: &Path| path.display().to_string();
    let command = format!(
        "echo once >> {}; touch {}; until [ -e {} ]; do sleep 0.05; done",
        shown(&done),
        shown(&waiting),
        shown(&go)
    );
    let turns = [Turn::bash(command), Turn::text(format!("survived {number}"))];
    let title = format!("real {number}");
    let mut ask = json!({ "prompt": scripted_prompt(&title, &turns), "title": title, "requestId": title });
    if !asking {
        ask["allowedTools"] = json!(["Bash"]);
    }
    let spawned = run.ok("spawn_session", &ask, CALL).await?;
    let handle = spawned["sessionId"].as_str().context("no session id")?.to_owned();
    let status = run.ok("get_session_status", &json!({ "sessionId": handle }), CALL).await?;
    run.acknowledged(status["id"].as_str().context("no id")?, &handle);
    run.report.count("sessions", 1);
    let moment = if asking {
        settled(run, &handle, "needs_attention").await?;
        "while it asks"
    } else {
        appears(&waiting).await?;
        "in mid-turn"
    };
    if fault == Fault::KillWorker {
        fleet.kill_worker(0);
    } else {
        fleet.kill_controller();
    }
    run.report.fault(fault, moment);
    if !asking {
        fs::write(&go, "")?;
    }
    if fault == Fault::KillWorker {
        fleet.start_worker(0)?;
    } else {
        fleet.start_controller().await?;
    }
    if asking {
        let ready = settled(run, &handle, "needs_attention").await?;
        let answer = json!({ "sessionId": handle, "decision": "allow", "requestId": "allow",
            "attentionId": ready["attention"]["attentionId"] });
        run.ok("send_input", &answer, CALL).await?;
        run.report.count("answers", 1);
        fs::write(&go, "")?;
    }
    settled(run, &handle, "completed").await?;
    let said = json!({ "sessionId": handle, "format": "result" });
    let said = run.ok("get_session_output", &said, CALL).await?;
    if said["text"] != format!("survived {number}") {
        run.report.violation(Violation::Difference, format_args!("{handle}: {said}"));
    }
    let times = fs::read_to_string(&done).unwrap_or_default().lines().count();
    if times != 1 {
        run.report.violation(Violation::DoubleStart, format_args!("{handle}: the command ran {times} times"));
    }
    run.ok("archive_session", &json!({ "sessionId": handle }), CALL).await?;
    Ok(())
}

/// Waits for this status. Another end is an error.
async fn settled(run: &Run, handle: &str, status: &str) -> anyhow::Result<Value> {
    let deadline = Instant::now() + CALL;
    loop {
        let wait = json!({ "sessionId": handle, "timeoutSeconds": 5 });
        let waited = run.ok("wait_for_completion", &wait, CALL).await?;
        let ready = &waited["ready"][0];
        if ready["status"] == status {
            return Ok(ready.clone());
        }
        let ended =
            ["failed", "stopped", "completed"].contains(&ready["status"].as_str().unwrap_or_default());
        ensure!(!ended, "{handle} should be {status} and is {ready}");
        if Instant::now() > deadline {
            bail!("{handle} is not {status} after {CALL:?}: {waited}");
        }
    }
}

async fn appears(path: &Path) -> anyhow::Result<()> {
    let deadline = Instant::now() + CALL;
    while !path.exists() {
        ensure!(Instant::now() < deadline, "{} does not appear", path.display());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

//! `muster doctor`: looks at what a machine needs for a farm, and says how to mend what is missing. Changes nothing.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use clap::Args;
use muster_proto::v1::{ListWorkersRequest, WorkerHealth};
use muster_worker::join;
use serde_json::{Value, json};

use crate::{
    address,
    args::Remote,
    client::Client,
    failure::{Exit, Failure},
    output::{Cell, Output, Table, Tone},
    roles, show,
};

/// A program that does not tell its version in this time is no good.
const PROGRAM_PATIENCE: Duration = Duration::from_secs(10);
/// With less than this free, sessions soon stop.
const DISK_WANTED: u64 = 2 << 30;
/// Clocks further apart make certificates begin late or end early.
const SKEW: u64 = 60;

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    remote: Remote,
}

/// What was looked at and found.
struct Finding {
    what: &'static str,
    good: bool,
    found: String,
    /// How to mend it; empty when there is nothing to mend.
    mend: &'static str,
}

/// Looks. Ends with 1 when something has to be mended.
pub async fn run(options: Options) -> Result<Exit, Failure> {
    let output = Output::new(options.remote.json);
    let mut findings = vec![claude(), git(), disk(), membership()];
    findings.extend(farm(&options.remote).await);
    let good = findings.iter().all(|finding| finding.good);
    if output.json {
        let checks: Value = findings
            .iter()
            .map(|it| json!({ "check": it.what, "ok": it.good, "found": it.found, "mend": mend(it) }))
            .collect();
        output.document(&json!({ "ok": good, "checks": checks }))?;
    } else {
        let mut table = Table::new(&["CHECK", "STATE", "FOUND", "MEND"]);
        for it in &findings {
            let (state, tone) = if it.good { ("ok", Tone::Good) } else { ("bad", Tone::Bad) };
            table.row(vec![
                Cell::new(it.what),
                Cell::new(state).tone(tone),
                Cell::new(&it.found),
                Cell::new(mend(it).unwrap_or_default()),
            ]);
        }
        output.table(&table)?;
    }
    Ok(if good { Exit::Ok } else { Exit::Failed })
}

fn mend(finding: &Finding) -> Option<&'static str> {
    (!finding.good).then_some(finding.mend)
}

fn claude() -> Finding {
    let mend = "npm install -g @anthropic-ai/claude-code, then run `claude` once to log in";
    match roles::find_claude(None) {
        Ok(program) => program_version("claude", &program, mend),
        Err(failure) => Finding { what: "claude", good: false, found: failure.what, mend },
    }
}

fn git() -> Finding {
    program_version("git", Path::new("git"), "install git: worktrees, diff and fetch need it")
}

fn program_version(what: &'static str, program: &Path, mend: &'static str) -> Finding {
    let found = version_of(program);
    let good = found.is_ok();
    Finding { what, good, found: show::line(&found.unwrap_or_else(|why| why)), mend }
}

/// The first line of `--version`, within a time.
fn version_of(program: &Path) -> Result<String, String> {
    let spawned = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut child = spawned.map_err(|error| format!("{} cannot be run: {error}", program.display()))?;
    let deadline = Instant::now() + PROGRAM_PATIENCE;
    while child.try_wait().map_err(|error| error.to_string())?.is_none() {
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("{} does not answer --version", program.display()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    match (output.status.success(), text.lines().next()) {
        (true, Some(line)) => Ok(line.to_owned()),
        _ => Err(format!("{} --version ended with {}", program.display(), output.status)),
    }
}

fn disk() -> Finding {
    let (what, mend) = ("disk", "make room, or put the state folder elsewhere with --state-dir");
    let found = address::state_root().map_err(|failure| failure.what).and_then(|root| {
        let there = root.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
        let about = nix::sys::statvfs::statvfs(there).map_err(|error| error.to_string())?;
        let free = about.blocks_available() * about.fragment_size();
        Ok((free, format!("{} free for {}", show::size(free), root.display())))
    });
    match found {
        Ok((free, found)) => Finding { what, good: free >= DISK_WANTED, found, mend },
        Err(found) => Finding { what, good: false, found, mend },
    }
}

/// The identity a machine joined with; none is fine.
fn membership() -> Finding {
    let what = "membership";
    let mend = "have a token made with `muster token create`, and run `muster worker join` again";
    let folder = address::state_root().map(|root| root.join("joined"));
    let Some(folder) = folder.ok().filter(|folder| join::has_joined(folder)) else {
        let found = "this machine has not joined a farm elsewhere".to_owned();
        return Finding { what, good: true, found, mend };
    };
    match join::Membership::load(&folder) {
        Ok(Some(it)) => {
            let found = format!("this machine is worker {} of the farm at {}", it.worker, it.address);
            Finding { what, good: true, found: show::line(&found), mend }
        }
        Ok(None) => Finding { what, good: true, found: "none".to_owned(), mend },
        Err(error) => Finding { what, good: false, found: show::line(&error.to_string()), mend },
    }
}

/// What only a controller can tell: that it answers, that its workers do, and of which version they are.
async fn farm(remote: &Remote) -> Vec<Finding> {
    let unreachable = |found: String| Finding {
        what: "controller",
        good: false,
        found,
        mend: "start one with `muster up`, or check --controller, --controller-root and the token",
    };
    let mut client = match Client::new(remote) {
        Ok(client) => client,
        Err(failure) => return vec![unreachable(failure.what)],
    };
    let workers = match client.admin.list_workers(Client::call(ListWorkersRequest {})).await {
        Ok(response) => response.into_inner().workers,
        Err(status) => return vec![unreachable(client.failed(&status).what)],
    };
    let mut findings = vec![Finding {
        what: "controller",
        good: true,
        found: format!("it answers; {} workers", workers.len()),
        mend: "",
    }];
    let now = std::time::SystemTime::now();
    for worker in &workers {
        let connected = worker.health() == WorkerHealth::Connected;
        let ours = worker.version == env!("CARGO_PKG_VERSION");
        let seen = worker.last_seen_at.as_ref().map(muster_proto::time::to_system);
        // A worker that was just heard, by the controller's clock, in our future: the clocks differ.
        let ahead = seen.and_then(|seen| seen.duration_since(now).ok()).map_or(0, |ahead| ahead.as_secs());
        let name = show::line(&worker.worker);
        let (good, found, mend) = if !connected {
            let found = format!("{name} is {}", show::worker_health(worker.health()));
            (false, found, "look at that machine: is `muster worker` running, and its network up?")
        } else if ahead > SKEW {
            (false, format!("the controller's clock is {ahead} s ahead of this one"), "set both clocks (NTP)")
        } else if worker.claude_version.is_empty() {
            (false, format!("{name} has no claude"), "install claude there")
        } else {
            let note =
                if ours { String::new() } else { format!(", version {}", show::line(&worker.version)) };
            (true, format!("{name} is connected{note}, claude {}", show::line(&worker.claude_version)), "")
        };
        findings.push(Finding { what: "worker", good, found, mend });
    }
    findings
}

//! What is there after every session has been archived: nothing but what says so.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use muster_harness::{fleet::TestFleet, processes, scratch_repo::git};
use serde_json::json;

use crate::{report::Violation, run::Run};

/// What may pass until everything is cleaned up.
const LIMIT: Duration = Duration::from_secs(30);
const CALL: Duration = Duration::from_secs(60);

/// Checks records, processes and disk.
///
/// # Errors
/// When the system does not answer.
pub async fn check(run: &Run, fleet: &TestFleet) -> anyhow::Result<()> {
    every_session_is_known(run).await?;
    let deadline = Instant::now() + LIMIT;
    loop {
        let (survivors, orphans) = (survivors(run, fleet).await, orphans(run, fleet));
        if survivors.is_empty() && orphans.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            for survivor in survivors {
                run.report.violation(Violation::Survivor, format_args!("{survivor:?}"));
            }
            for orphan in orphans {
                run.report.violation(Violation::Orphan, orphan);
            }
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Exactly the sessions that were acknowledged exist.
async fn every_session_is_known(run: &Run) -> anyhow::Result<()> {
    let mut known = BTreeSet::new();
    let mut cursor = String::new();
    loop {
        let mut ask = json!({ "includeArchived": true, "limit": 100 });
        if !cursor.is_empty() {
            ask["cursor"] = json!(cursor);
        }
        let page = run.ok("list_sessions", &ask, CALL).await?;
        for session in page["sessions"].as_array().into_iter().flatten() {
            known.insert(session["id"].as_str().unwrap_or_default().to_owned());
        }
        match page["nextCursor"].as_str() {
            Some(next) if !next.is_empty() => next.clone_into(&mut cursor),
            _ => break,
        }
    }
    let spawned: BTreeSet<String> = run.spawned().into_keys().collect();
    for lost in spawned.difference(&known) {
        run.report.violation(Violation::LostSession, lost);
    }
    for unknown in known.difference(&spawned) {
        run.report.violation(Violation::DoubleStart, format_args!("{unknown} was never acknowledged"));
    }
    Ok(())
}

/// Processes beside the controller, the workers and the gateway.
async fn survivors(run: &Run, fleet: &TestFleet) -> Vec<processes::Survivor> {
    let own = [fleet.controller().map(|process| process.pid()), fleet.worker(0).map(|process| process.pid())];
    let mut own: BTreeSet<u32> = own.into_iter().flatten().collect();
    own.extend(run.gateway_pid().await);
    let mut left = processes::of_fleet(fleet.id(), fleet.folder());
    left.retain(|process| !own.contains(&process.pid.cast_unsigned()));
    left
}

/// Files that belong to no session that has them.
fn orphans(run: &Run, fleet: &TestFleet) -> Vec<String> {
    let worker = fleet.folder().join("w1");
    let mut orphans: Vec<String> = Vec::new();
    let in_folder = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
    orphans.extend(in_folder(&worker.join("worktrees")).map(|entry| format!("worktree {:?}", entry.path())));
    let spawned = run.spawned();
    for session in in_folder(&worker.join("sessions")) {
        if !spawned.contains_key(&*session.file_name().to_string_lossy()) {
            orphans.push(format!("session folder {:?}", session.path()));
        }
        orphans.extend(
            in_folder(&session.path())
                .filter(|entry| entry.file_name().to_string_lossy().starts_with("attempt-"))
                .map(|entry| format!("attempt of an archived session {:?}", entry.path())),
        );
    }
    walk(&worker, &mut |path, kind| {
        if kind.is_socket() {
            orphans.push(format!("socket {}", path.display()));
        }
    });
    let repo = fleet.repo().path();
    walk(&repo.join(".git"), &mut |path, _| {
        if path.extension().is_some_and(|kind| kind == "lock") {
            orphans.push(format!("lock {}", path.display()));
        }
    });
    let worktrees = git(repo, &["worktree", "list", "--porcelain"]).unwrap_or_default();
    let listed = worktrees.lines().filter(|line| line.starts_with("worktree ")).skip(1);
    orphans.extend(listed.map(|line| format!("listed by git: {line}")));
    let branches =
        git(repo, &["for-each-ref", "--format=%(refname:short)", "refs/heads"]).unwrap_or_default();
    let known = |branch: &str| spawned.values().any(|handle| branch.contains(handle.as_str()));
    orphans.extend(
        branches
            .lines()
            .filter(|branch| *branch != "main" && !known(branch))
            .map(|branch| format!("branch {branch}")),
    );
    orphans
}

fn walk(folder: &Path, visit: &mut impl FnMut(PathBuf, fs::FileType)) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            walk(&entry.path(), visit);
        }
        visit(entry.path(), kind);
    }
}

//! Many sessions at once, and more than there is room for.

use std::collections::BTreeSet;

use futures::future::join_all;
use muster_harness::{
    eventually::{DEADLINE, eventually},
    fleet::TestFleet,
    scenario::{Act, Turn},
};
use serde_json::{Value, json};

use crate::farm::Farm;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_spawned_at_once_in_one_repository_all_work() {
    let farm = Farm::build(TestFleet::builder().slots(50)).await;
    let turns = [Turn::bash("git rev-parse --abbrev-ref HEAD > branch.txt"), Turn::text("done")];
    let spawned = (0..50).map(|number| {
        let arguments = json!({ "allowedTools": ["Bash"], "labels": { "batch": "fifty" } });
        let turns = &turns;
        let farm = &farm;
        async move { farm.spawn(&format!("number {number}"), turns, arguments).await }
    });
    let sessions = join_all(spawned).await;
    assert_eq!(sessions.iter().collect::<BTreeSet<_>>().len(), 50, "every session has a name of its own");

    let waited =
        farm.ok("wait_for_completion", json!({ "sessionIds": sessions, "timeoutSeconds": 120 })).await;
    assert_eq!(waited["reason"], "completed", "{}", waited["next"]);
    let mut branches = BTreeSet::new();
    for session in &sessions {
        let status = farm.status(session).await;
        assert_eq!(status["status"], "completed", "{status}");
        let branch = std::fs::read_to_string(farm.workspace(session).await.join("branch.txt")).unwrap();
        assert_eq!(status["branch"], branch.trim(), "{status}");
        branches.insert(branch);
    }
    assert_eq!(branches.len(), 50);

    let mut listed = BTreeSet::new();
    let mut cursor = Value::Null;
    loop {
        let mut page = json!({ "labels": { "batch": "fifty" }, "status": ["completed"], "limit": 20 });
        if !cursor.is_null() {
            page["cursor"] = cursor;
        }
        let page = farm.ok("list_sessions", page).await;
        assert_eq!((&page["total"], &page["counts"]["completed"]), (&json!(50), &json!(50)), "{page}");
        let sessions = page["sessions"].as_array().expect("a list").iter();
        listed.extend(sessions.map(|session| session["sessionId"].as_str().unwrap_or_default().to_owned()));
        cursor = page["nextCursor"].clone();
        if cursor.is_null() {
            break;
        }
    }
    assert_eq!(listed, sessions.into_iter().collect());
    farm.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_farm_queues_and_takes_up_in_order() {
    let farm = Farm::build(TestFleet::builder().slots(1)).await;
    let turns = [Turn::bash("echo x > x"), Turn::text("done")];
    let first = farm.spawn("first", &turns, json!({})).await;
    farm.asked(&first, "permission").await;
    let mut others = Vec::new();
    for name in ["second", "third", "fourth"] {
        others.push(farm.spawn(name, &turns, json!({})).await);
    }
    let reason = |session: String| {
        let farm = &farm;
        eventually("the scheduler has said why it waits", DEADLINE, move || {
            let session = session.clone();
            async move {
                let status = farm.status(&session).await;
                assert_eq!(status["status"], "queued", "{status}");
                let explained = status["queueReason"].as_str().is_some_and(|reason| !reason.is_empty());
                explained.then_some(status)
            }
        })
    };
    for (index, session) in others.iter().enumerate() {
        let status = reason(session.clone()).await;
        assert_eq!(status["queuePosition"].as_u64(), Some(index as u64 + 1), "{status}");
    }
    // One that waits for an answer is listed first.
    let listed = farm.ok("list_sessions", json!({})).await;
    assert_eq!(listed["sessions"][0]["sessionId"], first.as_str(), "{listed}");
    assert_eq!(listed["counts"]["queued"], 3, "{listed}");

    // A queued session stops without ever having run.
    let third = others.remove(1);
    farm.ok("stop_session", json!({ "sessionId": third })).await;
    assert_eq!(farm.settled(&third).await["status"], "stopped");

    // Each takes the place of the one before, in the order they came.
    let mut before = first;
    for session in others {
        farm.send(&before, json!({ "decision": "allow" })).await;
        farm.ended(&before, "completed").await;
        farm.asked(&session, "permission").await;
        before = session;
    }
    farm.send(&before, json!({ "decision": "allow" })).await;
    farm.ended(&before, "completed").await;
    farm.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_that_misbehave_end_in_a_clear_failure() {
    let farm = Farm::build(TestFleet::builder()).await;
    let cases: [(&str, Act, &str); 3] = [
        ("exit", Act::Exit(3), "exited_without_result"),
        ("crash", Act::Signal(11), ""),
        ("daemon", Act::Daemon(300), ""),
    ];
    join_all(cases.map(|(name, act, reason)| {
        let farm = &farm;
        async move {
            let daemon = matches!(act, Act::Daemon(_));
            let session = farm.spawn(name, &[Turn::act(act), Turn::text("alive")], json!({})).await;
            let ended = farm.ended(&session, if daemon { "completed" } else { "failed" }).await;
            if !reason.is_empty() {
                assert_eq!(ended["end"]["reason"], reason, "{ended}");
            }
            match name {
                "exit" => assert_eq!(ended["end"]["exitCode"], 3, "{ended}"),
                "crash" => assert_eq!(ended["end"]["signal"], 11, "{ended}"),
                _ => {}
            }
        }
    }))
    .await;
    // A child that left its family would outlive everything: the farm must have ended it.
    farm.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_ignores_signals_is_stopped_all_the_same() {
    let farm = Farm::build(TestFleet::builder()).await;
    let turns = [Turn::act(Act::IgnoreSigterm), Turn::bash("touch deaf"), Turn::act(Act::Hang)];
    let session = farm.spawn("deaf", &turns, json!({ "allowedTools": ["Bash"] })).await;
    farm.file_appears(&session, "deaf").await;
    farm.ok("stop_session", json!({ "sessionId": session })).await;
    farm.ended(&session, "stopped").await;
    farm.finish();
}

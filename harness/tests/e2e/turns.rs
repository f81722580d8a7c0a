//! Turns that are cut off, stopped, continued and queued.

use futures::FutureExt as _;
use muster_harness::{
    eventually::{DEADLINE, eventually},
    fleet::Claude,
    processes,
    scenario::{Turn, scripted_prompt},
};
use serde_json::json;

use crate::{
    farm::{Farm, side_by_side},
    with_every_claude,
};

with_every_claude!(turns);

async fn turns(claude: Claude) {
    let farm = Farm::with(claude).await;
    side_by_side(vec![
        interrupted(&farm).boxed(),
        stopped(&farm).boxed(),
        continued(&farm).boxed(),
        queued_behind_a_turn(&farm).boxed(),
        turns_limited(&farm).boxed(),
        cost_limited(&farm).boxed(),
    ])
    .await;
    farm.finish();
}

/// A tool that says where it is and then takes long. It is no bare `sleep`: newer claudes refuse that.
fn long_tool(mark: &str) -> Turn {
    Turn::bash(format!("touch {mark}; perl -e 'sleep 77'"))
}

async fn tools_gone(farm: &Farm, session: &str) {
    let workspace = farm.workspace(session).await;
    let id = farm.fleet.id();
    eventually("no tool is left in the workspace", DEADLINE, || async {
        let here = |survivor: &processes::Survivor| {
            let cwd = std::fs::read_link(format!("/proc/{}/cwd", survivor.pid));
            cwd.is_ok_and(|cwd| cwd.starts_with(&workspace)) && survivor.command.contains("sleep 77")
        };
        (!processes::of_fleet(id, farm.fleet.folder()).iter().any(here)).then_some(())
    })
    .await;
}

async fn interrupted(farm: &Farm) {
    let turns = [long_tool("begun"), Turn::text("never said")];
    let session = farm.spawn("interrupt", &turns, json!({ "allowedTools": ["Bash"] })).await;
    farm.file_appears(&session, "begun").await;
    farm.send(&session, json!({ "interrupt": true })).await;
    let settled = farm.settled(&session).await;
    assert_eq!(settled["end"]["reason"], "interrupted", "{settled}");
    tools_gone(farm, &session).await;

    // It can go on.
    let next = scripted_prompt("go on", &[Turn::text("went on")]);
    farm.send(&session, json!({ "text": next })).await;
    farm.ended(&session, "completed").await;
    assert_eq!(farm.result(&session).await, "went on");
}

async fn stopped(farm: &Farm) {
    let turns = [long_tool("begun"), Turn::text("never said")];
    let session = farm.spawn("stop", &turns, json!({ "allowedTools": ["Bash"] })).await;
    farm.file_appears(&session, "begun").await;
    std::fs::write(farm.workspace(&session).await.join("precious.txt"), "uncommitted").unwrap();
    let stopped = farm.ok("stop_session", json!({ "sessionId": session, "reason": "enough" })).await;
    assert_eq!(stopped["changed"], true, "{stopped}");
    let ended = farm.ended(&session, "stopped").await;
    assert_eq!(ended["end"]["reason"], "stopped", "{ended}");
    tools_gone(farm, &session).await;
    assert!(farm.workspace(&session).await.join("precious.txt").exists(), "stop must not lose work");

    let again = farm.ok("stop_session", json!({ "sessionId": session })).await;
    assert_eq!(again["changed"], false, "{again}");
    let refused = farm.refused("send_input", json!({ "sessionId": session, "text": "rise" })).await;
    assert!(refused.starts_with("session_ended: "), "{refused}");
}

async fn continued(farm: &Farm) {
    let first = [Turn::bash("echo one > one.txt"), Turn::text("first answer")];
    let session = farm.spawn("continue", &first, json!({ "allowedTools": ["Bash"] })).await;
    let ended = farm.ended(&session, "completed").await;
    let (branch, workspace) = (ended["branch"].clone(), farm.workspace(&session).await);

    let next =
        scripted_prompt("and more", &[Turn::bash("cat one.txt > two.txt"), Turn::text("second answer")]);
    farm.send(&session, json!({ "text": next })).await;
    let ended = farm.ended(&session, "completed").await;
    assert_eq!(farm.result(&session).await, "second answer");
    assert_eq!((&ended["branch"], ended["turns"].as_u64()), (&branch, Some(2)), "{ended}");
    assert_eq!(farm.workspace(&session).await, workspace);
    assert_eq!(std::fs::read_to_string(workspace.join("two.txt")).unwrap(), "one\n");

    // The model is shown the whole conversation: claude was resumed, not started anew.
    let asked = farm.fleet.api().log().all();
    let of_second = asked.iter().rfind(|record| record.user_texts().iter().any(|text| text == &next));
    if let Some(record) = of_second {
        let first_prompt = scripted_prompt("continue", &first);
        assert!(record.user_texts().contains(&first_prompt), "the first prompt must be in the history");
    }
}

async fn queued_behind_a_turn(farm: &Farm) {
    let patient = "touch waiting; until [ -e go ]; do perl -e 'select undef,undef,undef,0.05'; done";
    let turns = [Turn::bash(patient), Turn::text("first")];
    let session = farm.spawn("queue", &turns, json!({ "allowedTools": ["Bash"] })).await;
    let waiting = farm.file_appears(&session, "waiting").await;
    let next = scripted_prompt("the next message", &[Turn::text("second")]);
    let sent = farm.send(&session, json!({ "text": next, "requestId": "m-1" })).await;
    assert_eq!(sent["delivered"], "after_turn", "{sent}");
    let repeated = farm.send(&session, json!({ "text": next, "requestId": "m-1" })).await;
    assert_eq!(repeated["replayed"], true, "{repeated}");
    std::fs::write(waiting.with_file_name("go"), "").unwrap();
    let both = eventually("both turns are over", DEADLINE, || async {
        let ended = farm.ended(&session, "completed").await;
        (ended["turns"] == 2).then_some(ended)
    });
    both.await;
    assert_eq!(farm.result(&session).await, "second");
}

async fn turns_limited(farm: &Farm) {
    let turns = [Turn { repeat: 5, ..Turn::bash("true") }, Turn::text("never said")];
    let session = farm.spawn("limit", &turns, json!({ "maxTurns": 2, "allowedTools": ["Bash"] })).await;
    let ended = farm.ended(&session, "failed").await;
    assert_eq!(ended["end"]["reason"], "turn_failed", "{ended}");
    assert!(ended["end"]["message"].as_str().is_some_and(|message| message.contains("turns")), "{ended}");
}

async fn cost_limited(farm: &Farm) {
    let dear = serde_json::from_value(json!({ "output_tokens": 100_000 })).unwrap();
    let turns = [Turn { usage: dear, ..Turn::bash("true") }, Turn::text("never said")];
    let limited = json!({ "maxBudgetUsd": 0.5, "allowedTools": ["Bash"] });
    let session = farm.spawn("cost", &turns, limited).await;
    let ended = farm.ended(&session, "failed").await;
    assert_eq!(ended["end"]["reason"], "turn_failed", "{ended}");
    assert!(ended["end"]["message"].as_str().is_some_and(|message| message.contains("budget")), "{ended}");
    assert!(ended["costUsd"].as_f64().is_some_and(|cost| cost > 0.5), "{ended}");
}

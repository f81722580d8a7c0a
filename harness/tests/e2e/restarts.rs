//! Processes that are killed and come back: sessions go on as if nothing had been.

use muster_harness::{
    eventually::{DEADLINE, eventually},
    fleet::TestFleet,
    scenario::{Act, Turn, scripted_prompt},
};
use serde_json::json;

use crate::farm::Farm;

/// A tool that waits for the file `go`, so that a test decides when it ends.
fn patient() -> Turn {
    Turn::bash("touch waiting; until [ -e go ]; do perl -e 'select undef,undef,undef,0.05'; done")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_outlives_its_worker() {
    let mut farm = Farm::build(TestFleet::builder()).await;
    let turns =
        [patient(), Turn::act(Act::Lines { count: 50, width: 10, interval_ms: 0 }), Turn::text("survived")];
    let busy = farm.spawn("busy", &turns, json!({ "allowedTools": ["Bash"] })).await;
    let asking = farm.spawn("asking", &[Turn::bash("touch asked"), Turn::text("answered")], json!({})).await;
    let waiting = farm.file_appears(&busy, "waiting").await;
    let attention = farm.asked(&asking, "permission").await;

    farm.fleet.kill_worker(0);
    eventually("the farm says that nobody hears of it", DEADLINE, || async {
        (farm.status(&busy).await["status"] == "unreachable").then_some(())
    })
    .await;
    // Ends while nobody watches: its shim keeps what it says.
    std::fs::write(waiting.with_file_name("go"), "").unwrap();
    farm.fleet.start_worker(0).unwrap();

    farm.ended(&busy, "completed").await;
    assert_eq!(farm.result(&busy).await, "survived");
    let events = farm.events(&busy).await;
    let line = |number: u32| format!("line {number} ");
    let said = |number| events.iter().filter(|event| event.to_string().contains(&line(number))).count();
    assert!((0..50).all(|number| said(number) == 1), "every line is there, once");

    let still = farm.asked(&asking, "permission").await;
    assert_eq!(still["attentionId"], attention["attentionId"], "it is the same question");
    farm.send(&asking, json!({ "decision": "allow" })).await;
    farm.ended(&asking, "completed").await;
    assert!(farm.workspace(&asking).await.join("asked").exists());
    farm.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_with_the_controller() {
    let mut farm = Farm::build(TestFleet::builder().slots(2)).await;
    let asks = [Turn::bash("touch asked"), Turn::text("answered")];
    let asking = farm.spawn("asking", &asks, json!({})).await;
    let busy =
        farm.spawn("busy", &[patient(), Turn::text("went on")], json!({ "allowedTools": ["Bash"] })).await;
    let waiting = farm.file_appears(&busy, "waiting").await;
    farm.asked(&asking, "permission").await;
    let queued = farm.spawn("queued", &[Turn::text("at last")], json!({ "requestId": "q-1" })).await;

    farm.fleet.kill_controller();
    std::fs::write(waiting.with_file_name("go"), "").unwrap();
    farm.fleet.start_controller().await.unwrap();

    // The gateway finds the controller again by itself; until then a call may fail.
    eventually("the gateway answers again", DEADLINE, || async {
        farm.gateway.ok("list_sessions", json!({})).await.ok()
    })
    .await;
    let repeated = json!({ "prompt": scripted_prompt("queued", &[Turn::text("at last")]), "title": "queued",
        "requestId": "q-1" });
    let repeated = farm.ok("spawn_session", repeated).await;
    assert_eq!((&repeated["sessionId"], &repeated["replayed"]), (&json!(queued), &json!(true)), "{repeated}");
    farm.ended(&busy, "completed").await;
    farm.ended(&queued, "completed").await;
    farm.asked(&asking, "permission").await;
    farm.send(&asking, json!({ "decision": "allow" })).await;
    farm.ended(&asking, "completed").await;
    farm.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_is_never_undone() {
    let mut farm = Farm::build(TestFleet::builder()).await;
    let session = farm.spawn("doomed", &[patient()], json!({ "allowedTools": ["Bash"] })).await;
    farm.file_appears(&session, "waiting").await;
    farm.fleet.kill_worker(0);
    let stopped = farm.ok("stop_session", json!({ "sessionId": session })).await;
    assert_eq!(stopped["changed"], true, "{stopped}");
    farm.fleet.kill_controller();
    farm.fleet.start_controller().await.unwrap();
    farm.fleet.start_worker(0).unwrap();
    eventually("the session is stopped", DEADLINE, || async {
        let status = farm.gateway.ok("get_session_status", json!({ "sessionId": session })).await.ok()?;
        (status["status"] == "stopped" && status["stopping"].is_null()).then_some(())
    })
    .await;
    farm.finish();
}

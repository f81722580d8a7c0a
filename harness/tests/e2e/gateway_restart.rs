//! The gateway is restarted while a real claude waits for a session: the orchestrator asks again and loses nothing.

use std::{fs, time::Duration};

use muster_harness::{
    eventually::eventually,
    fleet::{Claude, TestFleet},
    scenario::{Turn, scripted_prompt},
};
use serde_json::json;

use crate::{
    farm::Farm,
    front::{Front, call, of},
};

const TOOLS: &str = "mcp__muster__";
/// claude waits 90 s for an answer whose connection broke.
const PATIENCE: Duration = Duration::from_secs(180);
/// Times a model may have to ask again until the gateway is up.
const RETRIES: usize = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_2_1_197_outlives_a_gateway_that_restarts_in_the_middle_of_a_wait() {
    restarted(Claude::V2_1_197, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_latest_outlives_a_gateway_that_restarts_in_the_middle_of_a_wait() {
    restarted(Claude::Latest, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_latest_outlives_a_gateway_that_is_killed_in_the_middle_of_a_wait() {
    restarted(Claude::Latest, false).await;
}

async fn restarted(claude: Claude, orderly: bool) {
    let farm = Farm::build(TestFleet::builder().claude(Claude::Scripted)).await;
    let gateway = farm.fleet.http_gateway().await.expect("the gateway comes up");
    let (go, there) = (farm.fleet.folder().join("go"), farm.fleet.folder().join("there"));
    let hold = format!("touch '{}'; until [ -e '{}' ]; do sleep 0.1; done", there.display(), go.display());
    let work = [Turn::bash(hold), Turn::text("held on")];
    let session = of("spawn", "/sessionId");
    let call = |id: &str, tool: &str, arguments| call(TOOLS, id, tool, arguments);
    let wait =
        |id: &str| call(id, "wait_for_completion", json!({ "sessionId": session, "timeoutSeconds": 200 }));
    let spawn = json!({ "prompt": scripted_prompt("hold", &work), "allowedTools": ["Bash"] });
    let mut script = vec![call("spawn", "spawn_session", spawn), wait("first"), wait("second")];
    // The older release tells the model at once that nobody is there; a model asks again after a while.
    script.extend((0..RETRIES).map(|number| Turn {
        only_if_tool_result: Some("Unable to connect".to_owned()),
        delay_ms: 500,
        ..wait(&format!("retry_{number}"))
    }));
    script.push(call("result", "get_session_output", json!({ "sessionId": session, "format": "result" })));
    script.push(Turn::text(format!("it {}: {{{{tool_result:/ready/0/status}}}}", of("result", "/text"))));
    let server = json!({ "type": "http", "url": gateway.url(), "alwaysLoad": true });
    let front =
        Front::new(&farm, &claude, "front").server(&server).arguments(&["--allowedTools", "mcp__muster"]);
    let disturb = async {
        eventually("the session runs", PATIENCE, || async { there.exists().then_some(()) }).await;
        let waits = || async { told(&farm, "spawn").then_some(()) };
        eventually("the orchestrator waits", PATIENCE, waits).await;
        // From the model's answer to the call is a moment that nobody outside can see.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let again = gateway.restart(&farm.fleet, orderly).await.expect("the gateway comes up again");
        let asked_again = || async { told(&farm, "first").then_some(()) };
        eventually("the orchestrator is told and waits again", PATIENCE, asked_again).await;
        fs::write(&go, "").unwrap();
        again
    };
    let (said, gateway) = tokio::join!(front.play(&script), disturb);
    assert_eq!(said.result, "it held on: completed", "{said:#?}");
    assert_eq!(farm.ok("list_sessions", json!({})).await["total"], 1, "it was spawned once");
    drop(gateway);
    farm.finish();
}

/// Whether the model was told what this call gave: then it has ordered the next one.
fn told(farm: &Farm, id: &str) -> bool {
    let result = format!("\"tool_use_id\":\"toolu_{id}\"");
    farm.fleet.api().log().all().iter().any(|record| record.body.to_string().contains(&result))
}

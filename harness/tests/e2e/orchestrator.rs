//! The real claude in front: it has the gateway as its MCP server and runs a session through its whole life.

use std::fs;

use muster_harness::{
    fleet::{Claude, TestFleet},
    scenario::{Turn, scripted_prompt},
};
use serde_json::{Value, json};

use crate::{
    farm::Farm,
    front::{Front, muster},
};

const TOOLS: [&str; 11] = [
    "spawn_session",
    "list_sessions",
    "get_session_status",
    "get_session_output",
    "get_session_changes",
    "send_input",
    "wait_for_completion",
    "stop_session",
    "archive_session",
    "get_farm_status",
    "integrate_session",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_2_1_197_orchestrates_over_stdio() {
    over_stdio(Claude::V2_1_197).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_latest_orchestrates_over_stdio() {
    over_stdio(Claude::Latest).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_2_1_197_orchestrates_over_http_as_an_agent() {
    over_http(Claude::V2_1_197).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_latest_orchestrates_over_http_as_an_agent() {
    over_http(Claude::Latest).await;
}

async fn over_stdio(claude: Claude) {
    let farm = Farm::build(TestFleet::builder().claude(claude.clone())).await;
    let server = json!({ "type": "stdio", "command": muster(), "alwaysLoad": true,
        "args": ["mcp", "--controller", farm.fleet.controller_url()] });
    let front = Front::new(&farm, &claude, "front").server(&server);
    orchestrate(&farm, &front.arguments(&["--allowedTools", "mcp__muster"])).await;
    farm.finish();
}

/// With an agent definition that lists the eleven tools and knows nothing else.
async fn over_http(claude: Claude) {
    let farm = Farm::build(TestFleet::builder().claude(claude.clone())).await;
    let gateway = farm.fleet.http_gateway().await.expect("the gateway comes up");
    let server = json!({ "type": "http", "url": gateway.url(), "alwaysLoad": true });
    let tools = TOOLS.map(|tool| format!("mcp__muster__{tool}")).join(", ");
    let head = format!("name: dispatcher\ndescription: gives work to the farm\ntools: {tools}");
    let agent = format!("---\n{head}\n---\nYou give work to the farm.\n");
    let front = Front::new(&farm, &claude, "front").server(&server);
    let agents = front.folder().join(".claude/agents");
    fs::create_dir_all(&agents).unwrap();
    fs::write(agents.join("dispatcher.md"), agent).unwrap();
    orchestrate(&farm, &front.arguments(&["--agent", "dispatcher", "--allowedTools", &tools])).await;
    drop(gateway);
    farm.finish();
}

/// spawn, wait, answer, wait, output, archive; every session id comes out of an earlier result.
fn script() -> Vec<Turn> {
    let work =
        scripted_prompt("work", &[Turn::bash("echo grown > crop.txt"), Turn::text("the crop is grown")]);
    let call = |tool: &str, arguments: Value| Turn::tool(format!("mcp__muster__{tool}"), arguments);
    let session = "{{tool_result:/sessionId}}";
    vec![
        call("spawn_session", json!({ "prompt": work, "worktree": true })),
        call("wait_for_completion", json!({ "sessionId": session })),
        call(
            "send_input",
            json!({ "sessionId": session, "decision": "allow",
            "attentionId": "{{tool_result:/ready/0/attention/attentionId}}" }),
        ),
        call("wait_for_completion", json!({ "sessionId": session })),
        call("get_session_output", json!({ "sessionId": session, "format": "result" })),
        call("archive_session", json!({ "sessionId": session })),
        Turn::text(
            "it said {{tool_result:/text}}, and {{tool_result:/sessionId}} is archived: \
             {{tool_result:/archived}}",
        ),
    ]
}

async fn orchestrate(farm: &Farm, front: &Front<'_>) {
    let said = front.play(&script()).await;
    let result = &said.result;
    assert!(result.starts_with("it said the crop is grown, and "), "{said:#?}");
    assert!(result.ends_with(" is archived: true"), "{said:#?}");

    let listed = farm.ok("list_sessions", json!({ "includeArchived": true })).await;
    assert_eq!((&listed["total"], &listed["sessions"][0]["archived"]), (&json!(1), &json!(true)), "{listed}");
    assert_eq!(listed["sessions"][0]["status"], "completed", "{listed}");
}

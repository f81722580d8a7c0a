//! The full circle: a real claude with the plugin gives work to real claudes, side by side, answers them, looks at what
//! they did and archives it. All offline.

use std::path::Path;

use muster_harness::{
    fleet::{Claude, TestFleet},
    scenario::{Turn, scripted_prompt},
};
use serde_json::json;

use crate::{
    farm::Farm,
    front::{Front, call, muster, of, together},
};

/// What claude calls the plugin's tools.
const TOOLS: &str = "mcp__plugin_muster_muster__";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_2_1_197_with_the_plugin_runs_sessions_of_itself() {
    full_circle(Claude::V2_1_197).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_latest_with_the_plugin_runs_sessions_of_itself() {
    full_circle(Claude::Latest).await;
}

async fn full_circle(claude: Claude) {
    let farm = Farm::build(TestFleet::builder().claude(claude.clone())).await;
    let plugin = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/claude-plugin/muster");
    let front = Front::new(&farm, &claude, "front")
        .arguments(&["--plugin-dir", plugin.to_str().unwrap(), "--agent", "muster:orchestrator"])
        .arguments(&["--allowedTools", TOOLS.trim_end_matches("__")])
        .env("MUSTER_BIN", muster().to_str().unwrap())
        .env("MUSTER_CONTROLLER", &farm.fleet.controller_url());
    let said = front.play(&script()).await;
    assert_eq!(said.result, "crop is grown and this is chosen; archived: true, true", "{said:#?}");

    let plugins = said.init["plugins"].as_array().cloned().unwrap_or_default();
    assert!(plugins.iter().any(|plugin| plugin["name"] == "muster"), "{:#}", said.init);
    let listed = farm.ok("list_sessions", json!({ "includeArchived": true })).await;
    assert_eq!(listed["total"], 2, "{listed}");
    for session in listed["sessions"].as_array().unwrap() {
        assert_eq!(
            (&session["status"], &session["archived"]),
            (&json!("completed"), &json!(true)),
            "{session}"
        );
    }
    let changes = said.tool_results.iter().find(|result| result.contains("crop.txt"));
    assert!(changes.is_some(), "what was changed was not seen: {said:#?}");
    farm.finish();
}

fn script() -> Vec<Turn> {
    let grow = [Turn::bash("echo grown > crop.txt && git add crop.txt"), Turn::text("crop is grown")];
    let option = |label: &str| json!({ "label": label, "description": label });
    let choose = [
        Turn::tool(
            "AskUserQuestion",
            json!({ "questions": [{ "question": "Which one?", "header": "One", "multiSelect": false,
                "options": [option("this"), option("that")] }] }),
        ),
        Turn::text("this is chosen"),
    ];
    let both = ["grow", "choose"];
    let tool = |id: &str, name: &str, arguments| call(TOOLS, id, name, arguments);
    let session = |id: &str| of(&format!("spawn_{id}"), "/sessionId");
    let each = |step: &str, name: &str, more: &dyn Fn(&str) -> serde_json::Value| {
        together(both.map(|id| {
            let arguments = crate::farm::with(json!({ "sessionId": session(id) }), &more(id));
            tool(&format!("{step}_{id}"), name, arguments)
        }))
    };
    let label = json!({ "task": "harvest" });
    let spawn = |id: &str, turns: &[Turn]| {
        let arguments = json!({ "prompt": scripted_prompt(id, turns), "title": id, "labels": label });
        tool(&format!("spawn_{id}"), "spawn_session", arguments)
    };
    let nothing = |_: &str| json!({});
    let attention = |id: &str| of(&format!("ask_{id}"), "/ready/0/attention/attentionId");
    vec![
        together([spawn("grow", &grow), spawn("choose", &choose)]),
        each("ask", "wait_for_completion", &nothing),
        each("answer", "send_input", &|id| {
            let answer = if id == "grow" {
                json!({ "decision": "allow" })
            } else {
                json!({ "answers": { "Which one?": "this" } })
            };
            crate::farm::with(answer, &json!({ "attentionId": attention(id) }))
        }),
        tool("all", "wait_for_completion", json!({ "sessionIds": both.map(session), "mode": "all" })),
        each("result", "get_session_output", &|_| json!({ "format": "result" })),
        tool("changes", "get_session_changes", json!({ "sessionId": session("grow"), "format": "stat" })),
        each("archive", "archive_session", &nothing),
        Turn::text(format!(
            "{} and {}; archived: {}, {}",
            of("result_grow", "/text"),
            of("result_choose", "/text"),
            of("archive_grow", "/archived"),
            of("archive_choose", "/archived")
        )),
    ]
}

//! Long waits in which nothing happens: a real claude must not give them up.
//!
//! Its limit for a silent call over HTTP is five minutes and can be set; here it is twenty seconds, looked at every thirty,
//! and the wait goes past both. `MUSTER_SILENCE_SECONDS` makes the wait longer, for a run with the limits as they are
//! (`MUSTER_SILENCE_LIMIT=0`). A control, a server that says nothing, shows that the limit is real.

use std::fs;

use futures::future::join_all;
use muster_harness::{
    eventually::{DEADLINE, eventually},
    fleet::{Claude, TestFleet, programs_folder},
    scenario::{Turn, scripted_prompt},
};
use serde_json::{Value, json};
use tokio::process::Child;

use crate::{
    farm::Farm,
    front::{Front, call, muster, of},
};

const TOOLS: &str = "mcp__muster__";
/// Past claude's limit, and past the next time it looks.
const SILENCE: u64 = 75;
/// claude's limit, in milliseconds.
const LIMIT: &str = "20000";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_in_silence_outlives_the_limits_of_its_client() {
    let farm = Farm::build(TestFleet::builder().claude(Claude::Scripted)).await;
    let gateway = farm.fleet.http_gateway().await.expect("the gateway comes up");
    let (bare, silent) = bare(&farm).await;
    let over = |url: &str| json!({ "type": "http", "url": url, "alwaysLoad": true });
    let stdio = json!({ "type": "stdio", "command": muster(), "alwaysLoad": true,
        "args": ["mcp", "--controller", farm.fleet.controller_url()] });
    let (http, bare) = (over(gateway.url()), over(&bare));
    let mut plays = Vec::new();
    for (name, claude) in [("197", Claude::V2_1_197), ("latest", Claude::Latest)] {
        plays.push(waits(&farm, claude.clone(), format!("{name}-stdio"), &stdio));
        plays.push(waits(&farm, claude, format!("{name}-http"), &http));
    }
    let waiting = join_all(plays);
    let control = async {
        if std::env::var_os("MUSTER_SILENCE_LIMIT").is_some() {
            return;
        }
        let script = [call(TOOLS, "silence", "silence", json!({ "seconds": SILENCE })), Turn::text("over")];
        let said = front(&farm, &Claude::Latest, "control", &bare).play(&script).await;
        assert!(said.tool_results[0].contains("aborting"), "the limit is none: {said:#?}");
    };
    tokio::join!(waiting, control);
    drop((gateway, silent));
    farm.finish();
}

fn front<'a>(farm: &'a Farm, claude: &Claude, name: &str, server: &Value) -> Front<'a> {
    let limit = std::env::var("MUSTER_SILENCE_LIMIT").unwrap_or_else(|_| LIMIT.to_owned());
    let front = Front::new(farm, claude, name).server(server).arguments(&["--allowedTools", "mcp__muster"]);
    if limit == "0" { front } else { front.env("CLAUDE_CODE_MCP_TOOL_IDLE_TIMEOUT", &limit) }
}

/// One wait, or as many as the gateway asks for, until a session goes on after the silence.
async fn waits(farm: &Farm, claude: Claude, name: String, server: &Value) {
    let seconds = std::env::var("MUSTER_SILENCE_SECONDS").ok();
    let seconds = seconds.map_or(SILENCE, |text| text.parse().expect("a number of seconds"));
    let hold = format!("sleep {seconds}");
    let work = [Turn::bash(hold), Turn::text("it was quiet")];
    let session = of("spawn", "/sessionId");
    let wait = |id: &str| {
        call(TOOLS, id, "wait_for_completion", json!({ "sessionId": session, "timeoutSeconds": 1200 }))
    };
    let mut script = vec![
        call(
            TOOLS,
            "spawn",
            "spawn_session",
            json!({ "prompt": scripted_prompt(&name, &work), "title": name, "allowedTools": ["Bash"] }),
        ),
        wait("wait_1"),
    ];
    // Over HTTP the gateway ends a wait itself before this client would.
    script.extend((2..=1 + seconds / 200).map(|number| Turn {
        only_if_tool_result: Some("timedOut\":true".to_owned()),
        ..wait(&format!("wait_{number}"))
    }));
    script.push(call(
        TOOLS,
        "result",
        "get_session_output",
        json!({ "sessionId": session, "format": "result" }),
    ));
    script.push(Turn::text(of("result", "/text")));
    let said = front(farm, &claude, &name, server).play(&script).await;
    assert_eq!(said.result, "it was quiet", "{name}: {said:#?}");
}

/// A server that says nothing while a call runs.
async fn bare(farm: &Farm) -> (String, Child) {
    let file = farm.fleet.folder().join("bare-mcp-url");
    let mut command = tokio::process::Command::new(programs_folder().unwrap().join("bare-mcp"));
    farm.fleet.clean(&mut command);
    let child = command.arg(&file).spawn().expect("bare-mcp is built");
    let url =
        eventually("the bare server is up", DEADLINE, || async { fs::read_to_string(&file).ok() }).await;
    (url, child)
}

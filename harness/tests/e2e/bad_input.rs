//! Input that makes no sense is answered in words, and harms nothing.

use muster_harness::{fleet::TestFleet, scenario::Turn};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::farm::Farm;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_asked_is_said() {
    let farm = Farm::build(TestFleet::builder()).await;
    let long = "x".repeat(muster_proto::limits::PROMPT_BYTES + 1);
    let cases: Vec<(&str, Value, &str, &str)> = vec![
        ("spawn_session", json!({ "prompt": "" }), "invalid_argument", "prompt"),
        ("spawn_session", json!({ "prompt": long }), "invalid_argument", "prompt"),
        ("spawn_session", json!({}), "invalid_argument", "prompt"),
        ("spawn_session", json!({ "prompt": 7 }), "invalid_argument", "prompt"),
        ("spawn_session", json!({ "prompt": "p", "promt": "p" }), "invalid_argument", "promt"),
        ("spawn_session", json!({ "prompt": "p", "worktree": "maybe" }), "invalid_argument", "worktree"),
        ("spawn_session", json!({ "prompt": "p", "maxTurns": -1 }), "invalid_argument", "maxTurns"),
        (
            "spawn_session",
            json!({ "prompt": "p", "permissionMode": "x" }),
            "invalid_argument",
            "permissionMode",
        ),
        ("spawn_session", json!({ "prompt": "p", "allowedTools": 3 }), "invalid_argument", "allowedTools"),
        ("spawn_session", json!({ "prompt": "p", "labels": [1] }), "invalid_argument", "labels"),
        ("spawn_session", json!({ "prompt": "p", "project": "nowhere" }), "project_not_found", "nowhere"),
        ("get_session_status", json!({ "sessionId": "no-such-session" }), "session_not_found", ""),
        ("get_session_status", json!({}), "invalid_argument", "sessionId"),
        ("get_session_output", json!({ "sessionId": "no-such-session" }), "session_not_found", ""),
        ("wait_for_completion", json!({ "sessionId": "no-such-session" }), "session_not_found", ""),
        ("wait_for_completion", json!({}), "invalid_argument", "sessionId"),
        ("stop_session", json!({ "sessionId": "no-such-session" }), "session_not_found", ""),
        ("archive_session", json!({ "sessionId": "no-such-session" }), "session_not_found", ""),
        ("send_input", json!({ "sessionId": "no-such-session", "text": "x" }), "session_not_found", ""),
        ("list_sessions", json!({ "status": ["lost"] }), "invalid_argument", "status"),
    ];
    for (tool, arguments, code, named) in cases {
        let shown: String = arguments.to_string().chars().take(80).collect();
        let refused = farm.refused(tool, arguments).await;
        assert!(refused.starts_with(&format!("{code}: ")), "{tool} {shown}: {refused}");
        assert!(refused.contains(named), "{tool} {shown} should name {named}: {refused}");
    }
    let listed = farm.ok("list_sessions", json!({ "includeArchived": true })).await;
    assert_eq!(listed["total"], 0, "nothing came of it: {listed}");
    farm.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_request_never_makes_a_second_session() {
    let farm = Farm::build(TestFleet::builder()).await;
    let spawn = json!({ "prompt": "once", "requestId": "r-1" });
    let first = farm.ok("spawn_session", spawn.clone()).await;
    let second = farm.ok("spawn_session", spawn).await;
    assert_eq!(first["sessionId"], second["sessionId"]);
    assert_eq!(second["replayed"], true, "{second}");
    let refused = farm.refused("spawn_session", json!({ "prompt": "twice", "requestId": "r-1" })).await;
    assert!(refused.starts_with("request_id_conflict: "), "{refused}");
    let session = first["sessionId"].as_str().unwrap();
    farm.ended(session, "completed").await;

    // Every way to name a session leads to it.
    let id = first["id"].as_str().expect("the id").to_owned();
    for name in [session, &session[..session.len() - 2], &id] {
        assert_eq!(farm.status(name).await["sessionId"], session);
    }
    let by_name = farm.ok("get_session_status", json!({ "name": session })).await;
    assert_eq!(by_name["sessionId"], session);
    farm.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_ends_with_the_time_and_tells_progress() {
    let farm = Farm::build(TestFleet::builder()).await;
    let slow = [Turn { delay_ms: 30_000, ..Turn::text("late") }];
    let session = farm.spawn("slow", &slow, json!({})).await;
    let wait = json!({ "sessionId": session, "timeoutSeconds": 1 });
    let waited = farm.gateway.call("wait_for_completion", wait).await.unwrap();
    assert!(!waited.is_error, "a time-out is a result: {}", waited.text);
    assert_eq!(
        (&waited.structured["timedOut"], &waited.structured["reason"]),
        (&json!(true), &json!("timeout"))
    );
    assert_eq!(waited.structured["pending"][0]["sessionId"], session.as_str());
    assert!(!waited.progress.is_empty(), "progress is told while it waits");
    farm.ok("stop_session", json!({ "sessionId": session })).await;
    farm.ended(&session, "stopped").await;
    farm.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_ports_harms_nobody() {
    let farm = Farm::build(TestFleet::builder()).await;
    let http = farm.fleet.http_gateway().await.unwrap();
    let controller = farm.fleet.controller_url();
    for url in [controller.as_str(), http.url()] {
        let address = url.trim_start_matches("http://").trim_end_matches("/mcp");
        let garbage = muster_harness::seeded::SeededBytes::take(1, 10_000_000);
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The peer may hang up in the middle: that is its good right.
        let _ = stream.write_all(&garbage).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let read =
            tokio::time::timeout(std::time::Duration::from_secs(60), stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "{address} should hang up on garbage");
    }
    let client = http.client().await.unwrap();
    let spawned = client.ok("spawn_session", json!({ "prompt": "still here?" })).await.unwrap();
    farm.ended(spawned["sessionId"].as_str().unwrap(), "completed").await;
    drop(http);
    farm.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_folder_serves_one_controller() {
    let farm = Farm::build(TestFleet::builder()).await;
    let folder = farm.fleet.folder().join("controller");
    let file = farm.fleet.folder().join("a-file");
    std::fs::write(&file, "").unwrap();
    for (state_dir, why) in [(folder.as_path(), "in use"), (file.as_path(), "no folder")] {
        let mut command = tokio::process::Command::new(programs("muster"));
        farm.fleet.clean(&mut command);
        command.args(["controller", "--listen", "127.0.0.1:0", "--state-dir"]).arg(state_dir);
        let output = tokio::time::timeout(std::time::Duration::from_secs(60), command.output()).await;
        let output =
            output.unwrap_or_else(|_| panic!("a controller started on a folder that is {why}")).unwrap();
        assert!(!output.status.success());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(&*state_dir.to_string_lossy()), "{why}: {said}");
    }
    farm.ok("list_sessions", json!({})).await;
    farm.finish();
}

fn programs(name: &str) -> std::path::PathBuf {
    let folder = muster_harness::fleet::programs_folder().unwrap();
    std::env::var_os("MUSTER_BIN").map_or_else(|| folder.join(name), Into::into)
}

//! The byte stream of stdio: ends cleanly, survives nonsense.

use std::time::Duration;

use muster_mcp_gateway::serve_stream;
use muster_proto::v1::SessionStatus;
use muster_runtime::{shutdown::Shutdown, task};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    time::timeout,
};

use crate::{
    fake_controller::Running,
    farm::{Farm, config},
};

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn shutdown_ends_it() {
    let farm = Farm::start().await;
    farm.shutdown.request();
    timeout(LONG, farm.serving).await.expect("in time").expect("no panic").expect("cleanly");
}

#[tokio::test]
async fn nonsense_between_messages_harms_nothing_and_the_end_of_input_ends_a_wait() {
    let controller = Running::start().await;
    controller.fake.add("work-1", SessionStatus::Working);
    let (near, far) = tokio::io::duplex(1 << 20);
    let (reader, writer) = tokio::io::split(far);
    let serving =
        task::spawn("gateway", serve_stream(config(&controller.uri()), reader, writer, Shutdown::new()));
    let (output, mut input) = tokio::io::split(near);
    let mut output = BufReader::new(output).lines();
    let hello = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}}});
    let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    input.write_all(format!("{hello}\n{ready}\n").as_bytes()).await.expect("written");
    let answer: Value =
        serde_json::from_str(&output.next_line().await.expect("read").expect("a line")).expect("JSON");
    assert_eq!(answer["result"]["protocolVersion"], "2025-11-25");
    input.write_all(b"garbage\n\n{\"half\": \n[]\n").await.expect("written");
    let list = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"});
    input.write_all(format!("{list}\n").as_bytes()).await.expect("written");
    loop {
        let line = timeout(LONG, output.next_line()).await.expect("in time").expect("read").expect("a line");
        let answer: Value = serde_json::from_str(&line).expect("stdout is JSON only");
        if answer["id"] == 2 {
            assert_eq!(answer["result"]["tools"].as_array().map(Vec::len), Some(11));
            break;
        }
    }
    let wait = json!({"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": {
        "name": "wait_for_completion", "arguments": {"sessionId": "work-1", "timeoutSeconds": 600}}});
    input.write_all(format!("{wait}\n").as_bytes()).await.expect("written");
    controller.fake.until("a wait", |state| state.watchers == 1).await;
    input.shutdown().await.expect("closed");
    let ended = tokio::time::Instant::now();
    timeout(LONG, serving).await.expect("in time").expect("no panic").expect("cleanly");
    assert!(ended.elapsed() < Duration::from_secs(4), "a wait held up the end");
    controller.fake.until("the stream is free", |state| state.watchers == 0).await;
}

#[tokio::test]
async fn a_client_that_leaves_before_it_speaks_is_no_error() {
    let (near, far) = tokio::io::duplex(1024);
    let (reader, writer) = tokio::io::split(far);
    drop(near);
    let config = config("http://127.0.0.1:1");
    timeout(LONG, serve_stream(config, reader, writer, Shutdown::new()))
        .await
        .expect("in time")
        .expect("cleanly");
}

#[tokio::test]
async fn the_newer_era_needs_no_handshake() {
    let controller = Running::start().await;
    let (near, far) = tokio::io::duplex(1 << 20);
    let (reader, writer) = tokio::io::split(far);
    let _serving =
        task::spawn("gateway", serve_stream(config(&controller.uri()), reader, writer, Shutdown::new()));
    let (output, mut input) = tokio::io::split(near);
    let mut output = BufReader::new(output).lines();
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "0"}
    });
    let discover = json!({"jsonrpc": "2.0", "id": 1, "method": "server/discover", "params": {"_meta": meta}});
    let call = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {
        "name": "spawn_session", "arguments": {"prompt": "p"}, "_meta": meta}});
    input.write_all(format!("{discover}\n{call}\n").as_bytes()).await.expect("written");
    let mut seen = 0;
    while seen < 2 {
        let line = timeout(LONG, output.next_line()).await.expect("in time").expect("read").expect("a line");
        let answer: Value = serde_json::from_str(&line).expect("JSON");
        let result = &answer["result"];
        if answer["id"] == 1 {
            let versions = result["supportedVersions"].to_string();
            assert!(versions.contains("2026-07-28"), "{answer}");
        } else {
            assert_eq!(result["structuredContent"]["status"], "queued", "{answer}");
            assert_eq!(result["resultType"], "complete", "{answer}");
        }
        seen += 1;
    }
}

//! The HTTP face, spoken to as any program might: well, badly, and from elsewhere.

use muster_mcp_gateway::{HttpGateway, StartError};
use muster_proto::v1::SessionStatus;
use muster_runtime::shutdown::Shutdown;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::{
    farm::config,
    site::{LONG, MODERN, Site, message, modern_call},
};

#[tokio::test]
async fn both_eras_are_served_at_one_address() {
    let site = Site::start().await;
    let answer = site.call("spawn_session", json!({"prompt": "p", "worktree": true})).await;
    assert_eq!(answer["result"]["structuredContent"]["status"], "queued", "{answer}");

    let hello = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}}});
    let mut stream = site.open(&[], &hello.to_string()).await;
    let mut answer = Vec::new();
    timeout(LONG, stream.read_to_end(&mut answer)).await.expect("in time").expect("read");
    let answer = String::from_utf8_lossy(&answer).to_lowercase();
    let session =
        answer.lines().find_map(|line| line.strip_prefix("mcp-session-id: ")).expect("a session").to_owned();
    let headers = [("mcp-session-id", session.as_str()), ("mcp-protocol-version", "2025-11-25")];
    let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    let (head, _) = site.post(&headers, &ready).await;
    assert!(head.starts_with("HTTP/1.1 202"), "{head}");
    let list = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {
        "name": "list_sessions", "arguments": {}}});
    let (_, body) = site.post(&headers, &list).await;
    assert_eq!(message(&body)["result"]["structuredContent"]["total"], 1);
}

#[tokio::test]
async fn a_prompt_of_a_megabyte_passes_byte_for_byte() {
    let site = Site::start().await;
    let prompt = "\"ä\n".repeat(1 << 18);
    let answer = site.call("spawn_session", json!({"prompt": prompt})).await;
    assert!(answer["result"]["isError"] != true, "{answer}");
    assert_eq!(site.controller.fake.state().spawns[0].spec.as_ref().expect("a spec").prompt, prompt);
}

#[tokio::test]
async fn a_slow_call_has_its_head_early_and_its_answer_late() {
    let site = Site::start().await;
    site.controller.fake.add("work-1", SessionStatus::Working);
    let body = modern_call("wait_for_completion", &json!({"sessionId": "work-1", "timeoutSeconds": 60}));
    let headers =
        [("mcp-protocol-version", MODERN), ("mcp-method", "tools/call"), ("mcp-name", "wait_for_completion")];
    let mut stream = site.open(&headers, &body.to_string()).await;
    let mut head = vec![0; 4096];
    let read = timeout(LONG, stream.read(&mut head)).await.expect("a head before the answer").expect("read");
    let head = String::from_utf8_lossy(&head[..read]).to_lowercase();
    assert!(head.starts_with("http/1.1 200") && head.contains("text/event-stream"), "{head}");
    site.controller.fake.finish("work-1", SessionStatus::Completed, "at last");
    let mut rest = Vec::new();
    timeout(LONG, stream.read_to_end(&mut rest)).await.expect("in time").expect("read");
    let answer = message(&String::from_utf8_lossy(&rest));
    assert_eq!(answer["result"]["structuredContent"]["reason"], "completed", "{answer}");
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_wait() {
    let site = Site::start().await;
    site.controller.fake.add("work-1", SessionStatus::Working);
    let body = modern_call("wait_for_completion", &json!({"sessionId": "work-1", "timeoutSeconds": 600}));
    let headers =
        [("mcp-protocol-version", MODERN), ("mcp-method", "tools/call"), ("mcp-name", "wait_for_completion")];
    let stream = site.open(&headers, &body.to_string()).await;
    site.controller.fake.until("a wait", |state| state.watchers == 1).await;
    drop(stream);
    site.controller.fake.until("the stream is free", |state| state.watchers == 0).await;
}

#[tokio::test]
async fn foreign_pages_and_names_are_refused() {
    let site = Site::start().await;
    let body = modern_call("list_sessions", &json!({}));
    let call =
        [("mcp-protocol-version", MODERN), ("mcp-method", "tools/call"), ("mcp-name", "list_sessions")];
    for (name, value, allowed) in [
        ("origin", "http://evil.example", false),
        ("origin", "null", false),
        ("origin", "http://localhost.evil.example", false),
        ("origin", "http://localhost:3000", true),
        ("origin", "http://127.0.0.1:6274", true),
        ("origin", "http://[::1]:80", true),
        ("host", "evil.example", false),
        ("host", "localhost:1234", true),
    ] {
        let mut headers = call.to_vec();
        headers.push((name, value));
        let (head, _) = site.post(&headers, &body).await;
        let passed = head.starts_with("HTTP/1.1 200");
        assert_eq!(passed, allowed, "{name}: {value}: {head}");
        assert!(passed || head.starts_with("HTTP/1.1 403"), "{head}");
    }
}

#[tokio::test]
async fn garbage_costs_its_own_connection_only() {
    let site = Site::start().await;
    let mut stream = TcpStream::connect(site.addr()).await.expect("connected");
    let noise: Vec<u8> =
        (0..10 << 20).map(|index: u32| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    // The server may close while we write: that is its right.
    let _ = timeout(LONG, stream.write_all(&noise)).await;
    drop(stream);
    for body in ["", "{", "[]", "7", "{\"jsonrpc\": \"2.0\"}"] {
        let mut stream = site.open(&[], body).await;
        let mut answer = Vec::new();
        timeout(LONG, stream.read_to_end(&mut answer)).await.expect("in time").expect("read");
        assert!(answer.starts_with(b"HTTP/1.1 4"), "{body}: {}", String::from_utf8_lossy(&answer));
    }
    site.call("list_sessions", json!({})).await;
}

#[tokio::test]
async fn health_is_told_and_at_shutdown_an_open_wait_is_answered_that_it_can_be_made_again() {
    let site = Site::start().await;
    let mut stream = TcpStream::connect(site.addr()).await.expect("connected");
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("read");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"), "{answer}");
    site.controller.fake.add("work-1", SessionStatus::Working);
    let body = modern_call("wait_for_completion", &json!({"sessionId": "work-1", "timeoutSeconds": 600}));
    let headers =
        [("mcp-protocol-version", MODERN), ("mcp-method", "tools/call"), ("mcp-name", "wait_for_completion")];
    let mut open = site.open(&headers, &body.to_string()).await;
    site.controller.fake.until("a wait", |state| state.watchers == 1).await;
    site.shutdown.request();
    let mut answer = Vec::new();
    timeout(LONG, open.read_to_end(&mut answer)).await.expect("in time").expect("read");
    let answer = message(&String::from_utf8_lossy(&answer));
    let result = &answer["result"]["structuredContent"];
    assert_eq!(result["reason"], "timeout", "{answer}");
    assert!(result["note"].as_str().expect("a note").contains("call again"), "{answer}");
    timeout(LONG, site.gateway.finished()).await.expect("in time");
}

#[tokio::test]
async fn only_loopback_is_listened_on() {
    let start = |listen: &str| {
        let listen = listen.parse().expect("an address");
        HttpGateway::start(config("http://127.0.0.1:1"), listen, Shutdown::new())
    };
    let error = start("0.0.0.0:0").await.expect_err("refused");
    assert!(
        matches!(error, StartError::Exposed { .. }) && error.to_string().contains("authentication"),
        "{error}"
    );
    let site = Site::start().await;
    let error = start(&site.addr().to_string()).await.expect_err("in use");
    assert!(error.to_string().contains("cannot listen on 127.0.0.1:"), "{error}");
}

async fn refused(site: &Site, body: &str) -> (String, Value) {
    let mut stream = site.open(&[], body).await;
    let mut answer = Vec::new();
    timeout(LONG, stream.read_to_end(&mut answer)).await.expect("in time").expect("read");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.to_owned(), serde_json::from_str(body).unwrap_or_else(|_| panic!("no JSON: {answer}")))
}

#[tokio::test]
async fn what_is_no_message_is_told_why() {
    let site = Site::start().await;
    let deep = format!("{{\"a\": {}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let twice = "{\"jsonrpc\": \"2.0\", \"id\": 1, \"id\": 2, \"method\": \"tools/list\"}";
    for (body, code, part) in [
        ("{", -32700, "cannot be read"),
        (deep.as_str(), -32700, "recursion limit"),
        (twice, -32700, "\"id\" stands twice"),
        ("[{\"jsonrpc\": \"2.0\"}]", -32600, "batches"),
        ("7", -32600, "JSON object"),
    ] {
        let (head, answer) = refused(&site, body).await;
        assert!(head.starts_with("HTTP/1.1 400"), "{head}");
        assert_eq!(answer["error"]["code"], code, "{answer}");
        assert!(answer["error"]["message"].as_str().expect("a message").contains(part), "{answer}");
    }
    site.call("list_sessions", json!({})).await;
}

#[tokio::test]
async fn a_hundred_megabytes_are_refused_before_they_are_read() {
    let site = Site::start().await;
    let mut stream = TcpStream::connect(site.addr()).await.expect("connected");
    let head = "POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n";
    stream.write_all(format!("{head}content-length: 104857600\r\n\r\n").as_bytes()).await.expect("written");
    let mut answer = [0; 12];
    timeout(LONG, stream.read_exact(&mut answer)).await.expect("in time").expect("read");
    assert_eq!(&answer, b"HTTP/1.1 413");
    // The same without saying so beforehand: the connection is closed while it is written.
    let mut stream = TcpStream::connect(site.addr()).await.expect("connected");
    stream.write_all(format!("{head}transfer-encoding: chunked\r\n\r\n").as_bytes()).await.expect("written");
    let chunk = format!("100000\r\n{}\r\n", "x".repeat(1 << 20));
    let mut written = 0;
    while written < 100 && timeout(LONG, stream.write_all(chunk.as_bytes())).await.expect("in time").is_ok() {
        written += 1;
    }
    assert!(written < 100, "all of it was taken");
    site.call("list_sessions", json!({})).await;
}

#[tokio::test]
async fn wrong_headers_are_refused_by_their_name() {
    let site = Site::start().await;
    let body = modern_call("list_sessions", &json!({}));
    let right =
        [("mcp-protocol-version", MODERN), ("mcp-method", "tools/call"), ("mcp-name", "list_sessions")];
    for (name, value) in [
        ("mcp-method", "tools/list"),
        ("mcp-name", "spawn_session"),
        ("mcp-protocol-version", "2025-11-25"),
        ("content-type", "text/plain"),
        ("accept", "text/html"),
    ] {
        let mut headers = right.to_vec();
        headers.retain(|(known, _)| *known != name);
        headers.push((name, value));
        let (head, answer) = site.post(&headers, &body).await;
        assert!(head.starts_with("HTTP/1.1 4"), "{name}: {value}: {head}\n{answer}");
    }
    site.call("list_sessions", json!({})).await;
}

#[tokio::test]
async fn idle_connections_and_clients_that_stop_reading_hold_up_nobody() {
    let site = Site::start().await;
    site.controller.fake.add("done-1", SessionStatus::Completed);
    site.controller
        .fake
        .set_output("done-1", format!("{{\"type\":\"x\",\"t\":\"{}\"}}\n", "y".repeat(1 << 20)).into_bytes());
    let mut idle = Vec::new();
    for _ in 0..400 {
        idle.push(TcpStream::connect(site.addr()).await.expect("connected"));
    }
    let output = modern_call(
        "get_session_output",
        &json!({"sessionId": "done-1", "format": "raw", "cursor": "o0", "maxChars": 100_000}),
    );
    let headers =
        [("mcp-protocol-version", MODERN), ("mcp-method", "tools/call"), ("mcp-name", "get_session_output")];
    let mut deaf = Vec::new();
    for _ in 0..20 {
        deaf.push(site.open(&headers, &output.to_string()).await);
    }
    for _ in 0..5 {
        site.call("list_sessions", json!({})).await;
    }
    drop((idle, deaf));
    site.call("list_sessions", json!({})).await;
}

#[tokio::test]
async fn what_one_client_cancels_does_not_end_the_call_of_another() {
    let site = Site::start().await;
    site.controller.fake.add("work-1", SessionStatus::Working);
    let body = modern_call("wait_for_completion", &json!({"sessionId": "work-1", "timeoutSeconds": 60}));
    let headers =
        [("mcp-protocol-version", MODERN), ("mcp-method", "tools/call"), ("mcp-name", "wait_for_completion")];
    let mut stream = site.open(&headers, &body.to_string()).await;
    site.controller.fake.until("a wait", |state| state.watchers == 1).await;
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1,
        "_meta": {"io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": {}}}});
    site.post(&[("mcp-protocol-version", MODERN), ("mcp-method", "notifications/cancelled")], &cancel).await;
    site.call("list_sessions", json!({})).await;
    assert_eq!(site.controller.fake.state().watchers, 1, "the wait goes on");
    site.controller.fake.finish("work-1", SessionStatus::Completed, "");
    let mut answer = Vec::new();
    timeout(LONG, stream.read_to_end(&mut answer)).await.expect("in time").expect("read");
    let answer = message(&String::from_utf8_lossy(&answer));
    assert_eq!(answer["result"]["structuredContent"]["reason"], "completed", "{answer}");
}

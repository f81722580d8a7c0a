//! What no client should send, and some do: it costs little, and others are served meanwhile.

use std::time::Duration;

use muster_proto::{
    error::{Error, ErrorCode},
    v1::SessionStatus,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::{
    farm::Farm,
    site::{LONG, MODERN, Site, modern_call, status},
    wire::Wire,
};

/// Files other tests of this process may open meanwhile.
const SPARE_FILES: u64 = 4000;
/// What an idle connection may cost, with the test's own end of it.
const IDLE_BYTES: usize = 64 << 10;

/// Memory of this process, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: usize = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
    pages * 4096
}

/// As many files as this process may open.
fn raise_files() -> u64 {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    let wanted = most.min(30_000);
    setrlimit(Resource::RLIMIT_NOFILE, wanted, most).expect("up to the hard limit");
    wanted
}

#[tokio::test]
async fn ten_thousand_idle_connections_are_held_cheaply_and_others_are_served() {
    let site = Site::start().await;
    // Both ends are ours.
    let count = (raise_files().saturating_sub(SPARE_FILES) / 2).min(10_000);
    let before = resident();
    let mut idle = Vec::new();
    for number in 0..count {
        let mut stream = TcpStream::connect(site.addr()).await.expect("connected");
        if number % 2 == 0 {
            stream.write_all(b"POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\n").await.expect("written");
        }
        idle.push(stream);
    }
    site.call("list_sessions", json!({})).await;
    let grown = resident().saturating_sub(before);
    assert!(grown / idle.len() < IDLE_BYTES, "{} connections cost {grown} bytes", idle.len());
    drop(idle);
    site.call("list_sessions", json!({})).await;
}

#[tokio::test]
async fn over_stdio_nonsense_is_passed_over_and_memory_is_bounded() {
    let mut wire = Wire::modern(json!({})).await;
    wire.fake().add("work-1", SessionStatus::Working);
    wire.call("list_sessions", json!({})).await;
    let deep = format!("{{\"a\": {}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    for line in [
        deep.as_str(),
        "[{\"jsonrpc\": \"2.0\", \"id\": 1, \"method\": \"tools/list\"}]",
        "{\"jsonrpc\": \"2.0\", \"id\": {}, \"method\": 7}",
        "{\"jsonrpc\": \"1.0\"}",
        "\u{0}\u{1}",
        "\"text\"",
        "{\"jsonrpc\": \"2.0\", \"id\": 77, \"method\": \"no/such\"}",
        "{\"jsonrpc\": \"2.0\", \"id\": 78, \"method\": \"tools/call\", \"params\": 7}",
        "{\"jsonrpc\": \"2.0\", \"method\": \"notifications/cancelled\", \"params\": {\"requestId\": 4711}}",
        "{\"jsonrpc\": \"2.0\", \"id\": 4712, \"result\": {}}",
    ] {
        wire.send_raw(format!("{line}\n").as_bytes()).await;
    }
    let before = resident();
    let part = vec![b'x'; 1 << 20];
    for _ in 0..100 {
        wire.send_raw(&part).await;
    }
    wire.send_raw(b"\n").await;
    let listed = wire.call("list_sessions", json!({})).await;
    assert_eq!(listed["result"]["structuredContent"]["total"], 1, "{listed}");
    let grown = resident().saturating_sub(before);
    assert!(grown < 80 << 20, "a line of 100 MB cost {grown} bytes");
}

#[tokio::test]
async fn the_older_protocol_is_as_closed_to_foreign_pages_and_names() {
    let site = Site::start().await;
    let hello = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}}});
    for (name, value) in [
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("host", "evil.example"),
        ("host", "127.0.0.1.evil.example"),
        ("host", "localhost@evil.example"),
    ] {
        let (head, body) = site.post(&[(name, value)], &hello).await;
        assert!(matches!(status(&head), 400 | 403), "{name}: {value}: {head}\n{body}");
        assert!(!head.to_lowercase().contains("mcp-session-id"), "{head}");
        assert!(!head.to_lowercase().contains("access-control"), "no page elsewhere is invited: {head}");
    }
    let (head, _) = site.post(&[("mcp-session-id", "00000000-0000-4000-8000-000000000000")], &hello).await;
    assert!(matches!(status(&head), 400 | 404), "{head}");
}

#[tokio::test]
async fn an_answer_that_nobody_reads_is_not_kept_for_others_to_wait_behind() {
    let site = Site::start().await;
    site.controller.fake.add("done-1", SessionStatus::Completed);
    let line = format!("{{\"type\":\"x\",\"t\":\"{}\"}}\n", "y".repeat(1 << 20));
    site.controller.fake.set_output("done-1", line.into_bytes());
    let output = modern_call(
        "get_session_output",
        &json!({"sessionId": "done-1", "format": "raw", "cursor": "o0", "maxChars": 100_000}),
    );
    let headers =
        [("mcp-protocol-version", MODERN), ("mcp-method", "tools/call"), ("mcp-name", "get_session_output")];
    let before = resident();
    let mut deaf = Vec::new();
    for _ in 0..200 {
        deaf.push(site.open(&headers, &output.to_string()).await);
    }
    for _ in 0..5 {
        site.call("list_sessions", json!({})).await;
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 400 << 20, "200 unread answers cost {grown} bytes");
}

#[tokio::test]
async fn a_request_that_dribbles_holds_up_nobody() {
    let site = Site::start().await;
    let mut slow = TcpStream::connect(site.addr()).await.expect("connected");
    let head = "POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n";
    slow.write_all(head.as_bytes()).await.expect("written");
    for _ in 0..20 {
        slow.write_all(b" ").await.expect("written");
        site.call("list_sessions", json!({})).await;
    }
    // Two requests in one connection, the second inside what the first calls its body: it is read as a body.
    let mut smuggled = TcpStream::connect(site.addr()).await.expect("connected");
    let both = "POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /healthz \
                HTTP/1.1\r\nhost: x\r\n\r\n";
    smuggled.write_all(both.as_bytes()).await.expect("written");
    let mut answer = vec![0; 4096];
    let read = timeout(LONG, smuggled.read(&mut answer)).await.expect("in time").expect("read");
    let answer = String::from_utf8_lossy(&answer[..read]);
    assert!(answer.is_empty() || status(&answer) == 400, "{answer}");
}

#[tokio::test]
async fn a_session_that_may_spawn_no_more_is_told_what_to_do_instead() {
    let farm = Farm::start().await;
    for (error, parts) in [
        (
            Error::new(ErrorCode::TreeLimit, "\"fix-1\" is 3 sessions deep, as deep as may be"),
            ["tree_limit: \"fix-1\" is 3 sessions deep", "Do this piece yourself"],
        ),
        (
            Error {
                field: "maxTurns".into(),
                ..Error::new(ErrorCode::PolicyRefused, "is 500, more than the 100 of project api")
            },
            ["policy_refused: `maxTurns` is 500", "what the project allows"],
        ),
    ] {
        farm.fake().state().refuse_spawn = Some(error);
        let result = farm.result("spawn_session", json!({"prompt": "p", "parentSession": "fix-1"})).await;
        let text = crate::farm::text(&result);
        for part in parts {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(result.meta.expect("meta").0["muster/retryable"], Value::Bool(false));
    }
    farm.fake().state().refuse_spawn = None;
    farm.ok("spawn_session", json!({"prompt": "p", "parentSession": "fix-1"})).await;
    assert_eq!(farm.fake().state().spawns[0].spec.as_ref().expect("a spec").parent_session, "fix-1");
}

#[tokio::test]
async fn ids_of_calls_that_others_made_cancel_nothing() {
    let farm = Farm::start().await;
    farm.fake().add("work-1", SessionStatus::Working);
    let mut other = Wire::modern_to(crate::farm::config(&farm.uri()), json!({})).await;
    other.call("list_sessions", json!({})).await;
    let wait = farm.ok("wait_for_completion", json!({"sessionId": "work-1", "timeoutSeconds": 60}));
    let story = async {
        farm.fake().until("a wait", |state| state.watchers == 1).await;
        for id in 0..50 {
            let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled",
                "params": {"requestId": id}});
            other.send(&cancel).await;
        }
        other.call("list_sessions", json!({})).await;
        assert_eq!(farm.fake().state().watchers, 1);
        farm.fake().finish("work-1", SessionStatus::Completed, "");
    };
    let (waited, ()) =
        timeout(Duration::from_secs(60), async { tokio::join!(wait, story) }).await.expect("in time");
    assert_eq!(waited["reason"], "completed");
}

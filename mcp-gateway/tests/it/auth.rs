//! Access tokens over HTTP: who may call, for whom calls go out, and that nobody reaches what is another's.

use muster_mcp_gateway::{Auth, CallerLimits, HttpConfig};
use muster_proto::v1::SessionStatus;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::site::{LONG, MODERN, Site, message, modern_call, status};

fn guarded() -> HttpConfig {
    HttpConfig { auth: Some(Auth::default()), ..HttpConfig::default() }
}

async fn site() -> Site {
    let site = Site::with(guarded()).await;
    site.controller.fake.give_token("ada-token", "ada", &[]);
    site.controller.fake.give_token("bob-token", "bob", &[]);
    site
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

#[tokio::test]
async fn without_a_good_token_there_is_a_challenge_and_the_controller_is_asked_nothing() {
    let site = site().await;
    let (code, head, _) = site.call_as(None, "list_sessions", json!({})).await;
    assert_eq!(code, 401, "{head}");
    let challenge = head.lines().find(|line| line.starts_with("www-authenticate: ")).expect("a challenge");
    let document = format!("http://{}/.well-known/oauth-protected-resource/mcp", site.addr());
    assert!(challenge.contains(&format!("resource_metadata=\"{document}\"")), "{challenge}");
    assert!(challenge.contains("scope=\"read write\"") && !challenge.contains("error="), "{challenge}");
    assert_eq!(site.controller.fake.state().calls, 0);

    for token in ["wrong", "", "ada-token extra", "\u{e4}", &"x".repeat(20_000)] {
        let (code, head, _) = site.call_as(Some(token), "list_sessions", json!({})).await;
        assert_eq!(code, 401, "{token}: {head}");
        assert!(
            head.contains("error=\"invalid_token\"") || token.is_empty() || !token.is_ascii(),
            "{token}: {head}"
        );
    }
    let body = modern_call("list_sessions", &json!({}));
    for (name, value) in [("authorization", "Basic YWRhOmFkYQ=="), ("authorization", "ada-token")] {
        let (head, _) = site.post(&[(name, value), ("mcp-protocol-version", MODERN)], &body).await;
        assert_eq!(status(&head), 401, "{value}: {head}");
    }
    // Two are none, and none is taken from the address.
    let twice = [("authorization", "Bearer ada-token"), ("authorization", "Bearer ada-token")];
    let (head, _) = site.post(&twice, &body).await;
    assert_eq!(status(&head), 401, "{head}");
    let (head, _) = site.get("/mcp?access_token=ada-token").await;
    assert_eq!(status(&head), 401, "{head}");
    assert!(site.controller.fake.state().lists.is_empty());
    site.ok_as("ada-token", "list_sessions", json!({})).await;
}

#[tokio::test]
async fn calls_go_out_for_their_caller_and_without_the_callers_token() {
    let site = site().await;
    site.ok_as("ada-token", "list_sessions", json!({})).await;
    site.ok_as("bob-token", "get_farm_status", json!({})).await;
    let state = site.controller.fake.state();
    let names: Vec<&str> = state.principals.iter().map(|principal| principal.name.as_str()).collect();
    assert_eq!(names, ["ada", "bob", "bob"], "every call names whom it is for");
    assert_eq!(state.principals[0].access_id, "id-ada-token", "so that a revocation ends it");
    assert!(state.authorizations.is_empty(), "{:?}", state.authorizations);
}

#[tokio::test]
async fn a_token_is_checked_once_for_a_while_and_a_revoked_one_is_refused_soon() {
    let site = site().await;
    for _ in 0..5 {
        site.ok_as("ada-token", "list_sessions", json!({})).await;
    }
    assert_eq!(site.controller.fake.state().checks, 1);
    site.controller.fake.state().tokens.remove("ada-token");
    let deadline = tokio::time::Instant::now() + LONG;
    loop {
        let (code, ..) = site.call_as(Some("ada-token"), "list_sessions", json!({})).await;
        if code == 401 {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "it counts for ever");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_controller_that_is_away_is_no_wrong_token() {
    let site = site().await;
    site.controller.fake.set_down(true);
    let (code, head, _) = site.call_as(Some("ada-token"), "list_sessions", json!({})).await;
    assert_eq!(code, 503, "{head}");
    assert!(head.contains("retry-after: ") && !head.contains("www-authenticate"), "{head}");
    site.controller.fake.set_down(false);
    site.ok_as("ada-token", "list_sessions", json!({})).await;
}

#[tokio::test]
async fn the_gateway_says_how_to_get_a_token() {
    let site = site().await;
    for path in ["/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp"] {
        let (head, body) = site.get(path).await;
        assert_eq!(status(&head), 200, "{head}");
        let about: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(about["resource"], format!("http://{}/mcp", site.addr()));
        assert_eq!(about["scopes_supported"], json!(["read", "write", "trust"]));
        assert_eq!(about["bearer_methods_supported"], json!(["header"]));
    }
    let open = Site::start().await;
    let (head, _) = open.get("/.well-known/oauth-protected-resource").await;
    assert_eq!(status(&head), 404, "an open gateway needs no token: {head}");
}

#[tokio::test]
async fn a_scope_that_is_missing_is_named_and_nothing_is_done() {
    let site = site().await;
    site.controller.fake.give_token("reader", "ada", &["read"]);
    site.controller.fake.give_token("writer", "ada", &["read", "write"]);
    site.ok_as("reader", "list_sessions", json!({})).await;
    site.ok_as("writer", "spawn_session", json!({"prompt": "p"})).await;
    for (token, tool, arguments, scope) in [
        ("reader", "spawn_session", json!({"prompt": "p"}), "read write"),
        ("reader", "stop_session", json!({"sessionId": "spawned-0"}), "read write"),
        ("reader", "wait_for_completion", json!({"sessionId": "x", "onAttention": "ask_user"}), "read write"),
        ("writer", "spawn_session", json!({"prompt": "p", "trustMode": true}), "read write trust"),
    ] {
        let (code, head, _) = site.call_as(Some(token), tool, arguments).await;
        assert_eq!(code, 403, "{tool}: {head}");
        assert!(head.contains("error=\"insufficient_scope\""), "{head}");
        assert!(head.contains(&format!("scope=\"{scope}\"")), "{head}");
    }
    assert_eq!(site.controller.fake.state().spawns.len(), 1);
    assert!(site.controller.fake.state().stops.is_empty());
}

#[tokio::test]
async fn what_is_anothers_is_not_there_by_whichever_name() {
    let site = site().await;
    let spawned = site.ok_as("ada-token", "spawn_session", json!({"prompt": "secret"})).await;
    let name = spawned["sessionId"].as_str().expect("an id").to_owned();
    let id = site.controller.fake.state().sessions[0].session_id.clone();
    for session in [&name, &id, &name[..6].to_owned()] {
        for (tool, arguments) in [
            ("get_session_status", json!({"sessionId": session})),
            ("get_session_output", json!({"sessionId": session})),
            ("get_session_changes", json!({"sessionId": session})),
            ("wait_for_completion", json!({"sessionId": session, "timeoutSeconds": 1})),
            ("send_input", json!({"sessionId": session, "text": "x"})),
            ("stop_session", json!({"sessionId": session})),
            ("archive_session", json!({"sessionId": session})),
            ("integrate_session", json!({"sessionId": session})),
        ] {
            let theirs = site.error_as("bob-token", tool, arguments.clone()).await;
            let mut nobodys = arguments;
            nobodys["sessionId"] = json!("nothing-7k2p9x");
            let nobodys = site.error_as("bob-token", tool, nobodys).await;
            let nobodys = nobodys.replace("nothing-7k2p9x", session);
            assert_eq!(theirs, nobodys, "{tool}: not there and not yours read the same");
        }
    }
    let listed = site.ok_as("bob-token", "list_sessions", json!({})).await;
    assert_eq!(listed["total"], 0, "{listed}");
    for (method, name, params) in [
        ("resources/read", "uri", json!({"uri": format!("muster://sessions/{name}/output")})),
        ("resources/list", "", json!({})),
        (
            "completion/complete",
            "",
            json!({"ref": {"type": "ref/resource", "uri": "muster://sessions/{sessionId}/output"},
                "argument": {"name": "sessionId", "value": ""}}),
        ),
    ] {
        let mut body = modern_call("x", &json!({}));
        let meta = body["params"]["_meta"].clone();
        body["method"] = json!(method);
        body["params"] = params;
        body["params"]["_meta"] = meta;
        let uri = body["params"]["uri"].as_str().unwrap_or_default().to_owned();
        let authorization = bearer("bob-token");
        let mut headers = vec![
            ("authorization", authorization.as_str()),
            ("mcp-protocol-version", MODERN),
            ("mcp-method", method),
        ];
        if name == "uri" {
            headers.push(("mcp-name", uri.as_str()));
        }
        let (_, answer) = site.post(&headers, &body).await;
        assert!(!answer.contains("spawned-0") || method == "resources/read", "{method}: {answer}");
        assert!(!answer.contains("secret"), "{method}: {answer}");
    }
    site.ok_as("ada-token", "get_session_status", json!({"sessionId": name})).await;
}

#[tokio::test]
async fn waits_of_two_callers_for_one_name_are_two_and_only_the_owner_is_told() {
    let site = site().await;
    site.controller.fake.add("work-1", SessionStatus::Working);
    site.controller.fake.state().owners.insert("work-1".into(), "ada".into());
    let wait = json!({"sessionId": "work-1", "timeoutSeconds": 60});
    let story = async {
        site.controller.fake.until("a wait", |state| state.watchers == 1).await;
        let refused = site.error_as("bob-token", "wait_for_completion", wait.clone()).await;
        assert!(refused.starts_with("session_not_found: "), "{refused}");
        site.controller.fake.finish("work-1", SessionStatus::Completed, "done");
    };
    let (waited, ()) = tokio::join!(site.ok_as("ada-token", "wait_for_completion", wait.clone()), story);
    assert_eq!(waited["reason"], "completed");
}

/// A session of the older protocol, opened with a token.
async fn initialize(site: &Site, token: &str) -> String {
    let hello = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}}});
    let authorization = bearer(token);
    let mut stream = site.open(&[("authorization", &authorization)], &hello.to_string()).await;
    let mut answer = Vec::new();
    timeout(LONG, stream.read_to_end(&mut answer)).await.expect("in time").expect("read");
    let answer = String::from_utf8_lossy(&answer).to_lowercase();
    answer.lines().find_map(|line| line.strip_prefix("mcp-session-id: ")).expect("a session").to_owned()
}

async fn in_session(site: &Site, token: &str, session: &str, body: &Value) -> (u16, String) {
    let authorization = bearer(token);
    let headers = [
        ("authorization", authorization.as_str()),
        ("mcp-session-id", session),
        ("mcp-protocol-version", "2025-11-25"),
    ];
    let (head, body) = site.post(&headers, body).await;
    (status(&head), body)
}

#[tokio::test]
async fn a_session_of_the_older_protocol_is_of_use_to_its_owner_only() {
    let site = site().await;
    let session = initialize(&site, "ada-token").await;
    let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    let list = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {
        "name": "list_sessions", "arguments": {}}});
    for body in [&ready, &list] {
        let (code, answer) = in_session(&site, "bob-token", &session, body).await;
        assert_eq!(code, 404, "{answer}");
    }
    for method in ["GET", "DELETE"] {
        let mut stream = TcpStream::connect(site.addr()).await.expect("connected");
        let request = format!(
            "{method} /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\naccept: text/event-stream\r\n\
             authorization: Bearer bob-token\r\nmcp-session-id: {session}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.expect("written");
        let mut answer = String::new();
        timeout(LONG, stream.read_to_string(&mut answer)).await.expect("in time").expect("read");
        assert_eq!(status(&answer), 404, "{method}: {answer}");
    }
    let (code, _) = in_session(&site, "ada-token", &session, &ready).await;
    assert_eq!(code, 202);
    let (code, answer) = in_session(&site, "ada-token", &session, &list).await;
    assert_eq!((code, &message(&answer)["result"]["structuredContent"]["total"]), (200, &json!(0)));
    let state = site.controller.fake.state();
    assert!(state.principals.iter().all(|principal| principal.name == "ada"), "{:?}", state.principals);
}

#[tokio::test]
async fn a_caller_has_so_many_sessions_and_the_oldest_gives_way() {
    let limits = CallerLimits { sessions: 2, ..CallerLimits::default() };
    let site = Site::with(HttpConfig { limits, ..guarded() }).await;
    site.controller.fake.give_token("ada-token", "ada", &[]);
    site.controller.fake.give_token("bob-token", "bob", &[]);
    let bobs = initialize(&site, "bob-token").await;
    let mut sessions = Vec::new();
    for _ in 0..3 {
        sessions.push(initialize(&site, "ada-token").await);
    }
    let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    let (code, _) = in_session(&site, "ada-token", &sessions[0], &ready).await;
    assert_eq!(code, 404, "it gave way");
    for session in &sessions[1..] {
        assert_eq!(in_session(&site, "ada-token", session, &ready).await.0, 202);
    }
    assert_eq!(in_session(&site, "bob-token", &bobs, &ready).await.0, 202, "others keep theirs");
}

#[tokio::test]
async fn a_flood_of_one_caller_is_refused_with_a_time_and_others_are_served() {
    let limits = CallerLimits { per_second: 1, burst: 3, open: 2, sessions: 2 };
    let site = Site::with(HttpConfig { limits, ..guarded() }).await;
    site.controller.fake.give_token("ada-token", "ada", &[]);
    site.controller.fake.give_token("ada-other", "ada", &[]);
    site.controller.fake.give_token("bob-token", "bob", &[]);
    let mut refused = None;
    for token in ["ada-token", "ada-other"].into_iter().cycle().take(40) {
        let (code, head, _) = site.call_as(Some(token), "list_sessions", json!({})).await;
        if code == 429 {
            refused = Some(head);
            break;
        }
    }
    let head = refused.expect("all tokens of one name share a bound");
    assert!(head.contains("retry-after: "), "{head}");
    site.ok_as("bob-token", "list_sessions", json!({})).await;
}

#[tokio::test]
async fn open_requests_of_one_caller_are_bounded_and_free_when_they_end() {
    let limits = CallerLimits { per_second: 1000, burst: 1000, open: 2, sessions: 2 };
    let site = Site::with(HttpConfig { limits, ..guarded() }).await;
    site.controller.fake.give_token("ada-token", "ada", &[]);
    site.controller.fake.add("work-1", SessionStatus::Working);
    let authorization = bearer("ada-token");
    let headers = [
        ("authorization", authorization.as_str()),
        ("mcp-protocol-version", MODERN),
        ("mcp-method", "tools/call"),
        ("mcp-name", "wait_for_completion"),
    ];
    let wait = modern_call("wait_for_completion", &json!({"sessionId": "work-1", "timeoutSeconds": 600}));
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = site.open(&headers, &wait.to_string()).await;
        // Its head: it is being answered.
        let mut byte = [0];
        timeout(LONG, stream.read_exact(&mut byte)).await.expect("in time").expect("read");
        open.push(stream);
    }
    let (code, head, body) = site.call_as(Some("ada-token"), "list_sessions", json!({})).await;
    assert_eq!(code, 429, "{head}\n{body}");
    assert!(body.contains("2 of your requests are open"), "{body}");
    drop(open);
    let deadline = tokio::time::Instant::now() + LONG;
    while site.call_as(Some("ada-token"), "list_sessions", json!({})).await.0 != 200 {
        assert!(tokio::time::Instant::now() < deadline, "their places are never free");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    site.controller.fake.until("the waits are gone", |state| state.watchers == 0).await;
}

#[tokio::test]
async fn who_guesses_tokens_is_slowed_down() {
    let site = site().await;
    let mut slowed = false;
    for number in 0..200 {
        let (code, head, _) =
            site.call_as(Some(&format!("guess-{number}")), "list_sessions", json!({})).await;
        slowed = code == 429;
        if slowed {
            assert!(head.contains("retry-after: "), "{head}");
            break;
        }
        assert_eq!(code, 401);
    }
    assert!(slowed, "two hundred guesses were answered");
    assert!(site.controller.fake.state().checks < 200);
}

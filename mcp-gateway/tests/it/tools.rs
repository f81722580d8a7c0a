//! What the tools do when they are used as meant.

use muster_proto::v1::{AttentionReason, Decision, SessionStatus, send_input_request::Input};
use serde_json::json;

use crate::farm::{Farm, content, text};

#[tokio::test]
async fn the_server_says_who_it_is_and_shows_eleven_tools() {
    let farm = Farm::start().await;
    let info = farm.client.peer_info().expect("the handshake is done");
    assert_eq!(info.server_info.as_ref().map(|info| info.name.as_str()), Some("muster"));
    assert!(info.instructions.as_ref().expect("instructions").contains("another agent"));
    let tools = farm.client.list_all_tools().await.expect("tools");
    let names: Vec<String> = tools.iter().map(|tool| format!("mcp__muster__{}", tool.name)).collect();
    for name in [
        "mcp__muster__spawn_session",
        "mcp__muster__list_sessions",
        "mcp__muster__get_session_status",
        "mcp__muster__get_session_output",
        "mcp__muster__get_session_changes",
        "mcp__muster__send_input",
        "mcp__muster__wait_for_completion",
        "mcp__muster__stop_session",
        "mcp__muster__archive_session",
        "mcp__muster__get_farm_status",
        "mcp__muster__integrate_session",
    ] {
        assert!(names.iter().any(|known| known == name), "{name} is missing");
    }
    assert_eq!(names.len(), 11);
}

#[tokio::test]
async fn spawn_needs_a_prompt_only_and_passes_every_argument_on() {
    let farm = Farm::start().await;
    let session =
        farm.ok("spawn_session", json!({"prompt": "-x $(rm) \"q\"\n\u{0}", "worktree": true})).await;
    assert_eq!(session["status"], "queued");
    assert_eq!(session["queueReason"], "no free slot");
    assert!(session["next"].as_str().expect("a hint").contains("wait_for_completion"));
    farm.ok(
        "spawn_session",
        json!({
            "prompt": "p", "project": "api", "worktree": false, "trustMode": true, "model": "opus",
            "branchName": "b", "ref": "main", "permissionMode": "accept_edits", "allowedTools": ["Edit"],
            "timeoutMinutes": 5, "maxTurns": 6, "maxBudgetUsd": 0.5, "title": "T", "priority": -3, "labels": {"a": "b"},
            "parentSession": "parent", "requestId": "r1"
        }),
    )
    .await;
    let state = farm.fake().state();
    let first = state.spawns[0].spec.as_ref().expect("a spec");
    assert_eq!(first.prompt, "-x $(rm) \"q\"\n\u{0}");
    assert_eq!(first.worktree, Some(true));
    assert!(!state.spawns[0].request_id.is_empty(), "retries must be safe");
    let second = state.spawns[1].spec.as_ref().expect("a spec");
    assert_eq!((second.worktree, second.trust_mode, second.r#ref.as_str()), (Some(false), true, "main"));
    assert_eq!(second.permission_mode, "acceptEdits");
    assert_eq!((second.timeout_minutes, second.max_turns, second.max_budget_usd), (5, 6, 0.5));
    assert_eq!(second.allowed_tools, ["Edit"]);
    assert_eq!(second.labels.get("a").map(String::as_str), Some("b"));
    assert_eq!((second.parent_session.as_str(), second.priority), ("parent", -3));
    assert_eq!(state.spawns[1].request_id, "r1");
}

#[tokio::test]
async fn a_request_is_done_once_however_often_it_arrives() {
    let farm = Farm::start().await;
    let arguments = json!({"prompt": "p", "requestId": "once"});
    let first = farm.ok("spawn_session", arguments.clone()).await;
    let again = farm.ok("spawn_session", arguments).await;
    assert_eq!(first["sessionId"], again["sessionId"]);
    assert_eq!((first.get("replayed"), &again["replayed"]), (None, &json!(true)));
    let error = farm.error("spawn_session", json!({"prompt": "other", "requestId": "once"})).await;
    assert!(error.starts_with("request_id_conflict: "), "{error}");

    let meta = json!({"claudecode/toolUseId": "toolu_01AbCdEfGhIjKlMnOpQrStUv"});
    let first = content(farm.with_meta("spawn_session", json!({"prompt": "q"}), meta.clone()).await);
    let again = content(farm.with_meta("spawn_session", json!({"prompt": "q"}), meta.clone()).await);
    assert_eq!(first["sessionId"], again["sessionId"]);
    let other = content(farm.with_meta("spawn_session", json!({"prompt": "r"}), meta).await);
    assert_ne!(first["sessionId"], other["sessionId"], "an id that is not unique is no repetition");

    let counter = json!({"claudecode/toolUseId": "call_1"});
    let first = content(farm.with_meta("spawn_session", json!({"prompt": "s"}), counter.clone()).await);
    let again = content(farm.with_meta("spawn_session", json!({"prompt": "s"}), counter).await);
    assert_ne!(first["sessionId"], again["sessionId"], "a counter is no request id");
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_and_spawns_once() {
    let farm = Farm::start().await;
    farm.fake().state().lose_next_answer = true;
    farm.ok("spawn_session", json!({"prompt": "p"})).await;
    assert_eq!(farm.fake().state().sessions.len(), 1);
}

#[tokio::test]
async fn lists_are_counted_and_paged() {
    let farm = Farm::start().await;
    for index in 0..25 {
        farm.fake().add(&format!("work-{index:02}"), SessionStatus::Working);
    }
    let first = farm.ok("list_sessions", json!({})).await;
    assert_eq!(first["sessions"].as_array().map(Vec::len), Some(20));
    assert_eq!((&first["total"], &first["counts"]), (&json!(25), &json!({"working": 25})));
    let second = farm.ok("list_sessions", json!({"cursor": first["nextCursor"]})).await;
    assert_eq!(second["sessions"].as_array().map(Vec::len), Some(5));
    assert!(second.get("nextCursor").is_none());
    farm.ok(
        "list_sessions",
        json!({
            "status": ["needs_attention"], "project": "api", "labels": {"a": "b"},
            "includeArchived": true, "limit": 3
        }),
    )
    .await;
    let state = farm.fake().state();
    let last = state.lists.last().expect("a list");
    assert_eq!(last.statuses, [i32::from(SessionStatus::NeedsAttention)]);
    assert_eq!((last.project.as_str(), last.include_archived, last.limit), ("api", true, 3));
}

#[tokio::test]
async fn status_shows_what_is_asked_and_name_is_taken_for_session_id() {
    let farm = Farm::start().await;
    let id = farm.fake().add("fix-login-7k2p9x", SessionStatus::Working);
    farm.fake().ask("fix-login-7k2p9x", "a10", AttentionReason::Permission);
    for arguments in [
        json!({"sessionId": "fix-login-7k2p9x"}),
        json!({"name": "fix-login-7k2p9x"}),
        json!({"sessionId": id}),
        json!({"sessionId": "fix-"}),
    ] {
        let view = farm.ok("get_session_status", arguments).await;
        assert_eq!(view["sessionId"], "fix-login-7k2p9x");
        assert_eq!(view["status"], "needs_attention");
        assert_eq!(view["attention"]["input"], json!({"command": "git push origin main"}));
        assert_eq!(view["attention"]["attentionId"], "a10");
    }
    let error = farm.error("get_session_status", json!({"sessionId": "nothing"})).await;
    assert_eq!(
        error,
        "session_not_found: no session \"nothing\". Call list_sessions to see the sessions there are."
    );
}

#[tokio::test]
async fn answers_reach_the_question_they_are_meant_for() {
    let farm = Farm::start().await;
    farm.fake().add("fix-1", SessionStatus::Working);
    let ask = |id: &str, reason| farm.fake().ask("fix-1", id, reason);

    ask("a1", AttentionReason::Permission);
    let sent = farm
        .ok(
            "send_input",
            json!({
                "sessionId": "fix-1", "decision": "allow", "updatedInput": {"command": "ls"},
                "attentionId": "a1"
            }),
        )
        .await;
    assert_eq!((&sent["delivered"], &sent["status"]), (&json!("now"), &json!("working")));
    ask("a2", AttentionReason::Permission);
    farm.ok("send_input", json!({"sessionId": "fix-1", "decision": "deny", "text": "not to main"})).await;
    ask("a3", AttentionReason::Input);
    farm.ok("send_input", json!({"sessionId": "fix-1", "answers": {"DB": ["Postgres", "SQLite"]}})).await;
    ask("a4", AttentionReason::Input);
    farm.ok("send_input", json!({"sessionId": "fix-1", "text": "neither"})).await;
    ask("a5", AttentionReason::PlanApproval);
    farm.ok("send_input", json!({"sessionId": "fix-1", "decision": "allow_always"})).await;

    let answers: Vec<_> = farm
        .fake()
        .state()
        .inputs
        .iter()
        .map(|input| match &input.input {
            Some(Input::Answer(answer)) => answer.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(answers[0].decision(), Decision::Allow);
    assert_eq!(answers[0].updated_input_json, r#"{"command":"ls"}"#);
    assert_eq!((answers[0].attention_id.as_str(), answers[1].attention_id.as_str()), ("a1", ""));
    assert_eq!((answers[1].decision(), answers[1].text.as_str()), (Decision::Deny, "not to main"));
    assert_eq!(answers[2].answers.get("Which DB?").map(String::as_str), Some("Postgres, SQLite"));
    assert_eq!(answers[3].text, "neither");
    assert_eq!(answers[4].decision(), Decision::AllowAlways);
}

#[tokio::test]
async fn text_is_never_taken_for_an_answer_it_is_not() {
    let farm = Farm::start().await;
    farm.fake().add("fix-1", SessionStatus::Working);
    for reason in [AttentionReason::Permission, AttentionReason::PlanApproval] {
        farm.fake().ask("fix-1", "a7", reason);
        let error = farm.error("send_input", json!({"sessionId": "fix-1", "text": "go on"})).await;
        assert!(error.starts_with("attention_pending: "), "{error}");
        assert!(error.contains("a7") && error.contains("decision"), "{error}");
    }
    let error = farm.error("send_input", json!({"sessionId": "fix-1", "answers": {"x": "y"}})).await;
    assert!(error.contains("waits on plan_approval"), "{error}");
    let error = farm
        .error("send_input", json!({"sessionId": "fix-1", "decision": "allow", "attentionId": "a6"}))
        .await;
    assert!(error.starts_with("attention_stale: "), "{error}");
    farm.fake().change("fix-1", |session| session.attention = None);
    let error = farm.error("send_input", json!({"sessionId": "fix-1", "decision": "allow"})).await;
    assert!(error.starts_with("attention_stale: "), "{error}");
    assert!(farm.fake().state().inputs.is_empty());
}

#[tokio::test]
async fn messages_and_interrupts_say_when_they_arrive() {
    let farm = Farm::start().await;
    farm.fake().add("working-1", SessionStatus::Working);
    farm.fake().add("done-1", SessionStatus::Completed);
    farm.fake().add("stopped-1", SessionStatus::Stopped);
    for (session, input, delivered) in [
        ("working-1", json!({"text": "also"}), "after_turn"),
        ("working-1", json!({"interrupt": true}), "now"),
        ("done-1", json!({"interrupt": true}), "nothing"),
        ("done-1", json!({"text": "next"}), "next_attempt"),
    ] {
        let mut arguments = input;
        arguments["sessionId"] = json!(session);
        assert_eq!(farm.ok("send_input", arguments).await["delivered"], delivered);
    }
    let error = farm.error("send_input", json!({"sessionId": "stopped-1", "text": "x"})).await;
    assert!(error.starts_with("session_ended: "), "{error}");
    for arguments in [
        json!({"sessionId": "done-1"}),
        json!({"sessionId": "done-1", "interrupt": true, "text": "x"}),
        json!({"sessionId": "done-1", "answers": {"a": "b"}, "decision": "deny"}),
        json!({"sessionId": "done-1", "updatedInput": {"a": 1}}),
    ] {
        let error = farm.error("send_input", arguments).await;
        assert!(error.starts_with("invalid_argument: "), "{error}");
    }
}

#[tokio::test]
async fn stop_and_archive_may_be_repeated() {
    let farm = Farm::start().await;
    farm.fake().add("work-1", SessionStatus::Working);
    let error = farm.error("archive_session", json!({"sessionId": "work-1"})).await;
    assert!(error.starts_with("session_running: ") && error.contains("stop_session"), "{error}");
    let stopped = farm.ok("stop_session", json!({"sessionId": "work-1", "reason": "enough"})).await;
    assert_eq!((&stopped["status"], &stopped["changed"]), (&json!("stopped"), &json!(true)));
    assert_eq!(farm.ok("stop_session", json!({"name": "work-1"})).await["changed"], false);
    assert_eq!(farm.fake().state().stops[0].reason, "enough");
    let archived = farm.ok("archive_session", json!({"sessionId": "work-1"})).await;
    assert_eq!((&archived["archived"], &archived["changed"]), (&json!(true), &json!(true)));
    assert_eq!(farm.ok("archive_session", json!({"sessionId": "work-1"})).await["changed"], false);
}

#[tokio::test]
async fn a_controller_that_is_away_is_named_in_time() {
    let farm = Farm::start().await;
    farm.fake().add("work-1", SessionStatus::Working);
    farm.fake().set_down(true);
    for (tool, arguments) in [
        ("spawn_session", json!({"prompt": "p"})),
        ("list_sessions", json!({})),
        ("get_session_output", json!({"sessionId": "work-1"})),
        ("wait_for_completion", json!({"sessionId": "work-1"})),
    ] {
        let result = farm.result(tool, arguments).await;
        assert_eq!(result.is_error, Some(true));
        let error = text(&result);
        assert!(error.starts_with("controller_unavailable: the controller at http://127.0.0.1:"), "{error}");
        assert!(error.contains("muster up"), "{error}");
    }
    farm.fake().set_down(false);
    farm.ok("list_sessions", json!({})).await;
}

#[tokio::test]
async fn refusals_of_the_controller_say_what_to_do() {
    let farm = Farm::start().await;
    let error = farm.error("spawn_session", json!({"prompt": ""})).await;
    assert_eq!(
        error,
        "invalid_argument: the prompt is empty. Correct the argument and call again; nothing was changed."
    );
    let error =
        farm.error("spawn_session", json!({"prompt": "p", "project": "strict", "trustMode": true})).await;
    assert!(error.starts_with("trust_not_allowed: ") && error.contains("without trustMode"), "{error}");
}

#[tokio::test]
async fn an_answer_whose_reply_was_lost_may_be_repeated() {
    let farm = Farm::start().await;
    farm.fake().add("fix-1", SessionStatus::Working);
    for (id, arguments, reason) in [
        ("r1", json!({"decision": "allow"}), AttentionReason::Permission),
        ("r2", json!({"text": "Postgres"}), AttentionReason::Input),
    ] {
        farm.fake().ask("fix-1", "a1", reason);
        let mut arguments = arguments;
        arguments["sessionId"] = json!("fix-1");
        arguments["requestId"] = json!(id);
        assert!(farm.ok("send_input", arguments.clone()).await.get("replayed").is_none());
        assert_eq!(farm.ok("send_input", arguments).await["replayed"], true, "{id}");
    }
    assert_eq!(farm.fake().state().inputs.len(), 2);
    let meta = json!({"claudecode/toolUseId": "toolu_01AbCdEfGhIjKlMnOpQrStUv"});
    let say = |text: &str| json!({"sessionId": "fix-1", "text": text});
    content(farm.with_meta("send_input", say("one"), meta.clone()).await);
    assert_eq!(content(farm.with_meta("send_input", say("one"), meta.clone()).await)["replayed"], true);
    assert!(content(farm.with_meta("send_input", say("two"), meta).await).get("replayed").is_none());
}

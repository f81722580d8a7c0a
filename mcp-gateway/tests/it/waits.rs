//! Waiting: who wakes it, what it says, and that it always ends.

use std::time::Duration;

use muster_proto::v1::{AttentionReason, SessionStatus};
use rmcp::model::{ClientRequest, Request};
use rmcp::service::PeerRequestOptions;
use serde_json::{Value, json};

use crate::farm::{Farm, content, params};

fn ids(views: &Value) -> Vec<&str> {
    views.as_array().expect("a list").iter().map(|view| view["sessionId"].as_str().expect("an id")).collect()
}

#[tokio::test]
async fn all_waits_for_the_last_and_any_for_the_first() {
    let farm = Farm::start().await;
    farm.fake().add("one-1", SessionStatus::Working);
    farm.fake().add("two-2", SessionStatus::Working);
    let arguments =
        |mode: &str| json!({"sessionIds": ["one-1", "two-2"], "mode": mode, "timeoutSeconds": 20});
    let all = farm.ok("wait_for_completion", arguments("all"));
    let story = async {
        let first = async {
            farm.fake().until("a wait", |state| state.watchers == 1).await;
            farm.fake().finish("one-1", SessionStatus::Completed, "first");
        };
        let (any, ()) = tokio::join!(farm.ok("wait_for_completion", arguments("any")), first);
        farm.fake().finish("two-2", SessionStatus::Failed, "");
        any
    };
    let (all, any) = tokio::join!(all, story);
    assert_eq!((&any["reason"], &any["timedOut"]), (&json!("completed"), &json!(false)));
    assert_eq!((ids(&any["ready"]), ids(&any["pending"])), (vec!["one-1"], vec!["two-2"]));
    assert_eq!(any["ready"][0]["resultPreview"], "first");
    assert_eq!(ids(&all["ready"]), ["one-1", "two-2"]);
    assert_eq!(all["ready"][1]["status"], "failed");
    assert_eq!(all["ready"][1]["end"]["reason"], "turn_failed");
    farm.fake().until("no watch is left", |state| state.watchers == 0).await;
}

#[tokio::test]
async fn attention_ends_a_wait_for_all() {
    let farm = Farm::start().await;
    farm.fake().add("one-1", SessionStatus::Working);
    farm.fake().add("two-2", SessionStatus::Working);
    let story = async {
        farm.fake().until("a wait", |state| state.watchers == 1).await;
        farm.fake().ask("two-2", "a5", AttentionReason::Input);
    };
    let (wait, ()) =
        tokio::join!(farm.ok("wait_for_completion", json!({"names": ["one-1", "two-2"]})), story);
    assert_eq!(wait["reason"], "needs_attention");
    assert_eq!((ids(&wait["ready"]), ids(&wait["pending"])), (vec!["two-2"], vec!["one-1"]));
    assert_eq!(wait["ready"][0]["attention"]["questions"][0]["question"], "Which DB?");
    assert!(wait["next"].as_str().expect("a hint").contains("answerWith"));
}

#[tokio::test]
async fn what_has_ended_returns_at_once_and_zero_only_looks() {
    let farm = Farm::start().await;
    farm.fake().add("work-1", SessionStatus::Working);
    for status in [SessionStatus::Completed, SessionStatus::Failed, SessionStatus::Stopped] {
        let handle = format!("{}-1", status.as_str_name().to_lowercase());
        farm.fake().add(&handle, status);
        let wait = farm.ok("wait_for_completion", json!({"name": handle})).await;
        assert_eq!(wait["reason"], "completed");
    }
    farm.fake().add("archived-1", SessionStatus::Working);
    farm.fake().change("archived-1", |session| session.archived = true);
    assert_eq!(
        farm.ok("wait_for_completion", json!({"sessionId": "archived-1"})).await["reason"],
        "completed"
    );
    let look = farm.ok("wait_for_completion", json!({"sessionId": "work-1", "timeoutSeconds": 0})).await;
    assert_eq!((&look["reason"], &look["timedOut"]), (&json!("timeout"), &json!(true)));
    assert_eq!(ids(&look["pending"]), ["work-1"]);
    assert!(look["next"].as_str().expect("a hint").contains("do not spawn replacements"));
}

#[tokio::test]
async fn unknown_sessions_are_an_error_before_the_wait() {
    let farm = Farm::start().await;
    farm.fake().add("work-1", SessionStatus::Working);
    let error = farm.error("wait_for_completion", json!({"sessionIds": ["work-1", "nothing"]})).await;
    assert!(error.starts_with("session_not_found: "), "{error}");
}

#[tokio::test]
async fn a_long_wait_is_capped_and_says_so() {
    let controller = crate::fake_controller::Running::start().await;
    let mut config = crate::farm::config(&controller.uri());
    config.other_waits.most = Duration::from_millis(50);
    let farm = Farm::with(controller, config).await;
    farm.fake().add("work-1", SessionStatus::Working);
    let wait = farm.ok("wait_for_completion", json!({"sessionId": "work-1", "timeoutSeconds": 9999})).await;
    assert_eq!((&wait["reason"], &wait["cappedTo"]), (&json!("timeout"), &json!(0)));
    assert!(wait["note"].as_str().expect("a note").contains("capped"));
}

#[tokio::test]
async fn progress_begins_at_once_grows_and_quotes_what_a_session_does() {
    let farm = Farm::start().await;
    farm.fake().add("work-1", SessionStatus::Working);
    farm.fake().change("work-1", |session| {
        session.last_activity = format!("Bash: \u{1b}[2Jcargo\ntest {}", "x".repeat(100));
    });
    let story = async {
        while farm.progress().len() < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        farm.fake().finish("work-1", SessionStatus::Completed, "");
    };
    let meta = json!({"progressToken": "p1"});
    let arguments = json!({"sessionId": "work-1", "timeoutSeconds": 20});
    let (wait, ()) = tokio::join!(farm.with_meta("wait_for_completion", arguments, meta), story);
    assert_eq!(content(wait)["reason"], "completed");
    let progress = farm.progress();
    assert!(progress.windows(2).all(|pair| pair[0].0 < pair[1].0), "{progress:?}");
    let told = progress.iter().any(|(_, message)| {
        message.starts_with("0/1 done; work-1: working \u{201c}Bash: cargo test xxx")
            && message.contains("x…\u{201d} (")
            && message.chars().count() < 120
    });
    assert!(told, "{progress:?}");
}

#[tokio::test]
async fn a_cancelled_wait_frees_its_stream() {
    let farm = Farm::start().await;
    farm.fake().add("work-1", SessionStatus::Working);
    let request = ClientRequest::CallToolRequest(Request::new(params(
        "wait_for_completion",
        json!({"sessionId": "work-1", "timeoutSeconds": 600}),
        None,
    )));
    let call =
        farm.client.send_cancellable_request(request, PeerRequestOptions::no_options()).await.expect("sent");
    farm.fake().until("a wait", |state| state.watchers == 1).await;
    call.cancel(Some("enough".into())).await.expect("cancelled");
    farm.fake().until("the stream is free", |state| state.watchers == 0).await;
    farm.ok("list_sessions", json!({})).await;
}

#[tokio::test]
async fn a_wait_outlives_a_restart_of_the_controller() {
    let farm = Farm::start().await;
    farm.fake().add("work-1", SessionStatus::Working);
    let story = async {
        farm.fake().until("a wait", |state| state.watchers == 1).await;
        // Past the patience that a first look has.
        tokio::time::sleep(Duration::from_millis(700)).await;
        farm.fake().set_down(true);
        farm.fake()
            .until("the watch broke and was tried again", |state| state.watchers == 0 && state.calls > 2)
            .await;
        farm.fake().set_down(false);
        farm.fake().until("it subscribed again", |state| state.watchers == 1).await;
        farm.fake().finish("work-1", SessionStatus::Completed, "late");
    };
    let arguments = json!({"sessionId": "work-1", "timeoutSeconds": 30});
    let (wait, ()) = tokio::join!(farm.ok("wait_for_completion", arguments), story);
    assert_eq!(wait["reason"], "completed");
    assert_eq!(wait["ready"][0]["resultPreview"], "late");
}

#[tokio::test]
async fn a_thousand_waits_share_a_few_streams_and_others_are_served() {
    let farm = Farm::start().await;
    for number in 0..10 {
        farm.fake().add(&format!("work-{number}"), SessionStatus::Working);
    }
    let wait = |number: usize| json!({"sessionId": format!("work-{}", number % 10), "timeoutSeconds": 120});
    let waits =
        futures::future::join_all((0..1000).map(|number| farm.ok("wait_for_completion", wait(number))));
    let story = async {
        farm.fake().until("waits", |state| state.watchers > 0).await;
        farm.ok("list_sessions", json!({})).await;
        for number in 0..10 {
            farm.fake().finish(&format!("work-{number}"), SessionStatus::Completed, "");
        }
    };
    let (waits, ()) = tokio::join!(waits, story);
    assert!(waits.iter().all(|wait| wait["reason"] == "completed"));
    farm.fake().until("no watch is left", |state| state.watchers == 0).await;
    let state = farm.fake().state();
    // Waits that come when all others have just left open another; the controller is never asked per wait.
    assert!(state.calls < 100 && state.watches < 100, "{} calls, {} watches", state.calls, state.watches);
}

#[tokio::test]
async fn a_name_that_is_wrong_fails_its_own_wait_only() {
    let farm = Farm::start().await;
    farm.fake().add("work-1", SessionStatus::Working);
    let good = farm.ok("wait_for_completion", json!({"sessionId": "work-1", "timeoutSeconds": 60}));
    let bad = farm.error("wait_for_completion", json!({"sessionIds": ["nothing", "work-1"]}));
    let story = async {
        let (bad, ()) = tokio::join!(bad, farm.fake().until("a wait", |state| state.watchers == 1));
        farm.fake().finish("work-1", SessionStatus::Completed, "");
        bad
    };
    let (good, bad) = tokio::join!(good, story);
    assert!(bad.starts_with("session_not_found: "), "{bad}");
    assert_eq!(good["reason"], "completed");
    // A name is not remembered as wrong.
    farm.fake().add("nothing", SessionStatus::Completed);
    let found = farm.ok("wait_for_completion", json!({"sessionId": "nothing"})).await;
    assert_eq!(found["reason"], "completed");
}

#[tokio::test]
async fn a_loop_with_since_reports_each_change_once() {
    let farm = Farm::start().await;
    for name in ["one-1", "two-2", "three-3"] {
        farm.fake().add(name, SessionStatus::Working);
    }
    let all = json!(["one-1", "two-2", "three-3"]);
    let wait = |since: &Value, seconds: u32| {
        let mut arguments = json!({"sessionIds": all, "mode": "any", "timeoutSeconds": seconds});
        if !since.is_null() {
            arguments["since"] = since.clone();
        }
        farm.ok("wait_for_completion", arguments)
    };
    farm.fake().finish("one-1", SessionStatus::Completed, "1");
    let first = wait(&Value::Null, 60).await;
    assert_eq!((ids(&first["ready"]), &first["reason"]), (vec!["one-1"], &json!("completed")));

    // What was reported does not wake again, and is named.
    let quiet = wait(&first["cursor"], 0).await;
    assert_eq!((&quiet["reason"], &quiet["reportedBefore"]), (&json!("timeout"), &json!(["one-1"])));
    assert_eq!((ids(&quiet["ready"]).len(), ids(&quiet["pending"]).len()), (0, 2));

    let story = async {
        farm.fake().until("a wait", |state| state.watchers == 1).await;
        farm.fake().ask("two-2", "a5", AttentionReason::Permission);
    };
    let (second, ()) = tokio::join!(wait(&quiet["cursor"], 60), story);
    assert_eq!((ids(&second["ready"]), &second["reason"]), (vec!["two-2"], &json!("needs_attention")));

    // A question that nobody answered is shown again when the time is over, and does not wake before.
    let asked = wait(&second["cursor"], 0).await;
    assert_eq!(asked["reason"], "timeout");
    assert_eq!(asked["pending"][0]["attention"]["attentionId"], "a5");
    assert!(asked["next"].as_str().expect("a hint").contains("1 still need attention"), "{asked}");

    // Its next question does, and so does the next turn of one that had ended.
    farm.fake().ask("two-2", "a6", AttentionReason::Input);
    let third = wait(&asked["cursor"], 60).await;
    assert_eq!((ids(&third["ready"]), &third["reason"]), (vec!["two-2"], &json!("needs_attention")));
    farm.fake().change("one-1", |session| session.attempt += 1);
    let fourth = wait(&third["cursor"], 60).await;
    assert_eq!((ids(&fourth["ready"]), &fourth["reason"]), (vec!["one-1"], &json!("completed")));

    // When all have ended and were reported there is nothing to wait for.
    for name in ["two-2", "three-3"] {
        farm.fake().finish(name, SessionStatus::Stopped, "");
    }
    let fifth = wait(&fourth["cursor"], 60).await;
    assert_eq!(ids(&fifth["ready"]).len(), 2);
    let last = wait(&fifth["cursor"], 60).await;
    assert_eq!((&last["reason"], ids(&last["ready"]).len()), (&json!("completed"), 0));
    assert_eq!(last["reportedBefore"].as_array().map(Vec::len), Some(3));
    let error = farm.error("wait_for_completion", json!({"sessionId": "one-1", "since": "o5"})).await;
    assert!(error.starts_with("invalid_cursor: "), "{error}");
}

#[tokio::test]
async fn a_wait_after_an_answer_does_not_show_the_question_again() {
    let farm = Farm::start().await;
    farm.fake().add("work-1", SessionStatus::Working);
    farm.fake().add("work-2", SessionStatus::Working);
    // A wait of somebody else keeps the stream of the first open all the time.
    let other = farm.ok("wait_for_completion", json!({"sessionId": "work-1", "timeoutSeconds": 60}));
    let story = async {
        farm.fake().until("a wait", |state| state.watchers == 1).await;
        for round in 0..50 {
            farm.fake().ask("work-1", &format!("a{round}"), AttentionReason::Permission);
            let wait = json!({"sessionIds": ["work-1", "work-2"], "timeoutSeconds": 60});
            let asked = farm.ok("wait_for_completion", wait.clone()).await;
            let open = &asked["ready"][0]["attention"]["attentionId"];
            assert_eq!(open, &json!(format!("a{round}")), "{asked}");
            farm.ok("send_input", json!({"sessionId": "work-1", "decision": "allow"})).await;
            let look = farm.ok("wait_for_completion", json!({"sessionId": "work-1", "timeoutSeconds": 0}));
            assert_eq!(look.await["reason"], "timeout", "round {round}");
        }
    };
    let (other, ()) = tokio::join!(other, story);
    assert_eq!(other["reason"], "needs_attention");
}

#[tokio::test]
async fn labels_stand_for_the_sessions_that_carry_them() {
    let farm = Farm::start().await;
    let spawn =
        |label: &'static str| farm.ok("spawn_session", json!({"prompt": "p", "labels": {"task": label}}));
    let (one, two, other) = (spawn("a").await, spawn("a").await, spawn("b").await);
    for session in [&one, &two] {
        let name = session["sessionId"].as_str().expect("an id");
        farm.fake().finish(name, SessionStatus::Completed, "");
    }
    let wait = farm.ok("wait_for_completion", json!({"labels": {"task": "a"}})).await;
    assert_eq!(wait["ready"].as_array().map(Vec::len), Some(2), "{wait}");
    assert!(!wait.to_string().contains(other["sessionId"].as_str().expect("an id")));
    for (arguments, part) in [
        (json!({"labels": {"task": "none"}}), "no session carries"),
        (json!({"labels": {}}), "`labels` is empty"),
        (json!({"labels": {"task": "a"}, "sessionId": "x"}), "not several"),
    ] {
        let error = farm.error("wait_for_completion", arguments).await;
        assert!(error.starts_with("invalid_argument: ") && error.contains(part), "{error}");
    }
}

#[tokio::test]
async fn a_part_of_the_first_look_is_not_taken_for_the_whole() {
    let farm = Farm::start().await;
    farm.fake().add("done-1", SessionStatus::Completed);
    farm.fake().add("work-2", SessionStatus::Working);
    let arguments = json!({"sessionIds": ["done-1", "work-2"], "timeoutSeconds": 0});
    let look = farm.ok("wait_for_completion", arguments).await;
    assert_eq!((&look["reason"], ids(&look["pending"])), (&json!("timeout"), vec!["work-2"]));
}

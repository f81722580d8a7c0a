//! Waits as tasks: for clients that know them, outliving the gateway, gone when they are cancelled.

use std::time::Duration;

use muster_mcp_gateway::Config;
use muster_proto::v1::{AttentionReason, SessionStatus, TaskState};
use serde_json::{Value, json};

use crate::{
    fake_controller::{Fake, Running},
    farm,
    wire::Wire,
};

fn knows_tasks() -> Value {
    json!({"extensions": {"io.modelcontextprotocol/tasks": {}}})
}

fn quick(controller: &Running) -> Config {
    let mut config = farm::config(&controller.uri());
    config.task_after = Duration::from_millis(100);
    config
}

async fn modern(controller: &Running, capabilities: Value) -> Wire {
    Wire::modern_to(quick(controller), capabilities).await
}

fn wait() -> Value {
    json!({"name": "wait_for_completion", "arguments": {"sessionIds": ["work-1", "work-2"], "timeoutSeconds": 600}})
}

async fn two_working() -> Running {
    let controller = Running::start().await;
    controller.fake.add("work-1", SessionStatus::Working);
    controller.fake.add("work-2", SessionStatus::Working);
    controller
}

/// Begins a wait that becomes a task; gives its id.
async fn begin(wire: &mut Wire, wait: Value) -> String {
    let answer = wire.ask("tools/call", wait).await;
    assert_eq!(answer["result"]["resultType"], "task", "{answer}");
    assert_eq!(answer["result"]["status"], "working", "{answer}");
    answer["result"]["taskId"].as_str().expect("an id").to_owned()
}

async fn get(wire: &mut Wire, id: &str) -> Value {
    wire.ask("tasks/get", json!({"taskId": id})).await
}

/// Asks for the task, as a client does, until it has `status`.
async fn until(wire: &mut Wire, id: &str, status: &str) -> Value {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let task = get(wire, id).await;
        if task["result"]["status"] == status {
            return task["result"].clone();
        }
        assert!(tokio::time::Instant::now() < deadline, "never {status}: {task}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn record(fake: &Fake) -> muster_proto::v1::Task {
    let state = fake.state();
    assert_eq!(state.tasks.len(), 1);
    state.tasks.values().next().expect("a task").clone()
}

#[tokio::test]
async fn a_wait_becomes_a_task_says_how_far_it_is_and_ends_with_the_result_of_the_call() {
    let controller = two_working().await;
    let mut wire = modern(&controller, knows_tasks()).await;
    let id = begin(&mut wire, wait()).await;
    assert!(id.len() >= 32 && id.chars().all(|c| c.is_ascii_alphanumeric()), "{id}");
    controller.fake.change("work-1", |session| "Bash: cargo test".clone_into(&mut session.last_activity));
    controller.fake.finish("work-2", SessionStatus::Completed, "two");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let task = get(&mut wire, &id).await;
        assert_eq!(task["result"]["resultType"], "complete", "{task}");
        assert!(task["result"]["ttlMs"].as_u64().is_some_and(|ttl| ttl >= 600_000), "{task}");
        let message = task["result"]["statusMessage"].as_str().unwrap_or_default();
        if message.starts_with("1/2 done; work-1: working \u{201c}Bash: cargo test\u{201d}") {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{task}");
    }
    controller.fake.finish("work-1", SessionStatus::Completed, "one");
    let task = until(&mut wire, &id, "completed").await;
    let structured = &task["result"]["structuredContent"];
    assert_eq!(structured["reason"], "completed", "{task}");
    assert_eq!(structured["ready"].as_array().map(Vec::len), Some(2), "{task}");
    let text = task["result"]["content"][0]["text"].as_str().expect("a text");
    assert_eq!(&serde_json::from_str::<Value>(text).expect("JSON"), structured);
    assert_eq!(record(&controller.fake).state(), TaskState::Completed);
    controller.fake.until("nothing watches any more", |state| state.watchers == 0).await;
    // It stays as it is.
    assert_eq!(until(&mut wire, &id, "completed").await["result"], task["result"]);
}

#[tokio::test]
async fn a_wait_that_is_over_soon_and_a_wrong_one_are_answered_at_once() {
    let controller = two_working().await;
    let mut wire = modern(&controller, knows_tasks()).await;
    controller.fake.finish("work-1", SessionStatus::Completed, "one");
    for (arguments, part) in [
        (json!({"sessionId": "work-1"}), "\"reason\":\"completed\""),
        (json!({"sessionId": "work-2", "timeoutSeconds": 0}), "\"reason\":\"timeout\""),
        (json!({"sessionId": "nothing"}), "session_not_found: "),
        (json!({"sessionID": "x"}), "did you mean `sessionId`?"),
    ] {
        let answer = wire.call("wait_for_completion", arguments).await;
        assert_eq!(answer["result"]["resultType"], "complete", "{answer}");
        let text = answer["result"]["content"][0]["text"].as_str().expect("a text");
        assert!(text.to_lowercase().contains(&part.to_lowercase()), "{answer}");
    }
    assert!(controller.fake.state().tasks.is_empty());
}

#[tokio::test]
async fn who_does_not_know_tasks_gets_none_and_neither_does_an_older_session_that_says_it_does() {
    let controller = two_working().await;
    let mut plain = modern(&controller, json!({})).await;
    let mut older = Wire::legacy_to(quick(&controller), "2025-11-25", knows_tasks()).await;
    assert!(older.hello["capabilities"].get("extensions").is_none(), "{}", older.hello);
    for wire in [&mut plain, &mut older] {
        let arguments = json!({"sessionIds": ["work-1", "work-2"], "timeoutSeconds": 1});
        let answer = wire.call("wait_for_completion", arguments).await;
        assert_eq!(answer["result"]["structuredContent"]["reason"], "timeout", "{answer}");
    }
    assert!(controller.fake.state().tasks.is_empty());
    let refused = get(&mut plain, "0123456789abcdef0123456789abcdef").await;
    assert_eq!(refused["error"]["code"], -32021, "{refused}");
}

#[tokio::test]
async fn a_task_goes_on_in_another_gateway_as_if_nothing_had_been() {
    let controller = two_working().await;
    let mut first = modern(&controller, knows_tasks()).await;
    let id = begin(&mut first, wait()).await;
    controller.fake.until("it watches", |state| state.watchers == 1).await;
    first.leave().await;
    controller.fake.until("nobody watches", |state| state.watchers == 0).await;
    assert_eq!(record(&controller.fake).state(), TaskState::Working, "a gateway that leaves ends no task");

    // What happens while there is no gateway is not missed.
    controller.fake.finish("work-1", SessionStatus::Failed, "one");
    let mut second = modern(&controller, knows_tasks()).await;
    let task = get(&mut second, &id).await;
    assert_eq!(task["result"]["status"], "working", "{task}");
    controller.fake.until("it watches again", |state| state.watchers == 1).await;
    controller.fake.finish("work-2", SessionStatus::Completed, "two");
    let task = until(&mut second, &id, "completed").await;
    assert_eq!(task["result"]["structuredContent"]["ready"].as_array().map(Vec::len), Some(2), "{task}");

    // A third finds the end, having done nothing for it.
    let mut third = modern(&controller, knows_tasks()).await;
    assert_eq!(get(&mut third, &id).await["result"]["result"], task["result"]);
}

#[tokio::test]
async fn a_task_that_is_cancelled_watches_nothing_and_its_sessions_go_on() {
    let controller = two_working().await;
    let mut wire = modern(&controller, knows_tasks()).await;
    let id = begin(&mut wire, wait()).await;
    controller.fake.until("it watches", |state| state.watchers == 1).await;
    for _ in 0..2 {
        let answer = wire.ask("tasks/cancel", json!({"taskId": id})).await;
        assert_eq!(answer["result"]["resultType"], "complete", "{answer}");
    }
    controller.fake.until("nothing watches any more", |state| state.watchers == 0).await;
    assert_eq!(get(&mut wire, &id).await["result"]["status"], "cancelled");
    controller.fake.finish("work-1", SessionStatus::Completed, "");
    controller.fake.finish("work-2", SessionStatus::Completed, "");
    assert_eq!(get(&mut wire, &id).await["result"]["status"], "cancelled", "the first end counts");
    assert!(controller.fake.state().stops.is_empty());
}

#[tokio::test]
async fn ids_that_are_nobodys_or_anothers_read_the_same() {
    let controller = two_working().await;
    let mut wire = modern(&controller, knows_tasks()).await;
    let id = begin(&mut wire, wait()).await;
    let record = record(&controller.fake);
    controller.fake.state().tasks.clear();
    controller.fake.state().tasks.insert(("ada".into(), id.clone()), record);
    for id in [id.as_str(), "0123456789abcdef0123456789abcdef", "", "x", &"y".repeat(5000)] {
        for method in ["tasks/get", "tasks/cancel"] {
            let answer = wire.ask(method, json!({"taskId": id})).await;
            assert_eq!(answer["error"]["code"], -32602, "{answer}");
            assert_eq!(answer["error"]["message"], "there is no such task", "{answer}");
        }
        let answers = json!({"taskId": id, "inputResponses": {}});
        let answer = wire.ask("tasks/update", answers).await;
        assert_eq!(answer["error"]["message"], "there is no such task", "{answer}");
    }
    assert_eq!(controller.fake.state().tasks.values().next().expect("it").state(), TaskState::Working);
}

#[tokio::test]
async fn a_question_is_put_through_the_task_and_its_answer_goes_to_the_session() {
    let controller = two_working().await;
    let mut capabilities = knows_tasks();
    capabilities["elicitation"] = json!({"form": {}});
    let mut wire = modern(&controller, capabilities.clone()).await;
    let mut asking = wait();
    asking["arguments"]["onAttention"] = json!("ask_user");
    let id = begin(&mut wire, asking).await;
    controller.fake.ask("work-1", "a1", AttentionReason::Permission);
    let task = until(&mut wire, &id, "input_required").await;
    assert_eq!(task["inputRequests"]["work-1/a1"]["method"], "elicitation/create", "{task}");
    let answers = json!({"work-1/a1": {"action": "accept", "content": {"decision": "allow"}}});
    let answer = wire.ask("tasks/update", json!({"taskId": id, "inputResponses": answers})).await;
    assert!(answer.get("error").is_none(), "{answer}");
    controller.fake.until("the answer", |state| state.inputs.len() == 1).await;
    until(&mut wire, &id, "working").await;

    // The next is declined. Another gateway does not ask it again: the wait ends with it.
    controller.fake.ask("work-2", "a2", AttentionReason::Input);
    until(&mut wire, &id, "input_required").await;
    let mut second = modern(&controller, capabilities).await;
    let answers = json!({"work-2/a2": {"action": "decline"}, "nonsense": 7});
    let answer = second.ask("tasks/update", json!({"taskId": id, "inputResponses": answers})).await;
    assert!(answer.get("error").is_none(), "{answer}");
    let task = until(&mut second, &id, "completed").await;
    assert_eq!(task["result"]["structuredContent"]["reason"], "needs_attention", "{task}");
    assert_eq!(controller.fake.state().inputs.len(), 1);
}

#[tokio::test]
async fn of_several_questions_those_that_were_answered_are_not_asked_again() {
    let controller = two_working().await;
    let mut capabilities = knows_tasks();
    capabilities["elicitation"] = json!({"form": {}});
    controller.fake.add("work-3", SessionStatus::Working);
    let mut wire = modern(&controller, capabilities).await;
    let arguments = json!({"sessionIds": ["work-1", "work-2", "work-3"], "timeoutSeconds": 600,
        "onAttention": "ask_user"});
    let id = begin(&mut wire, json!({"name": "wait_for_completion", "arguments": arguments})).await;
    controller.fake.until("it watches", |state| state.watchers == 1).await;
    // Both at once, so that they are one round of questions.
    controller.fake.ask_all(&[("work-1", "a1"), ("work-2", "a2")], AttentionReason::Permission);
    let asked = until(&mut wire, &id, "input_required").await;
    assert_eq!(asked["inputRequests"].as_object().map(serde_json::Map::len), Some(2), "{asked}");
    for (key, left) in [("work-1/a1", Some("work-2/a2")), ("work-2/a2", None)] {
        let answers = json!({key: {"action": "accept", "content": {"decision": "allow"}}});
        wire.ask("tasks/update", json!({"taskId": id, "inputResponses": answers})).await;
        let task = match left {
            Some(_) => get(&mut wire, &id).await["result"].clone(),
            None => until(&mut wire, &id, "working").await,
        };
        let open = task["inputRequests"].as_object().map(|open| open.keys().cloned().collect::<Vec<_>>());
        assert_eq!(open, left.map(|left| vec![left.to_owned()]), "{task}");
    }
    assert_eq!(controller.fake.state().inputs.len(), 2);
}

#[tokio::test]
async fn a_controller_that_keeps_no_tasks_gets_an_ordinary_wait() {
    let controller = two_working().await;
    controller.fake.state().no_tasks = true;
    let mut wire = modern(&controller, knows_tasks()).await;
    let id = wire.request("tools/call", wait()).await;
    controller.fake.until("it watches", |state| state.watchers == 1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    controller.fake.finish("work-1", SessionStatus::Completed, "");
    controller.fake.finish("work-2", SessionStatus::Completed, "");
    let answer = wire.answer(id).await;
    assert_eq!(answer["result"]["structuredContent"]["reason"], "completed", "{answer}");
}

#[tokio::test]
async fn a_task_outlives_a_controller_that_is_away_for_longer_than_calls_are_tried() {
    let controller = two_working().await;
    let mut wire = modern(&controller, knows_tasks()).await;
    let id = begin(&mut wire, wait()).await;
    controller.fake.until("it watches", |state| state.watchers == 1).await;
    controller.fake.set_down(true);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let away = get(&mut wire, &id).await;
    assert_eq!(away["error"]["code"], -32603, "{away}");
    controller.fake.set_down(false);
    controller.fake.finish("work-1", SessionStatus::Completed, "");
    controller.fake.finish("work-2", SessionStatus::Completed, "");
    until(&mut wire, &id, "completed").await;
}

#[tokio::test]
async fn a_record_of_another_version_is_not_misread() {
    let controller = two_working().await;
    let mut wire = modern(&controller, knows_tasks()).await;
    let id = begin(&mut wire, wait()).await;
    wire.leave().await;
    let recorded: Value = serde_json::from_slice(&record(&controller.fake).request).expect("JSON");
    assert_eq!(recorded["version"], 1, "a published format: {recorded}");
    assert_eq!(recorded["sessions"], json!(["work-1", "work-2"]), "{recorded}");
    for task in controller.fake.state().tasks.values_mut() {
        task.request = br#"{"version":2,"sessions":[]}"#.to_vec();
    }
    let mut next = modern(&controller, knows_tasks()).await;
    let answer = get(&mut next, &id).await;
    assert!(answer["error"]["message"].as_str().expect("a message").contains("another version"), "{answer}");
}

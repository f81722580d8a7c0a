//! Questions that the person at the client answers, in both eras.

use muster_proto::v1::{AttentionReason, Decision, SessionStatus, send_input_request::Input};
use serde_json::{Value, json};

use crate::wire::Wire;

const OLD: &str = "2025-11-25";

fn wait() -> Value {
    json!({"name": "wait_for_completion",
        "arguments": {"sessionId": "work-1", "onAttention": "ask_user", "timeoutSeconds": 60}})
}

async fn reply(wire: &mut Wire, request: &Value, result: Value) {
    wire.send(&json!({"jsonrpc": "2.0", "id": request["id"], "result": result})).await;
}

#[tokio::test]
async fn a_permission_a_question_and_a_plan_are_put_before_the_user_and_the_wait_goes_on() {
    let mut wire = Wire::legacy(OLD, json!({"elicitation": {}})).await;
    wire.fake().add("work-1", SessionStatus::Working);
    let id = wire.request("tools/call", wait()).await;
    wire.fake().until("a wait", |state| state.watchers == 1).await;

    wire.fake().ask("work-1", "a1", AttentionReason::Permission);
    let asked = wire.told("elicitation/create").await;
    let message = asked["params"]["message"].as_str().expect("a message");
    assert!(message.contains("work-1") && message.contains("git push origin main"), "{message}");
    let decisions = &asked["params"]["requestedSchema"]["properties"]["decision"]["enum"];
    assert_eq!(decisions, &json!(["allow", "allow_always", "deny"]));
    let answer = json!({"action": "accept", "content": {"decision": "deny", "text": "not to main"}});
    reply(&mut wire, &asked, answer).await;
    wire.fake().until("the answer", |state| state.inputs.len() == 1).await;

    wire.fake().ask("work-1", "a2", AttentionReason::Input);
    let asked = wire.told("elicitation/create").await;
    assert!(asked["params"]["message"].as_str().expect("a message").contains("Which DB?"), "{asked}");
    reply(&mut wire, &asked, json!({"action": "accept", "content": {"answer1": "Postgres"}})).await;
    wire.fake().until("the answer", |state| state.inputs.len() == 2).await;

    wire.fake().ask("work-1", "a3", AttentionReason::PlanApproval);
    let asked = wire.told("elicitation/create").await;
    assert!(asked["params"]["message"].as_str().expect("a message").contains("# Plan"), "{asked}");
    reply(&mut wire, &asked, json!({"action": "accept", "content": {"decision": "allow"}})).await;
    wire.fake().until("the answer", |state| state.inputs.len() == 3).await;
    wire.fake().finish("work-1", SessionStatus::Completed, "done");
    let waited = wire.answer(id).await;
    assert_eq!(waited["result"]["structuredContent"]["reason"], "completed", "{waited}");

    let state = wire.fake().state();
    let answers: Vec<_> = state
        .inputs
        .iter()
        .map(|input| match input.input.as_ref().expect("an input") {
            Input::Answer(answer) => answer.clone(),
            other => panic!("no answer: {other:?}"),
        })
        .collect();
    assert_eq!((answers[0].decision(), answers[0].text.as_str()), (Decision::Deny, "not to main"));
    assert_eq!(answers[1].answers.get("Which DB?").map(String::as_str), Some("Postgres"));
    assert_eq!((answers[2].decision(), answers[2].attention_id.as_str()), (Decision::Allow, "a3"));
}

#[tokio::test]
async fn a_question_the_user_declines_comes_back_to_the_model() {
    let mut wire = Wire::legacy(OLD, json!({"elicitation": {"form": {}}})).await;
    wire.fake().add("work-1", SessionStatus::Working);
    wire.fake().ask("work-1", "a1", AttentionReason::Permission);
    let id = wire.request("tools/call", wait()).await;
    let asked = wire.told("elicitation/create").await;
    reply(&mut wire, &asked, json!({"action": "decline"})).await;
    let waited = wire.answer(id).await;
    let result = &waited["result"]["structuredContent"];
    assert_eq!(result["reason"], "needs_attention", "{waited}");
    assert!(result["note"].as_str().expect("a note").contains("gave no answer"), "{waited}");
    assert!(wire.fake().state().inputs.is_empty());
}

#[tokio::test]
async fn a_client_without_forms_is_told_so_and_answers_itself() {
    for capabilities in [json!({}), json!({"elicitation": {"url": {}}})] {
        let mut wire = Wire::legacy(OLD, capabilities).await;
        wire.fake().add("work-1", SessionStatus::Working);
        wire.fake().ask("work-1", "a1", AttentionReason::Permission);
        let waited = wire.ask("tools/call", wait()).await;
        let result = &waited["result"]["structuredContent"];
        assert_eq!(result["reason"], "needs_attention", "{waited}");
        assert!(result["note"].as_str().expect("a note").contains("cannot ask"), "{waited}");
    }
}

#[tokio::test]
async fn in_the_newer_era_the_call_ends_with_the_question_and_is_made_again_with_the_answer() {
    let mut wire = Wire::modern(json!({"elicitation": {"form": {}}})).await;
    wire.fake().add("work-1", SessionStatus::Working);
    wire.fake().ask("work-1", "a1", AttentionReason::Permission);
    let asked = wire.ask("tools/call", wait()).await;
    assert_eq!(asked["result"]["resultType"], "input_required", "{asked}");
    let question = &asked["result"]["inputRequests"]["work-1/a1"];
    assert_eq!(question["method"], "elicitation/create", "{asked}");

    // Twice, as after a lost answer: it is given once.
    let mut again = wait();
    again["inputResponses"] = json!({"work-1/a1": {"action": "accept", "content": {"decision": "allow"}}});
    let first = wire.request("tools/call", again.clone()).await;
    wire.fake().until("the answer", |state| state.inputs.len() == 1).await;
    let second = wire.request("tools/call", again).await;
    wire.fake().until("a wait", |state| state.watchers >= 1).await;
    wire.fake().finish("work-1", SessionStatus::Completed, "done");
    // In either order.
    let mut reasons = Vec::new();
    while reasons.len() < 2 {
        let message = wire.next().await;
        if [json!(first), json!(second)].contains(&message["id"]) {
            reasons.push(message["result"]["structuredContent"]["reason"].clone());
        }
    }
    assert_eq!(reasons, ["completed", "completed"]);
    assert_eq!(wire.fake().state().inputs.len(), 1);

    // Nonsense from the client is no answer.
    wire.fake().ask("work-1", "a2", AttentionReason::Permission);
    for response in [json!({"action": "accept", "content": {"decision": "maybe"}}), json!(7), json!({})] {
        let mut again = wait();
        again["inputResponses"] = json!({"work-1/a2": response, "nonsense": {"action": "accept"}});
        let returned = wire.ask("tools/call", again).await;
        assert_eq!(returned["result"]["structuredContent"]["reason"], "needs_attention", "{returned}");
    }
    assert_eq!(wire.fake().state().inputs.len(), 1);
}

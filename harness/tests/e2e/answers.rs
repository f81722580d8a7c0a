//! Every kind of attention and every kind of answer.

use futures::FutureExt as _;
use muster_harness::{fleet::Claude, scenario::Turn};
use serde_json::{Value, json};

use crate::{
    farm::{Farm, side_by_side},
    with_every_claude,
};

with_every_claude!(permissions);
with_every_claude!(questions);
with_every_claude!(plans);

async fn permissions(claude: Claude) {
    let farm = Farm::with(claude).await;
    side_by_side(vec![
        allowed(&farm).boxed(),
        denied(&farm).boxed(),
        changed(&farm).boxed(),
        allowed_for_good(&farm).boxed(),
        trusted(&farm).boxed(),
    ])
    .await;
    farm.finish();
}

async fn allowed(farm: &Farm) {
    let turns = [Turn::bash("echo made > made.txt"), Turn::text("after allow")];
    let session = farm.spawn("allow", &turns, json!({})).await;
    let attention = farm.asked(&session, "permission").await;
    assert_eq!(attention["tool"], "Bash");
    assert_eq!(attention["input"]["command"], "echo made > made.txt", "{attention}");
    assert!(attention["summary"].as_str().is_some_and(|summary| summary.contains("echo made > made.txt")));

    // Text alone would answer something nobody meant.
    let refused = farm.refused("send_input", json!({ "sessionId": session, "text": "yes" })).await;
    assert!(refused.starts_with("attention_pending: ") && refused.contains("decision"), "{refused}");

    let id = &attention["attentionId"];
    farm.send(&session, json!({ "decision": "allow", "attentionId": id })).await;
    let ended = farm.ended(&session, "completed").await;
    assert_eq!(farm.result(&session).await, "after allow");
    assert_eq!(std::fs::read_to_string(farm.workspace(&session).await.join("made.txt")).unwrap(), "made\n");
    assert!(ended["costUsd"].as_f64().is_some_and(|cost| cost > 0.0), "{ended}");
    assert_eq!(ended["turns"], 1, "{ended}");

    let again = json!({ "sessionId": session, "decision": "allow", "attentionId": id });
    let refused = farm.refused("send_input", again).await;
    assert!(refused.starts_with("attention_stale: "), "{refused}");
}

async fn denied(farm: &Farm) {
    let turns = [Turn::bash("echo made > made.txt"), Turn::text("after deny")];
    let session = farm.spawn("deny", &turns, json!({})).await;
    farm.asked(&session, "permission").await;
    farm.send(&session, json!({ "decision": "deny", "text": "not on my farm, \"please\"" })).await;
    farm.ended(&session, "completed").await;
    assert_eq!(farm.result(&session).await, "after deny");
    assert!(!farm.workspace(&session).await.join("made.txt").exists());
    let results = farm.tool_results(&session).await;
    assert!(results.contains(r#"not on my farm, \"please\""#), "{results}");
}

async fn changed(farm: &Farm) {
    let turns = [Turn::bash("echo asked > made.txt"), Turn::text("after change")];
    let session = farm.spawn("change", &turns, json!({})).await;
    farm.asked(&session, "permission").await;
    let input = json!({ "command": "echo changed > made.txt", "description": "changed" });
    farm.send(&session, json!({ "decision": "allow", "updatedInput": input })).await;
    farm.ended(&session, "completed").await;
    assert_eq!(
        std::fs::read_to_string(farm.workspace(&session).await.join("made.txt")).unwrap(),
        "changed\n"
    );
}

async fn allowed_for_good(farm: &Farm) {
    let turns = [Turn::bash("touch same.txt"), Turn::bash("touch same.txt"), Turn::text("asked once")];
    let session = farm.spawn("allow always", &turns, json!({})).await;
    let attention = farm.asked(&session, "permission").await;
    assert_eq!(attention["canAllowAlways"], true, "{attention}");
    farm.send(&session, json!({ "decision": "allow_always" })).await;
    farm.ended(&session, "completed").await;
    assert_eq!(farm.result(&session).await, "asked once");
    let workspace = farm.workspace(&session).await;
    assert!(
        !workspace.join(".claude").exists(),
        "a rule for the session must not be written into its worktree"
    );
}

/// Trust mode asks no permission, and still asks questions.
async fn trusted(farm: &Farm) {
    let turns = [Turn::bash("echo made > made.txt"), question(false), Turn::text("trusted")];
    let session = farm.spawn("trust", &turns, json!({ "trustMode": true })).await;
    farm.asked(&session, "input").await;
    farm.send(&session, json!({ "answers": { "Which database?": "SQLite" } })).await;
    farm.ended(&session, "completed").await;
    assert!(farm.workspace(&session).await.join("made.txt").exists());
}

fn question(multi_select: bool) -> Turn {
    let option = |label: &str| json!({ "label": label, "description": format!("use {label}") });
    let options: Vec<Value> = ["Postgres", "SQLite", "Files"].into_iter().map(option).collect();
    let question = json!({ "question": "Which database?", "header": "Database", "multiSelect": multi_select,
        "options": options });
    Turn::tool("AskUserQuestion", json!({ "questions": [question] }))
}

async fn questions(claude: Claude) {
    let farm = Farm::with(claude).await;
    side_by_side(vec![
        option_chosen(&farm).boxed(),
        answered_freely(&farm).boxed(),
        several_chosen(&farm).boxed(),
        declined(&farm).boxed(),
    ])
    .await;
    farm.finish();
}

async fn option_chosen(farm: &Farm) {
    let session = farm.spawn("choose", &[question(false), Turn::text("chosen")], json!({})).await;
    let attention = farm.asked(&session, "input").await;
    let asked = &attention["questions"][0];
    assert_eq!(asked["question"], "Which database?", "{attention}");
    assert_eq!(asked["multiSelect"], false);
    assert_eq!(asked["options"][1], json!({ "label": "SQLite", "description": "use SQLite" }));
    farm.send(&session, json!({ "answers": { "Which database?": "SQLite" } })).await;
    farm.ended(&session, "completed").await;
    let results = farm.tool_results(&session).await;
    assert!(results.contains(r#"\"Which database?\"=\"SQLite\""#), "{results}");
}

async fn answered_freely(farm: &Farm) {
    let session = farm.spawn("answer freely", &[question(false), Turn::text("answered")], json!({})).await;
    farm.asked(&session, "input").await;
    farm.send(&session, json!({ "text": "none of these: a paper notebook" })).await;
    farm.ended(&session, "completed").await;
    let results = farm.tool_results(&session).await;
    assert!(results.contains("none of these: a paper notebook"), "{results}");
}

async fn several_chosen(farm: &Farm) {
    let session = farm.spawn("choose several", &[question(true), Turn::text("chosen")], json!({})).await;
    let attention = farm.asked(&session, "input").await;
    assert_eq!(attention["questions"][0]["multiSelect"], true);
    farm.send(&session, json!({ "answers": { "Which database?": ["Postgres", "Files"] } })).await;
    farm.ended(&session, "completed").await;
    let results = farm.tool_results(&session).await;
    assert!(results.contains(r#"\"Which database?\"=\"Postgres, Files\""#), "{results}");
}

async fn declined(farm: &Farm) {
    let session = farm.spawn("decline", &[question(false), Turn::text("went on")], json!({})).await;
    farm.asked(&session, "input").await;
    farm.send(&session, json!({ "decision": "deny", "text": "decide for yourself" })).await;
    farm.ended(&session, "completed").await;
    let results = farm.tool_results(&session).await;
    assert!(results.contains("decide for yourself"), "{results}");
}

async fn plans(claude: Claude) {
    let farm = Farm::with(claude).await;
    side_by_side(vec![approved(&farm).boxed(), sent_back(&farm).boxed()]).await;
    farm.finish();
}

/// The model writes its plan to the file it was told of and then hands it in.
fn proposal(plan: &str) -> [Turn; 2] {
    let write = json!({ "file_path": "{{plan_file}}", "content": plan });
    [Turn::tool("Write", write), Turn::tool("ExitPlanMode", json!({}))]
}

async fn approved(farm: &Farm) {
    let [write, hand_in] = proposal("# One step\n\nWrite done.txt");
    let turns = [write, hand_in, Turn::bash("echo done > done.txt"), Turn::text("built")];
    let session = farm.spawn("approve", &turns, json!({ "permissionMode": "plan" })).await;
    let attention = farm.asked(&session, "plan_approval").await;
    assert_eq!(attention["plan"], "# One step\n\nWrite done.txt", "{attention}");
    farm.send(&session, json!({ "decision": "allow" })).await;
    // Out of plan mode the session asks as usual.
    farm.asked(&session, "permission").await;
    farm.send(&session, json!({ "decision": "allow" })).await;
    farm.ended(&session, "completed").await;
    assert!(farm.workspace(&session).await.join("done.txt").exists());
}

async fn sent_back(farm: &Farm) {
    let turns = [&proposal("# Too much")[..], &proposal("# Less"), &[Turn::text("agreed")]].concat();
    let session = farm.spawn("send back", &turns, json!({ "permissionMode": "plan" })).await;
    farm.asked(&session, "plan_approval").await;
    farm.send(&session, json!({ "decision": "deny", "text": "smaller steps" })).await;
    let attention = farm.asked(&session, "plan_approval").await;
    assert_eq!(attention["plan"], "# Less", "{attention}");
    farm.send(&session, json!({ "decision": "allow" })).await;
    farm.ended(&session, "completed").await;
    assert!(farm.tool_results(&session).await.contains("smaller steps"));
}

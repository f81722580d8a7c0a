//! A model that cannot be reached or refuses: the session fails and says so, and can go on afterwards.

use futures::FutureExt as _;
use muster_harness::{
    fleet::{Claude, PROJECT, TestFleet, WorkerSpec},
    scenario::{Turn, scripted_prompt},
};
use serde_json::{Value, json};

use crate::{
    farm::{Farm, side_by_side},
    with_every_claude,
};

with_every_claude!(api_errors);

async fn api_errors(claude: Claude) {
    let mut unreachable = WorkerSpec::new("w2");
    unreachable.claude = claude.clone();
    unreachable.projects = vec![("offline".to_owned(), "offline".into())];
    unreachable.claude_env = vec![("ANTHROPIC_BASE_URL".to_owned(), closed_port())];
    let real = claude.is_real();
    let farm = Farm::build(TestFleet::builder().claude(claude).worker(unreachable)).await;
    let mut cases = vec![
        fails(&farm, Turn::failing(429, "rate_limit_error"), Some(429)).boxed(),
        fails(&farm, Turn::failing(529, "overloaded_error"), None).boxed(),
        fails(&farm, Turn::failing(401, "authentication_error"), Some(401)).boxed(),
        fails(&farm, Turn { drop: true, repeat: -1, ..Turn::default() }, None).boxed(),
        refuses(&farm).boxed(),
        recovers(&farm).boxed(),
    ];
    if real {
        cases.push(refused_connection(&farm).boxed());
    }
    side_by_side(cases).await;
    farm.finish();
}

/// A port nobody listens on: bound once, so that no one else gets it by chance, and closed.
fn closed_port() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn explained(ended: &Value) {
    assert_eq!(ended["end"]["reason"], "turn_failed", "{ended}");
    assert!(ended["end"]["message"].as_str().is_some_and(|message| message.len() > 5), "{ended}");
}

async fn fails(farm: &Farm, turn: Turn, status: Option<u64>) {
    let name = format!("fail {:?} {}", turn.status, turn.drop);
    let session = farm.spawn(&name, &[turn], json!({ "project": PROJECT })).await;
    let ended = farm.ended(&session, "failed").await;
    explained(&ended);
    if status.is_some() {
        assert_eq!(ended["end"]["apiErrorStatus"].as_u64(), status, "{ended}");
    }
    // The model is back: the same session goes on.
    let next = scripted_prompt("again", &[Turn::text("back")]);
    farm.send(&session, json!({ "text": next })).await;
    farm.ended(&session, "completed").await;
    assert_eq!(farm.result(&session).await, "back");
}

async fn refuses(farm: &Farm) {
    // For ever: newer releases ask another model after the first refusal.
    let turn = Turn { stop_reason: Some("refusal".to_owned()), repeat: -1, ..Turn::text("no") };
    let session = farm.spawn("refusal", &[turn], json!({ "project": PROJECT })).await;
    explained(&farm.ended(&session, "failed").await);
}

async fn recovers(farm: &Farm) {
    let once = Turn { repeat: 1, ..Turn::failing(529, "overloaded_error") };
    let session =
        farm.spawn("overloaded once", &[once, Turn::text("in the end")], json!({ "project": PROJECT })).await;
    farm.ended(&session, "completed").await;
    assert_eq!(farm.result(&session).await, "in the end");
}

async fn refused_connection(farm: &Farm) {
    let session = farm.spawn("no connection", &[], json!({ "project": "offline", "worktree": false })).await;
    explained(&farm.ended(&session, "failed").await);
}

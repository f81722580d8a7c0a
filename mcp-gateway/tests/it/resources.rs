//! Resources, subscriptions, prompts and completion, in both eras.

use muster_proto::v1::{AttentionReason, SessionStatus};
use serde_json::{Value, json};

use crate::wire::Wire;

const OLD: &str = "2025-11-25";

async fn read(wire: &mut Wire, uri: &str) -> String {
    let answer = wire.ask("resources/read", json!({"uri": uri})).await;
    let text = answer["result"]["contents"][0]["text"].as_str();
    text.unwrap_or_else(|| panic!("no text: {answer}")).to_owned()
}

#[tokio::test]
async fn sessions_and_what_they_hold_are_listed_and_read() {
    for mut wire in [Wire::legacy(OLD, json!({})).await, Wire::modern(json!({})).await] {
        wire.fake().add("work-1", SessionStatus::Working);
        wire.fake().add("done-2", SessionStatus::Working);
        wire.fake().finish("done-2", SessionStatus::Completed, "forty-two");
        wire.fake().ask("work-1", "a5", AttentionReason::Permission);
        let listed = wire.ask("resources/list", json!({})).await;
        let uris: Vec<&str> = listed["result"]["resources"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|resource| resource["uri"].as_str().expect("an address"))
            .collect();
        let wanted = [
            "muster://sessions",
            "muster://farm",
            "muster://sessions/work-1/output",
            "muster://sessions/done-2/result",
        ];
        assert_eq!(uris, wanted);
        let templates = wire.ask("resources/templates/list", json!({})).await;
        assert_eq!(templates["result"]["resourceTemplates"].as_array().map(Vec::len), Some(4));

        let result = read(&mut wire, "muster://sessions/done-2/result").await;
        assert!(result.starts_with("<session_output session=\"done-2\"") && result.contains("forty-two"));
        assert!(read(&mut wire, "muster://sessions").await.contains("\"needs_attention\""));
        assert!(read(&mut wire, "muster://farm").await.contains("\"slots\""));
        let attention: Value =
            serde_json::from_str(&read(&mut wire, "muster://sessions/work-1/attention").await).expect("JSON");
        assert_eq!(attention["attentionId"], "a5");
        assert_eq!(read(&mut wire, "muster://sessions/done-2/attention").await, "{}");

        for uri in ["muster://sessions/nothing/result", "muster://sessions/x/secrets", "file:///etc/passwd"] {
            let answer = wire.ask("resources/read", json!({"uri": uri})).await;
            let code = answer["error"]["code"].as_i64().expect("an error");
            assert!(matches!(code, -32002 | -32602), "{answer}");
        }
    }
}

#[tokio::test]
async fn results_link_to_what_is_worth_reading_where_the_client_knows_links() {
    for (version, links) in [("2025-11-25", true), ("2025-06-18", true), ("2025-03-26", false)] {
        let mut wire = Wire::legacy(version, json!({})).await;
        wire.fake().add("done-1", SessionStatus::Completed);
        let waited = wire.call("wait_for_completion", json!({"sessionId": "done-1"})).await;
        let content = waited["result"]["content"].as_array().expect("content");
        let linked = content.iter().any(|block| {
            block["type"] == "resource_link" && block["uri"] == "muster://sessions/done-1/result"
        });
        assert_eq!(linked, links, "{version}: {waited}");
        assert_eq!(content[0]["type"], "text");
    }
}

#[tokio::test]
async fn who_subscribed_is_told_of_changes_until_it_unsubscribes() {
    let mut wire = Wire::legacy(OLD, json!({})).await;
    wire.fake().add("work-1", SessionStatus::Working);
    let uri = "muster://sessions/work-1/attention";
    let subscribed = wire.ask("resources/subscribe", json!({"uri": uri})).await;
    assert!(subscribed.get("error").is_none(), "{subscribed}");
    wire.fake().until("a watch", |state| state.watchers == 1).await;
    // Changes during the first look are not told; the next one is.
    let mut told = None;
    for number in 0..200 {
        wire.fake().ask("work-1", &format!("a{number}"), AttentionReason::Permission);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        wire.ask("ping", json!({})).await;
        told = wire.others.pop();
        if told.is_some() {
            break;
        }
    }
    let told = told.expect("told");
    assert_eq!(
        (&told["method"], &told["params"]["uri"]),
        (&json!("notifications/resources/updated"), &json!(uri))
    );
    wire.ask("resources/unsubscribe", json!({"uri": uri})).await;
    wire.fake().until("the watch is free", |state| state.watchers == 0).await;
    let refused = wire.ask("resources/subscribe", json!({"uri": "muster://nothing"})).await;
    assert!(refused["error"].is_object(), "{refused}");
}

#[tokio::test]
async fn a_listener_of_the_newer_era_is_told_and_frees_its_watch_when_it_stops() {
    let mut wire = Wire::modern(json!({})).await;
    wire.fake().add("work-1", SessionStatus::Working);
    let uri = "muster://sessions/work-1/output";
    let filter = json!({"notifications": {"resourceSubscriptions": [uri, "file:///etc/passwd"]}});
    let id = wire.request("subscriptions/listen", filter).await;
    let accepted = wire.told("notifications/subscriptions/acknowledged").await;
    assert_eq!(accepted["params"]["notifications"]["resourceSubscriptions"], json!([uri]), "{accepted}");
    wire.fake().until("a watch", |state| state.watchers == 1).await;
    let fake = wire.fake().clone();
    let writing = muster_runtime::task::spawn("writer", async move {
        for length in 1..600 {
            fake.set_output("work-1", vec![b'x'; length]);
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    });
    let told = wire.told("notifications/resources/updated").await;
    assert_eq!(told["params"]["uri"], uri);
    drop(writing);
    wire.send(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}}))
        .await;
    wire.fake().until("the watch is free", |state| state.watchers == 0).await;
}

#[tokio::test]
async fn names_of_sessions_are_completed_and_prompts_hold_what_was_given() {
    let mut wire = Wire::legacy(OLD, json!({})).await;
    for name in ["fix-login-1", "fix-logout-2", "other-3"] {
        wire.fake().add(name, SessionStatus::Working);
    }
    let completed = wire
        .ask(
            "completion/complete",
            json!({"ref": {"type": "ref/resource", "uri": "muster://sessions/{sessionId}/output"},
                "argument": {"name": "sessionId", "value": "Fix-"}}),
        )
        .await;
    assert_eq!(completed["result"]["completion"]["values"], json!(["fix-login-1", "fix-logout-2"]));
    let listed = wire.ask("prompts/list", json!({})).await;
    let names: Vec<&Value> = listed["result"]["prompts"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|prompt| &prompt["name"])
        .collect();
    assert_eq!(names, ["overview", "delegate", "review"]);
    let delegate =
        wire.ask("prompts/get", json!({"name": "delegate", "arguments": {"task": "mend\u{202e} it"}})).await;
    let text = delegate["result"]["messages"][0]["content"]["text"].as_str().expect("text");
    assert!(text.ends_with("The task:\nmend it"), "{text}");
    for (name, arguments) in [("review", json!({})), ("nothing", json!({}))] {
        let refused = wire.ask("prompts/get", json!({"name": name, "arguments": arguments})).await;
        assert_eq!(refused["error"]["code"], -32602, "{refused}");
    }
}

#[tokio::test]
async fn every_version_of_the_protocol_is_served_and_unknown_ones_are_refused() {
    for version in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        let mut wire = Wire::legacy(version, json!({})).await;
        let listed = wire.ask("tools/list", json!({})).await;
        assert_eq!(listed["result"]["tools"].as_array().map(Vec::len), Some(11), "{version}");
    }
    let mut wire = Wire::modern(json!({})).await;
    let discovered = wire.ask("server/discover", json!({})).await;
    let result = &discovered["result"];
    assert!(result["supportedVersions"].to_string().contains("2026-07-28"), "{discovered}");
    for capability in ["tools", "resources", "prompts", "completions"] {
        assert!(result["capabilities"][capability].is_object(), "{discovered}");
    }
    assert!(result["instructions"].as_str().expect("instructions").contains("untrustedBegin"));
    let listed = wire.ask("tools/list", json!({})).await;
    assert_eq!(
        (&listed["result"]["ttlMs"], &listed["result"]["cacheScope"]),
        (&json!(3_600_000), &json!("public"))
    );
    let id = 99;
    wire.send(&json!({"jsonrpc": "2.0", "id": id, "method": "tools/list", "params": {"_meta": {
        "io.modelcontextprotocol/protocolVersion": "2099-01-01",
        "io.modelcontextprotocol/clientCapabilities": {}}}}))
        .await;
    let refused = wire.answer(id).await;
    assert_eq!(refused["error"]["code"], -32022, "{refused}");
}

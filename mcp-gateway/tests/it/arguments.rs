//! Arguments that are not what a tool takes: named, and nothing asked of the controller.

use serde_json::{Value, json};

use crate::farm::Farm;

/// A value that is not of this JSON type.
fn wrong(kind: &str) -> Value {
    match kind {
        "string" | "object" => json!(7),
        "array" | "boolean" | "integer" | "number" => json!("wrong"),
        other => panic!("unknown type {other}"),
    }
}

#[tokio::test]
async fn every_argument_of_a_wrong_type_is_named() {
    let farm = Farm::start().await;
    for tool in farm.client.list_all_tools().await.expect("tools") {
        let name: &'static str = Box::leak(tool.name.to_string().into_boxed_str());
        let properties = tool.input_schema["properties"].as_object().expect("properties").clone();
        for (argument, property) in properties {
            let kind = property["type"].as_str().expect("a type");
            let error = farm.error(name, json!({argument.clone(): wrong(kind)})).await;
            assert!(error.starts_with("invalid_argument: "), "{name}.{argument}: {error}");
            assert!(error.contains(&format!("`{argument}`")), "{name}.{argument}: {error}");
            assert!(error.contains(" must be "), "{name}.{argument}: {error}");
        }
    }
    assert_eq!(farm.fake().state().calls, 0, "the controller was asked");
}

#[tokio::test]
async fn a_misspelt_argument_is_named_with_the_right_one() {
    let farm = Farm::start().await;
    for (tool, arguments, parts) in [
        ("spawn_session", json!({"promt": "x"}), ["`promt`", "`prompt`"]),
        ("spawn_session", json!({"prompt": "x", "trust_mode": true}), ["`trust_mode`", "`trustMode`"]),
        ("spawn_session", json!({"prompt": "x", "branch": "b"}), ["`branch`", "`branchName`"]),
        ("get_session_status", json!({"sessionid": "x"}), ["`sessionid`", "`sessionId`"]),
        ("wait_for_completion", json!({"session_ids": ["x"]}), ["`session_ids`", "`sessionIds`"]),
        ("wait_for_completion", json!({"sessionId": "x", "timeout": 5}), ["`timeout`", "`timeoutSeconds`"]),
        ("get_session_output", json!({"sessionId": "x", "tail": 5}), ["`tail`", "`tailLines`"]),
        ("list_sessions", json!({"states": []}), ["`states`", "`status`"]),
        ("get_session_changes", json!({"sessionId": "x", "path": "a"}), ["`path`", "`paths`"]),
        ("stop_session", json!({}), ["`sessionId` is missing", ""]),
    ] {
        let error = farm.error(tool, arguments).await;
        for part in parts {
            assert!(error.contains(part), "{tool}: {error}");
        }
    }
    assert_eq!(farm.fake().state().calls, 0, "the controller was asked");
}

#[tokio::test]
async fn values_out_of_bounds_are_named() {
    let farm = Farm::start().await;
    for (tool, arguments, part) in [
        ("list_sessions", json!({"limit": 101}), "at most 100"),
        ("list_sessions", json!({"status": ["running"]}), "one of queued, starting"),
        ("get_session_output", json!({"sessionId": "x", "maxChars": 1_000_000}), "at most 100000"),
        (
            "get_session_output",
            json!({"sessionId": "x", "format": "html"}),
            "one of text, result, events, raw",
        ),
        ("get_session_output", json!({"sessionId": "x", "cursor": "7"}), "no cursor of this format"),
        ("get_session_output", json!({"sessionId": "x", "cursor": "o0", "tailLines": 5}), "contradict"),
        ("get_session_changes", json!({"sessionId": "x", "format": "diff"}), "one of stat, patch, commits"),
        (
            "get_session_changes",
            json!({"sessionId": "x", "format": "patch", "cursor": "s7"}),
            "no cursor of this format",
        ),
        ("get_session_changes", json!({"sessionId": "x", "paths": [""]}), "`paths[0]` is empty"),
        ("get_session_changes", json!({"sessionId": "x", "paths": vec!["a"; 257]}), "than the 256 allowed"),
        ("spawn_session", json!({"prompt": "x", "maxBudgetUsd": -1}), "at least 0"),
        ("wait_for_completion", json!({}), "no session to wait for"),
        ("wait_for_completion", json!({"sessionIds": []}), "no session to wait for"),
        ("wait_for_completion", json!({"sessionId": "a", "sessionIds": ["b"]}), "not several"),
        ("get_session_status", json!({"sessionId": " "}), "is empty"),
    ] {
        let error = farm.error(tool, arguments).await;
        assert!(error.contains(part), "{tool}: {error}");
    }
    assert_eq!(farm.fake().state().calls, 0, "the controller was asked");
}

#[tokio::test]
async fn an_unknown_tool_is_an_error_that_names_the_tools() {
    let farm = Farm::start().await;
    let error =
        farm.client.call_tool(crate::farm::params("spawn", json!({}), None)).await.expect_err("refused");
    assert!(error.to_string().contains("spawn_session"), "{error}");
}

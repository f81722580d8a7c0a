use serde_json::json;

use super::*;

fn walk(value: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, value);
    match value {
        Value::Object(map) => {
            map.iter().for_each(|(key, value)| walk(value, &format!("{path}/{key}"), visit));
        }
        Value::Array(values) => values.iter().for_each(|value| walk(value, &format!("{path}[]"), visit)),
        _ => {}
    }
}

#[test]
fn definitions_are_plain_described_and_small() {
    let tools = definitions();
    let names: Vec<&str> = tools.iter().map(|tool| tool.name.as_ref()).collect();
    assert_eq!(names, ToolName::all());
    let mut bytes = 0;
    for tool in &tools {
        let name = &tool.name;
        assert!(tool.title.is_some() && tool.annotations.is_some(), "{name}");
        for schema in [&tool.input_schema, tool.output_schema.as_ref().expect("an output schema")] {
            assert_eq!(schema["type"], "object", "{name}");
            for combinator in ["oneOf", "anyOf", "allOf"] {
                assert!(!schema.contains_key(combinator), "{name} has a root {combinator}");
            }
            walk(&Value::Object(schema.as_ref().clone()), "", &mut |path, value| {
                let last = path.rsplit('/').next().unwrap_or_default();
                assert!(!value.is_null() && *value != json!("null"), "{name}{path}");
                assert!(!matches!(last, "$ref" | "$defs" | "format" if value.is_string()), "{name}{path}");
            });
        }
        assert_eq!(tool.input_schema["additionalProperties"], json!(false), "{name}");
        for (key, property) in tool.input_schema["properties"].as_object().expect("properties") {
            assert!(property["description"].is_string(), "{name}.{key} has no description");
            assert!(property["type"].is_string(), "{name}.{key} has no single type: {property}");
        }
        bytes += serde_json::to_string(tool).expect("JSON").len();
    }
    assert!(bytes < 24_000, "tools/list has {bytes} bytes; every conversation pays for them");
}

#[test]
fn annotations_say_what_a_tool_may_do() {
    for tool in definitions() {
        let hints = tool.annotations.expect("annotations");
        let read_only = matches!(
            tool.name.as_ref(),
            "list_sessions"
                | "get_session_status"
                | "get_session_output"
                | "get_session_changes"
                | "wait_for_completion"
        );
        assert_eq!(hints.read_only_hint, Some(read_only), "{}", tool.name);
        assert_eq!(hints.destructive_hint, Some(tool.name == "stop_session"), "{}", tool.name);
        let always = tool.meta.is_some_and(|meta| meta.0.get("anthropic/alwaysLoad") == Some(&json!(true)));
        assert_eq!(
            always,
            matches!(tool.name.as_ref(), "spawn_session" | "wait_for_completion"),
            "{}",
            tool.name
        );
    }
}

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
    let mut tokens = 0;
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
                // A bare `true` or `{}` describes nothing, and strict clients say so.
                let holds_schema = last == "items" || path.rsplit('/').nth(1) == Some("properties");
                assert!(!holds_schema || value["type"].is_string(), "{name}{path} has no type: {value}");
                assert!(!matches!(last, "$ref" | "$defs" | "format" if value.is_string()), "{name}{path}");
            });
        }
        assert_eq!(tool.input_schema["additionalProperties"], json!(false), "{name}");
        for (key, property) in tool.input_schema["properties"].as_object().expect("properties") {
            assert!(property["description"].is_string(), "{name}.{key} has no description");
            assert!(property["type"].is_string(), "{name}.{key} has no single type: {property}");
        }
        tokens += tokens_at_most(&serde_json::to_string(tool).expect("JSON"));
    }
    assert!(tokens < 6_000, "tools/list has {tokens} tokens; every conversation pays for them");
}

/// More tokens than any of today's tokenisers makes of JSON in English: words of camelCase and of prose count
/// one for every six letters begun, every sign counts, only the usual runs of signs are taken together.
fn tokens_at_most(json: &str) -> usize {
    let mut tokens = 0;
    let mut rest = json;
    while let Some(first) = rest.chars().next() {
        let length = |is: fn(char) -> bool| rest.find(|c: char| !is(c)).unwrap_or(rest.len());
        let taken = if first.is_ascii_lowercase() || first.is_ascii_uppercase() {
            let word = 1 + rest[1..].find(|c: char| !c.is_ascii_lowercase()).unwrap_or(rest.len() - 1);
            tokens += word.div_ceil(6);
            word
        } else if first == ' ' {
            // Belongs to the word after it.
            1
        } else if first.is_ascii_digit() {
            let digits = length(|c| c.is_ascii_digit());
            tokens += digits.div_ceil(3);
            digits
        } else {
            tokens += 1;
            let runs = ["\":{\"", "\":\"", "\",\"", "\"},\"", "\"}},\"", "\":", "\",", "{\"", "\"}"];
            runs.iter().find(|run| rest.starts_with(**run)).map_or(first.len_utf8(), |run| run.len())
        };
        rest = &rest[taken..];
    }
    tokens
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
                | "get_farm_status"
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

#[test]
fn the_plugin_names_the_tools_there_are() {
    let plugin = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/claude-plugin/muster");
    let files = ["agents/orchestrator.md", "commands/spawn.md", "commands/fleet.md", "commands/inbox.md"];
    let mut named = std::collections::BTreeSet::new();
    for file in files {
        let text = std::fs::read_to_string(plugin.join(file)).expect("a file of the plugin");
        for name in text.split("mcp__plugin_muster_muster__").skip(1) {
            let end = name.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(name.len());
            assert!(ToolName::parse(&name[..end]).is_some(), "{file} names {:?}", &name[..end]);
            named.insert(name[..end].to_owned());
        }
    }
    assert_eq!(named.len(), ToolName::all().len(), "the orchestrator may use every tool: {named:?}");
}

//! claude's events, thinned: what an orchestrating program acts on, without the envelope.

use serde_json::{Map, Value};

use super::{attention::shorten, lines::Line};

/// Longest string kept inside an event, in characters.
const TEXT_CHARS: usize = 2_000;
/// Fields nobody acts on, at any level.
const NOISE: [&str; 17] = [
    "uuid",
    "session_id",
    "signature",
    "usage",
    "modelUsage",
    "request_id",
    "context_management",
    "stop_sequence",
    "container",
    "stop_details",
    "permission_suggestions",
    "tool_use_result",
    "fast_mode_state",
    "ttft_ms",
    "ttft_stream_ms",
    "time_to_request_ms",
    "permission_denials",
];
/// Of `system/init`, only these.
const INIT: [&str; 6] = ["type", "subtype", "cwd", "model", "permissionMode", "claude_code_version"];

/// The event of a line with the cursor it stands at; `None` when the line is none, or is noise.
pub(crate) fn thinned(line: &Line<'_>) -> Option<Value> {
    let Ok(Value::Object(event)) = serde_json::from_slice(line.bytes.trim_ascii()) else { return None };
    let kind = event.get("type").and_then(Value::as_str)?;
    let subtype = event.get("subtype").and_then(Value::as_str).unwrap_or_default();
    let noise = kind == "stream_event"
        || (kind == "system" && (subtype.starts_with("hook_") || subtype == "thinking_tokens"));
    if noise {
        return None;
    }
    let init = kind == "system" && subtype == "init";
    let mut kept = Map::new();
    kept.insert("cursor".to_owned(), Value::String(format!("o{}", line.start)));
    kept.extend(event.into_iter().filter(|(key, _)| !init || INIT.contains(&key.as_str())));
    let mut event = Value::Object(kept);
    thin(&mut event);
    shorten(&mut event, TEXT_CHARS);
    Some(event)
}

fn thin(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, value| !value.is_null() && !NOISE.contains(&key.as_str()));
            for (key, value) in map.iter_mut() {
                // What a tool is called with is the caller's to read whole, whatever its fields are called.
                if key != "input" && key != "updatedInput" {
                    thin(value);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(thin),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(value: &Value) -> Option<Value> {
        let text = value.to_string();
        thinned(&Line { start: 7, end: 9, bytes: text.as_bytes(), dropped: 0 })
    }

    #[test]
    fn envelopes_go_and_substance_stays() {
        let event = of(&json!({
            "type": "assistant", "uuid": "u", "session_id": "s", "parent_tool_use_id": null,
            "message": {"usage": {"input_tokens": 1}, "content": [
                {"type": "tool_use", "name": "Bash", "input": {"command": "ls", "usage": "kept"}}]}
        }));
        assert_eq!(
            event,
            Some(json!({
                "cursor": "o7", "type": "assistant",
                "message": {"content": [
                    {"type": "tool_use", "name": "Bash", "input": {"command": "ls", "usage": "kept"}}]}
            }))
        );
        let init = of(&json!({"type": "system", "subtype": "init", "tools": ["x"], "model": "m"}));
        assert_eq!(init, Some(json!({"cursor": "o7", "type": "system", "subtype": "init", "model": "m"})));
        assert_eq!(of(&json!({"type": "stream_event"})), None);
        assert_eq!(of(&json!([1])), None);
        let long = of(&json!({"type": "result", "result": "x".repeat(9000)})).expect("kept").to_string();
        assert!(long.len() < 3000 && long.contains("2000 of 9000"), "{long}");
    }
}

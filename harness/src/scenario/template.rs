//! Values a script takes out of what happened before: an orchestrator must pass on the session it was given.
//!
//! `{{tool_result:/sessionId}}` is that field of the newest tool result that has it (a JSON pointer into its
//! JSON); `{{tool_result#toolu_1:/sessionId}}` asks one call by its id. A string that is nothing but a
//! template becomes the value with its type; inside longer text it is written out.

use serde_json::Value;

use super::{Conversation, Turn};

const OPEN: &str = "{{";
const CLOSE: &str = "}}";
const KINDS: [&str; 2] = ["tool_result", "plan_file"];

/// `value` with every template replaced.
///
/// # Errors
/// When the conversation does not have what a template asks for; names the template.
pub fn fill(value: Value, conversation: &Conversation) -> Result<Value, String> {
    Ok(match value {
        Value::String(text) => fill_text(text, conversation)?,
        Value::Array(items) => {
            let filled = items.into_iter().map(|item| fill(item, conversation));
            Value::Array(filled.collect::<Result<_, _>>()?)
        }
        Value::Object(fields) => {
            let filled = fields.into_iter().map(|(name, field)| Ok((name, fill(field, conversation)?)));
            Value::Object(filled.collect::<Result<_, String>>()?)
        }
        other => other,
    })
}

pub(super) fn fill_turn(mut turn: Turn, conversation: &Conversation) -> Result<Turn, String> {
    for call in &mut turn.tool_use {
        call.input = fill(std::mem::take(&mut call.input), conversation)?;
    }
    if let Some(text) = turn.text.take() {
        turn.text = Some(written(&fill_text(text, conversation)?));
    }
    Ok(turn)
}

fn fill_text(text: String, conversation: &Conversation) -> Result<Value, String> {
    let mut starts = text.match_indices(OPEN).map(|(start, _)| start);
    let start = starts.find(|start| KINDS.iter().any(|kind| text[start + OPEN.len()..].starts_with(kind)));
    let Some(start) = start else { return Ok(Value::String(text)) };
    let Some(length) = text[start..].find(CLOSE) else { return Ok(Value::String(text)) };
    let end = start + length + CLOSE.len();
    let found = look_up(&text[start + OPEN.len()..end - CLOSE.len()], conversation)
        .ok_or_else(|| format!("nothing so far has what {} asks for", &text[start..end]))?;
    if start == 0 && end == text.len() {
        return Ok(found);
    }
    let rest = fill_text(text[end..].to_owned(), conversation)?;
    Ok(Value::String(format!("{}{}{}", &text[..start], written(&found), written(&rest))))
}

/// `plan_file`, `tool_result:/pointer` or `tool_result#id:/pointer`.
fn look_up(place: &str, conversation: &Conversation) -> Option<Value> {
    if place == "plan_file" {
        return conversation.plan_file.clone().map(Value::String);
    }
    let (id, pointer) = place.strip_prefix("tool_result")?.split_once(':')?;
    let id = id.strip_prefix('#');
    let results = conversation.tool_results.iter().rev();
    let mut candidates = results.filter(|result| id.is_none_or(|id| result.tool_use_id == id));
    candidates.find_map(|result| {
        // Claude Code writes a result's resource links on lines of their own, before its structured part.
        let whole = serde_json::from_str(&result.text).ok();
        let parsed = |line| serde_json::from_str(line).ok().filter(Value::is_object);
        whole.or_else(|| result.text.lines().find_map(parsed))?.pointer(pointer).cloned()
    })
}

fn written(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::scenario::ToolResult;

    #[test]
    fn templates_take_typed_values_and_written_ones() {
        let result = |id: &str, text: &str| ToolResult { tool_use_id: id.to_owned(), text: text.to_owned() };
        let conversation = Conversation {
            tool_results: vec![
                result("t1", r#"{"sessionId":"s-1","n":3}"#),
                result("t0", "[Resource link: output] muster://x\n{\"linked\":true}"),
                result("t2", r#"{"sessions":[{"sessionId":"s-2"}]}"#),
            ],
            plan_file: Some("/p.md".to_owned()),
            ..Conversation::default()
        };
        let template = "x {{tool_result#t1:/sessionId}} {{y}} {{tool_result:/sessions/0/sessionId}}";
        let filled =
            fill(json!({ "a": "{{tool_result:/n}}", "b": [template, "{{plan_file}}"] }), &conversation);
        assert_eq!(filled, Ok(json!({ "a": 3, "b": ["x s-1 {{y}} s-2", "/p.md"] })));
        assert_eq!(fill(json!("{{tool_result:/linked}}"), &conversation), Ok(json!(true)));
        assert!(fill(json!("{{tool_result:/none}}"), &conversation).is_err());
    }
}

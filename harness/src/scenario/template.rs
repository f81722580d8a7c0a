//! Values a script takes out of earlier tool results: an orchestrator must pass on the session it was given.
//!
//! `{{tool_result:/sessionId}}` is that field of the newest tool result that has it (a JSON pointer into its
//! JSON); `{{tool_result#toolu_1:/sessionId}}` asks one call by its id. A string that is nothing but a
//! template becomes the value with its type; inside longer text it is written out.

use serde_json::Value;

use super::{ToolResult, Turn};

const OPEN: &str = "{{tool_result";
const CLOSE: &str = "}}";

/// `value` with every template replaced.
///
/// # Errors
/// When no tool result has what a template asks for; names the template.
pub fn fill(value: Value, results: &[ToolResult]) -> Result<Value, String> {
    Ok(match value {
        Value::String(text) => fill_text(text, results)?,
        Value::Array(items) => {
            Value::Array(items.into_iter().map(|item| fill(item, results)).collect::<Result<_, _>>()?)
        }
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .map(|(name, field)| Ok((name, fill(field, results)?)))
                .collect::<Result<_, String>>()?,
        ),
        other => other,
    })
}

pub(super) fn fill_turn(mut turn: Turn, results: &[ToolResult]) -> Result<Turn, String> {
    for call in &mut turn.tool_use {
        call.input = fill(std::mem::take(&mut call.input), results)?;
    }
    if let Some(text) = turn.text.take() {
        turn.text = Some(written(&fill_text(text, results)?));
    }
    Ok(turn)
}

fn fill_text(text: String, results: &[ToolResult]) -> Result<Value, String> {
    let Some(start) = text.find(OPEN) else { return Ok(Value::String(text)) };
    let Some(length) = text[start..].find(CLOSE) else { return Ok(Value::String(text)) };
    let end = start + length + CLOSE.len();
    let found = look_up(&text[start + OPEN.len()..end - CLOSE.len()], results)
        .ok_or_else(|| format!("no tool result has what {} asks for", &text[start..end]))?;
    if start == 0 && end == text.len() {
        return Ok(found);
    }
    let rest = fill_text(text[end..].to_owned(), results)?;
    Ok(Value::String(format!("{}{}{}", &text[..start], written(&found), written(&rest))))
}

/// `place` is `:/pointer` or `#id:/pointer`.
fn look_up(place: &str, results: &[ToolResult]) -> Option<Value> {
    let (id, pointer) = place.split_once(':')?;
    let id = id.strip_prefix('#');
    let mut candidates = results.iter().rev().filter(|result| id.is_none_or(|id| result.tool_use_id == id));
    candidates.find_map(|result| {
        let json: Value = serde_json::from_str(&result.text).ok()?;
        json.pointer(pointer).cloned()
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

    #[test]
    fn templates_take_typed_values_and_written_ones() {
        let result = |id: &str, text: &str| ToolResult { tool_use_id: id.to_owned(), text: text.to_owned() };
        let results = [
            result("t1", r#"{"sessionId":"s-1","n":3}"#),
            result("t2", r#"{"sessions":[{"sessionId":"s-2"}]}"#),
        ];
        let filled = fill(
            json!({ "a": "{{tool_result:/n}}", "b": ["x {{tool_result#t1:/sessionId}} y {{tool_result:/sessions/0/sessionId}}"] }),
            &results,
        );
        assert_eq!(filled, Ok(json!({ "a": 3, "b": ["x s-1 y s-2"] })));
        assert!(fill(json!("{{tool_result:/none}}"), &results).is_err());
    }
}

//! Arguments of a tool call: checked against the tool's own schema, so that what is said to be taken is what
//! is taken.
//!
//! A model corrects itself when it is told which argument is wrong and what would be right; serde alone says
//! only that something is. Nothing is changed by a call that fails here.

use muster_proto::error::Error;
use rmcp::model::JsonObject;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Other names under which an argument is taken, when the tool has the right one.
const ALIASES: [(&str, &str); 2] = [("name", "sessionId"), ("names", "sessionIds")];
/// Longest wrong value quoted back, in characters.
const QUOTED_CHARS: usize = 40;

/// Reads the arguments of a call of a tool with input schema `schema`.
///
/// A null is taken as "not given": several clients send one for every optional argument.
pub(crate) fn parse<T: DeserializeOwned>(schema: &JsonObject, arguments: JsonObject) -> Result<T, Error> {
    let empty = JsonObject::new();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
    let mut given = JsonObject::new();
    for (name, value) in arguments {
        if value.is_null() && properties.contains_key(&name) {
            continue;
        }
        let name = real_name(properties, name)?;
        let Some(property) = properties.get(&name) else { return Err(unknown(properties, &name)) };
        let value = snake_case_enum(property, value);
        check(&name, &name, property, &value)?;
        if given.insert(name.clone(), value).is_some() {
            return Err(Error::invalid(&name, format!("`{name}` is given twice, once under another name")));
        }
    }
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
        let name = name.as_str().unwrap_or_default();
        if !given.contains_key(name) {
            return Err(Error::invalid(name, format!("`{name}` is missing")));
        }
    }
    serde_json::from_value(Value::Object(given))
        .map_err(|error| Error::invalid("", format!("the arguments cannot be read: {error}")))
}

fn real_name(properties: &JsonObject, name: String) -> Result<String, Error> {
    if properties.contains_key(&name) {
        return Ok(name);
    }
    match ALIASES.iter().find(|(alias, real)| *alias == name && properties.contains_key(*real)) {
        Some((_, real)) => Ok((*real).to_owned()),
        None => Err(unknown(properties, &name)),
    }
}

fn unknown(properties: &JsonObject, name: &str) -> Error {
    let shown: String = name.chars().take(QUOTED_CHARS).collect();
    let hint = match closest(properties, name) {
        Some(real) => format!("did you mean `{real}`? Nothing was changed"),
        None if properties.is_empty() => "this tool takes no arguments".to_owned(),
        None => {
            let known: Vec<String> = properties.keys().map(|key| format!("`{key}`")).collect();
            format!("it takes {}; nothing was changed", known.join(", "))
        }
    };
    Error::invalid(&shown, format!("there is no argument `{shown}`")).hint(hint)
}

fn closest<'a>(properties: &'a JsonObject, name: &str) -> Option<&'a str> {
    let folded = fold(name);
    properties
        .keys()
        .map(|key| {
            let other = fold(key);
            let inside = folded.len() > 2 && (other.contains(&folded) || folded.contains(&other));
            (if inside { distance(&folded, &other).min(2) } else { distance(&folded, &other) }, key)
        })
        .filter(|(distance, key)| *distance <= (key.len() / 3).max(2))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, key)| key.as_str())
}

fn fold(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).take(64).map(|c| c.to_ascii_lowercase()).collect()
}

/// Levenshtein, over names of at most 64 characters.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, r) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(l != *r);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

/// `acceptEdits` and `needs-attention` mean what they look like.
fn snake_case_enum(schema: &Value, value: Value) -> Value {
    let folded = |text: &str| {
        let mut snake = String::new();
        for c in text.chars().take(64) {
            match c {
                '-' | ' ' => snake.push('_'),
                c if c.is_ascii_uppercase() => {
                    snake.push('_');
                    snake.push(c.to_ascii_lowercase());
                }
                c => snake.push(c),
            }
        }
        snake.trim_start_matches('_').to_owned()
    };
    match (schema.get("enum").and_then(Value::as_array), schema.get("items"), value) {
        (Some(known), _, Value::String(text)) => {
            let snake = Value::String(folded(&text));
            if known.contains(&snake) { snake } else { Value::String(text) }
        }
        (None, Some(items), Value::Array(values)) => {
            Value::Array(values.into_iter().map(|value| snake_case_enum(items, value)).collect())
        }
        (_, _, value) => value,
    }
}

/// Whether `value` is what `schema` says; `path` names it for people, `field` is the argument it belongs to.
fn check(field: &str, path: &str, schema: &Value, value: &Value) -> Result<(), Error> {
    let wrong = |expected: &str| {
        Err(Error::invalid(field, format!("`{path}` must be {expected}, not {}", describe(value))))
    };
    let kind = schema.get("type").and_then(Value::as_str).unwrap_or_default();
    let right = match kind {
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => true,
    };
    if let Some(known) = schema.get("enum").and_then(Value::as_array)
        && !known.contains(value)
    {
        let known: Vec<&str> = known.iter().filter_map(Value::as_str).collect();
        return wrong(&format!("one of {}", known.join(", ")));
    }
    if !right {
        return wrong(match kind {
            "string" => "a string",
            "boolean" => "true or false",
            "integer" => "a whole number",
            "number" => "a number",
            "array" => "a list",
            _ => "an object",
        });
    }
    if let Some(number) = value.as_f64() {
        let bound = |key: &str| schema.get(key).and_then(Value::as_f64);
        if let Some(least) = bound("minimum").filter(|least| number < *least) {
            return wrong(&format!("at least {least}"));
        }
        if let Some(most) = bound("maximum").filter(|most| number > *most) {
            return wrong(&format!("at most {most}"));
        }
    }
    if let (Some(items), Some(values)) = (schema.get("items"), value.as_array()) {
        for (index, value) in values.iter().enumerate() {
            check(field, &format!("{path}[{index}]"), items, value)?;
        }
    }
    if let (Some(inner @ Value::Object(_)), Some(values)) =
        (schema.get("additionalProperties"), value.as_object())
    {
        for (key, value) in values {
            let key: String = key.chars().take(QUOTED_CHARS).collect();
            check(field, &format!("{path}.{key}"), inner, value)?;
        }
    }
    Ok(())
}

fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => format!("{value}"),
        Value::Number(value) => format!("{value}"),
        Value::String(text) if text.chars().count() <= QUOTED_CHARS => format!("the string {text:?}"),
        Value::String(text) => format!("a string of {} characters", text.chars().count()),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use schemars::JsonSchema;
    use serde::Deserialize;
    use serde_json::json;

    use super::*;
    use crate::schema;

    #[derive(Debug, PartialEq, Deserialize, JsonSchema)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Args {
        session_id: String,
        max_turns: Option<u32>,
        worktree: Option<bool>,
        mode: Option<Mode>,
        status: Option<Vec<Mode>>,
        labels: Option<BTreeMap<String, String>>,
    }

    #[derive(Debug, PartialEq, Deserialize, JsonSchema)]
    #[serde(rename_all = "snake_case")]
    enum Mode {
        AcceptEdits,
        Plan,
    }

    fn parsed(value: Value) -> Result<Args, String> {
        let Value::Object(object) = value else { panic!("an object") };
        parse(&schema::input::<Args>(), object)
            .map_err(|error: Error| format!("{} {}", error.message, error.hint))
    }

    #[test]
    fn aliases_nulls_and_spellings_of_enums_are_taken() {
        let args = parsed(json!({
            "name": "fix", "maxTurns": null, "mode": "acceptEdits", "status": ["plan", "accept-edits"]
        }))
        .expect("taken");
        assert_eq!(args.session_id, "fix");
        assert_eq!(args.max_turns, None);
        assert_eq!(args.mode, Some(Mode::AcceptEdits));
        assert_eq!(args.status, Some(vec![Mode::Plan, Mode::AcceptEdits]));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (value, parts) in [
            (json!({}), vec!["`sessionId` is missing"]),
            (json!({"sessionId": 1}), vec!["`sessionId` must be a string, not 1"]),
            (json!({"session_id": "x"}), vec!["no argument `session_id`", "did you mean `sessionId`"]),
            (json!({"sesionId": "x"}), vec!["`sesionId`", "`sessionId`"]),
            (json!({"sessionId": "x", "zzz": 1}), vec!["`zzz`", "it takes `sessionId`, `maxTurns`"]),
            (json!({"sessionId": "x", "name": "y"}), vec!["`sessionId` is given twice"]),
            (
                json!({"sessionId": "x", "maxTurns": "five"}),
                vec!["`maxTurns` must be a whole number", "\"five\""],
            ),
            (json!({"sessionId": "x", "maxTurns": -1}), vec!["`maxTurns` must be at least 0, not -1"]),
            (json!({"sessionId": "x", "maxTurns": 1.5}), vec!["`maxTurns` must be a whole number, not 1.5"]),
            (json!({"sessionId": "x", "worktree": "yes"}), vec!["`worktree` must be true or false"]),
            (json!({"sessionId": "x", "mode": "hard"}), vec!["`mode` must be one of accept_edits, plan"]),
            (json!({"sessionId": "x", "status": ["?"]}), vec!["`status[0]` must be one of"]),
            (json!({"sessionId": "x", "status": "plan"}), vec!["`status` must be a list"]),
            (json!({"sessionId": "x", "labels": {"a": 1}}), vec!["`labels.a` must be a string"]),
            (json!({"sessionId": "x", "labels": []}), vec!["`labels` must be an object"]),
        ] {
            let error = parsed(value.clone()).expect_err("refused");
            for part in parts {
                assert!(error.contains(part), "{value}: {error}");
            }
        }
    }
}

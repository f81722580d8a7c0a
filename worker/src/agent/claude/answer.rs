//! An answer as the bytes claude expects for the request it made.

use muster_proto::v1::{Answer, AttentionReason, Decision};
use serde_json::{Map, Value, json};

use super::protocol;

/// What a denied tool call says to the model when the caller gives no reason.
const DENIED: &str = "The operator denied this.";
/// What a plan sent back says when the caller gives no feedback.
const SENT_BACK: &str = "The operator did not approve this plan. Revise it.";

/// A request that waits.
#[derive(Debug, Clone)]
pub struct OpenRequest {
    /// claude's id of it.
    pub request_id: String,
    /// Ours.
    pub attention_id: String,
    /// What kind of answer it takes.
    pub reason: AttentionReason,
    /// As claude sent it.
    pub request: Value,
}

/// An answer that does not fit its question. The question stays open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// Neither allow nor deny where one is needed.
    #[error("a permission is answered with a decision: allow, allow_always or deny")]
    NoDecision,
    /// Nothing that answers the question.
    #[error("the answer is empty: give text or answers")]
    Empty,
    /// A question that was not asked.
    #[error("there is no question {0:?}")]
    NoSuchQuestion(String),
    /// `updated_input_json` is not what it must be.
    #[error("the updated input is not a JSON object")]
    NotAnObject,
}

/// The line that answers `open`. `trust`: the session skips permission prompts, once its plan is approved too.
///
/// # Errors
/// [`AnswerError`]; claude is not told anything then.
pub fn line(open: &OpenRequest, answer: &Answer, trust: bool) -> Result<Vec<u8>, AnswerError> {
    let elicits = open.request["subtype"] == "elicitation";
    let response = match (open.reason, answer.decision()) {
        (AttentionReason::Input, _) if elicits => elicitation(&open.request, answer)?,
        (AttentionReason::Input, Decision::Deny) => deny(&answer.text, DENIED),
        (AttentionReason::Input, _) => questions(&open.request["input"], answer)?,
        (AttentionReason::PlanApproval, decision) => plan(&open.request["input"], answer, decision, trust)?,
        (_, Decision::Deny) => deny(&answer.text, DENIED),
        (_, Decision::Allow) => allow(&open.request["input"], answer)?,
        (_, Decision::AllowAlways) => {
            let mut response = allow(&open.request["input"], answer)?;
            response["updatedPermissions"] = for_this_session(&open.request);
            response
        }
        (_, Decision::Unspecified) => return Err(AnswerError::NoDecision),
    };
    Ok(protocol::response(&open.request_id, &response))
}

fn deny(text: &str, default: &str) -> Value {
    json!({"behavior": "deny", "message": if text.is_empty() { default } else { text }})
}

fn updated(answer: &Answer) -> Result<Option<Value>, AnswerError> {
    if answer.updated_input_json.is_empty() {
        return Ok(None);
    }
    match serde_json::from_str(&answer.updated_input_json) {
        Ok(Value::Object(object)) => Ok(Some(Value::Object(object))),
        _ => Err(AnswerError::NotAnObject),
    }
}

/// `updatedInput` is always there: without it claude denies the tool.
fn allow(input: &Value, answer: &Answer) -> Result<Value, AnswerError> {
    let input = updated(answer)?.unwrap_or_else(|| input.clone());
    let input = if input.is_null() { json!({}) } else { input };
    Ok(json!({"behavior": "allow", "updatedInput": input}))
}

/// claude's own suggestions, held to this session: elsewhere they would write settings into the worktree or the home.
fn for_this_session(request: &Value) -> Value {
    let mut suggestions = request.get("permission_suggestions").cloned().unwrap_or_else(|| json!([]));
    for suggestion in suggestions.as_array_mut().into_iter().flatten() {
        if let Some(suggestion) = suggestion.as_object_mut() {
            suggestion.insert("destination".to_owned(), json!("session"));
        }
    }
    suggestions
}

fn plan(input: &Value, answer: &Answer, decision: Decision, trust: bool) -> Result<Value, AnswerError> {
    let mode = match decision {
        Decision::Deny => return Ok(deny(&answer.text, SENT_BACK)),
        // Feedback without a verdict is no approval.
        Decision::Unspecified if !answer.text.is_empty() => return Ok(deny(&answer.text, SENT_BACK)),
        Decision::Unspecified => return Err(AnswerError::NoDecision),
        Decision::Allow | Decision::AllowAlways if trust => "bypassPermissions",
        Decision::AllowAlways => "acceptEdits",
        Decision::Allow => return allow(input, answer),
    };
    let mut response = allow(input, answer)?;
    response["updatedPermissions"] = json!([{"type": "setMode", "mode": mode, "destination": "session"}]);
    Ok(response)
}

/// Answers by question text (or header); free text answers the first question that has no answer.
fn questions(input: &Value, answer: &Answer) -> Result<Value, AnswerError> {
    let asked: Vec<&Value> = input.get("questions").and_then(Value::as_array).into_iter().flatten().collect();
    let mut answers = Map::new();
    for (key, value) in &answer.answers {
        let question = asked
            .iter()
            .find(|question| question["question"] == **key)
            .or_else(|| asked.iter().find(|question| question["header"] == **key))
            .ok_or_else(|| AnswerError::NoSuchQuestion(key.clone()))?;
        answers.insert(protocol::plain(&question["question"]), json!(value));
    }
    if !answer.text.is_empty() {
        let free = asked.iter().map(|question| protocol::plain(&question["question"]));
        if let Some(question) = free.into_iter().find(|question| !answers.contains_key(question)) {
            answers.insert(question, json!(answer.text));
        }
    }
    if answers.is_empty() {
        return Err(AnswerError::Empty);
    }
    let mut response = allow(input, answer)?;
    response["updatedInput"]["answers"] = Value::Object(answers);
    Ok(response)
}

fn elicitation(request: &Value, answer: &Answer) -> Result<Value, AnswerError> {
    if answer.decision() == Decision::Deny {
        return Ok(json!({"action": "decline"}));
    }
    if let Some(content) = updated(answer)? {
        return Ok(json!({"action": "accept", "content": content}));
    }
    let fields = request["requested_schema"].get("properties").and_then(Value::as_object);
    let mut content = Map::new();
    for (key, value) in &answer.answers {
        let field = fields.and_then(|fields| fields.get(key));
        let field = field.ok_or_else(|| AnswerError::NoSuchQuestion(key.clone()))?;
        content.insert(key.clone(), of_type(field, value));
    }
    if !answer.text.is_empty()
        && let Some((key, field)) = fields.into_iter().flatten().find(|(key, _)| !content.contains_key(*key))
    {
        content.insert(key.clone(), of_type(field, &answer.text));
    }
    // A form without fields asks for nothing but yes.
    let asks_nothing = fields.is_none_or(Map::is_empty);
    if content.is_empty()
        && !(asks_nothing && (answer.decision() == Decision::Allow || !answer.text.is_empty()))
    {
        return Err(AnswerError::Empty);
    }
    Ok(json!({"action": "accept", "content": content}))
}

/// Text as the JSON type the form asks for; as text when it is not of that type, for the server to judge.
fn of_type(field: &Value, text: &str) -> Value {
    let parsed = match field.get("type").and_then(Value::as_str) {
        Some("integer" | "number" | "boolean" | "array") => serde_json::from_str(text.trim()).ok(),
        _ => None,
    };
    parsed.unwrap_or_else(|| json!(text))
}

#[cfg(test)]
mod tests;

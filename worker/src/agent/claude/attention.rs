//! What claude asks, as an attention callers understand.

use muster_proto::v1::{
    Attention, AttentionReason, InputAsk, PermissionAsk, PlanAsk, Question, QuestionOption, attention::Ask,
};
use serde_json::Value;

use super::protocol::plain;

/// Longest summary made of a tool's whole input, in characters. A command, path or URL is never cut.
const INPUT_SUMMARY_CHARS: usize = 400;

/// The attention for a request that began at `offset`; `None` for a kind of request this build does not know.
#[must_use]
pub fn from_request(offset: u64, request: &Value) -> Option<Attention> {
    let (reason, ask) = match (text(request, "subtype"), text(request, "tool_name")) {
        ("can_use_tool", "ExitPlanMode") => {
            (AttentionReason::PlanApproval, Ask::Plan(plan(&request["input"])))
        }
        ("can_use_tool", "AskUserQuestion") => {
            (AttentionReason::Input, Ask::Input(questions(&request["input"])))
        }
        ("can_use_tool", _) => (AttentionReason::Permission, Ask::Permission(permission(request))),
        ("elicitation", _) => (AttentionReason::Input, Ask::Input(elicitation(request))),
        _ => return None,
    };
    Some(Attention { attention_id: format!("a{offset}"), reason: reason.into(), ask: Some(ask), since: None })
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn plan(input: &Value) -> PlanAsk {
    PlanAsk { plan: text(input, "plan").to_owned() }
}

fn permission(request: &Value) -> PermissionAsk {
    let input = &request["input"];
    let suggestions = request.get("permission_suggestions").and_then(Value::as_array);
    PermissionAsk {
        tool_name: text(request, "tool_name").to_owned(),
        summary: summary(input),
        input_json: input.to_string(),
        decision_reason: text(request, "decision_reason").to_owned(),
        can_allow_always: suggestions.is_some_and(|suggestions| !suggestions.is_empty()),
    }
}

/// The exact command, path or URL in one line; else the input itself, cut.
#[must_use]
pub fn summary(input: &Value) -> String {
    const KEYS: [&str; 7] = ["command", "file_path", "notebook_path", "path", "url", "query", "pattern"];
    if let Some(exact) = KEYS.iter().find_map(|key| input.get(key).and_then(Value::as_str)) {
        return one_line(exact);
    }
    let json = input.to_string();
    if json.chars().count() <= INPUT_SUMMARY_CHARS {
        return json;
    }
    json.chars().take(INPUT_SUMMARY_CHARS).chain(['…']).collect()
}

/// Control characters spelt out: a newline must not hide the second half of a command.
#[must_use]
pub fn one_line(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

fn questions(input: &Value) -> InputAsk {
    let list = input.get("questions").and_then(Value::as_array);
    let questions = list.into_iter().flatten().map(|question| Question {
        question: text(question, "question").to_owned(),
        header: text(question, "header").to_owned(),
        options: options(question),
        multi_select: question.get("multiSelect").and_then(Value::as_bool).unwrap_or_default(),
    });
    InputAsk { questions: questions.collect(), mcp_server: String::new(), schema_json: String::new() }
}

fn options(question: &Value) -> Vec<QuestionOption> {
    let list = question.get("options").and_then(Value::as_array);
    let option = |option: &Value| QuestionOption {
        label: option.as_str().unwrap_or_else(|| text(option, "label")).to_owned(),
        description: text(option, "description").to_owned(),
    };
    list.into_iter().flatten().map(option).collect()
}

/// A form becomes one question per field, asked by the field's name.
fn elicitation(request: &Value) -> InputAsk {
    let (schema, message) = (&request["requested_schema"], text(request, "message"));
    let fields = schema.get("properties").and_then(Value::as_object);
    let mut questions: Vec<Question> = fields
        .into_iter()
        .flatten()
        .map(|(name, field)| Question {
            question: name.clone(),
            header: message.to_owned(),
            options: field
                .get("enum")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .map(|value| QuestionOption { label: plain(value), description: String::new() })
                .collect(),
            multi_select: false,
        })
        .collect();
    if questions.is_empty() {
        questions.push(Question { question: message.to_owned(), ..Question::default() });
    }
    let schema_json = if schema.is_null() { String::new() } else { schema.to_string() };
    InputAsk { questions, mcp_server: text(request, "mcp_server_name").to_owned(), schema_json }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_summary_is_the_exact_command_in_one_line() {
        assert_eq!(summary(&json!({"command": "ls -l\nrm -rf /\u{1b}[2K"})), "ls -l\\nrm -rf /\\u{1b}[2K");
        assert_eq!(summary(&json!({"file_path": "/a b", "content": "x"})), "/a b");
        assert_eq!(summary(&json!({"x": 1})), r#"{"x":1}"#);
        assert_eq!(summary(&json!({"x": "y".repeat(1000)})).chars().count(), INPUT_SUMMARY_CHARS + 1);
    }

    #[test]
    fn a_form_becomes_a_question_for_each_field() {
        let request = json!({"subtype": "elicitation", "mcp_server_name": "t", "message": "Who?", "requested_schema":
            {"type": "object", "properties": {"name": {"type": "string"}, "size": {"enum": ["S", "L"]}}}});
        let attention = from_request(42, &request).expect("known");
        assert_eq!((attention.attention_id.as_str(), attention.reason()), ("a42", AttentionReason::Input));
        let Some(Ask::Input(ask)) = attention.ask else { panic!("an input") };
        assert_eq!(ask.mcp_server, "t");
        assert_eq!(ask.questions.len(), 2);
        assert_eq!(ask.questions[1].options[1].label, "L");
        assert!(from_request(1, &json!({"subtype": "brand_new"})).is_none());
    }
}

//! Puts a session's question before the person at the client, as a form.
//!
//! The form is built from what the session asks, cleaned and cut; what comes back becomes an answer of the
//! controller. Invariant: an answer goes to the question it was given for or to none, and is given once
//! however often it arrives.

use muster_proto::{
    error::{Error, ErrorCode},
    v1::{
        Answer, Attention, Decision, InputAsk, SendInputRequest, Session, attention::Ask,
        send_input_request::Input,
    },
};
use rmcp::model::{ElicitRequestParams, ElicitResult, ElicitationAction};
use serde_json::{Map, Value, json};

use super::Call;
use crate::{
    controller::required,
    render::{cut_middle, sanitise, view::one_line},
};

/// Most of what is asked that is shown, in characters.
const TEXT_CHARS: usize = 4_000;
const LINE_CHARS: usize = 200;

/// Names a question: the session's handle and the attention's id.
pub(super) fn key(session: &Session) -> Option<String> {
    let attention = session.attention.as_ref()?;
    Some(format!("{}/{}", session.handle, attention.attention_id))
}

/// The form for what `session` asks; `None` when no form can hold it.
pub(super) fn form(session: &Session) -> Option<ElicitRequestParams> {
    let ask = session.attention.as_ref()?.ask.as_ref()?;
    let (what, properties, required) = match ask {
        Ask::Permission(ask) => {
            let tool = one_line(&ask.tool_name, LINE_CHARS).unwrap_or_default();
            let mut decisions = vec!["allow", "deny"];
            if ask.can_allow_always {
                decisions.insert(1, "allow_always");
            }
            let what = format!("asks for permission to use {tool}:\n\n{}", shown(&ask.summary));
            (what, decision(&decisions, "Why, if you deny"), vec!["decision"])
        }
        Ask::Plan(ask) => {
            let what = format!("asks you to approve its plan:\n\n{}", shown(&ask.plan));
            (what, decision(&["allow", "deny"], "What to change, if you deny"), vec!["decision"])
        }
        Ask::Input(ask) if ask.mcp_server.is_empty() && !ask.questions.is_empty() => {
            let (what, properties) = questions(ask);
            (what, properties, Vec::new())
        }
        Ask::Input(_) => return None,
    };
    let schema = json!({ "type": "object", "properties": properties, "required": required });
    Some(ElicitRequestParams::FormElicitationParams {
        meta: None,
        message: format!("Session {} {what}", session.handle),
        requested_schema: serde_json::from_value(schema).ok()?,
    })
}

fn shown(text: &str) -> String {
    cut_middle(&sanitise(text), TEXT_CHARS).into_owned()
}

fn decision(decisions: &[&str], text: &str) -> Map<String, Value> {
    let mut properties = Map::new();
    let decision = json!({ "type": "string", "title": "Your decision", "enum": decisions });
    properties.insert("decision".to_owned(), decision);
    properties.insert("text".to_owned(), json!({ "type": "string", "title": text }));
    properties
}

fn questions(ask: &InputAsk) -> (String, Map<String, Value>) {
    let mut what = String::from("asks:");
    let mut properties = Map::new();
    for (number, question) in (1..).zip(&ask.questions) {
        what.push_str(&format!("\n\n{number}. {}", shown(&question.question)));
        let labels: Vec<String> =
            question.options.iter().map(|option| sanitise(&option.label).into_owned()).collect();
        for option in &question.options {
            let label = one_line(&option.label, LINE_CHARS).unwrap_or_default();
            let description = one_line(&option.description, LINE_CHARS).unwrap_or_default();
            what.push_str(&format!("\n   - {label}: {description}"));
        }
        let title = format!("Answer {number}");
        let field = if question.multi_select || labels.is_empty() {
            json!({ "type": "string", "title": format!("{title} (several: with commas)") })
        } else {
            json!({ "type": "string", "title": title, "enum": labels })
        };
        properties.insert(format!("answer{number}"), field);
        if !question.multi_select && !question.options.is_empty() {
            let other = json!({ "type": "string", "title": format!("{title}, in your own words") });
            properties.insert(format!("other{number}"), other);
        }
    }
    (what, properties)
}

/// Gives the person's answer to the session. False when there was none: declined, or an empty form.
pub(crate) async fn give(call: &Call, key: &str, result: &ElicitResult) -> Result<bool, Error> {
    let ElicitationAction::Accept = result.action else { return Ok(false) };
    let Some((name, attention_id)) = key.split_once('/') else { return Ok(false) };
    let session = call.controller().get(name).await?;
    let open = session.attention.as_ref().filter(|open| open.attention_id == attention_id);
    // Answered by somebody else meanwhile: that counts.
    let Some(open) = open else { return Ok(true) };
    let content = result.content.as_ref().unwrap_or(&Value::Null);
    let Some(answer) = answer(open, content) else { return Ok(false) };
    let request = SendInputRequest {
        session: session.session_id.clone(),
        request_id: format!("ask-{attention_id}"),
        input: Some(Input::Answer(answer)),
    };
    match call.controller().send(request).await {
        Ok(response) => call.watches.observe(&required(response.session)?),
        Err(error) if matches!(error.code, ErrorCode::AttentionStale | ErrorCode::RequestIdConflict) => {}
        Err(error) => return Err(error),
    }
    Ok(true)
}

fn answer(open: &Attention, content: &Value) -> Option<Answer> {
    let text = |field: &str| content.get(field).and_then(Value::as_str).unwrap_or_default().trim().to_owned();
    let mut answer = Answer { attention_id: open.attention_id.clone(), ..Answer::default() };
    if let Some(Ask::Input(ask)) = &open.ask {
        for (number, question) in (1..).zip(&ask.questions) {
            let other = text(&format!("other{number}"));
            let said = if other.is_empty() { text(&format!("answer{number}")) } else { other };
            if !said.is_empty() {
                answer.answers.insert(question.question.clone(), said);
            }
        }
        return (!answer.answers.is_empty()).then_some(answer);
    }
    let decision = match text("decision").as_str() {
        "allow" => Decision::Allow,
        "allow_always" => Decision::AllowAlways,
        "deny" => Decision::Deny,
        _ => return None,
    };
    answer.set_decision(decision);
    if decision == Decision::Deny {
        answer.text = text("text");
    }
    Some(answer)
}

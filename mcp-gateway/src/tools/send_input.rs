//! `send_input`: answers what a session asks, or gives it its next message.
//!
//! A message is never typed into a question: text alone answers only a question that takes free text, and
//! what a permission or a plan needs is said instead.

use std::collections::BTreeMap;

use muster_proto::{
    error::{Error, ErrorCode},
    v1::{
        Answer, Attention, AttentionReason, Decision as WireDecision, Delivery, Question, SendInputRequest,
        SendInputResponse, Session, attention::Ask, send_input_request::Input,
    },
};
use rmcp::model::{CallToolResult, JsonObject, Tool};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Call, Hints, RequestId, ToolName, define, session_given, structured};
use crate::{
    controller::required,
    render::{
        attention::{answer_with, reason_name},
        view::{Form, SessionView},
        wire_name,
    },
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Args {
    /// The session to speak to.
    session_id: String,
    /// The next user message; or with an answer: why you deny, what to change in a plan, a free answer to a
    /// question.
    text: Option<String>,
    /// Answers a permission or a plan. allow_always: do not ask again for the like in this session.
    decision: Option<Decision>,
    /// Answers questions: question text -> label or free text; several labels joined by ", ".
    answers: Option<BTreeMap<String, String>>,
    /// With decision allow: the tool's input as it shall be instead, e.g. {"command": "..."}; for a plan
    /// {"plan": "..."}.
    updated_input: Option<BTreeMap<String, Value>>,
    /// true: ends the current turn; the session can go on with a message.
    interrupt: Option<bool>,
    /// attention.attentionId you answer. Default: the one that is open. Give it: another may have taken its
    /// place.
    attention_id: Option<String>,
    /// Your own id for this request: repeated with the same arguments it is done once.
    request_id: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Decision {
    Allow,
    AllowAlways,
    Deny,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Output {
    #[serde(flatten)]
    session: SessionView,
    delivered: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    replayed: Option<bool>,
}

pub(super) fn definition() -> Tool {
    define::<Args, Output>(
        ToolName::SendInput,
        "Answer or message a session",
        "Answers what a session asks (decision for a permission or plan, answers for questions; \
         attention.answerWith says which), or with text alone gives it its next message: a working session \
         gets it when its turn ends, a completed or failed one is resumed in the same workspace. Then call \
         wait_for_completion.",
        Hints { read_only: false, destructive: false, idempotent: false, open_world: true },
        &[],
    )
}

/// A list of labels is what a multi-select looks like to a model; the wire has one string.
pub(super) fn accept(mut arguments: JsonObject) -> JsonObject {
    if let Some(Value::Object(answers)) = arguments.get_mut("answers") {
        for answer in answers.values_mut() {
            let labels: Option<Vec<&str>> =
                answer.as_array().map(|labels| labels.iter().filter_map(Value::as_str).collect());
            if let Some(labels) =
                labels.filter(|labels| Some(labels.len()) == answer.as_array().map(Vec::len))
            {
                *answer = Value::String(labels.join(", "));
            }
        }
    }
    arguments
}

pub(super) async fn call(call: &Call, args: Args) -> Result<CallToolResult, Error> {
    let session = session_given(&args.session_id)?.to_owned();
    let request_id = call.request_id(args.request_id.clone());
    let input = match plain_input(&args)? {
        Some(input) => input,
        None => addressed(&args, &call.controller().get(&session).await?)?,
    };
    let response = match send(call, &session, &request_id, input).await {
        Err(error) if error.code == ErrorCode::AttentionPending => {
            return Err(explain_pending(call, &session, error).await);
        }
        other => other?,
    };
    let delivered = wire_name(response.delivery().as_str_name(), "DELIVERY_");
    let delivery = response.delivery();
    let session = required(response.session)?;
    call.watches.observe(&session);
    let view = SessionView::new(&session, Form::Concise);
    let view = match delivery {
        Delivery::Nothing => view.with_next("there was no turn to interrupt"),
        _ if session.attention.is_some() => view,
        _ => view.with_next(format!("call wait_for_completion with sessionId \"{}\"", session.handle)),
    };
    structured(&Output { session: view, delivered, replayed: response.replayed.then_some(true) })
}

/// Sends `input` once, however often this call is repeated.
async fn send(
    call: &Call,
    session: &str,
    request_id: &RequestId,
    input: Input,
) -> Result<SendInputResponse, Error> {
    let request = |id: &str, input: &Input| SendInputRequest {
        session: session.to_owned(),
        request_id: id.to_owned(),
        input: Some(input.clone()),
    };
    let conflict = match call.controller().send(request(&request_id.id, &input)).await {
        Err(error) if error.code == ErrorCode::RequestIdConflict => error,
        other => return other,
    };
    // Text answers an open question and is a message otherwise. If it was this request that closed the
    // question, it must be asked for under its first form: with a known id nothing is done anew.
    if let Some(other) = other_form(&input)
        && let Ok(response) = call.controller().send(request(&request_id.id, &other)).await
    {
        return Ok(response);
    }
    // The tool use id was used before for something else, so it is not unique and this is no repetition.
    // Answers are not sent under a new id: they could reach a question that nobody meant.
    match input {
        Input::Message(_) if request_id.derived => {
            call.controller().send(request(&RequestId::fresh().id, &input)).await
        }
        _ => Err(conflict),
    }
}

fn other_form(input: &Input) -> Option<Input> {
    match input {
        Input::Message(text) => Some(Input::Answer(Answer { text: text.clone(), ..Answer::default() })),
        Input::Answer(answer) if *answer == (Answer { text: answer.text.clone(), ..Answer::default() }) => {
            Some(Input::Message(answer.text.clone()))
        }
        _ => None,
    }
}

/// Input that does not depend on what the session asks now. Refuses combinations that mean nothing.
fn plain_input(args: &Args) -> Result<Option<Input>, Error> {
    let answers = args.decision.is_some() || args.answers.is_some() || args.updated_input.is_some();
    if args.interrupt == Some(true) {
        if answers || args.text.is_some() {
            return Err(Error::invalid("interrupt", "`interrupt` cannot be combined with text or an answer")
                .hint("interrupt first, then send the text in a second call"));
        }
        return Ok(Some(Input::Interrupt(true)));
    }
    if !answers && args.text.as_ref().is_none_or(String::is_empty) {
        return Err(Error::invalid(
            "text",
            "there is nothing to send: give text, decision, answers or interrupt",
        ));
    }
    if args.updated_input.is_some() && !matches!(args.decision, Some(Decision::Allow | Decision::AllowAlways))
    {
        return Err(Error::invalid("updatedInput", "`updatedInput` goes with decision \"allow\" only"));
    }
    if args.answers.is_some() && args.decision == Some(Decision::Deny) {
        return Err(Error::invalid("answers", "`answers` and decision \"deny\" contradict each other"));
    }
    Ok(None)
}

/// Input for what `session` waits on, or a message when it waits on nothing.
fn addressed(args: &Args, session: &Session) -> Result<Input, Error> {
    let answers = args.decision.is_some() || args.answers.is_some() || args.attention_id.is_some();
    let open = session.attention.as_ref();
    // Another may be open behind it: only the controller knows them all, so a named one is passed on as it
    // is.
    let same = open.filter(|open| args.attention_id.as_ref().is_none_or(|id| *id == open.attention_id));
    if !answers {
        let text = args.text.clone().unwrap_or_default();
        return match open {
            Some(open) if open.reason() == AttentionReason::Input => {
                Ok(Input::Answer(Answer { text, ..Answer::default() }))
            }
            Some(open) => Err(pending(open)),
            None => Ok(Input::Message(text)),
        };
    }
    if let (Some(open), None, None) = (same, args.decision, &args.answers)
        && open.reason() != AttentionReason::Input
    {
        return Err(pending(open));
    }
    if let Some(open) = same {
        fits(args, open)?;
    }
    let updated_input_json = match &args.updated_input {
        Some(input) => serde_json::to_string(input).map_err(|error| {
            Error::invalid("updatedInput", format!("`updatedInput` is no JSON object: {error}"))
        })?,
        None => String::new(),
    };
    let decision = match args.decision {
        Some(Decision::Allow) => WireDecision::Allow,
        Some(Decision::AllowAlways) => WireDecision::AllowAlways,
        Some(Decision::Deny) => WireDecision::Deny,
        None => WireDecision::Unspecified,
    };
    let answers = args.answers.clone().unwrap_or_default();
    Ok(Input::Answer(Answer {
        // Not filled in here: a repetition must say the same, also when the question is no longer open. The
        // controller takes the one that is.
        attention_id: args.attention_id.clone().unwrap_or_default(),
        decision: decision.into(),
        text: args.text.clone().unwrap_or_default(),
        answers: named_by_question(answers, same),
        updated_input_json,
    }))
}

/// Whether the kind of answer is one the question takes.
fn fits(args: &Args, open: &Attention) -> Result<(), Error> {
    let reason = open.reason();
    if args.answers.is_some() && reason != AttentionReason::Input {
        let message =
            format!("`answers` answers questions, and this session waits on {}", reason_name(reason));
        return Err(Error::invalid("answers", message).hint(answer_with(open)));
    }
    let allows = matches!(args.decision, Some(Decision::Allow | Decision::AllowAlways));
    let says_more = args.answers.is_some() || args.text.is_some() || args.updated_input.is_some();
    // A form of an MCP server may ask for nothing but yes.
    let form = matches!(&open.ask, Some(Ask::Input(ask)) if !ask.mcp_server.is_empty());
    if allows && !says_more && !form && reason == AttentionReason::Input {
        let message = "`decision` \"allow\" answers no question";
        return Err(Error::invalid("decision", message).hint(answer_with(open)));
    }
    Ok(())
}

/// Keys that are a question's header, or anything where there is one question only, mean that question.
fn named_by_question(
    answers: BTreeMap<String, String>,
    attention: Option<&Attention>,
) -> std::collections::HashMap<String, String> {
    let questions: &[Question] = match attention.and_then(|attention| attention.ask.as_ref()) {
        Some(Ask::Input(ask)) if ask.mcp_server.is_empty() => &ask.questions,
        _ => &[],
    };
    let only = answers.len() == 1 && questions.len() == 1;
    answers
        .into_iter()
        .map(|(key, answer)| {
            let question = questions
                .iter()
                .find(|question| question.question == key)
                .or_else(|| questions.iter().find(|question| question.header == key))
                .or_else(|| questions.first().filter(|_| only));
            (question.map_or(key, |question| question.question.clone()), answer)
        })
        .collect()
}

fn pending(open: &Attention) -> Error {
    let reason = reason_name(open.reason());
    let message =
        format!("the session waits on an answer ({reason}); text alone would answer something nobody meant");
    Error::new(ErrorCode::AttentionPending, message).hint(answer_with(open))
}

/// The controller refused a message because a question came up meanwhile: say which.
async fn explain_pending(call: &Call, session: &str, error: Error) -> Error {
    match call.controller().get(session).await {
        Ok(Session { attention: Some(open), .. }) => pending(&open),
        _ => error,
    }
}

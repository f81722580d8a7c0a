//! claude's stream-json as types, both ways. Lenient inwards: a line that is no JSON, of a type we do not know, or with a
//! field of another shape is [`Incoming::Other`], never an error. Strict outwards: one JSON library, one newline.

use std::collections::BTreeMap;

use muster_proto::v1::Usage;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use uuid::Uuid;

/// One line of claude's stdout.
#[derive(Debug)]
pub enum Incoming {
    /// `system/init`, once per user turn.
    Init(Init),
    /// `system/session_state_changed`.
    State(String),
    /// `system/status`.
    Status(Status),
    /// `system/api_retry`.
    ApiRetry(ApiRetry),
    /// Text and tool calls.
    Assistant(Vec<Block>),
    /// Results of tools, and our own messages replayed.
    User(User),
    /// A turn's result.
    Result(Box<ResultLine>),
    /// claude asks us.
    Request {
        /// To be repeated in the response.
        request_id: String,
        /// The question, as it is.
        request: Value,
    },
    /// claude withdraws a question.
    Cancel {
        /// Of the request.
        request_id: String,
    },
    /// A response: claude's to a request of ours, or ours replayed.
    Response {
        /// Of the request.
        request_id: String,
    },
    /// JSON with a type that changes nothing here.
    Other,
    /// Not JSON at all: escapes at exit, a stray print.
    NotJson,
}

/// Of `system/init`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Init {
    /// Version of the program.
    pub claude_code_version: String,
    /// Mode it begins the turn in.
    #[serde(rename = "permissionMode")]
    pub permission_mode: String,
}

/// Of `system/status`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Status {
    /// `compacting`, `requesting`, or nothing.
    pub status: Option<String>,
    /// Set when the mode changed.
    #[serde(rename = "permissionMode")]
    pub permission_mode: Option<String>,
}

/// Of `system/api_retry`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ApiRetry {
    /// Which retry.
    pub attempt: u64,
    /// Of how many.
    pub max_retries: u64,
    /// HTTP status, when there was an answer.
    pub error_status: Option<u32>,
    /// `overloaded`, `rate_limit`, ...
    pub error: Value,
}

/// A block of a message; the fields that matter of every kind.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Block {
    /// `text`, `tool_use`, `tool_result`, ...
    #[serde(rename = "type")]
    pub kind: String,
    /// Of a text block.
    pub text: Option<String>,
    /// Of a tool call.
    pub id: Option<String>,
    /// The tool's name.
    pub name: Option<String>,
    /// The tool's input.
    pub input: Option<Value>,
    /// Of a tool's result: which call.
    pub tool_use_id: Option<String>,
}

/// Of a `user` line.
#[derive(Debug, Default)]
pub struct User {
    /// Tool calls that have a result now.
    pub finished_tools: Vec<String>,
    /// Our own message, taken.
    pub replayed: Option<String>,
}

/// Of a `result` line.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ResultLine {
    /// Not to be trusted alone: `success` comes with `is_error: true`.
    pub subtype: String,
    /// The verdict.
    pub is_error: bool,
    /// HTTP status of a failed API call.
    pub api_error_status: Option<u32>,
    /// What claude said last, or the failure.
    pub result: Option<String>,
    /// Failures of the kinds without `result`.
    pub errors: Vec<Value>,
    /// Of this turn alone.
    pub usage: TurnUsage,
    /// Of this process so far, or of the whole conversation when claude was resumed (newer versions).
    pub total_cost_usd: f64,
    /// As `total_cost_usd`, by model.
    #[serde(rename = "modelUsage")]
    pub model_usage: BTreeMap<String, ModelUsage>,
}

/// Tokens of one model.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ModelUsage {
    input_tokens: u64,
    output_tokens: u64,
    cache_read_input_tokens: u64,
    cache_creation_input_tokens: u64,
}

/// Tokens of one turn.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct TurnUsage {
    /// Fresh ones in.
    pub input_tokens: u64,
    /// Out.
    pub output_tokens: u64,
}

impl ResultLine {
    /// Sums of the process so far; `turns` is the caller's to count.
    #[must_use]
    pub fn usage(&self, turns: u32) -> Usage {
        let sum = |of: fn(&ModelUsage) -> u64| self.model_usage.values().map(of).sum();
        Usage {
            turns,
            input_tokens: sum(|model| model.input_tokens),
            output_tokens: sum(|model| model.output_tokens),
            cache_read_tokens: sum(|model| model.cache_read_input_tokens),
            cache_creation_tokens: sum(|model| model.cache_creation_input_tokens),
            cost_usd: self.total_cost_usd,
        }
    }

    /// The text for people: the answer, or what went wrong.
    #[must_use]
    pub fn text(&self) -> String {
        if let Some(text) = &self.result {
            return text.clone();
        }
        // claude's own diagnosis of an abort is of no use to anybody else.
        let errors = self.errors.iter().map(plain).filter(|error| !error.starts_with("[ede_diagnostic]"));
        let errors: Vec<String> = errors.collect();
        if errors.is_empty() { self.subtype.replace('_', " ") } else { errors.join("; ") }
    }
}

/// A JSON string as itself, anything else as JSON.
pub(super) fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}

#[derive(Deserialize)]
struct Head {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    subtype: Option<String>,
    #[serde(default)]
    request_id: Option<String>,
}

#[derive(Deserialize)]
struct WithMessage {
    message: Message,
    #[serde(default)]
    uuid: Option<String>,
    #[serde(default, rename = "isReplay")]
    is_replay: bool,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    content: Content,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Blocks(Vec<Block>),
    Other(serde::de::IgnoredAny),
}

impl Default for Content {
    fn default() -> Self {
        Self::Blocks(Vec::new())
    }
}

impl Content {
    fn blocks(self) -> Vec<Block> {
        match self {
            Self::Blocks(blocks) => blocks,
            Self::Other(_) => Vec::new(),
        }
    }
}

/// Reads one line.
#[must_use]
pub fn parse(line: &[u8]) -> Incoming {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    // Terminal escapes may precede a line that claude printed right after resetting the terminal.
    let Some(start) = line.iter().position(|byte| *byte == b'{') else { return Incoming::NotJson };
    let line = &line[start..];
    let Ok(head) = serde_json::from_slice::<Head>(line) else { return Incoming::NotJson };
    let subtype = head.subtype.as_deref().unwrap_or_default();
    match (head.kind.as_str(), subtype) {
        ("system", "init") => typed(line, Incoming::Init),
        ("system", "session_state_changed") => {
            #[derive(Deserialize)]
            struct Changed {
                state: String,
            }
            typed(line, |changed: Changed| Incoming::State(changed.state))
        }
        ("system", "status") => typed(line, Incoming::Status),
        ("system", "api_retry") => typed(line, Incoming::ApiRetry),
        ("assistant", _) => {
            typed(line, |line: WithMessage| Incoming::Assistant(line.message.content.blocks()))
        }
        ("user", _) => typed(line, |line: WithMessage| Incoming::User(user(line))),
        ("result", _) => typed(line, |result| Incoming::Result(Box::new(result))),
        ("control_request", _) => {
            #[derive(Deserialize)]
            struct Request {
                request_id: String,
                request: Value,
            }
            typed(line, |Request { request_id, request }| Incoming::Request { request_id, request })
        }
        ("control_cancel_request", _) => {
            head.request_id.map_or(Incoming::Other, |request_id| Incoming::Cancel { request_id })
        }
        ("control_response", _) => {
            #[derive(Deserialize)]
            struct Outer {
                response: Inner,
            }
            #[derive(Deserialize)]
            struct Inner {
                request_id: String,
            }
            typed(line, |outer: Outer| Incoming::Response { request_id: outer.response.request_id })
        }
        _ => Incoming::Other,
    }
}

fn typed<T: DeserializeOwned>(line: &[u8], make: impl FnOnce(T) -> Incoming) -> Incoming {
    serde_json::from_slice(line).map_or(Incoming::Other, make)
}

fn user(line: WithMessage) -> User {
    let blocks = line.message.content.blocks();
    User {
        finished_tools: blocks.into_iter().filter_map(|block| block.tool_use_id).collect(),
        replayed: if line.is_replay { line.uuid } else { None },
    }
}

/// Prefix of the request ids of our interrupts.
const INTERRUPT: &str = "interrupt-";

/// Whether a response with this id tells that an interrupt of ours was taken.
#[must_use]
pub fn is_interrupt(request_id: &str) -> bool {
    request_id.starts_with(INTERRUPT)
}

/// The uuid of the message with number `seq` of a session: the same whenever it is asked for, so that a restarted
/// worker recognises its own messages.
#[must_use]
pub fn message_uuid(session: &Uuid, seq: u64) -> Uuid {
    let mut bytes = *session.as_bytes();
    for (byte, number) in bytes[8..].iter_mut().zip(seq.to_be_bytes()) {
        *byte ^= number;
    }
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// A user message as a line.
#[must_use]
pub fn message(session: &Uuid, seq: u64, text: &str) -> Vec<u8> {
    line(&json!({
        "type": "user",
        "message": {"role": "user", "content": text},
        "parent_tool_use_id": null,
        "session_id": session.to_string(),
        "uuid": message_uuid(session, seq).to_string(),
    }))
}

/// An interrupt as a line. `seq` 0 is the worker's own.
#[must_use]
pub fn interrupt(seq: u64) -> Vec<u8> {
    line(&json!({
        "type": "control_request",
        "request_id": format!("{INTERRUPT}{seq}"),
        "request": {"subtype": "interrupt"},
    }))
}

/// The answer to a request as a line.
#[must_use]
pub fn response(request_id: &str, response: &Value) -> Vec<u8> {
    line(&json!({
        "type": "control_response",
        "response": {"subtype": "success", "request_id": request_id, "response": response},
    }))
}

/// "We do not know this request" as a line.
#[must_use]
pub fn refusal(request_id: &str, why: &str) -> Vec<u8> {
    line(&json!({
        "type": "control_response",
        "response": {"subtype": "error", "request_id": request_id, "error": why},
    }))
}

fn line(value: &Value) -> Vec<u8> {
    let mut bytes = value.to_string().into_bytes();
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_no_json_or_of_another_shape_are_tolerated() {
        for (line, other) in [
            (&b"\x1b[?25h"[..], false),
            (b"", false),
            (b"{", false),
            (b"[1]", false),
            (br#"{"type":"brand_new","x":[1]}"#, true),
            (br#"{"type":"result","is_error":"yes"}"#, true),
            (br#"{"type":"control_request"}"#, true),
            (br#"{"no":"type"}"#, true),
        ] {
            let got = parse(line);
            assert!(
                if other { matches!(got, Incoming::Other) } else { matches!(got, Incoming::NotJson) },
                "{got:?}"
            );
        }
        let state = br#"{"type":"system","subtype":"session_state_changed","state":"idle"}"#;
        let mut escaped = b"\x1b[?25h".to_vec();
        escaped.extend_from_slice(state);
        escaped.push(b'\r');
        assert!(matches!(parse(&escaped), Incoming::State(state) if state == "idle"));
    }

    #[test]
    fn a_message_is_one_line_whatever_its_bytes() {
        let session = Uuid::from_u128(7);
        for text in ["-p $(rm -rf /)", "a\nb\r\n\"c\" \u{0} \u{2028}", "--flag"] {
            let bytes = message(&session, 3, text);
            assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 1);
            let value: Value = serde_json::from_slice(&bytes).expect("JSON");
            assert_eq!(value["message"]["content"], text);
            assert_eq!(value["uuid"], message_uuid(&session, 3).to_string());
        }
        assert_ne!(message_uuid(&session, 3), message_uuid(&session, 4));
    }
}

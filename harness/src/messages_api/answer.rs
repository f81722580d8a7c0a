//! Plays one turn as an HTTP answer: a stream of events, one JSON message, an error, or a broken connection.

use std::{io, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use muster_runtime::task;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use uuid::Uuid;

use super::server::{Body, Dropped, error, json_response};
use crate::scenario::{ToolUse, Turn};

/// Events on their way to a client that reads slowly; the script waits when it is full.
const EVENTS_AHEAD: usize = 64;
/// Texts are cut into at most so many deltas, so that megabytes stay quick.
const MAX_DELTAS: usize = 500;
const DEFAULT_CHUNK: usize = 40;
/// Time a connection is given to write what it holds before it is broken.
const FLUSHED_WITHIN_MS: u64 = 50;

/// Answers `request` with `turn`. Hangs when the turn does.
pub(super) async fn answer(turn: Turn, request: &Value) -> Result<Response<Body>, Dropped> {
    pause(turn.delay_ms).await;
    if turn.hang {
        std::future::pending::<()>().await;
    }
    if turn.drop {
        return Err(Dropped);
    }
    let mut response = if turn.is_error() {
        failure(&turn)
    } else if request["stream"].as_bool() == Some(true) {
        streamed(&turn, model(request))
    } else {
        json_response(StatusCode::OK, &Message::new(&turn, model(request)).whole())
    };
    let headers = response.headers_mut();
    headers.insert("request-id", header_value(&made_up("req_")));
    for (name, value) in &turn.headers {
        let name = HeaderName::try_from(name.as_str()).map_err(|_| Dropped)?;
        headers.insert(name, header_value(value));
    }
    Ok(response)
}

fn failure(turn: &Turn) -> Response<Body> {
    let status = turn.status.and_then(|status| StatusCode::from_u16(status).ok());
    let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    match &turn.error {
        Some(given) => error(status, &given.kind, &given.message),
        None => error(status, "api_error", &format!("scripted {status}")),
    }
}

fn streamed(turn: &Turn, model: &str) -> Response<Body> {
    let (events, received) = mpsc::channel(EVENTS_AHEAD);
    let player = Player { events, turn: turn.clone(), message: Message::new(turn, model) };
    // Ends by itself when the client goes away: the next send fails.
    task::spawn("messages-api-stream", player.play()).detach();
    let frames = ReceiverStream::new(received).map(|event| event.map(Frame::data));
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(frames)));
    let content_type = HeaderValue::from_static("text/event-stream; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// What a turn says, as an API message.
struct Message {
    id: String,
    model: String,
    blocks: Vec<Value>,
    stop_reason: String,
    usage: Value,
}

impl Message {
    fn new(turn: &Turn, model: &str) -> Self {
        let mut blocks = Vec::new();
        if let Some(thinking) = &turn.thinking {
            blocks.push(json!({ "type": "thinking", "thinking": thinking, "signature": "c2ln" }));
        }
        if let Some(text) = &turn.text {
            blocks.push(json!({ "type": "text", "text": text }));
        }
        blocks.extend(turn.tool_use.iter().map(tool_block));
        Self {
            id: made_up("msg_"),
            model: model.to_owned(),
            blocks,
            stop_reason: turn.stop().to_owned(),
            usage: Value::Object(turn.usage()),
        }
    }

    fn whole(&self) -> Value {
        json!({ "id": self.id, "type": "message", "role": "assistant", "model": self.model,
            "content": self.blocks,
            "stop_reason": self.stop_reason, "stop_sequence": null, "usage": self.usage })
    }

    fn start(&self) -> Value {
        let mut usage = self.usage.clone();
        usage["output_tokens"] = Value::from(1);
        json!({ "type": "message_start", "message": { "id": self.id, "type": "message", "role": "assistant",
            "model": self.model, "content": [], "stop_reason": null, "stop_sequence": null,
            "usage": usage } })
    }
}

fn tool_block(call: &ToolUse) -> Value {
    let id = call.id.clone().unwrap_or_else(|| made_up("toolu_"));
    let input = if call.input.is_null() { json!({}) } else { call.input.clone() };
    json!({ "type": "tool_use", "id": id, "name": call.name, "input": input })
}

/// Why a stream ends before its message does.
enum Cut {
    /// The client went away, or the script said enough.
    Over,
    /// The connection must break.
    Break,
}

struct Player {
    events: mpsc::Sender<Result<Bytes, io::Error>>,
    turn: Turn,
    message: Message,
}

impl Player {
    async fn play(self) {
        if let Err(Cut::Break) = self.message().await {
            // What was sent before must be on the wire: hyper throws away what is buffered when a body fails.
            pause(FLUSHED_WITHIN_MS).await;
            let cut = io::Error::new(io::ErrorKind::ConnectionAborted, "the scenario drops this connection");
            let _ = self.events.send(Err(cut)).await;
        }
    }

    async fn message(&self) -> Result<(), Cut> {
        self.event(&self.message.start()).await?;
        pause(self.turn.first_byte_delay_ms).await;
        for (index, block) in self.message.blocks.iter().enumerate() {
            match block["type"].as_str() {
                Some("text") => self.text(index, block["text"].as_str().unwrap_or_default()).await?,
                Some("thinking") => self.thinking(index, block).await?,
                _ => self.tool(index, block).await?,
            }
            self.event(&json!({ "type": "content_block_stop", "index": index })).await?;
        }
        if self.turn.text.is_none() {
            self.fault_in_the_middle().await?;
        }
        let delta = json!({ "stop_reason": self.message.stop_reason, "stop_sequence": null });
        let usage = json!({ "output_tokens": self.message.usage["output_tokens"] });
        self.event(&json!({ "type": "message_delta", "delta": delta, "usage": usage })).await?;
        self.event(&json!({ "type": "message_stop" })).await
    }

    async fn text(&self, index: usize, text: &str) -> Result<(), Cut> {
        self.open(index, json!({ "type": "text", "text": "" })).await?;
        let pieces = cut(text, if self.turn.chunk == 0 { DEFAULT_CHUNK } else { self.turn.chunk });
        let middle = pieces.len() / 2;
        for (position, piece) in pieces.iter().enumerate() {
            if position == middle {
                self.fault_in_the_middle().await?;
            }
            self.delta(index, json!({ "type": "text_delta", "text": piece })).await?;
            pause(self.turn.chunk_delay_ms).await;
        }
        Ok(())
    }

    async fn thinking(&self, index: usize, block: &Value) -> Result<(), Cut> {
        self.open(index, json!({ "type": "thinking", "thinking": "", "signature": "" })).await?;
        self.delta(index, json!({ "type": "thinking_delta", "thinking": block["thinking"] })).await?;
        self.delta(index, json!({ "type": "signature_delta", "signature": block["signature"] })).await
    }

    async fn tool(&self, index: usize, block: &Value) -> Result<(), Cut> {
        let opened = json!({ "type": "tool_use", "id": block["id"], "name": block["name"], "input": {} });
        self.open(index, opened).await?;
        for piece in cut(&block["input"].to_string(), DEFAULT_CHUNK * 2) {
            self.delta(index, json!({ "type": "input_json_delta", "partial_json": piece })).await?;
        }
        Ok(())
    }

    async fn fault_in_the_middle(&self) -> Result<(), Cut> {
        if self.turn.hang_mid {
            self.events.closed().await;
            return Err(Cut::Over);
        }
        if self.turn.drop_mid {
            return Err(Cut::Break);
        }
        if let Some(error) = &self.turn.sse_error {
            self.event(&json!({ "type": "error", "error": error })).await?;
            return Err(Cut::Over);
        }
        Ok(())
    }

    async fn open(&self, index: usize, block: Value) -> Result<(), Cut> {
        self.event(&json!({ "type": "content_block_start", "index": index, "content_block": block })).await
    }

    async fn delta(&self, index: usize, delta: Value) -> Result<(), Cut> {
        self.event(&json!({ "type": "content_block_delta", "index": index, "delta": delta })).await
    }

    async fn event(&self, data: &Value) -> Result<(), Cut> {
        let name = data["type"].as_str().unwrap_or("message");
        let text = format!("event: {name}\ndata: {data}\n\n");
        self.events.send(Ok(Bytes::from(text))).await.map_err(|_| Cut::Over)
    }
}

/// Pieces of at least `size` characters, at most [`MAX_DELTAS`]; one empty piece for an empty text.
fn cut(text: &str, size: usize) -> Vec<&str> {
    let size = size.max(text.len() / MAX_DELTAS + 1);
    let mut pieces = Vec::new();
    let mut rest = text;
    loop {
        let end = rest.char_indices().nth(size).map_or(rest.len(), |(end, _)| end);
        let (piece, left) = rest.split_at(end);
        pieces.push(piece);
        if left.is_empty() {
            return pieces;
        }
        rest = left;
    }
}

/// A timer of nothing would still cost a millisecond.
async fn pause(milliseconds: u64) {
    if milliseconds > 0 {
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    }
}

fn model(request: &Value) -> &str {
    request["model"].as_str().unwrap_or("scripted")
}

fn made_up(prefix: &str) -> String {
    format!("{prefix}{}", &Uuid::new_v4().simple().to_string()[..20])
}

fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("unprintable"))
}

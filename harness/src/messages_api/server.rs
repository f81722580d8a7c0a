//! HTTP below a framework: an answer may also be a closed connection, or none at all.

use std::{convert::Infallible, io, sync::Arc};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use muster_runtime::task::{self, Task};
use serde_json::{Map, Value, json};
use tokio::net::{TcpListener, TcpStream};

use super::{RequestRecord, Shared, answer};
use crate::scenario::Conversation;

pub(super) type Body = BoxBody<Bytes, io::Error>;

/// The error that makes hyper close the connection without a word.
#[derive(Debug)]
pub(super) struct Dropped;

impl std::fmt::Display for Dropped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the scenario drops this connection")
    }
}

impl std::error::Error for Dropped {}

/// Accepts for ever. Dropping the future ends every connection.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections: Vec<Task<()>> = Vec::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        connections.retain(|connection| !connection.is_finished());
        connections.push(task::spawn("messages-api-connection", connection(stream, Arc::clone(&shared))));
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    // Without it small events wait for the peer's delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| respond(request, Arc::clone(&shared)));
    // A client that goes away, and a connection the scenario drops, both end here: neither is news.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn respond(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Body>, Dropped> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let raw = body.collect().await.map_err(|_| Dropped)?.to_bytes();
    let body: Arc<Value> = Arc::new(serde_json::from_slice(&raw).unwrap_or(Value::Null));
    if path.starts_with("/__") {
        return Ok(for_people(&shared, &head.method, &path, &body));
    }
    let session = head.headers.get("x-claude-code-session-id").and_then(|value| value.to_str().ok());
    let session = session.unwrap_or_default().to_owned();
    let mut record = RequestRecord {
        method: head.method.to_string(),
        path: path.clone(),
        session,
        main: false,
        marker: String::new(),
        index: None,
        headers: masked(&head.headers),
        body: Arc::clone(&body),
    };
    if head.method != Method::POST || !path.ends_with("/v1/messages") {
        shared.log.push(record);
        return Ok(around(&head.method, &path, raw.len()));
    }
    record.main = body["tools"].as_array().is_some_and(|tools| !tools.is_empty());
    let turn = if record.main {
        match shared.choose(&record.session, &Conversation::read(&body)) {
            Ok(chosen) => {
                record.marker = chosen.marker;
                record.index = chosen.index;
                chosen.turn
            }
            // 400 is never retried: the author of the script sees at once what is wrong with it.
            Err(problem) => {
                shared.log.push(record);
                return Ok(error(StatusCode::BAD_REQUEST, "invalid_request_error", &problem));
            }
        }
    } else {
        shared.side_answer()
    };
    shared.log.push(record);
    answer::answer(turn, &body).await
}

/// What claude asks beside messages.
fn around(method: &Method, path: &str, body_length: usize) -> Response<Body> {
    if path.ends_with("/count_tokens") {
        return json_response(StatusCode::OK, &json!({ "input_tokens": body_length / 4 }));
    }
    match *method {
        Method::HEAD => json_response(StatusCode::OK, &json!({})),
        Method::GET => json_response(StatusCode::OK, &json!({ "data": [], "has_more": false })),
        _ => error(StatusCode::NOT_FOUND, "not_found_error", path),
    }
}

/// `GET /__requests`: the log. `PUT /__scenario`: another scenario.
fn for_people(shared: &Shared, method: &Method, path: &str, body: &Value) -> Response<Body> {
    match (method, path) {
        (&Method::GET, "/__requests") => {
            let records = serde_json::to_value(shared.log.all()).unwrap_or(Value::Null);
            json_response(StatusCode::OK, &records)
        }
        (&Method::PUT, "/__scenario") => match serde_json::from_value(body.clone()) {
            Ok(scenario) => {
                shared.set_scenario(scenario);
                json_response(StatusCode::OK, &json!({}))
            }
            Err(problem) => error(StatusCode::BAD_REQUEST, "invalid_request_error", &problem.to_string()),
        },
        _ => error(StatusCode::NOT_FOUND, "not_found_error", path),
    }
}

fn masked(headers: &http::HeaderMap) -> Map<String, Value> {
    let mut shown = Map::new();
    for (name, value) in headers {
        let secret = matches!(name.as_str(), "authorization" | "x-api-key" | "cookie");
        let value = if secret { "***" } else { value.to_str().unwrap_or("(not text)") };
        shown.insert(name.as_str().to_owned(), Value::from(value));
    }
    shown
}

pub(super) fn error(status: StatusCode, kind: &str, message: &str) -> Response<Body> {
    json_response(status, &json!({ "type": "error", "error": { "type": kind, "message": message } }))
}

pub(super) fn json_response(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(whole(value.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

fn whole(text: String) -> Body {
    Full::new(Bytes::from(text)).map_err(|never: Infallible| match never {}).boxed()
}

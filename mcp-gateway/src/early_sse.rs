//! Sends the head of a slow tool call's answer before there is an answer.
//!
//! A request of the 2026-07-28 era gets its HTTP head only with the first message of its handler. Claude Code
//! gives up on a request without a head after 60 s, so a wait without progress would be lost. This layer
//! answers after two seconds with an event stream of its own, keeps it awake with comments, and passes on
//! what comes.

use std::time::Duration;

use axum::{
    body::{Body, Bytes, to_bytes},
    extract::Request,
    http::{HeaderValue, header},
    middleware::Next,
    response::Response,
};
use futures::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use tokio::time::timeout;

/// Quick answers keep their own head and status; only slow ones get ours.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often an open answer is kept awake: proxies cut silence after 30 s and more.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Largest answer that is not a stream: an error of the transport, far smaller.
const ANSWER_BYTES: usize = 8 << 20;

type Chunk = Result<Bytes, axum::Error>;

/// Middleware for the MCP route.
pub(crate) async fn early_sse(request: Request, next: Next) -> Response {
    let tool_call = request.headers().get("mcp-method").is_some_and(|method| method == "tools/call");
    if !tool_call {
        return next.run(request).await;
    }
    let mut inner = next.run(request).boxed();
    match timeout(PATIENCE, &mut inner).await {
        Ok(response) => response,
        Err(_) => event_stream(inner),
    }
}

/// The body owns `inner`: a client that goes away drops both, and the call is cancelled.
fn event_stream(inner: BoxFuture<'static, Response>) -> Response {
    let rest = stream::unfold(Some(inner), |state| async move {
        let mut inner = state?;
        match timeout(KEEP_ALIVE, &mut inner).await {
            Err(_) => Some((comment(": keep-alive\n\n"), Some(inner))),
            Ok(response) => Some((answer(response), None)),
        }
    })
    .flatten();
    let mut response = Response::new(Body::from_stream(comment(": accepted\n\n").chain(rest)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

fn comment(text: &'static str) -> BoxStream<'static, Chunk> {
    stream::once(async move { Ok(Bytes::from_static(text.as_bytes())) }).boxed()
}

/// An answer that is a stream goes on as it is; any other becomes one event of it.
fn answer(response: Response) -> BoxStream<'static, Chunk> {
    let is_stream = response
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.starts_with("text/event-stream"));
    if is_stream {
        return response.into_body().into_data_stream().boxed();
    }
    async move {
        let body = to_bytes(response.into_body(), ANSWER_BYTES).await?;
        // An event ends at a newline; JSON needs none.
        let line: Vec<u8> = body.iter().copied().filter(|byte| !matches!(byte, b'\n' | b'\r')).collect();
        Ok(Bytes::from([b"data: ".as_slice(), &line, b"\n\n"].concat()))
    }
    .into_stream()
    .boxed()
}

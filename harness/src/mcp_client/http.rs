//! Streamable HTTP: each message is a POST, its answer one JSON body or a stream of events.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use muster_runtime::task;
use serde_json::Value;
use tokio::net::TcpStream;

use super::{Answer, PROTOCOL};

#[derive(Debug)]
pub(super) struct Http {
    uri: Uri,
    /// Given by the server in its answer to `initialize`.
    session: Mutex<Option<String>>,
    introduced: AtomicBool,
    /// Connections whose last answer was read to its end.
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

impl Http {
    pub(super) fn new(url: &str) -> anyhow::Result<Self> {
        let uri: Uri = url.parse().with_context(|| format!("{url} is no URL"))?;
        ensure!(
            uri.scheme_str() == Some("http") && uri.authority().is_some(),
            "{url} is not http://host:port/path"
        );
        Ok(Self {
            uri,
            session: Mutex::default(),
            introduced: AtomicBool::new(false),
            idle: Mutex::default(),
        })
    }

    /// From here on every request names the revision agreed on.
    pub(super) fn introduced(&self) {
        self.introduced.store(true, Ordering::Relaxed);
    }

    /// Sends one message. With an `id` it reads until the answer to it; without one it expects none.
    pub(super) async fn post(&self, message: &Value, id: Option<u64>) -> anyhow::Result<Answer> {
        let mut connection = self.connection().await?;
        let response =
            connection.send_request(self.request(message)?).await.context("sending to the server")?;
        let status = response.status();
        if let Some(session) = response.headers().get("mcp-session-id") {
            let session = session.to_str().context("the session id is no text")?.to_owned();
            *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
        }
        if !status.is_success() {
            let body = response.into_body().collect().await?.to_bytes();
            bail!("the server answered {status}: {}", String::from_utf8_lossy(&body));
        }
        let answer = match id {
            Some(id) => read_answer(response, id).await?,
            None => {
                ensure!(status == StatusCode::ACCEPTED, "a notification was answered with {status}");
                response.into_body().collect().await?;
                Answer { message: Value::Null, progress: Vec::new() }
            }
        };
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        Ok(answer)
    }

    fn request(&self, message: &Value) -> anyhow::Result<Request<Full<Bytes>>> {
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let host = self.uri.authority().map_or("", |authority| authority.as_str());
        let mut request = Request::post(path)
            .header(header::HOST, host)
            .header(header::ACCEPT, "application/json, text/event-stream")
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(session) = self.session.lock().unwrap_or_else(PoisonError::into_inner).as_deref() {
            request = request.header("mcp-session-id", session);
        }
        if self.introduced.load(Ordering::Relaxed) {
            request = request.header("mcp-protocol-version", PROTOCOL);
        }
        request.body(Full::new(Bytes::from(message.to_string()))).context("building a request")
    }

    async fn connection(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        loop {
            let Some(mut idle) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop() else {
                break;
            };
            if idle.ready().await.is_ok() {
                return Ok(idle);
            }
        }
        let host = self.uri.host().unwrap_or_default();
        let port = self.uri.port_u16().unwrap_or(80);
        let stream =
            TcpStream::connect((host, port)).await.with_context(|| format!("connecting to {}", self.uri))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the connection; the sender learns of it.
        task::spawn("mcp-client-http", async move { drop(connection.await) }).detach();
        Ok(sender)
    }
}

async fn read_answer(response: Response<Incoming>, id: u64) -> anyhow::Result<Answer> {
    let content_type = response.headers().get(header::CONTENT_TYPE);
    let is_stream = content_type.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    let mut body = response.into_body();
    if !is_stream {
        let whole = body.collect().await?.to_bytes();
        let message = serde_json::from_slice(&whole).context("the answer is no JSON")?;
        return Ok(Answer { message, progress: Vec::new() });
    }
    let mut events = Events::default();
    let (mut answer, mut progress) = (None, Vec::new());
    // Read on to the end after the answer: only then is the connection free for the next request.
    while let Some(frame) = body.frame().await {
        let frame = frame.context("the stream broke")?;
        let Ok(data) = frame.into_data() else { continue };
        for message in events.push(&data) {
            if message["method"] == "notifications/progress" {
                progress.push(message["params"].clone());
            } else if message["id"].as_u64() == Some(id) && message.get("method").is_none() {
                answer = Some(message);
            }
        }
    }
    let message = answer.context("the stream ended without an answer")?;
    Ok(Answer { message, progress })
}

/// The `data` of server-sent events, out of pieces cut anywhere.
#[derive(Debug, Default)]
struct Events {
    line: Vec<u8>,
    data: Vec<u8>,
}

impl Events {
    fn push(&mut self, bytes: &[u8]) -> Vec<Value> {
        let mut messages = Vec::new();
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = line.strip_suffix(b"\r").unwrap_or(&line);
            if line.is_empty() {
                let data = std::mem::take(&mut self.data);
                messages.extend(serde_json::from_slice::<Value>(&data).ok());
            } else if let Some(data) = line.strip_prefix(b"data:") {
                self.data.extend_from_slice(data.strip_prefix(b" ").unwrap_or(data));
            }
        }
        messages
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Events;

    #[test]
    fn events_are_found_however_the_stream_is_cut() {
        let stream = b": keep-alive\n\nid: 0\ndata:\n\nevent: message\r\ndata: {\"id\":1}\r\n\r\n\
            data:{\"a\":\ndata: 2}\n\n";
        for size in 1..stream.len() {
            let mut events = Events::default();
            let messages: Vec<_> = stream.chunks(size).flat_map(|piece| events.push(piece)).collect();
            assert_eq!(messages, [json!({ "id": 1 }), json!({ "a": 2 })]);
        }
    }
}

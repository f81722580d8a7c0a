//! A gateway over HTTP before a fake controller, spoken to byte by byte.

use std::{net::SocketAddr, time::Duration};

use muster_mcp_gateway::{Config, HttpConfig, HttpGateway};
use muster_runtime::shutdown::Shutdown;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::{fake_controller::Running, farm::config};

pub const LONG: Duration = Duration::from_secs(60);
pub const MODERN: &str = "2026-07-28";

pub struct Site {
    pub controller: Running,
    pub gateway: HttpGateway,
    pub shutdown: Shutdown,
}

impl Site {
    pub async fn start() -> Self {
        Self::with(HttpConfig::default()).await
    }

    pub async fn with(http: HttpConfig) -> Self {
        let controller = Running::start().await;
        let mut config = config(&controller.uri());
        config.http = http;
        Self::before(controller, config).await
    }

    pub async fn before(controller: Running, config: Config) -> Self {
        let shutdown = Shutdown::new();
        let listen = "127.0.0.1:0".parse().expect("an address");
        let gateway = HttpGateway::start(config, listen, shutdown.clone()).await.expect("it starts");
        Self { controller, gateway, shutdown }
    }

    pub fn addr(&self) -> SocketAddr {
        self.gateway.local_addr()
    }

    pub async fn open(&self, headers: &[(&str, &str)], body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.addr()).await.expect("connected");
        let mut request =
            format!("POST /mcp HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
        let defaults = [
            ("host", "127.0.0.1"),
            ("content-type", "application/json"),
            ("accept", "application/json, text/event-stream"),
        ];
        for (name, value) in
            defaults.iter().filter(|(name, _)| !headers.iter().any(|(other, _)| other == name))
        {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        stream.write_all(format!("{request}\r\n{body}").as_bytes()).await.expect("written");
        stream
    }

    /// Status line and headers, and what of the body is data of events or JSON.
    pub async fn post(&self, headers: &[(&str, &str)], body: &Value) -> (String, String) {
        let mut stream = self.open(headers, &body.to_string()).await;
        let mut answer = Vec::new();
        timeout(LONG, stream.read_to_end(&mut answer)).await.expect("in time").expect("read");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        (head.to_owned(), body.to_owned())
    }

    pub async fn call(&self, tool: &str, arguments: Value) -> Value {
        let headers = [("mcp-protocol-version", MODERN), ("mcp-method", "tools/call"), ("mcp-name", tool)];
        let (head, body) = self.post(&headers, &modern_call(tool, &arguments)).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}\n{body}");
        message(&body)
    }

    /// A call with a token, or without one: its status, and the head and body of the answer.
    pub async fn call_as(&self, token: Option<&str>, tool: &str, arguments: Value) -> (u16, String, String) {
        let authorization = token.map(|token| format!("Bearer {token}"));
        let mut headers =
            vec![("mcp-protocol-version", MODERN), ("mcp-method", "tools/call"), ("mcp-name", tool)];
        headers.extend(authorization.as_deref().map(|value| ("authorization", value)));
        let (head, body) = self.post(&headers, &modern_call(tool, &arguments)).await;
        (status(&head), head.to_lowercase(), body)
    }

    /// Structured content of a call that must succeed.
    pub async fn ok_as(&self, token: &str, tool: &str, arguments: Value) -> Value {
        let (status, head, body) = self.call_as(Some(token), tool, arguments).await;
        assert_eq!(status, 200, "{head}\n{body}");
        let answer = message(&body);
        assert!(answer["result"]["isError"] != true, "{answer}");
        answer["result"]["structuredContent"].clone()
    }

    /// Text of a call that must fail as a tool error.
    pub async fn error_as(&self, token: &str, tool: &str, arguments: Value) -> String {
        let (status, head, body) = self.call_as(Some(token), tool, arguments).await;
        assert_eq!(status, 200, "{head}\n{body}");
        let answer = message(&body);
        assert_eq!(answer["result"]["isError"], true, "{answer}");
        answer["result"]["content"][0]["text"].as_str().expect("a text").to_owned()
    }

    /// Head and body of a GET.
    pub async fn get(&self, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.addr()).await.expect("connected");
        let request = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("written");
        let mut answer = String::new();
        timeout(LONG, stream.read_to_string(&mut answer)).await.expect("in time").expect("read");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        (head.to_owned(), body.to_owned())
    }
}

pub fn status(head: &str) -> u16 {
    head.split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or_else(|| panic!("no status: {head}"))
}

pub fn modern_call(tool: &str, arguments: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
        "name": tool, "arguments": arguments, "_meta": {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": {},
            "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "0"},
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}})
}

/// The JSON-RPC answer in a body, be it an event stream or JSON, chunked or not.
pub fn message(body: &str) -> Value {
    body.lines()
        .map(|line| line.strip_prefix("data: ").unwrap_or(line))
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(|value| value.get("result").is_some() || value.get("error").is_some())
        .unwrap_or_else(|| panic!("no answer in {body}"))
}

//! A client that writes and reads the protocol by hand, in either era.

use std::time::Duration;

use muster_mcp_gateway::{Config, ServeError, serve_stream};
use muster_runtime::{
    shutdown::Shutdown,
    task::{self, Task},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, Lines, ReadHalf, WriteHalf},
    time::timeout,
};

use crate::{
    fake_controller::{Fake, Running},
    farm::config,
};

const LONG: Duration = Duration::from_secs(60);

pub struct Wire {
    /// Its own, when it was given none.
    controller: Option<Running>,
    _shutdown: Shutdown,
    serving: Task<Result<(), ServeError>>,
    /// What the gateway answered to `initialize`.
    pub hello: Value,
    input: WriteHalf<DuplexStream>,
    output: Lines<BufReader<ReadHalf<DuplexStream>>>,
    /// What came that was no answer, in order.
    pub others: Vec<Value>,
    /// `_meta` of every request of the newer era.
    meta: Option<Value>,
    next_id: u64,
}

impl Wire {
    /// A client of the era with sessions.
    pub async fn legacy(version: &str, capabilities: Value) -> Self {
        let controller = Running::start().await;
        let mut wire = Self::legacy_to(config(&controller.uri()), version, capabilities).await;
        wire.controller = Some(controller);
        wire
    }

    /// The same before a controller of the caller's.
    pub async fn legacy_to(config: Config, version: &str, capabilities: Value) -> Self {
        let mut wire = Self::open(config, None);
        let hello = json!({"protocolVersion": version, "capabilities": capabilities,
            "clientInfo": {"name": "t", "version": "0"}});
        let hello = wire.ask("initialize", hello).await;
        assert_eq!(hello["result"]["protocolVersion"], version, "{hello}");
        wire.hello = hello["result"].clone();
        wire.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
        wire
    }

    /// A client that says with each request who it is.
    pub async fn modern(capabilities: Value) -> Self {
        let controller = Running::start().await;
        let mut wire = Self::modern_to(config(&controller.uri()), capabilities).await;
        wire.controller = Some(controller);
        wire
    }

    /// The same before a controller of the caller's.
    pub async fn modern_to(config: Config, capabilities: Value) -> Self {
        let meta = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": capabilities,
            "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "0"}
        });
        Self::open(config, Some(meta))
    }

    fn open(config: Config, meta: Option<Value>) -> Self {
        let (near, far) = tokio::io::duplex(1 << 20);
        let (reader, writer) = tokio::io::split(far);
        let shutdown = Shutdown::new();
        let serving = task::spawn("gateway", serve_stream(config, reader, writer, shutdown.clone()));
        let (output, input) = tokio::io::split(near);
        let output = BufReader::new(output).lines();
        let others = Vec::new();
        let hello = Value::Null;
        let controller = None;
        Self { controller, _shutdown: shutdown, serving, hello, input, output, others, meta, next_id: 1 }
    }

    /// Hangs up and returns when the gateway has ended.
    pub async fn leave(mut self) {
        self.input.shutdown().await.expect("closed");
        timeout(LONG, self.serving).await.expect("in time").expect("no panic").expect("cleanly");
    }

    pub fn fake(&self) -> &Fake {
        &self.controller.as_ref().expect("a controller of its own").fake
    }

    pub async fn send(&mut self, message: &Value) {
        self.input.write_all(format!("{message}\n").as_bytes()).await.expect("written");
    }

    pub async fn send_raw(&mut self, bytes: &[u8]) {
        self.input.write_all(bytes).await.expect("written");
    }

    /// Sends a request and gives its id.
    pub async fn request(&mut self, method: &str, mut params: Value) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        if let Some(meta) = &self.meta {
            params["_meta"] = meta.clone();
        }
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})).await;
        id
    }

    /// The next message of any kind.
    pub async fn next(&mut self) -> Value {
        let line = timeout(LONG, self.output.next_line()).await.expect("in time").expect("read");
        serde_json::from_str(&line.expect("a line")).expect("JSON")
    }

    /// The answer to a request; what comes before it is kept in `others`.
    pub async fn answer(&mut self, id: u64) -> Value {
        loop {
            let message = self.next().await;
            if message["id"] == id && message.get("method").is_none() {
                return message;
            }
            self.others.push(message);
        }
    }

    /// The next message of `method`, be it a request or a notification.
    pub async fn told(&mut self, method: &str) -> Value {
        loop {
            if let Some(index) = self.others.iter().position(|message| message["method"] == method) {
                return self.others.remove(index);
            }
            let message = self.next().await;
            self.others.push(message);
        }
    }

    pub async fn ask(&mut self, method: &str, params: Value) -> Value {
        let id = self.request(method, params).await;
        self.answer(id).await
    }

    pub async fn call(&mut self, tool: &str, arguments: Value) -> Value {
        self.ask("tools/call", json!({"name": tool, "arguments": arguments})).await
    }
}

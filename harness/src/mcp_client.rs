//! A small MCP client of our own, over child pipes or HTTP: what the gateway says is seen here as it went
//! over the wire.
//!
//! Speaks revision 2025-11-25 with its handshake. Calls run in parallel on one connection; progress
//! notifications come back with the result. It checks no schema: tests do.

mod http;
mod stdio;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use tokio::process::{ChildStdin, ChildStdout};

/// The revision asked for.
pub const PROTOCOL: &str = "2025-11-25";
/// Past this a call counts as lost; no tool blocks for longer.
const CALL_LIMIT: Duration = Duration::from_secs(600);

/// A connection after its handshake.
#[derive(Debug)]
pub struct McpClient {
    transport: Transport,
    next_id: AtomicU64,
    /// The result of `initialize`.
    server: Value,
}

#[derive(Debug)]
enum Transport {
    Stdio(stdio::Stdio),
    Http(http::Http),
}

/// What `tools/call` gave.
#[derive(Debug, Clone, Default)]
pub struct ToolResult {
    /// `structuredContent`, null when absent.
    pub structured: Value,
    /// The text blocks, joined by newlines.
    pub text: String,
    /// The tool says it failed; `text` says how.
    pub is_error: bool,
    /// `params` of the progress notifications of this call, in order.
    pub progress: Vec<Value>,
}

/// The answer to a request: the `result` or the `error` object, and the progress seen on the way.
#[derive(Debug)]
pub(crate) struct Answer {
    message: Value,
    progress: Vec<Value>,
}

impl McpClient {
    /// Talks to a server over its stdin and stdout. The process stays the caller's.
    ///
    /// # Errors
    /// When the handshake fails.
    pub async fn over_pipes(stdin: ChildStdin, stdout: ChildStdout) -> anyhow::Result<Self> {
        Self::introduce(Transport::Stdio(stdio::Stdio::new(stdin, stdout))).await
    }

    /// Talks to a server at `http://host:port/path`.
    ///
    /// # Errors
    /// When the address is no such URL or the handshake fails.
    pub async fn over_http(url: &str) -> anyhow::Result<Self> {
        Self::introduce(Transport::Http(http::Http::new(url)?)).await
    }

    async fn introduce(transport: Transport) -> anyhow::Result<Self> {
        let mut client = Self { transport, next_id: AtomicU64::new(1), server: Value::Null };
        let hello = json!({ "protocolVersion": PROTOCOL, "capabilities": {},
            "clientInfo": { "name": "muster-harness", "version": "1" } });
        client.server = client.request("initialize", hello).await.context("initialize")?;
        if let Transport::Http(http) = &client.transport {
            http.introduced();
        }
        client.notify("notifications/initialized", json!({})).await?;
        Ok(client)
    }

    /// What the server said of itself in the handshake.
    #[must_use]
    pub fn server(&self) -> &Value {
        &self.server
    }

    /// The `tools` of `tools/list`.
    ///
    /// # Errors
    /// When the server refuses or is gone.
    pub async fn tools(&self) -> anyhow::Result<Vec<Value>> {
        let listed = self.request("tools/list", json!({})).await?;
        Ok(listed["tools"].as_array().cloned().unwrap_or_default())
    }

    /// Calls a tool and gives what it said, failure included.
    ///
    /// # Errors
    /// When the server answers with a protocol error, or not at all.
    pub async fn call(&self, tool: &str, arguments: Value) -> anyhow::Result<ToolResult> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let params = json!({ "name": tool, "arguments": arguments, "_meta": { "progressToken": id } });
        let answer =
            self.exchange(id, "tools/call", params).await.with_context(|| format!("calling {tool}"))?;
        let result = outcome(&answer.message).with_context(|| format!("calling {tool}"))?;
        let blocks = result["content"].as_array().map(Vec::as_slice).unwrap_or_default();
        let texts: Vec<&str> = blocks.iter().filter_map(|block| block["text"].as_str()).collect();
        Ok(ToolResult {
            structured: result["structuredContent"].clone(),
            text: texts.join("\n"),
            is_error: result["isError"].as_bool().unwrap_or(false),
            progress: answer.progress,
        })
    }

    /// Calls a tool that must succeed and gives its structured content.
    ///
    /// # Errors
    /// As [`Self::call`]; and when the tool says it failed, with its text.
    pub async fn ok(&self, tool: &str, arguments: Value) -> anyhow::Result<Value> {
        let result = self.call(tool, arguments).await?;
        if result.is_error {
            bail!("{tool} failed: {}", result.text);
        }
        Ok(result.structured)
    }

    /// Calls a tool that must fail and gives its text.
    ///
    /// # Errors
    /// As [`Self::call`]; and when the tool succeeds.
    pub async fn refused(&self, tool: &str, arguments: Value) -> anyhow::Result<String> {
        let result = self.call(tool, arguments).await?;
        if !result.is_error {
            bail!("{tool} should have failed and gave {}", result.structured);
        }
        Ok(result.text)
    }

    /// Any request; gives its `result`.
    ///
    /// # Errors
    /// When the server answers with an error, or not at all.
    pub async fn request(&self, method: &str, params: Value) -> anyhow::Result<Value> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let answer = self.exchange(id, method, params).await?;
        outcome(&answer.message)
    }

    async fn notify(&self, method: &str, params: Value) -> anyhow::Result<()> {
        let message = json!({ "jsonrpc": "2.0", "method": method, "params": params });
        match &self.transport {
            Transport::Stdio(stdio) => stdio.send(&message).await,
            Transport::Http(http) => http.post(&message, None).await.map(|_| ()),
        }
    }

    async fn exchange(&self, id: u64, method: &str, params: Value) -> anyhow::Result<Answer> {
        let message = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        let answered = async {
            match &self.transport {
                Transport::Stdio(stdio) => stdio.exchange(id, &message).await,
                Transport::Http(http) => http.post(&message, Some(id)).await,
            }
        };
        tokio::time::timeout(CALL_LIMIT, answered).await.with_context(|| format!("no answer to {method}"))?
    }
}

fn outcome(message: &Value) -> anyhow::Result<Value> {
    if let Some(error) = message.get("error") {
        bail!("the server answered {error}");
    }
    Ok(message["result"].clone())
}

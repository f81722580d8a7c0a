//! One JSON message a line on the pipes of a child.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context as _;
use muster_runtime::task::{self, Task};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{ChildStdin, ChildStdout},
    sync::{Mutex as AsyncMutex, oneshot},
};

use super::Answer;

#[derive(Debug)]
pub(super) struct Stdio {
    /// Held across the write of one line, so that lines never mix.
    stdin: Arc<AsyncMutex<ChildStdin>>,
    waiting: Arc<Mutex<Waiting>>,
    _reader: Task<()>,
}

#[derive(Debug, Default)]
struct Waiting {
    calls: HashMap<u64, (oneshot::Sender<Answer>, Vec<Value>)>,
    closed: bool,
}

impl Stdio {
    pub(super) fn new(stdin: ChildStdin, stdout: ChildStdout) -> Self {
        let stdin = Arc::new(AsyncMutex::new(stdin));
        let waiting: Arc<Mutex<Waiting>> = Arc::default();
        let reader = task::spawn("mcp-client", read(stdout, Arc::clone(&waiting), Arc::clone(&stdin)));
        Self { stdin, waiting, _reader: reader }
    }

    pub(super) async fn send(&self, message: &Value) -> anyhow::Result<()> {
        write(&self.stdin, message).await
    }

    pub(super) async fn exchange(&self, id: u64, message: &Value) -> anyhow::Result<Answer> {
        let (reply, answer) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            anyhow::ensure!(!waiting.closed, "the server has closed its output");
            waiting.calls.insert(id, (reply, Vec::new()));
        }
        self.send(message).await?;
        answer.await.context("the server closed its output before it answered")
    }
}

async fn write(stdin: &AsyncMutex<ChildStdin>, message: &Value) -> anyhow::Result<()> {
    let line = format!("{message}\n");
    let mut stdin = stdin.lock().await;
    stdin.write_all(line.as_bytes()).await.context("writing to the server")?;
    stdin.flush().await.context("writing to the server")
}

async fn read(stdout: ChildStdout, waiting: Arc<Mutex<Waiting>>, stdin: Arc<AsyncMutex<ChildStdin>>) {
    let mut lines = BufReader::with_capacity(1 << 16, stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
        if message.get("method").is_some() && message.get("id").is_some() {
            // A server's own request (ping, roots): we have nothing to offer, but it must not wait.
            let answer = json!({ "jsonrpc": "2.0", "id": message["id"], "result": {} });
            let _ = write(&stdin, &answer).await;
            continue;
        }
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if message["method"] == "notifications/progress" {
            let token = message["params"]["progressToken"].as_u64();
            if let Some((_, progress)) = token.and_then(|token| waiting.calls.get_mut(&token)) {
                progress.push(message["params"].clone());
            }
        } else if let Some((reply, progress)) =
            message["id"].as_u64().and_then(|id| waiting.calls.remove(&id))
        {
            let _ = reply.send(Answer { message, progress });
        }
    }
    let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
    waiting.closed = true;
    waiting.calls.clear();
}

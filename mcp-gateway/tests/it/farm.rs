//! A gateway before a fake controller, driven by a real MCP client over a pair of pipes.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use muster_mcp_gateway::{Config, serve_stream};
use muster_runtime::{
    shutdown::Shutdown,
    task::{self, Task},
};
use rmcp::{
    ClientHandler, RoleClient, ServiceExt as _,
    model::{CallToolRequestParams, CallToolResult, ProgressNotificationParam, RequestMetaObject},
    service::{NotificationContext, RunningService},
};
use serde_json::Value;

use crate::fake_controller::{Fake, Running};

#[derive(Clone, Default)]
pub struct Client {
    pub progress: Arc<Mutex<Vec<(f64, String)>>>,
}

impl ClientHandler for Client {
    async fn on_progress(
        &self,
        params: ProgressNotificationParam,
        _context: NotificationContext<RoleClient>,
    ) {
        let message = params.message.unwrap_or_default();
        self.progress.lock().expect("not poisoned").push((params.progress, message));
    }
}

pub struct Farm {
    controller: Running,
    pub client: RunningService<RoleClient, Client>,
    pub serving: Task<Result<(), muster_mcp_gateway::ServeError>>,
    pub shutdown: Shutdown,
}

pub fn config(uri: &str) -> Config {
    let mut config = Config::new(uri);
    config.patience = Duration::from_millis(600);
    config.progress_interval = Duration::from_millis(30);
    config
}

impl Farm {
    pub async fn start() -> Self {
        let controller = Running::start().await;
        let config = config(&controller.uri());
        Self::with(controller, config).await
    }

    pub async fn with(controller: Running, config: Config) -> Self {
        let (near, far) = tokio::io::duplex(1 << 20);
        let (reader, writer) = tokio::io::split(far);
        let shutdown = Shutdown::new();
        let serving = task::spawn("gateway", serve_stream(config, reader, writer, shutdown.clone()));
        let client = Client::default().serve(near).await.expect("a handshake");
        Self { controller, client, serving, shutdown }
    }

    pub fn fake(&self) -> &Fake {
        &self.controller.fake
    }

    pub fn uri(&self) -> String {
        self.controller.uri()
    }

    pub fn progress(&self) -> Vec<(f64, String)> {
        self.client.service().progress.lock().expect("not poisoned").clone()
    }

    pub async fn result(&self, tool: &'static str, arguments: Value) -> CallToolResult {
        self.client.call_tool(params(tool, arguments, None)).await.expect("a result")
    }

    pub async fn with_meta(&self, tool: &'static str, arguments: Value, meta: Value) -> CallToolResult {
        self.client.call_tool(params(tool, arguments, Some(meta))).await.expect("a result")
    }

    /// Structured content of a call that must succeed.
    pub async fn ok(&self, tool: &'static str, arguments: Value) -> Value {
        content(self.result(tool, arguments).await)
    }

    /// Text of a call that must fail as a tool error.
    pub async fn error(&self, tool: &'static str, arguments: Value) -> String {
        let result = self.result(tool, arguments).await;
        assert_eq!(result.is_error, Some(true), "{result:?}");
        assert!(result.structured_content.is_none(), "an error has no structured content");
        text(&result)
    }
}

pub fn params(tool: &'static str, arguments: Value, meta: Option<Value>) -> CallToolRequestParams {
    let Value::Object(arguments) = arguments else { panic!("arguments are an object") };
    let mut params = CallToolRequestParams::new(tool);
    params.arguments = Some(arguments);
    params.meta = meta.map(|meta| serde_json::from_value::<RequestMetaObject>(meta).expect("meta"));
    params
}

pub fn content(result: CallToolResult) -> Value {
    assert_ne!(result.is_error, Some(true), "{}", text(&result));
    assert!(!text(&result).is_empty());
    result.structured_content.expect("structured content")
}

pub fn text(result: &CallToolResult) -> String {
    result.content.iter().filter_map(|block| block.as_text()).map(|block| block.text.clone()).collect()
}

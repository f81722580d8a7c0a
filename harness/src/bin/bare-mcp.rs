//! The floor for the gateway's figures: an rmcp server whose tool does nothing, and the control for waits: another that
//! says nothing for as long as it is told. Over stdio, or with an argument over HTTP: it writes its URL to that file.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::{Router, serve::ListenerExt as _};
use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CallToolRequestParams, CallToolResponse, ListToolsResult, PaginatedRequestParams, ServerCapabilities,
        ServerConfig, Tool,
    },
    service::{RequestContext, serve_server},
    transport::streamable_http_server::{
        StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
    },
};
use serde_json::json;
use tokio::net::TcpListener;

#[derive(Clone)]
struct Bare;

impl ServerHandler for Bare {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
    }

    async fn list_tools(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let tools = json!([
            { "name": "nothing", "inputSchema": { "type": "object" } },
            { "name": "silence", "inputSchema": { "type": "object",
                "properties": { "seconds": { "type": "integer" } } } }
        ]);
        let tools: Vec<Tool> = serde_json::from_value(tools).map_err(|error| defect(&error))?;
        Ok(ListToolsResult::with_all_items(tools))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let seconds = request.arguments.as_ref().and_then(|arguments| arguments.get("seconds")?.as_u64());
        if let Some(seconds) = seconds {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        }
        let result = json!({ "content": [], "structuredContent": {}, "resultType": "complete" });
        Ok(CallToolResponse::Complete(serde_json::from_value(result).map_err(|error| defect(&error))?))
    }
}

fn defect(error: &serde_json::Error) -> ErrorData {
    ErrorData::internal_error(error.to_string(), None)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Some(file) = std::env::args_os().nth(1).map(PathBuf::from) else {
        serve_server(Bare, rmcp::transport::io::stdio()).await?.waiting().await?;
        return Ok(());
    };
    let service = StreamableHttpService::new(
        || Ok(Bare),
        Arc::new(LocalSessionManager::default()),
        StreamableHttpServerConfig::default(),
    );
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let written = file.with_extension("new");
    std::fs::write(&written, format!("http://{address}/mcp"))?;
    std::fs::rename(&written, &file).with_context(|| format!("naming {}", file.display()))?;
    // As the gateway does: answers must not wait for acknowledgements.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    axum::serve(listener, Router::new().route_service("/mcp", service)).await?;
    Ok(())
}

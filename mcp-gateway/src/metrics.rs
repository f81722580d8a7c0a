//! The gateway's metrics: tool calls and the waits among them. Called by `crate::server` and the tools.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Instant,
};

use muster_runtime::{
    metrics::{Definition, Histogram, Level},
    telemetry::semconv,
};
use rmcp::model::CallToolResponse;

use crate::limits::Transport;

static OPERATION: Histogram<4> = Histogram::new(
    semconv::MCP_SERVER_OPERATION_DURATION,
    "s",
    &[semconv::MCP_METHOD_NAME, semconv::GEN_AI_TOOL_NAME, semconv::ERROR_TYPE, semconv::NETWORK_TRANSPORT],
    semconv::MCP_BUCKETS,
    "How long tool calls took; waits are long on purpose",
);
static WAITS: Level<0> =
    Level::new("muster.mcp.waits", "{wait}", &[], "Waits for sessions that are open now");
static OPEN: AtomicI64 = AtomicI64::new(0);

/// All of them, for the reference page.
#[must_use]
pub fn definitions() -> Vec<Definition> {
    vec![OPERATION.definition(), WAITS.definition()]
}

/// A tool call has its answer. `tool` is one of ours: it was parsed.
pub(crate) fn called(tool: &str, transport: Transport, began: Instant, answer: &CallToolResponse) {
    let failed = matches!(answer, CallToolResponse::Complete(result) if result.is_error == Some(true));
    let error = if failed { semconv::TOOL_ERROR } else { "" };
    OPERATION.took(began.elapsed(), ["tools/call", tool, error, way(transport)]);
}

/// As the conventions call it.
pub(crate) const fn way(transport: Transport) -> &'static str {
    match transport {
        Transport::Stdio => "pipe",
        Transport::Http => "tcp",
    }
}

/// A wait that is open until this is dropped.
#[derive(Debug)]
pub(crate) struct OpenWait(());

impl OpenWait {
    pub(crate) fn begin() -> Self {
        WAITS.set([([], OPEN.fetch_add(1, Ordering::Relaxed) + 1)]);
        Self(())
    }
}

impl Drop for OpenWait {
    fn drop(&mut self) {
        WAITS.set([([], OPEN.fetch_sub(1, Ordering::Relaxed) - 1)]);
    }
}

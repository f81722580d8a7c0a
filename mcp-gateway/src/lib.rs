//! The MCP gateway of muster: translates the nine tools into calls of the controller, and its answers into
//! text and JSON a model can act on.
//!
//! Owns no state that matters: sessions live in the controller, so a gateway may die and another take its
//! place. Serves MCP over stdio ([`serve_stdio`]) and over streamable HTTP on loopback ([`HttpGateway`]),
//! both protocol eras. Invariant: a call is repeated towards the controller only when repeating it cannot do
//! its work twice.

mod args;
mod controller;
mod early_sse;
mod error;
mod http;
pub mod render;
mod schema;
mod server;
mod stdio;
mod tools;

use std::time::Duration;

pub use http::{HttpGateway, StartError};
pub use stdio::{ServeError, serve_stdio, serve_stream};

/// How a gateway reaches its controller, and how long its waits may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Address of the controller, e.g. `http://127.0.0.1:7420`.
    pub controller: String,
    /// How long `wait_for_completion` waits over stdio when the caller names no time. Claude Code gives up on
    /// a silent stdio server after 30 minutes; this stays below it.
    pub stdio_wait: Duration,
    /// The same over HTTP, where clients and proxies cut silent calls after about five minutes.
    pub http_wait: Duration,
    /// The longest wait a caller may ask for; longer ones are capped, and the result says so.
    pub max_wait: Duration,
    /// How long a call keeps trying to reach a controller that is away before it fails with
    /// `controller_unavailable`. Long enough for a restart, short enough for a model to learn of a dead one.
    pub patience: Duration,
    /// How often a wait reports progress to a caller that asked for it.
    pub progress_interval: Duration,
}

impl Config {
    /// Defaults for the controller at `controller`.
    #[must_use]
    pub fn new(controller: impl Into<String>) -> Self {
        Self {
            controller: controller.into(),
            stdio_wait: Duration::from_secs(1500),
            http_wait: Duration::from_secs(240),
            max_wait: Duration::from_secs(3600),
            patience: Duration::from_secs(10),
            progress_interval: Duration::from_secs(5),
        }
    }
}

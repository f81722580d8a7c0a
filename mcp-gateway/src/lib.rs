//! The MCP gateway of muster: translates the eleven tools into calls of the controller, and its answers into
//! text and JSON a model can act on.
//!
//! Owns no state that matters: sessions live in the controller, so a gateway may die and another take its
//! place. Serves MCP over stdio ([`serve_stdio`]) and over streamable HTTP on loopback ([`HttpGateway`]),
//! both protocol eras. Invariant: a call is repeated towards the controller only when repeating it cannot do
//! its work twice.

mod args;
mod body;
mod bundles;
mod controller;
mod early_sse;
mod error;
mod http;
mod limits;
mod prompts;
pub mod render;
mod resources;
mod schema;
mod server;
mod stdio;
mod subscriptions;
mod tools;
mod watches;

use std::time::Duration;

pub use http::{HttpGateway, StartError};
pub use limits::{ClientWait, Transport, WaitLimits};
#[cfg(feature = "conformance")]
pub use server::Server;
pub use stdio::{ServeError, serve_stdio, serve_stream};

/// How a gateway reaches its controller, and how long its waits may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Address of the controller, e.g. `http://127.0.0.1:7420`.
    pub controller: String,
    /// How long `wait_for_completion` may wait, by client; the first that fits counts.
    pub waits: Vec<ClientWait>,
    /// The same for every other client. Its default fits clients that give up after a minute.
    pub other_waits: WaitLimits,
    /// How long a call keeps trying to reach a controller that is away before it fails with
    /// `controller_unavailable`. Long enough for a restart, short enough for a model to learn of a dead one.
    pub patience: Duration,
    /// How often a wait reports progress to a caller that asked for it.
    pub progress_interval: Duration,
}

impl Config {
    /// The longest wait anybody may ask for.
    pub(crate) fn longest_wait(&self) -> Duration {
        self.waits
            .iter()
            .map(|rule| rule.limits.most)
            .chain([self.other_waits.most])
            .max()
            .unwrap_or_default()
    }

    /// Defaults for the controller at `controller`.
    #[must_use]
    pub fn new(controller: impl Into<String>) -> Self {
        Self {
            controller: controller.into(),
            waits: ClientWait::known(),
            other_waits: WaitLimits::seconds(45, 3600),
            patience: Duration::from_secs(10),
            progress_interval: Duration::from_secs(5),
        }
    }
}

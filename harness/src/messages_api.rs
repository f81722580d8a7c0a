//! An offline stand-in for the Anthropic Messages API, on loopback, answering from a [`Scenario`].
//!
//! Owns a listener, the counters of its scenario and a log of every request. Tests hold it as a
//! [`MessagesApi`]; the `messages-api` program serves the same to people. Everything ends when the handle is
//! dropped.

mod answer;
mod log;
mod server;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use muster_runtime::task::{self, Task};
use tokio::net::TcpListener;

use crate::scenario::{Chosen, Conversation, Counters, Scenario};

pub use log::{RequestLog, RequestRecord};

/// A running API. Dropping it closes the port; connections that hang are let go.
#[derive(Debug)]
pub struct MessagesApi {
    address: SocketAddr,
    shared: Arc<Shared>,
    _server: Task<()>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    script: Mutex<Script>,
    log: RequestLog,
}

#[derive(Debug, Default)]
struct Script {
    scenario: Scenario,
    counters: Counters,
}

impl MessagesApi {
    /// Serves `scenario` on a port of 127.0.0.1 that the kernel picks.
    ///
    /// # Errors
    /// When the port cannot be bound.
    pub async fn start(scenario: Scenario) -> std::io::Result<Self> {
        Self::start_on(SocketAddr::from(([127, 0, 0, 1], 0)), scenario).await
    }

    /// The same on a given address.
    ///
    /// # Errors
    /// When it cannot be bound.
    pub async fn start_on(address: SocketAddr, scenario: Scenario) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let script = Script { scenario, counters: Counters::new() };
        let shared = Arc::new(Shared { script: Mutex::new(script), log: RequestLog::default() });
        let server = task::spawn("messages-api", server::serve(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, _server: server })
    }

    /// What `ANTHROPIC_BASE_URL` must be.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Everything asked so far, and what is asked from now on.
    #[must_use]
    pub fn log(&self) -> &RequestLog {
        &self.shared.log
    }

    /// Answers from another scenario from now on, counted anew.
    pub fn set_scenario(&self, scenario: Scenario) {
        self.shared.set_scenario(scenario);
    }
}

impl Shared {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_scenario(&self, scenario: Scenario) {
        *self.script() = Script { scenario, counters: Counters::new() };
    }

    /// The answer to a main request (one with tools).
    fn choose(&self, session: &str, conversation: &Conversation) -> Result<Chosen, String> {
        let script = &mut *self.script();
        script.scenario.choose(&mut script.counters, session, conversation)
    }

    fn side_answer(&self) -> crate::scenario::Turn {
        let side = self.script().scenario.side.clone();
        side.unwrap_or_else(|| crate::scenario::Turn::text(r#"{"title": "scripted"}"#))
    }
}

#[cfg(test)]
mod tests;

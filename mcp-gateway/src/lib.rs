//! The MCP gateway of muster: translates the eleven tools into calls of the controller, and its answers into
//! text and JSON a model can act on.
//!
//! Owns no state that matters: sessions live in the controller, so a gateway may die and another take its
//! place. Serves MCP over stdio ([`serve_stdio`]) and over streamable HTTP ([`HttpGateway`]), both protocol eras.
//! Invariants: a call is repeated towards the controller only when repeating it cannot do its work twice; where
//! callers are told apart, every call towards the controller names the one it is for.

mod args;
mod auth;
mod body;
mod bundles;
mod by_key;
mod caller;
mod certificate;
mod config;
mod controller;
mod early_sse;
mod error;
mod http;
mod limits;
mod link;
pub mod metrics;
mod patient_io;
mod prompts;
pub mod render;
mod resources;
mod schema;
mod server;
mod stdio;
mod subscriptions;
mod tasks;
mod tools;
mod watches;

pub use certificate::CertificateError;
pub use config::{Auth, CallerLimits, Config, HttpConfig, Issuer, Keys, Secret, TlsFiles, Trust};
pub use http::{HttpGateway, StartError};
pub use limits::{ClientWait, Transport, WaitLimits};
pub use link::LinkError;
#[cfg(feature = "conformance")]
pub use server::Server;
pub use stdio::{ServeError, serve_stdio, serve_stream};

//! The roles as processes: options from flags, environment and file; logs; signals; and then the library that
//! does the work.
//!
//! Invariant: everything that can be wrong with the options is found before anything is bound or written.

pub mod controller;
mod machine;
pub mod mcp;
pub mod up;
pub mod worker;

pub use self::machine::find_claude;

use std::{
    future::Future,
    path::{Path, PathBuf},
};

use clap::Args;
use muster_runtime::{
    metrics::serve::BadListen,
    shutdown::{self, Shutdown},
    telemetry,
};
use serde::de::DeserializeOwned;

use crate::{
    args::{LogFormat, Logs},
    config,
    failure::{Exit, Failure},
};

/// Options of a role, as one source gives them: everything may be missing.
trait Layer: Args + DeserializeOwned {
    /// The configuration file named on the command line.
    fn config(&self) -> Option<&Path>;
    /// Fills what is not set from `lower`. A list that is set replaces the one below it.
    fn or(self, lower: Self) -> Self;
}

/// Flags and environment over the configuration file.
fn resolve<T: Layer>(flags: T) -> Result<T, Failure> {
    match flags.config() {
        Some(path) => {
            let file = config::read::<T>(path)?;
            Ok(flags.or(file))
        }
        None => Ok(flags),
    }
}

/// A list of a higher source replaces the one of a lower.
fn list<T>(higher: Vec<T>, lower: Vec<T>) -> Vec<T> {
    if higher.is_empty() { lower } else { higher }
}

/// Runs a role until it has left: `role` is given the wish to leave, which SIGINT and SIGTERM express.
fn run<F>(service_name: &'static str, logs: &Logs, role: impl FnOnce(Shutdown) -> F) -> Result<Exit, Failure>
where
    F: Future<Output = Result<Exit, Failure>>,
{
    let cannot = |error: &dyn std::error::Error| {
        Failure::new(Exit::Failed, "the process cannot start its runtime").caused_by(error)
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| cannot(&error))?;
    let result = runtime.block_on(async {
        let config = telemetry::Config {
            service_name,
            version: env!("CARGO_PKG_VERSION"),
            filter: logs.log.clone().unwrap_or_else(|| "info".to_owned()),
            format: match logs.log_format {
                Some(LogFormat::Json) => telemetry::LogFormat::Json,
                Some(LogFormat::Text) | None => telemetry::LogFormat::Text,
            },
            otlp_endpoint: logs.otlp_endpoint.clone().filter(|endpoint| !endpoint.is_empty()),
        };
        let listen = logs.metrics_listen.as_deref().filter(|listen| !listen.is_empty());
        let listen = listen.map(str::parse).transpose().map_err(|error: BadListen| {
            Failure::usage("--metrics-listen cannot be taken").caused_by(&error)
        })?;
        let telemetry = telemetry::init_with_metrics(&config, listen)
            .map_err(|error| Failure::usage("logs and metrics cannot be set up").caused_by(&error))?;
        if let Some(addr) = telemetry.metrics_addr() {
            tracing::info!(%addr, "metrics are served at /metrics");
        }
        let shutdown = Shutdown::new();
        shutdown::on_signals(&shutdown).map_err(|error| cannot(&error))?;
        Box::pin(role(shutdown)).await
    });
    // A read of stdin that nothing ends must not keep the process; everything else has left by now.
    runtime.shutdown_background();
    result
}

/// Creates a state folder that only its owner may read: prompts and code lie in it.
fn make_state_dir(path: &Path) -> Result<PathBuf, Failure> {
    use std::os::unix::fs::DirBuilderExt as _;
    let failed = |error: &std::io::Error| {
        Failure::new(Exit::Failed, format!("state folder {} cannot be used", path.display()))
            .caused_by(error)
            .hint("name one you can write to with --state-dir")
    };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| failed(&error))?;
    let path = path.canonicalize().map_err(|error| failed(&error))?;
    let probe = path.join(format!(".writable.{}", std::process::id()));
    std::fs::write(&probe, b"")
        .and_then(|()| std::fs::remove_file(&probe))
        .map_err(|error| failed(&error))?;
    Ok(path)
}

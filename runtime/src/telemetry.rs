//! Logs to stderr; spans, metrics and events by OTLP when an endpoint is configured; metrics as text when an address
//! is. Called once per process, by `main`.
//!
//! stdout is never touched: it belongs to data and to MCP. A dead or slow collector costs nothing but what it does not
//! take: every queue is bounded and gives way by dropping, every export has threads of its own and a deadline, and the
//! process's end waits for at most two seconds in all.
//!
//! An **event** is a log line with a name that begins with `muster.`: `tracing::info!(name: "muster.session.state_changed",
//! ..)`. Events and our spans leave by OTLP whatever the log filter says; other lines as far as it lets them through.

mod context;
mod otlp;
pub mod semconv;

use std::{net::SocketAddr, time::Duration};

use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Metadata;
use tracing_subscriber::{
    EnvFilter, Layer as _,
    filter::{FilterExt as _, FilterFn, LevelFilter},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

pub use self::context::{
    in_trace, link_to_traceparent, record_span, set_parent_from_traceparent, traceparent,
};
use crate::metrics;

/// Libraries whose own chatter would drown ours at debug level.
const QUIET: &str = "h2=warn,hyper=warn,hyper_util=warn,tonic=warn,tower=warn,rmcp=warn,sled=warn,opentelemetry=error,opentelemetry_sdk=error,opentelemetry-otlp=error";
/// How long one export may take, and the last ones together at the end of the process.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What to tell, to whom.
#[derive(Debug, Clone)]
pub struct Config {
    /// `service.name` of the spans, e.g. `muster-worker`.
    pub service_name: &'static str,
    /// `service.version`.
    pub version: &'static str,
    /// A filter in the syntax of `tracing-subscriber`, e.g. `info` or `muster_worker=debug`.
    pub filter: String,
    /// How lines look.
    pub format: LogFormat,
    /// Where spans, metrics and events go by OTLP over gRPC, e.g. `http://127.0.0.1:4317`. None: nowhere.
    pub otlp_endpoint: Option<String>,
}

/// Telemetry that could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The filter does not parse.
    #[error("log filter {filter:?} is not valid: {reason}")]
    Filter {
        /// As given.
        filter: String,
        /// Why.
        reason: String,
    },
    /// The exporter cannot be built (a malformed endpoint; never an absent collector).
    #[error("OTLP endpoint {endpoint:?} cannot be used: {reason}")]
    Exporter {
        /// As given.
        endpoint: String,
        /// Why.
        reason: String,
    },
    /// The address for metrics cannot be bound.
    #[error("metrics cannot be served on {addr}: {source}")]
    Metrics {
        /// As given.
        addr: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Called twice.
    #[error("telemetry is already set up in this process")]
    AlreadySet,
}

/// Keeps telemetry alive; sends what is left when dropped, for at most two seconds.
#[derive(Debug, Default)]
#[must_use = "dropping the guard ends the export of spans and the serving of metrics"]
pub struct Guard {
    otlp: Option<otlp::Providers>,
    metrics: Option<otlp::Metrics>,
    server: Option<metrics::serve::Server>,
}

impl Guard {
    /// Where `/metrics` is served.
    #[must_use]
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.server.as_ref().map(|server| server.addr)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.server.take());
        let mut shutdowns = self.otlp.take().map(otlp::Providers::shutdowns).unwrap_or_default();
        if let Some(metrics) = self.metrics.take() {
            shutdowns.push(metrics.shutdown());
        }
        otlp::run(shutdowns, FLUSH_TIMEOUT);
    }
}

/// Sets up logs and, when configured, what goes by OTLP. Needs a tokio runtime when `otlp_endpoint` is set.
///
/// # Errors
/// See [`InitError`]; nothing is set up then.
pub fn init(config: &Config) -> Result<Guard, InitError> {
    init_with_metrics(config, None)
}

/// [`init`], and serves metrics as text at `/metrics` of an address. Needs a tokio runtime then.
///
/// # Errors
/// See [`InitError`]; nothing is set up then.
pub fn init_with_metrics(
    config: &Config,
    listen: Option<metrics::serve::Listen>,
) -> Result<Guard, InitError> {
    let filter = filter(config)?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(true);
    let lines = match config.format {
        LogFormat::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let resource = otlp::resource(config);
    let endpoint = config.otlp_endpoint.as_deref();
    let providers =
        endpoint.map(|endpoint| otlp::Providers::new(endpoint, FLUSH_TIMEOUT, &resource)).transpose()?;
    let readers = otlp::Metrics::new(endpoint, listen.is_some(), FLUSH_TIMEOUT, resource)?;
    let server = match (&readers, listen) {
        (Some(readers), Some(listen)) => Some(
            metrics::serve::start(listen.0, readers.registry.clone())
                .map_err(|source| InitError::Metrics { addr: listen.0, source })?,
        ),
        _ => None,
    };
    let guard = Guard { otlp: providers, metrics: readers, server };
    let spans = match &guard.otlp {
        Some(providers) => {
            Some(providers.spans(config.service_name).with_filter(self::filter(config)?.or(ours())))
        }
        None => None,
    };
    let events = match &guard.otlp {
        Some(providers) => Some(providers.events().with_filter(self::filter(config)?.or(ours()))),
        None => None,
    };
    tracing_subscriber::registry()
        .with(spans)
        .with(events)
        .with(lines.with_filter(filter))
        .try_init()
        .map_err(|_| InitError::AlreadySet)?;
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    if let Some(providers) = &guard.otlp {
        providers.install();
    }
    if let Some(readers) = &guard.metrics {
        readers.install();
    }
    Ok(guard)
}

fn filter(config: &Config) -> Result<EnvFilter, InitError> {
    EnvFilter::try_new(format!("{QUIET},{}", config.filter))
        .map_err(|error| InitError::Filter { filter: config.filter.clone(), reason: error.to_string() })
}

/// Our spans and events, which an operator who wants few lines wants all the same.
fn ours() -> FilterFn {
    FilterFn::new(is_ours as fn(&Metadata<'_>) -> bool).with_max_level_hint(LevelFilter::INFO)
}

fn is_ours(metadata: &Metadata<'_>) -> bool {
    if metadata.is_span() {
        metadata.target().starts_with("muster")
    } else {
        metadata.name().starts_with("muster.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(filter: &str) -> Config {
        Config {
            service_name: "muster-test",
            version: "0",
            filter: filter.to_owned(),
            format: LogFormat::Text,
            otlp_endpoint: None,
        }
    }

    #[test]
    fn a_bad_filter_is_named_and_nothing_is_set_up() {
        let error = init(&config("a=b=c")).expect_err("refused").to_string();
        assert!(error.contains("a=b=c"), "{error}");
        assert_eq!(traceparent(), "");
    }
}

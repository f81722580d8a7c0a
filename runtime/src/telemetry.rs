//! Logs to stderr and, when configured, spans by OTLP. Called once per process, by `main`.
//!
//! stdout is never touched: it belongs to data and to MCP. A dead or slow collector costs nothing but its spans.

use std::time::Duration;

use opentelemetry::{
    KeyValue,
    propagation::TextMapPropagator as _,
    trace::{TraceContextExt as _, TracerProvider as _},
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{Resource, propagation::TraceContextPropagator, trace::SdkTracerProvider};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// Libraries whose own chatter would drown ours at debug level.
const QUIET: &str = "h2=warn,hyper=warn,hyper_util=warn,tonic=warn,tower=warn,rmcp=warn,sled=warn,opentelemetry=error,opentelemetry_sdk=error,opentelemetry-otlp=error";
/// How long the last spans may take to leave at the end of the process.
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
    /// Where spans go by OTLP over gRPC, e.g. `http://127.0.0.1:4317`. None: tracing is off.
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
    /// Called twice.
    #[error("telemetry is already set up in this process")]
    AlreadySet,
}

/// Keeps telemetry alive; sends what is left when dropped, for at most two seconds.
#[derive(Debug, Default)]
#[must_use = "dropping the guard ends the export of spans"]
pub struct Guard {
    provider: Option<SdkTracerProvider>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(provider) = self.provider.take() {
            // A collector that is away must not keep the process: what cannot be sent in time is lost.
            let _ = provider.shutdown_with_timeout(FLUSH_TIMEOUT);
        }
    }
}

/// Sets up logs and, when configured, spans. Needs a tokio runtime when `otlp_endpoint` is set.
///
/// # Errors
/// See [`InitError`]; nothing is set up then.
pub fn init(config: &Config) -> Result<Guard, InitError> {
    let filter = EnvFilter::try_new(format!("{QUIET},{}", config.filter))
        .map_err(|error| InitError::Filter { filter: config.filter.clone(), reason: error.to_string() })?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(true);
    let lines = match config.format {
        LogFormat::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    let provider = config.otlp_endpoint.as_deref().map(|endpoint| exporter(config, endpoint)).transpose()?;
    let spans = provider
        .as_ref()
        .map(|provider| tracing_opentelemetry::layer().with_tracer(provider.tracer(config.service_name)));
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .with(spans)
        .try_init()
        .map_err(|_| InitError::AlreadySet)?;
    Ok(Guard { provider })
}

fn exporter(config: &Config, endpoint: &str) -> Result<SdkTracerProvider, InitError> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(FLUSH_TIMEOUT)
        .build()
        .map_err(|error| InitError::Exporter { endpoint: endpoint.to_owned(), reason: error.to_string() })?;
    let resource = Resource::builder()
        .with_service_name(config.service_name)
        .with_attribute(KeyValue::new("service.version", config.version))
        .build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

/// The W3C `traceparent` of the current span; empty when there is none that is exported.
#[must_use]
pub fn traceparent() -> String {
    let context = Span::current().context();
    if !context.span().span_context().is_valid() {
        return String::new();
    }
    let mut carrier = std::collections::HashMap::new();
    TraceContextPropagator::new().inject_context(&context, &mut carrier);
    carrier.remove("traceparent").unwrap_or_default()
}

/// Makes `span` a child of the span a `traceparent` names. Ignores an empty or malformed one.
pub fn set_parent_from_traceparent(span: &Span, traceparent: &str) {
    let carrier = std::collections::HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
    let context = TraceContextPropagator::new().extract(&carrier);
    if context.span().span_context().is_valid() {
        // Fails only when no OpenTelemetry layer is installed: then there is nothing to join.
        let _ = span.set_parent(context);
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

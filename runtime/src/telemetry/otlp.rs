//! The exporters: built without a collector, and ended in bounded time whatever it does.

use std::{sync::mpsc, time::Duration};

use opentelemetry::{KeyValue, trace::TracerProvider as _};
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_otlp::{LogExporter, MetricExporter, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    logs::{SdkLogger, SdkLoggerProvider},
    metrics::{PeriodicReader, SdkMeterProvider},
    trace::{SdkTracerProvider, Tracer},
};
use tracing_opentelemetry::OpenTelemetryLayer;

use super::{Config, InitError};

/// Ends one provider. May block for as long as it likes: see [`run`].
pub(super) type Shutdown = Box<dyn FnOnce() + Send>;

/// Who speaks: the service, its version, and which of its processes.
pub(super) fn resource(config: &Config) -> Resource {
    Resource::builder()
        .with_service_name(config.service_name)
        .with_attribute(KeyValue::new("service.namespace", "muster"))
        .with_attribute(KeyValue::new("service.version", config.version))
        .with_attribute(KeyValue::new("service.instance.id", format!("{:032x}", rand::random::<u128>())))
        .build()
}

fn unusable(endpoint: &str, error: &dyn std::error::Error) -> InitError {
    InitError::Exporter { endpoint: endpoint.to_owned(), reason: error.to_string() }
}

/// Spans and events. Each has a bounded queue (2048 by default, `OTEL_BSP_*` and `OTEL_BLRP_*` change it) that drops
/// what does not fit, and a thread that sends.
#[derive(Debug)]
pub(super) struct Providers {
    tracer: SdkTracerProvider,
    logger: SdkLoggerProvider,
}

impl Providers {
    pub(super) fn new(endpoint: &str, timeout: Duration, resource: &Resource) -> Result<Self, InitError> {
        let spans = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(timeout)
            .build()
            .map_err(|error| unusable(endpoint, &error))?;
        let logs = LogExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(timeout)
            .build()
            .map_err(|error| unusable(endpoint, &error))?;
        Ok(Self {
            tracer: SdkTracerProvider::builder()
                .with_batch_exporter(spans)
                .with_resource(resource.clone())
                .build(),
            logger: SdkLoggerProvider::builder()
                .with_batch_exporter(logs)
                .with_resource(resource.clone())
                .build(),
        })
    }

    pub(super) fn spans<S>(&self, service: &'static str) -> OpenTelemetryLayer<S, Tracer>
    where
        S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    {
        // Tasks wander between threads: the number of one says nothing.
        tracing_opentelemetry::layer().with_tracer(self.tracer.tracer(service)).with_threads(false)
    }

    pub(super) fn events(&self) -> OpenTelemetryTracingBridge<SdkLoggerProvider, SdkLogger> {
        OpenTelemetryTracingBridge::new(&self.logger)
    }

    /// For spans of what is over, which `tracing` cannot tell.
    pub(super) fn install(&self) {
        opentelemetry::global::set_tracer_provider(self.tracer.clone());
    }

    pub(super) fn shutdowns(self) -> Vec<Shutdown> {
        let Self { tracer, logger } = self;
        vec![Box::new(move || drop(tracer.shutdown())), Box::new(move || drop(logger.shutdown()))]
    }
}

/// The meter provider and what reads from it: a thread that sends, and the registry behind `/metrics`.
#[derive(Debug)]
pub(super) struct Metrics {
    provider: SdkMeterProvider,
    pub(super) registry: prometheus::Registry,
}

impl Metrics {
    /// None when nobody reads.
    pub(super) fn new(
        endpoint: Option<&str>,
        text: bool,
        timeout: Duration,
        resource: Resource,
    ) -> Result<Option<Self>, InitError> {
        if endpoint.is_none() && !text {
            return Ok(None);
        }
        let registry = prometheus::Registry::new();
        let mut provider = SdkMeterProvider::builder().with_resource(resource);
        if let Some(endpoint) = endpoint {
            let exporter = MetricExporter::builder()
                .with_tonic()
                .with_endpoint(endpoint)
                .with_timeout(timeout)
                .build()
                .map_err(|error| unusable(endpoint, &error))?;
            provider = provider.with_reader(PeriodicReader::builder(exporter).build());
        }
        if text {
            let reader = opentelemetry_prometheus::exporter()
                .with_registry(registry.clone())
                .scope_info_enabled(false)
                .build()
                .map_err(|error| unusable("/metrics", &error))?;
            provider = provider.with_reader(reader);
        }
        Ok(Some(Self { provider: provider.build(), registry }))
    }

    /// From here on instruments measure.
    pub(super) fn install(&self) {
        opentelemetry::global::set_meter_provider(self.provider.clone());
        crate::metrics::enable();
    }

    pub(super) fn shutdown(self) -> Shutdown {
        Box::new(move || drop(self.provider.shutdown()))
    }
}

/// Runs them side by side and waits for at most `patience` in all: the SDK's own limits differ by signal and are
/// longer. What has not left by then is lost, and its thread with the process.
pub(super) fn run(shutdowns: Vec<Shutdown>, patience: Duration) {
    let (done, ended) = mpsc::channel::<()>();
    let deadline = std::time::Instant::now() + patience;
    let mut waiting = 0_usize;
    for shutdown in shutdowns {
        let done = done.clone();
        let thread = std::thread::Builder::new().name("telemetry-end".to_owned()).spawn(move || {
            shutdown();
            // Nobody listens any more when the patience is over.
            let _ = done.send(());
        });
        waiting += usize::from(thread.is_ok());
    }
    while waiting > 0 {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        if ended.recv_timeout(left).is_err() {
            return;
        }
        waiting -= 1;
    }
}

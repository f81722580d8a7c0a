//! The trace context, as text that travels.

use std::{collections::HashMap, time::SystemTime};

use opentelemetry::{
    Context, KeyValue, global,
    propagation::TextMapPropagator as _,
    trace::{Span as _, TraceContextExt as _, Tracer as _},
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The W3C `traceparent` of the current span; empty when there is none that is exported.
#[must_use]
pub fn traceparent() -> String {
    let context = Span::current().context();
    if !context.span().span_context().is_valid() {
        return String::new();
    }
    let mut carrier = HashMap::new();
    TraceContextPropagator::new().inject_context(&context, &mut carrier);
    carrier.remove("traceparent").unwrap_or_default()
}

/// Makes `span` a child of the span a `traceparent` names. Ignores an empty or malformed one.
pub fn set_parent_from_traceparent(span: &Span, traceparent: &str) {
    let carrier = HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
    let context = TraceContextPropagator::new().extract(&carrier);
    if context.span().span_context().is_valid() {
        // Fails only when no OpenTelemetry layer is installed: then there is nothing to join.
        let _ = span.set_parent(context);
    }
}

/// Links `span` to the span a `traceparent` names: for what belongs to it but was not caused by it, such as a later
/// call about a session. Ignores an empty or malformed one.
pub fn link_to_traceparent(span: &Span, traceparent: &str) {
    let carrier = HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
    let context = TraceContextPropagator::new().extract(&carrier);
    let linked = context.span().span_context().clone();
    if linked.is_valid() {
        span.add_link(linked);
    }
}

/// Runs `work` as a part of the trace that a `traceparent` names: events in it carry its ids. With an empty or
/// malformed one it just runs.
pub fn in_trace<T>(traceparent: &str, work: impl FnOnce() -> T) -> T {
    let context = remote(traceparent);
    let _attached = context.map(Context::attach);
    work()
}

/// Records a span of what is over, under the span a `traceparent` names: for what no future waits on, such as a time
/// in a queue that a restart may lie in. Nothing without a valid `traceparent`, or when nobody collects spans.
pub fn record_span(
    name: &'static str,
    traceparent: &str,
    (from, to): (SystemTime, SystemTime),
    attributes: impl IntoIterator<Item = (&'static str, String)>,
) {
    let Some(parent) = remote(traceparent) else { return };
    let tracer = global::tracer("muster");
    let attributes: Vec<_> = attributes.into_iter().map(|(key, value)| KeyValue::new(key, value)).collect();
    tracer
        .span_builder(name)
        .with_start_time(from)
        .with_attributes(attributes)
        .start_with_context(&tracer, &parent)
        .end_with_timestamp(to.max(from));
}

/// The context of a span elsewhere.
fn remote(traceparent: &str) -> Option<Context> {
    if traceparent.is_empty() {
        return None;
    }
    let carrier = HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
    let context = TraceContextPropagator::new().extract(&carrier);
    context.has_active_span().then_some(context)
}

//! gRPC defaults every role shares: keepalive both ways, no Nagle, trace context, loopback only.

use std::{net::SocketAddr, time::Duration};

use opentelemetry::propagation::{Extractor, Injector};
use tonic::{
    Request, Status,
    metadata::{KeyRef, MetadataKey, MetadataMap, MetadataValue},
    service::Interceptor,
    transport::{Channel, Endpoint, Server},
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// A peer that answers no ping for this long after one was due is gone: a cut cable must not look like silence.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long a ping may stay unanswered.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection attempt may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// An address that is not a URI a channel can be made for.
#[derive(Debug, thiserror::Error)]
#[error("{uri:?} is not an address like http://127.0.0.1:7420: {source}")]
pub struct ConnectError {
    uri: String,
    source: tonic::transport::Error,
}

/// An address other machines could reach.
#[derive(Debug, thiserror::Error)]
#[error("{0} is not a loopback address, and without TLS muster listens on 127.0.0.1 or [::1] only")]
pub struct NotLoopback(pub SocketAddr);

/// A channel to `uri` that connects at the first call and again whenever the connection is lost.
///
/// # Errors
/// When `uri` is not one; never because the peer is away.
pub fn connect(uri: &str) -> Result<Channel, ConnectError> {
    endpoint(uri).map(|endpoint| endpoint.connect_lazy())
}

/// What every channel begins with.
pub(crate) fn endpoint(uri: &str) -> Result<Endpoint, ConnectError> {
    let endpoint = Endpoint::from_shared(uri.to_owned())
        .map_err(|source| ConnectError { uri: uri.to_owned(), source })?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    Ok(endpoint)
}

/// A server with the same defaults.
#[must_use]
pub fn server() -> Server {
    Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
}

/// Refuses an address that other machines could reach.
///
/// # Errors
/// [`NotLoopback`].
pub fn loopback_only(addr: SocketAddr) -> Result<(), NotLoopback> {
    if addr.ip().is_loopback() { Ok(()) } else { Err(NotLoopback(addr)) }
}

/// Puts the trace context of the current span into every call of a client.
#[derive(Debug, Clone, Copy, Default)]
pub struct TraceInterceptor;

impl Interceptor for TraceInterceptor {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let context = Span::current().context();
        opentelemetry::global::get_text_map_propagator(|propagator| {
            propagator.inject_context(&context, &mut Metadata(request.metadata_mut()));
        });
        Ok(request)
    }
}

/// Makes `span` a child of the span the caller sent along, if any.
pub fn set_parent(span: &Span, metadata: &MetadataMap) {
    let context = opentelemetry::global::get_text_map_propagator(|propagator| {
        propagator.extract(&MetadataRef(metadata))
    });
    // Fails only when no OpenTelemetry layer is installed: then there is nothing to join.
    let _ = span.set_parent(context);
}

struct Metadata<'a>(&'a mut MetadataMap);

impl Injector for Metadata<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(key), Ok(value)) =
            (MetadataKey::from_bytes(key.as_bytes()), MetadataValue::try_from(value.as_str()))
        {
            self.0.insert(key, value);
        }
    }
}

struct MetadataRef<'a>(&'a MetadataMap);

impl Extractor for MetadataRef<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0
            .keys()
            .filter_map(|key| match key {
                KeyRef::Ascii(key) => Some(key.as_str()),
                KeyRef::Binary(_) => None,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_addresses_pass() {
        for (addr, passes) in
            [("127.0.0.1:1", true), ("[::1]:1", true), ("0.0.0.0:1", false), ("10.0.0.1:1", false)]
        {
            let addr = addr.parse().expect("an address");
            assert_eq!(loopback_only(addr).is_ok(), passes, "{addr}");
        }
    }

    #[tokio::test]
    async fn a_channel_is_made_without_its_peer_and_refused_for_nonsense() {
        assert!(connect("http://127.0.0.1:1").is_ok());
        let error = connect("not a uri").expect_err("refused").to_string();
        assert!(error.contains("not a uri"), "{error}");
    }
}

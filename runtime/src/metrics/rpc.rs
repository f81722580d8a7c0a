//! How long gRPC calls take, on both sides: a [`tower::Layer`] for servers and for channels.
//!
//! Unary calls only: a stream that lives as long as a worker has no duration anybody wants to see. Which methods are
//! unary the owner of the contract says; a path it does not know is counted as `_OTHER`, so that a stranger's paths
//! make no series. What is measured ends with the head of the answer: a unary handler has done all its work by then.

use std::{
    collections::BTreeSet,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use pin_project_lite::pin_project;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::Code;
use tower::{Layer, Service};

use super::{Definition, Histogram, distinct::OTHER, enabled};
use crate::telemetry::semconv;

const LABELS: &[&str; 4] =
    &[semconv::RPC_SYSTEM_NAME, semconv::RPC_METHOD, semconv::RPC_RESPONSE_STATUS_CODE, semconv::ERROR_TYPE];

static SERVER: Histogram<4> = Histogram::new(
    semconv::RPC_SERVER_CALL_DURATION,
    "s",
    LABELS,
    semconv::RPC_CALL_BUCKETS,
    "How long unary gRPC calls took to answer",
);
static CLIENT: Histogram<4> = Histogram::new(
    semconv::RPC_CLIENT_CALL_DURATION,
    "s",
    LABELS,
    semconv::RPC_CALL_BUCKETS,
    "How long unary gRPC calls took, as the caller saw it, the network included",
);

/// All of this module.
pub(super) fn definitions() -> Vec<Definition> {
    vec![SERVER.definition(), CLIENT.definition()]
}

/// Which methods there are.
#[derive(Debug, Clone, Default)]
pub struct Methods {
    unary: Arc<BTreeSet<String>>,
    streaming: Arc<BTreeSet<String>>,
}

impl Methods {
    /// From full names like `muster.v1.SessionService/GetSession`, each with whether either side streams.
    #[must_use]
    pub fn new(methods: impl IntoIterator<Item = (String, bool)>) -> Self {
        let (streaming, unary): (Vec<_>, Vec<_>) = methods.into_iter().partition(|(_, streams)| *streams);
        let names = |list: Vec<(String, bool)>| Arc::new(list.into_iter().map(|(name, _)| name).collect());
        Self { unary: names(unary), streaming: names(streaming) }
    }

    /// All methods of an encoded `FileDescriptorSet`; none when it is not one, which a build makes sure of.
    #[must_use]
    pub fn of_descriptors(encoded: &[u8]) -> Self {
        let files = FileDescriptorSet::decode(encoded).unwrap_or_default().file;
        Self::new(files.iter().flat_map(|file| {
            file.service.iter().flat_map(|service| {
                service.method.iter().map(|method| {
                    let name = format!("{}.{}/{}", file.package(), service.name(), method.name());
                    (name, method.client_streaming() || method.server_streaming())
                })
            })
        }))
    }

    /// What a call of `path` is recorded as; None: not at all.
    fn recorded(&self, path: &str) -> Option<&str> {
        let name = path.strip_prefix('/').unwrap_or(path);
        if self.streaming.contains(name) {
            return None;
        }
        Some(self.unary.get(name).map_or(OTHER, String::as_str))
    }
}

/// Which side measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Server,
    Client,
}

/// Measures what passes through. For a server: `server().layer(..)`; for a client: around its channel.
#[derive(Debug, Clone)]
pub struct CallDuration {
    side: Side,
    methods: Methods,
}

impl CallDuration {
    /// As the one who answers.
    #[must_use]
    pub fn server(methods: Methods) -> Self {
        Self { side: Side::Server, methods }
    }

    /// As the one who asks.
    #[must_use]
    pub fn client(methods: Methods) -> Self {
        Self { side: Side::Client, methods }
    }
}

impl<S> Layer<S> for CallDuration {
    type Service = Measured<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Measured { inner, side: self.side, methods: self.methods.clone() }
    }
}

/// A service or channel whose calls are measured.
#[derive(Debug, Clone)]
pub struct Measured<S> {
    inner: S,
    side: Side,
    methods: Methods,
}

impl<S, B, R> Service<http::Request<B>> for Measured<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Measuring<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let call = enabled()
            .then(|| self.methods.recorded(request.uri().path()).map(ToOwned::to_owned))
            .flatten()
            .map(|method| Call { side: self.side, method, began: Instant::now(), recorded: false });
        Measuring { inner: self.inner.call(request), call }
    }
}

pin_project! {
    /// A call under way.
    #[derive(Debug)]
    pub struct Measuring<F> {
        #[pin]
        inner: F,
        // Recorded when it ends, or when it is dropped before.
        call: Option<Call>,
    }
}

#[derive(Debug)]
struct Call {
    side: Side,
    method: String,
    began: Instant,
    recorded: bool,
}

impl Call {
    fn ended(&mut self, code: Option<Code>) {
        self.recorded = true;
        let status = code.map_or("", name);
        let error = match code {
            Some(Code::Ok) => "",
            // As the conventions say: a server's own failures are errors, what a caller did wrong is not.
            Some(code) if self.side == Side::Server && !is_server_failure(code) => "",
            Some(code) => name(code),
            None => OTHER,
        };
        let histogram = match self.side {
            Side::Server => &SERVER,
            Side::Client => &CLIENT,
        };
        histogram.took(self.began.elapsed(), ["grpc", &self.method, status, error]);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // Dropped under way: the caller left, or its patience ended.
        if !self.recorded {
            self.ended(Some(Code::Cancelled));
        }
    }
}

impl<F, R, E> Future for Measuring<F>
where
    F: Future<Output = Result<http::Response<R>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.inner.poll(cx));
        if let Some(mut call) = this.call.take() {
            // A refusal is all head; an answer's status follows its one message, and is OK.
            call.ended(result.as_ref().ok().map(|response| {
                response
                    .headers()
                    .get("grpc-status")
                    .map_or(Code::Ok, |status| Code::from_bytes(status.as_bytes()))
            }));
        }
        Poll::Ready(result)
    }
}

fn is_server_failure(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

/// As the conventions write it.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_left_out_and_strangers_are_others() {
        let methods = Methods::new([("a.B/Get".to_owned(), false), ("a.B/Watch".to_owned(), true)]);
        assert_eq!(methods.recorded("/a.B/Get"), Some("a.B/Get"));
        assert_eq!(methods.recorded("/a.B/Watch"), None);
        assert_eq!(methods.recorded("/whatever"), Some("_OTHER"));
    }
}

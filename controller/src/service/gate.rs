//! In front of every service: who calls, and may they?
//!
//! Puts the [`Principal`] into the request for the services to narrow by. Invariant: nothing behind it is
//! reached without a principal whose role has the RPC in its column, and no answer outlives the identity it
//! was given for.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response, header::AUTHORIZATION};
use hyper::body::Frame;
use muster_proto::error::{Error, ErrorCode};
use muster_runtime::tls::Peer;
use tokio::time::sleep;
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use crate::identity::{
    Identities, Principal,
    roles::{self, Reach},
};

/// Longest sleep until an identity expires: clocks jump.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Adds the gate.
#[derive(Debug, Clone)]
pub struct GateLayer(pub(super) Identities);

/// See the module.
#[derive(Debug, Clone)]
pub struct Gate<S> {
    identities: Identities,
    inner: S,
}

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        Gate { identities: self.0.clone(), inner }
    }
}

impl<S> Service<Request<Body>> for Gate<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let path = request.uri().path().to_owned();
        let admitted = admit(&self.identities, &path, request.headers(), request.extensions().get());
        match admitted {
            Err(error) => {
                tracing::info!(rpc = path, error = %error, "a call is refused");
                let refused = Status::from(error).into_http();
                Box::pin(async move { Ok(refused) })
            }
            Ok(principal) => {
                request.extensions_mut().insert(principal.clone());
                // The service that is ready is the one to call; its clone takes its place.
                let ready = self.inner.clone();
                let mut inner = std::mem::replace(&mut self.inner, ready);
                Box::pin(async move {
                    let ended = ended(principal);
                    let mut ended = Box::pin(ended);
                    tokio::select! {
                        response = inner.call(request) => {
                            response.map(|response| response.map(|body| Body::new(Bounded::new(body, ended))))
                        }
                        status = &mut ended => Ok(status.into_http()),
                    }
                })
            }
        }
    }
}

/// Whom a token, or else a certificate, or else the machine itself makes the caller, if the RPC at `path` is
/// for such. `peer`: it comes over TLS from anywhere.
fn admit(
    identities: &Identities,
    path: &str,
    headers: &HeaderMap,
    peer: Option<&Peer>,
) -> Result<Principal, Error> {
    let principal = match (headers.get(AUTHORIZATION), peer) {
        (None, None) => Principal::local(),
        // Whoever enrols again may show a certificate that is good for nothing any more.
        (None, Some(_)) if roles::is_public(path) => Principal::nobody(),
        (None, Some(peer)) => identities.by_peer(peer)?.ok_or_else(|| {
            Error::new(ErrorCode::Unauthenticated, "neither a certificate nor a token tells who calls")
                .hint("Give an access token, or join as a worker.")
        })?,
        (Some(value), _) => {
            let token = value.to_str().ok().and_then(|value| value.strip_prefix("Bearer "));
            let missing = || Error::new(ErrorCode::Unauthenticated, "the authorization is no bearer token");
            identities.by_token(token.ok_or_else(missing)?.trim())?
        }
    };
    if roles::is_public(path) || roles::reach(path, principal.role) != Reach::Nothing {
        return Ok(principal);
    }
    let role = principal.role.as_str_name().trim_start_matches("ROLE_").to_ascii_lowercase();
    let rpc = path.rsplit('/').next().unwrap_or(path);
    Err(Error::new(ErrorCode::PermissionDenied, format!("the role {role} may not call {rpc}")))
}

/// Returns once `principal` is nobody any more.
async fn ended(principal: Principal) -> Status {
    let expired = async {
        loop {
            let Some(at) = *principal.expires_at.borrow() else { break std::future::pending().await };
            let left = muster_proto::time::to_system(&at).duration_since(std::time::SystemTime::now());
            match left {
                Ok(left) if !left.is_zero() => sleep(left.min(LOOK_AGAIN)).await,
                _ => break,
            }
        }
    };
    let why = tokio::select! {
        () = principal.revoked.requested() => "revoked",
        () = expired => "expired",
    };
    Error::new(ErrorCode::Unauthenticated, format!("the identity of {} is {why}", principal.name)).into()
}

/// The body of an answer, until the caller is nobody any more.
struct Bounded<F> {
    body: Body,
    ended: Option<Pin<Box<F>>>,
}

impl<F: Future<Output = Status>> Bounded<F> {
    const fn new(body: Body, ended: Pin<Box<F>>) -> Self {
        Self { body, ended: Some(ended) }
    }
}

impl<F: Future<Output = Status>> hyper::body::Body for Bounded<F> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(ended) = &mut self.ended else { return Poll::Ready(None) };
        if let Poll::Ready(status) = ended.as_mut().poll(cx) {
            self.ended = None;
            self.body = Body::empty();
            let mut trailers = HeaderMap::new();
            return match status.add_header(&mut trailers) {
                Ok(()) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Err(error) => Poll::Ready(Some(Err(error))),
            };
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.ended.is_none() || self.body.is_end_stream()
    }
}

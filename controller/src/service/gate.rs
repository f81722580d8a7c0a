//! In front of every service: who calls, and may they?
//!
//! Puts the [`Principal`] into the request for the services to narrow by. Invariant: nothing behind it is
//! reached without a principal whose role has the RPC in its column, and no answer outlives the identity it
//! was given for.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response, header::AUTHORIZATION};
use hyper::body::Frame;
use muster_proto::{
    error::{Error, ErrorCode},
    ids::SessionId,
    metadata::ON_BEHALF_OF,
    v1::{self, Role},
};
use muster_runtime::tls::Peer;
use prost::Message as _;
use tokio::time::sleep;
use tonic::{Status, body::Body, metadata::MetadataMap};
use tower::{Layer, Service};

use super::{
    rate::Buckets,
    recorded::{Call, refusal},
    validate,
};
use crate::{
    audit::Audit,
    engine::{Handle, Scope, Watcher},
    identity::{
        Identities, Principal,
        roles::{self, Reach},
    },
    session::record::LOCAL,
};

/// Longest sleep until an identity expires: clocks jump.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Adds the gate.
#[derive(Debug, Clone)]
pub struct GateLayer {
    pub(super) identities: Identities,
    /// Tells whether a session lives that a token is for.
    pub(super) engine: Handle,
    /// Where calls are recorded.
    pub(super) audit: Audit,
    /// How many calls each caller has left.
    pub(super) buckets: Buckets,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Gate<S> {
    identities: Identities,
    engine: Handle,
    audit: Audit,
    buckets: Buckets,
    inner: S,
}

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        Gate {
            identities: self.identities.clone(),
            engine: self.engine.clone(),
            audit: self.audit.clone(),
            buckets: self.buckets.clone(),
            inner,
        }
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
        let known = identify(&self.identities, &path, request.headers(), request.extensions().get());
        // The service that is ready is the one to call; its clone takes its place.
        let ready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, ready);
        let (engine, audit, buckets) = (self.engine.clone(), self.audit.clone(), self.buckets.clone());
        let from = request.extensions().get::<Peer>().map_or_else(String::new, |p| p.addr.ip().to_string());
        let peer = request.extensions().get::<Peer>().map_or_else(String::new, |peer| peer.addr.to_string());
        Box::pin(async move {
            let principal = match known {
                Ok(principal) => principal,
                Err(error) => {
                    tracing::info!(rpc = path, error = %error, "a call is refused");
                    audit.record_stranger(refusal(&path, &peer, &error)).await;
                    return Ok(Status::from(error).into_http());
                }
            };
            // Nobody is kept from its own machine; who shows nothing is known by its address.
            let caller = if principal.name.is_empty() { &from } else { &principal.name };
            if principal.name != LOCAL
                && let Err(error) = buckets.take(caller, Instant::now())
            {
                return Ok(Status::from(error).into_http());
            }
            let admitted = match permit(&principal, &path) {
                Ok(()) => Lives::of(&engine, &principal).await,
                Err(error) => Err(error),
            };
            let lives = match admitted {
                Ok(lives) => lives,
                Err(error) => {
                    tracing::info!(rpc = path, caller = principal.name, error = %error, "a call is refused");
                    audit.record(Call::new(&path, peer, &principal).denied(&error)).await;
                    return Ok(Status::from(error).into_http());
                }
            };
            let mut call = Call::new(&path, peer, &principal);
            if call.changes
                && let Err(error) = audit.check().await
            {
                return Ok(Status::from(error).into_http());
            }
            request.extensions_mut().insert(principal.clone());
            request.extensions_mut().insert(call.about.clone());
            let mut ended = Box::pin(ended(principal, lives));
            tokio::select! {
                response = inner.call(request) => {
                    if let Ok(response) = &response
                        && let Some(record) = call.record(response.headers())
                    {
                        audit.record(record).await;
                    }
                    response.map(|response| response.map(|body| Body::new(Bounded::new(body, ended))))
                }
                status = &mut ended => Ok(status.into_http()),
            }
        })
    }
}

/// Whom a token, or else a certificate, or else the machine itself makes the caller. `peer`: it comes over TLS from anywhere.
fn identify(
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
            identities.by_token(token.ok_or_else(missing)?.trim())?.1
        }
    };
    match headers.get(ON_BEHALF_OF) {
        Some(said) if !roles::is_public(path) => behind(identities, principal, said),
        _ => Ok(principal),
    }
}

/// Whether the RPC at `path` is for `principal`.
fn permit(principal: &Principal, path: &str) -> Result<(), Error> {
    if roles::is_public(path) {
        return Ok(());
    }
    let rpc = path.rsplit('/').next().unwrap_or(path);
    if let Some(one) = principal.all().find(|one| roles::reach(path, one.role) == Reach::Nothing) {
        let role = one.role.as_str_name().trim_start_matches("ROLE_").to_ascii_lowercase();
        return Err(Error::new(ErrorCode::PermissionDenied, format!("the role {role} may not call {rpc}")));
    }
    if let Some(scope) = principal.lacks(path) {
        let message = format!("{rpc} needs the scope {scope}, which the access token has not");
        return Err(Error::new(ErrorCode::PermissionDenied, message));
    }
    Ok(())
}

/// The gateway `principal` as it speaks for whom `said` names.
fn behind(identities: &Identities, principal: Principal, said: &HeaderValue) -> Result<Principal, Error> {
    if !matches!(principal.role, Role::Admin | Role::Orchestrator) {
        let message = "only an admin or an orchestrator speaks for others";
        return Err(Error::new(ErrorCode::PermissionDenied, message));
    }
    let malformed = || Error::invalid(ON_BEHALF_OF, "is no encoded principal");
    let mut headers = HeaderMap::new();
    headers.insert(ON_BEHALF_OF, said.clone());
    let metadata = MetadataMap::from_headers(headers);
    let bytes =
        metadata.get_bin(ON_BEHALF_OF).and_then(|value| value.to_bytes().ok()).ok_or_else(malformed)?;
    let said = v1::Principal::decode(bytes).map_err(|_| malformed())?;
    validate::principal(&said)?;
    let other = identities.behalf(&said)?;
    principal.speaking_for(other).map_err(|error| Error::new(ErrorCode::PermissionDenied, error.to_string()))
}

/// The sessions that a principal is for, while they live.
struct Lives {
    engine: Handle,
    sessions: Vec<SessionId>,
    /// None when it is for no session.
    watcher: Option<Watcher>,
}

impl Lives {
    async fn of(engine: &Handle, principal: &Principal) -> Result<Self, Error> {
        let engine = engine.scoped(Scope::all());
        let sessions: Vec<_> = principal.all().filter_map(|one| one.session).collect();
        let mut watcher = None;
        if !sessions.is_empty() {
            let named = sessions.iter().map(SessionId::to_string).collect();
            let watched = engine.watch(named).await;
            watcher = Some(watched.map_err(|error| match error.code {
                ErrorCode::SessionNotFound => over(),
                _ => error,
            })?);
        }
        let lives = Self { engine, sessions, watcher: watcher.map(|(watcher, _)| watcher) };
        if lives.all().await? { Ok(lives) } else { Err(over()) }
    }

    async fn all(&self) -> Result<bool, Error> {
        for session in &self.sessions {
            if !self.engine.lives(*session).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns once one of them has ended.
    async fn ended(mut self) {
        loop {
            let Some(watcher) = &mut self.watcher else { break std::future::pending().await };
            watcher.changed().await;
            if !self.all().await.unwrap_or(false) {
                break;
            }
        }
    }
}

/// What a token that is for a session is once that has ended.
fn over() -> Error {
    Error::new(ErrorCode::Unauthenticated, "the session that the access token is for has ended")
}

/// Returns once `principal` is nobody any more.
async fn ended(principal: Principal, lives: Lives) -> Status {
    let each = principal.all().map(|one| Box::pin(one_ended(one)));
    let any = futures::future::select_all(each);
    tokio::select! {
        (status, _, _) = any => status,
        () = lives.ended() => over().into(),
    }
}

async fn one_ended(principal: &Principal) -> Status {
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

//! Who may call over HTTP: bearer tokens, OAuth 2.1 resource-server behaviour, bounds for each caller.
//!
//! Stands before everything else of the MCP route, so that a stranger's request costs a hash. A token is looked at
//! here and goes no further. Invariant: behind it every request has a caller, or callers are not told apart at all.

mod access;
mod gate;
mod jwks;
mod jwt;
mod scopes;
mod sessions;
mod site;

use std::{
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes, HttpBody, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::Response,
};
use muster_proto::error::Error;

pub(crate) use self::{
    access::Access,
    gate::Gate,
    sessions::Sessions,
    site::{Site, WELL_KNOWN},
};
use self::{
    gate::{Full, Guesses, Place},
    site::Challenge,
};
use crate::{
    body::{BODY_BYTES, refusal},
    caller::{Caller, Scope},
    config::CallerLimits,
};

const SESSION_ID: &str = "mcp-session-id";
/// JSON-RPC codes of ours.
const NOT_KNOWN: i32 = -32001;
const NOT_ALLOWED: i32 = -32003;
const TOO_MUCH: i32 = -32005;
const NOT_NOW: i32 = -32006;

/// Where a connection comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PeerAddr(pub(crate) SocketAddr);

/// Why a token gives nothing.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Unknown, expired, revoked, made for another; the text is for people.
    Token(String),
    /// Nobody could say.
    Unknown(Error),
}

/// What stands before the MCP route.
#[derive(Debug)]
pub(crate) struct Guard {
    /// `None`: everybody is the gateway itself.
    access: Option<Access>,
    sessions: Sessions,
    guesses: Guesses,
    limits: CallerLimits,
    site: Site,
}

impl Guard {
    pub(crate) fn new(access: Option<Access>, sessions: Sessions, limits: CallerLimits, site: Site) -> Self {
        Self { access, sessions, guesses: Guesses::default(), limits, site }
    }

    pub(crate) const fn site(&self) -> &Site {
        &self.site
    }

    /// Who sends this.
    async fn caller(&self, headers: &HeaderMap, from: Option<IpAddr>) -> Result<Caller, Box<Response>> {
        let Some(access) = &self.access else { return Ok(Caller::Itself) };
        let Some(token) = bearer(headers) else {
            let message = "this gateway needs an access token: send `Authorization: Bearer <token>`";
            return Err(self.challenge(StatusCode::UNAUTHORIZED, Challenge::None, NOT_KNOWN, message));
        };
        if let Some(Err(after)) = from.map(|from| self.guesses.check(from)) {
            return Err(slow_down(after, "too many wrong tokens came from your address"));
        }
        match access.check(token).await {
            Ok(caller) => Ok(caller),
            Err(Refused::Token(message)) => {
                if let Some(from) = from {
                    self.guesses.wrong(from);
                }
                let challenge = Challenge::InvalidToken(&message);
                Err(self.challenge(StatusCode::UNAUTHORIZED, challenge, NOT_KNOWN, &message))
            }
            Err(Refused::Unknown(error)) => {
                tracing::warn!(error = %error, "a token could not be checked");
                let message = "the token cannot be checked at the moment: try again";
                let mut response = refusal(StatusCode::SERVICE_UNAVAILABLE, NOT_NOW, message);
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
                Err(Box::new(response))
            }
        }
    }

    fn challenge(&self, status: StatusCode, why: Challenge<'_>, code: i32, message: &str) -> Box<Response> {
        let mut response = refusal(status, code, message);
        response.headers_mut().insert(header::WWW_AUTHENTICATE, self.site.challenge(why));
        Box::new(response)
    }

    fn place(&self, caller: &Caller) -> Result<Option<Place>, Box<Response>> {
        let Caller::Somebody(somebody) = caller else { return Ok(None) };
        match somebody.gate.enter(&self.limits) {
            Ok(place) => Ok(Some(place)),
            Err(Full::TooFast { after }) => Err(slow_down(after, "you send requests too fast")),
            Err(Full::TooMany { most }) => {
                let message = format!("{most} of your requests are open, as many as may be");
                Err(slow_down(Duration::from_secs(1), &message))
            }
        }
    }
}

/// The one token of a request. Not from the query: that is logged everywhere.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn slow_down(after: Duration, message: &str) -> Box<Response> {
    let seconds = after.as_secs_f64().ceil().max(1.0);
    let message = format!("{message}; try again in {seconds} s");
    let mut response = refusal(StatusCode::TOO_MANY_REQUESTS, TOO_MUCH, &message);
    if let Ok(value) = HeaderValue::from_str(&format!("{seconds}")) {
        response.headers_mut().insert(header::RETRY_AFTER, value);
    }
    Box::new(response)
}

/// Middleware for the MCP route: says who calls, and refuses strangers and floods.
pub(crate) async fn known(State(guard): State<Arc<Guard>>, mut request: Request, next: Next) -> Response {
    let from = request.extensions().get::<PeerAddr>().map(|peer| peer.0.ip());
    let caller = match guard.caller(request.headers(), from).await {
        Ok(caller) => caller,
        Err(response) => return *response,
    };
    let place = match guard.place(&caller) {
        Ok(place) => place,
        Err(response) => return *response,
    };
    // It has done its work: what comes after sees the caller, not the token.
    request.headers_mut().remove(header::AUTHORIZATION);
    let session = session_id(request.headers());
    if let Some(id) = &session
        && !guard.sessions.may_use(id, caller.name())
    {
        return refusal(StatusCode::NOT_FOUND, NOT_KNOWN, "there is no such session: initialize again");
    }
    let ends = request.method() == Method::DELETE;
    request.extensions_mut().insert(caller.clone());
    let response = next.run(request).await;
    match (session, session_id(response.headers())) {
        (None, Some(id)) => guard.sessions.add(&id, caller.name()).await,
        (Some(id), _) if ends && response.status().is_success() => guard.sessions.remove(&id),
        _ => {}
    }
    match place {
        Some(place) => response.map(|body| Body::new(Held { body, _place: place })),
        None => response,
    }
}

fn session_id(headers: &HeaderMap) -> Option<String> {
    headers.get(SESSION_ID)?.to_str().ok().map(ToOwned::to_owned)
}

/// Middleware for the MCP route, after the body was checked: refuses what a token has no scope for.
pub(crate) async fn scoped(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let Some(caller) = request.extensions().get::<Caller>().cloned() else { return next.run(request).await };
    let refuse = |scope: Scope| {
        let message = format!("this needs a token with the scope `{}`", scope.name());
        let challenge = Challenge::InsufficientScope(scope);
        *guard.challenge(StatusCode::FORBIDDEN, challenge, NOT_ALLOWED, &message)
    };
    if request.method() != Method::POST {
        return if caller.has(Scope::Read) { next.run(request).await } else { refuse(Scope::Read) };
    }
    if Scope::ALL.into_iter().all(|scope| caller.has(scope)) {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, BODY_BYTES).await else { return refuse(Scope::Write) };
    let needed = scopes::needed(&body);
    if caller.has(needed) {
        next.run(Request::from_parts(parts, Body::from(body))).await
    } else {
        refuse(needed)
    }
}

/// An answer that holds its caller's place until it is sent or dropped.
struct Held {
    body: Body,
    _place: Place,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

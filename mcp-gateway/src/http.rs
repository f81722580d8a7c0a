//! MCP over streamable HTTP at `/mcp`; `/healthz` and what RFC 9728 asks for beside it.
//!
//! Owns the listening socket. Refuses every address other machines could reach unless it is served with TLS and
//! with authentication, and every browser page that is not served from this machine or was named. What is not HTTP,
//! or not MCP, costs its own connection only.

use std::{io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use axum::{Json, Router, middleware, routing::get};
use futures::{Stream, StreamExt as _};
use hyper::{
    body::Incoming as Received,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use muster_runtime::{
    shutdown::Shutdown,
    task::{self, Task},
    tls::{self, Accepted},
};
use rmcp::{
    ServerHandler,
    transport::streamable_http_server::{
        StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected as _;

use crate::{
    CertificateError, Config, LinkError,
    auth::{Access, Guard, PeerAddr, Sessions, Site, WELL_KNOWN, known, scoped},
    body::{BODY_BYTES, check_body},
    certificate,
    controller::Controller,
    early_sse::early_sse,
    limits::Transport,
    patient_io::PatientIo,
    server::Server,
};

/// How much longer than the longest wait a session of the older protocol lives without a message. rmcp ends a
/// session with its calls when this is over, even while one is being answered.
const SESSION_MARGIN: Duration = Duration::from_secs(3600);
/// How long open answers may take to leave at shutdown, before and after those that do not are cut.
const GRACE: Duration = Duration::from_millis(1500);
/// Most connections at a time; one past it is closed at once. Each waiting call holds one.
const CONNECTIONS: usize = 16_384;
/// A connection that says nothing for so long, or takes so long for the head of a request, is closed. Longer
/// than clients keep one for the next call.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Pages of this machine may call; others, and `null`, may not.
const ORIGINS: [&str; 6] = [
    "http://localhost:*",
    "http://127.0.0.1:*",
    "http://[::1]:*",
    "https://localhost:*",
    "https://127.0.0.1:*",
    "https://[::1]:*",
];

/// Why the HTTP gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No way to the controller can be made of what was configured.
    #[error(transparent)]
    Controller(#[from] LinkError),
    /// Other machines could reach it, and something is missing that would keep strangers out.
    #[error("other machines can reach {addr}: that needs {missing}; or listen on 127.0.0.1 or [::1]")]
    Exposed {
        /// As asked.
        addr: SocketAddr,
        /// What.
        missing: &'static str,
    },
    /// The certificate or its key cannot be used.
    #[error("TLS cannot be served: {0}")]
    Certificate(#[from] CertificateError),
    /// The address for clients is none.
    #[error("{0:?} is no address for clients like https://farm.example/mcp")]
    PublicUrl(String),
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}: {source}")]
    Listen {
        /// As asked.
        addr: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// A running gateway. It leaves when its shutdown is requested.
#[derive(Debug)]
pub struct HttpGateway {
    local_addr: SocketAddr,
    serving: Task<()>,
}

impl HttpGateway {
    /// Listens on `listen` (port 0: one of the kernel's choice) and serves until `shutdown` is requested.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left behind then. A controller that is away is no error.
    pub async fn start(config: Config, listen: SocketAddr, shutdown: Shutdown) -> Result<Self, StartError> {
        Self::serve(config, listen, shutdown, |server| server).await
    }

    /// [`HttpGateway::start`] with something before the server.
    ///
    /// # Errors
    /// As [`HttpGateway::start`].
    #[cfg(feature = "conformance")]
    pub async fn start_as<H: ServerHandler>(
        config: Config,
        listen: SocketAddr,
        shutdown: Shutdown,
        before: impl Fn(Server) -> H + Send + Sync + 'static,
    ) -> Result<Self, StartError> {
        Self::serve(config, listen, shutdown, before).await
    }

    async fn serve<H: ServerHandler>(
        config: Config,
        listen: SocketAddr,
        shutdown: Shutdown,
        before: impl Fn(Server) -> H + Send + Sync + 'static,
    ) -> Result<Self, StartError> {
        not_exposed(&config, listen)?;
        let tls = config.http.tls.clone().map(certificate::server_config).transpose()?;
        let controller = Controller::new(&config)?;
        let no_listen = |source| StartError::Listen { addr: listen, source };
        let listener = TcpListener::bind(listen).await.map_err(no_listen)?;
        let local_addr = listener.local_addr().map_err(no_listen)?;
        let resource = match &config.http.public_url {
            Some(url) => public_url(url)?,
            None => format!("{}://{local_addr}/mcp", if tls.is_some() { "https" } else { "http" }),
        };
        let cut = CancellationToken::new();
        let router = router(config, controller, &resource, &shutdown, &cut, before);
        let incoming = match tls {
            Some(tls) => Incoming::Tls(Box::pin(tls::accept(listener, tls))),
            None => Incoming::Plain(listener),
        };
        let serving = task::spawn("mcp http", serve(incoming, router, shutdown, cut));
        Ok(Self { local_addr, serving })
    }

    /// Where it listens.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Returns when it has left.
    pub async fn finished(self) {
        // A panic in it was logged where it happened; there is nothing left to wait for.
        let _ = self.serving.await;
    }
}

/// An address other machines can reach is served with all that keeps strangers out, or not at all.
fn not_exposed(config: &Config, addr: SocketAddr) -> Result<(), StartError> {
    if addr.ip().is_loopback() {
        return Ok(());
    }
    let http = &config.http;
    let missing = match (&http.tls, &http.auth) {
        (None, None) => "TLS (a certificate and its key) and authentication",
        (None, Some(_)) => "TLS (a certificate and its key)",
        (Some(_), None) => "authentication",
        (Some(_), Some(_)) if addr.ip().is_unspecified() && http.public_url.is_none() => {
            "the address clients know it by (public URL)"
        }
        (Some(_), Some(_)) => return Ok(()),
    };
    Err(StartError::Exposed { addr, missing })
}

fn public_url(url: &str) -> Result<String, StartError> {
    let parsed = url.parse::<http::Uri>().ok();
    let known = |scheme: &str| matches!(scheme, "http" | "https");
    let whole = parsed.filter(|uri| uri.scheme_str().is_some_and(known) && uri.host().is_some());
    match whole {
        Some(_) => Ok(url.trim_end_matches('/').to_owned()),
        None => Err(StartError::PublicUrl(url.chars().take(200).collect())),
    }
}

fn router<H: ServerHandler>(
    config: Config,
    controller: Controller,
    resource: &str,
    shutdown: &Shutdown,
    cut: &CancellationToken,
    before: impl Fn(Server) -> H + Send + Sync + 'static,
) -> Router {
    let mut manager = LocalSessionManager::default();
    manager.session_config.keep_alive = Some(config.longest_wait() + SESSION_MARGIN);
    let manager = Arc::new(manager);
    let mcp = transport_config(&config, resource, cut);
    let guard = Arc::new(guard(&config, &controller, resource, manager.clone()));
    let told_apart = config.http.auth.is_some();
    let server = Server::new(config, controller, Transport::Http)
        .with_leaving(shutdown.clone())
        .with_callers_told_apart(told_apart);
    let service = StreamableHttpService::new(move || Ok(before(server.anew())), manager, mcp);
    let mut router = Router::new()
        .route_service("/mcp", service)
        .layer(middleware::from_fn(early_sse))
        .layer(middleware::from_fn_with_state(guard.clone(), scoped))
        .layer(middleware::from_fn(check_body))
        .layer(middleware::from_fn_with_state(guard.clone(), known))
        .route("/healthz", get(|| async { "ok\n" }));
    if told_apart {
        for path in [WELL_KNOWN.to_owned(), format!("{WELL_KNOWN}/{{*path}}")] {
            let about = guard.site().about();
            router = router.route(&path, get(move || async move { Json(about) }));
        }
    }
    router
}

fn transport_config(config: &Config, resource: &str, cut: &CancellationToken) -> StreamableHttpServerConfig {
    let defaults = StreamableHttpServerConfig::default();
    let uri = resource.parse::<http::Uri>().unwrap_or_default();
    let named = uri.host().map(ToOwned::to_owned);
    let page = uri.scheme().zip(uri.authority()).map(|(scheme, authority)| {
        let port = if scheme.as_str() == "https" { 443 } else { 80 };
        format!("{scheme}://{}:{}", authority.host(), authority.port_u16().unwrap_or(port))
    });
    let hosts: Vec<String> = defaults.allowed_hosts.iter().cloned().chain(named).collect();
    let origins =
        ORIGINS.map(ToOwned::to_owned).into_iter().chain(page).chain(config.http.origins.iter().cloned());
    defaults
        .with_allowed_hosts(hosts)
        .enforce_origin_validation()
        .with_allowed_origins(origins)
        .with_max_request_body_bytes(BODY_BYTES)
        .with_cancellation_token(cut.clone())
}

fn guard(
    config: &Config,
    controller: &Controller,
    resource: &str,
    manager: Arc<LocalSessionManager>,
) -> Guard {
    let auth = config.http.auth.as_ref();
    let issuer = auth.and_then(|auth| auth.issuer.as_ref()).map(|issuer| issuer.issuer.as_str());
    let site = Site::new(resource, issuer);
    let access = auth.map(|auth| Access::new(controller.clone(), auth, site.resource()));
    let limits = config.http.limits;
    // Where everybody is the gateway itself, one program must not close the sessions of another.
    let each = if access.is_some() { limits.sessions } else { u32::MAX };
    Guard::new(access, Sessions::new(manager, each), limits, site)
}

/// A connection, encrypted or not.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Where connections come from.
enum Incoming {
    Plain(TcpListener),
    Tls(Pin<Box<dyn Stream<Item = io::Result<Accepted>> + Send>>),
}

impl Incoming {
    async fn next(&mut self) -> io::Result<(Box<dyn Io>, SocketAddr)> {
        match self {
            Self::Plain(listener) => {
                let (stream, peer) = listener.accept().await?;
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(error = %error, "no TCP_NODELAY; answers may be late");
                }
                Ok((Box::new(stream), peer))
            }
            Self::Tls(accepted) => match accepted.next().await {
                Some(accepted) => {
                    let accepted = accepted?;
                    let peer = accepted.connect_info().addr;
                    Ok((Box::new(accepted), peer))
                }
                None => Err(io::Error::other("no connection is taken any more")),
            },
        }
    }
}

/// Accepts connections until `shutdown`, then gives what is open time to end.
async fn serve(mut incoming: Incoming, router: Router, shutdown: Shutdown, cut: CancellationToken) {
    let service = TowerToHyperService::new(router);
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut open = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = incoming.next() => accepted,
            Some(_) = open.join_next() => continue,
            () = shutdown.requested() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Usually no file is left to open: those that are open end sooner or later.
                tracing::warn!(error = %error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let Ok(place) = room.clone().try_acquire_owned() else {
            tracing::debug!("too many connections, one was closed");
            continue;
        };
        open.spawn(connection(stream, peer, service.clone(), shutdown.clone(), place));
    }
    drop(incoming);
    // Waits answer at once that they can be made again; streams of the older protocol end only when they are
    // cut.
    let all_closed = async { while open.join_next().await.is_some() {} };
    tokio::pin!(all_closed);
    if timeout(GRACE, &mut all_closed).await.is_ok() {
        return;
    }
    cut.cancel();
    if timeout(GRACE, all_closed).await.is_err() {
        tracing::debug!("open answers were cut at shutdown");
    }
}

async fn connection(
    stream: Box<dyn Io>,
    peer: SocketAddr,
    service: TowerToHyperService<Router>,
    shutdown: Shutdown,
    _place: OwnedSemaphorePermit,
) {
    let service = service_fn(move |mut request: http::Request<Received>| {
        request.extensions_mut().insert(PeerAddr(peer));
        service.call(request)
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(PatientIo::new(stream)), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = &mut serving => ended,
        () = shutdown.requested() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = %error, "a connection ended badly");
    }
}

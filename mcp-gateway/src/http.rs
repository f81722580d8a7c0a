//! MCP over streamable HTTP at `/mcp`, on loopback, and `/healthz` beside it.
//!
//! Owns the listening socket. There is no authentication yet, so it refuses every address other machines
//! could reach and every browser page that is not served from this machine. What is not HTTP, or not MCP,
//! costs its own connection only.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, middleware, routing::get};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use muster_runtime::{
    grpc::{ConnectError, NotLoopback, loopback_only},
    shutdown::Shutdown,
    task::{self, Task},
};
use rmcp::{
    ServerHandler,
    transport::streamable_http_server::{
        StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
    },
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Config,
    body::{BODY_BYTES, check_body},
    controller::Controller,
    early_sse::early_sse,
    limits::Transport,
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
    /// The controller's address is not one.
    #[error(transparent)]
    Controller(#[from] ConnectError),
    /// Other machines could reach it.
    #[error(transparent)]
    NotLoopback(#[from] NotLoopback),
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
        loopback_only(listen)?;
        let controller = Controller::new(&config)?;
        let listener =
            TcpListener::bind(listen).await.map_err(|source| StartError::Listen { addr: listen, source })?;
        let local_addr =
            listener.local_addr().map_err(|source| StartError::Listen { addr: listen, source })?;
        let cut = CancellationToken::new();
        let router = router(config, controller, &shutdown, &cut, before);
        let serving = task::spawn("mcp http", serve(listener, router, shutdown, cut));
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

fn router<H: ServerHandler>(
    config: Config,
    controller: Controller,
    shutdown: &Shutdown,
    cut: &CancellationToken,
    before: impl Fn(Server) -> H + Send + Sync + 'static,
) -> Router {
    let mut sessions = LocalSessionManager::default();
    sessions.session_config.keep_alive = Some(config.longest_wait() + SESSION_MARGIN);
    let mcp = StreamableHttpServerConfig::default()
        .enforce_origin_validation()
        .with_allowed_origins(ORIGINS)
        .with_max_request_body_bytes(BODY_BYTES)
        .with_cancellation_token(cut.clone());
    let server = Server::new(config, controller, Transport::Http).with_leaving(shutdown.clone());
    let service = StreamableHttpService::new(move || Ok(before(server.anew())), Arc::new(sessions), mcp);
    Router::new()
        .route_service("/mcp", service)
        .layer(middleware::from_fn(early_sse))
        .layer(middleware::from_fn(check_body))
        .route("/healthz", get(|| async { "ok\n" }))
}

/// Accepts connections until `shutdown`, then gives what is open time to end.
async fn serve(listener: TcpListener, router: Router, shutdown: Shutdown, cut: CancellationToken) {
    let service = TowerToHyperService::new(router);
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut open = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = open.join_next() => continue,
            () = shutdown.requested() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
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
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(error = %error, "no TCP_NODELAY; answers may be late");
        }
        open.spawn(connection(stream, service.clone(), shutdown.clone(), place));
    }
    drop(listener);
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
    stream: TcpStream,
    service: TowerToHyperService<Router>,
    shutdown: Shutdown,
    _place: OwnedSemaphorePermit,
) {
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
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

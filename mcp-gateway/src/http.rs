//! MCP over streamable HTTP at `/mcp`, on loopback, and `/healthz` beside it.
//!
//! Owns the listening socket. There is no authentication yet, so it refuses every address other machines
//! could reach and every browser page that is not served from this machine. What is not HTTP, or not MCP,
//! costs its own connection only.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, middleware, routing::get};
use muster_runtime::{
    grpc::{ConnectError, NotLoopback, loopback_only},
    shutdown::Shutdown,
    task::{self, Task},
};
use rmcp::transport::streamable_http_server::{
    StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
};
use tokio::net::TcpListener;

use crate::{Config, controller::Controller, early_sse::early_sse, limits::Transport, server::Server};

/// How much longer than the longest wait a session of the older protocol lives without a message. rmcp ends a
/// session with its calls when this is over, even while one is being answered.
const SESSION_MARGIN: Duration = Duration::from_secs(3600);
/// How long open answers may take to leave at shutdown.
const GRACE: Duration = Duration::from_secs(3);
/// Largest request. A prompt of 1 MiB is at most 2 MiB of JSON in sensible encodings.
const BODY_BYTES: usize = 4 << 20;
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
        loopback_only(listen)?;
        let controller = Controller::new(&config)?;
        let listener =
            TcpListener::bind(listen).await.map_err(|source| StartError::Listen { addr: listen, source })?;
        let local_addr =
            listener.local_addr().map_err(|source| StartError::Listen { addr: listen, source })?;
        let router = router(config, controller, &shutdown);
        let serving = task::spawn("mcp http", serve(listener, router, shutdown));
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

fn router(config: Config, controller: Controller, shutdown: &Shutdown) -> Router {
    let mut sessions = LocalSessionManager::default();
    sessions.session_config.keep_alive = Some(config.longest_wait() + SESSION_MARGIN);
    let mcp = StreamableHttpServerConfig::default()
        .enforce_origin_validation()
        .with_allowed_origins(ORIGINS)
        .with_max_request_body_bytes(BODY_BYTES)
        .with_cancellation_token(shutdown.token());
    let server = Server::new(config, controller, Transport::Http);
    let service = StreamableHttpService::new(move || Ok(server.anew()), Arc::new(sessions), mcp);
    Router::new()
        .route_service("/mcp", service)
        .layer(middleware::from_fn(early_sse))
        .route("/healthz", get(|| async { "ok\n" }))
}

async fn serve(listener: TcpListener, router: Router, shutdown: Shutdown) {
    use axum::serve::ListenerExt as _;

    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(error = %error, "no TCP_NODELAY; answers may be late");
        }
    });
    let leave = shutdown.clone();
    let serving =
        axum::serve(listener, router).with_graceful_shutdown(async move { leave.requested().await });
    let serving = std::future::IntoFuture::into_future(serving);
    tokio::pin!(serving);
    tokio::select! {
        ended = &mut serving => {
            if let Err(error) = ended {
                tracing::error!(error = %error, "the HTTP gateway ended");
            }
            return;
        }
        () = shutdown.requested() => {}
    }
    if tokio::time::timeout(GRACE, serving).await.is_err() {
        tracing::debug!("open answers were cut at shutdown");
    }
}

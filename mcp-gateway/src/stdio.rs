//! MCP over stdin and stdout, as Claude Code starts a local server.
//!
//! stdout carries the protocol and nothing else; logs go to stderr. The end of stdin ends the server; answers
//! that are on their way still leave.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use muster_runtime::shutdown::Shutdown;
use rmcp::service::{ServerInitializeError, serve_server_with_ct};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

use crate::{Config, controller::Controller, limits::Transport, link::LinkError, server::Server};

/// Why serving ended badly.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// No way to the controller can be made of what was configured.
    #[error(transparent)]
    Controller(#[from] LinkError),
    /// The client did not speak MCP.
    #[error("the client did not begin as MCP says: {0}")]
    Handshake(Box<ServerInitializeError>),
    /// The serving task panicked.
    #[error("the connection ended by a defect: {0}")]
    Defect(#[from] tokio::task::JoinError),
}

/// Serves one client over stdin and stdout, until stdin ends or `shutdown` is requested.
///
/// When stdin is not a pipe (a terminal, a file), tokio reads it on a thread that cannot be interrupted: the
/// process should then end with `std::process::exit` or `Runtime::shutdown_background`.
///
/// # Errors
/// See [`ServeError`].
pub async fn serve_stdio(config: Config, shutdown: Shutdown) -> Result<(), ServeError> {
    let (reader, writer) = rmcp::transport::io::stdio_pipes();
    serve_stream(config, reader, writer, shutdown).await
}

/// Serves one client over any pair of byte streams, as [`serve_stdio`] does over its own.
///
/// # Errors
/// See [`ServeError`].
pub async fn serve_stream<R, W>(
    config: Config,
    reader: R,
    writer: W,
    shutdown: Shutdown,
) -> Result<(), ServeError>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    let controller = Controller::new(&config)?;
    let hung_up = CancellationToken::new();
    let server = Server::new(config, controller, Transport::Stdio).with_hang_up(hung_up.clone());
    let reader = HangUp { reader, hung_up: hung_up.clone() };
    let running = match serve_server_with_ct(server, (reader, writer), shutdown.token()).await {
        Ok(running) => running,
        Err(ServerInitializeError::ConnectionClosed(_) | ServerInitializeError::Cancelled) => return Ok(()),
        Err(error) => return Err(ServeError::Handshake(Box::new(error))),
    };
    let reason = running.waiting().await;
    hung_up.cancel();
    tracing::debug!(?reason, "client is gone");
    reason?;
    Ok(())
}

/// Tells waits that nobody is there any more: rmcp itself lets them run on after the end of stdin.
struct HangUp<R> {
    reader: R,
    hung_up: CancellationToken,
}

impl<R: AsyncRead + Unpin> AsyncRead for HangUp<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.reader).poll_read(context, buffer);
        let ended = match &polled {
            Poll::Ready(Ok(())) => buffer.filled().len() == before && buffer.capacity() > before,
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        };
        if ended {
            self.hung_up.cancel();
        }
        polled
    }
}

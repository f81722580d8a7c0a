//! `GET /metrics` in the text format of Prometheus, on an address of its own.
//!
//! Bounded: a few connections at once, one request each, a few seconds each; more are closed at once. The page is made
//! on a thread of the blocking pool, so that neither a slow scraper nor a large page holds anything up.

use std::{convert::Infallible, net::SocketAddr, str::FromStr, sync::Arc, time::Duration};

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{Encoder as _, Registry, TextEncoder};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use crate::task::{self, Task};

/// Scrapers at once.
const CONNECTIONS: usize = 8;
/// How long one may take from its first byte to its last.
const PATIENCE: Duration = Duration::from_secs(10);
/// After a failed accept (no free descriptor), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where `/metrics` is served: `ADDR:PORT`, or a port alone, which means loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen(pub SocketAddr);

/// An address that is none.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is no address to serve metrics on: give a port (loopback) or ADDR:PORT, e.g. 9464 or 0.0.0.0:9464"
)]
pub struct BadListen(String);

impl FromStr for Listen {
    type Err = BadListen;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(port) = text.parse::<u16>() {
            return Ok(Self(SocketAddr::from(([127, 0, 0, 1], port))));
        }
        text.parse().map(Self).map_err(|_| BadListen(text.to_owned()))
    }
}

/// Serves until dropped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    _task: Task<()>,
}

/// Binds and serves what `registry` gathers.
pub(crate) fn start(addr: SocketAddr, registry: Registry) -> std::io::Result<Server> {
    let listener = std::net::TcpListener::bind(addr)?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let addr = listener.local_addr()?;
    Ok(Server { addr, _task: task::spawn("metrics", accept(listener, registry)) })
}

async fn accept(listener: TcpListener, registry: Registry) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a scraper of metrics could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // No room: the connection is closed, the scraper comes again.
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else { continue };
        let registry = registry.clone();
        task::spawn("metrics connection", async move {
            let _permit = permit;
            // A scraper that is too slow, or leaves, is no event.
            let _ = tokio::time::timeout(PATIENCE, one(stream, registry)).await;
        })
        .detach();
    }
}

async fn one(stream: TcpStream, registry: Registry) {
    let service = service_fn(|request| answer(request, registry.clone()));
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .keep_alive(false)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(request: Request<Incoming>, registry: Registry) -> Result<Response<Full<Bytes>>, Infallible> {
    let plain = |status, text: &'static str| {
        respond(status, "text/plain; charset=utf-8", Bytes::from_static(text.as_bytes()))
    };
    if request.uri().path() != "/metrics" {
        return Ok(plain(StatusCode::NOT_FOUND, "metrics are at /metrics\n"));
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Ok(plain(StatusCode::METHOD_NOT_ALLOWED, "metrics are read with GET\n"));
    }
    let page = task::spawn_blocking("metrics page", move || {
        let mut page = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut page).map(|()| page)
    })
    .await;
    Ok(match page {
        Ok(Ok(page)) => {
            respond(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", Bytes::from(page))
        }
        Ok(Err(error)) => {
            tracing::error!(%error, "metrics could not be written as text");
            plain(StatusCode::INTERNAL_SERVER_ERROR, "metrics could not be written; the log says why\n")
        }
        Err(_) => {
            plain(StatusCode::INTERNAL_SERVER_ERROR, "metrics could not be written; the log says why\n")
        }
    })
}

fn respond(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_means_loopback() {
        assert_eq!("9464".parse::<Listen>().expect("a port").0.to_string(), "127.0.0.1:9464");
        assert_eq!("0.0.0.0:1".parse::<Listen>().expect("an address").0.to_string(), "0.0.0.0:1");
        let error = "host:x".parse::<Listen>().expect_err("refused").to_string();
        assert!(error.contains("host:x") && error.contains("9464"), "{error}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn connections_are_bounded_and_a_freed_one_is_used_again() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let server = start(SocketAddr::from(([127, 0, 0, 1], 0)), Registry::new()).expect("it listens");
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut stream = TcpStream::connect(server.addr).await.expect("connected");
            stream.write_all(b"GET /metrics HTTP/1.1\r\n").await.expect("written");
            held.push(stream);
        }
        // The kernel hands connections over in order: when this one is closed, all others have been seen.
        let mut refused = TcpStream::connect(server.addr).await.expect("the kernel accepts it");
        let mut rest = Vec::new();
        // Closed, at worst by a reset: never answered.
        let _ = refused.read_to_end(&mut rest).await;
        assert!(rest.is_empty(), "{rest:?}");
        drop(held);
        loop {
            let mut stream = TcpStream::connect(server.addr).await.expect("connected");
            // Until the held ones are seen to be gone it is closed at once.
            if stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.is_err() {
                continue;
            }
            let mut answer = String::new();
            if stream.read_to_string(&mut answer).await.is_ok() && answer.starts_with("HTTP/1.1 200") {
                assert!(answer.contains("version=0.0.4"), "{answer}");
                break;
            }
        }
    }
}

//! A TCP proxy that fails on command: what a network does to a connection, without root and without luck.
//!
//! Stands between a worker and its controller. Bytes are passed on unchanged and in order, late or not at all;
//! it never invents any. The mode holds for connections that are open and for those to come.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use muster_runtime::task::{self, Task};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

/// Read at once; small enough that a slow connection is slow everywhere.
const PIECE: usize = 16 << 10;
/// Connections that can be open at once; more wait in the kernel's backlog.
const MOST_CONNECTIONS: usize = 256;

/// What happens to bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They are passed on.
    Pass,
    /// They are passed on, each piece this much later.
    Delay(Duration),
    /// At most so many a second, each way. At least 1.
    Slow(u64),
    /// They are held: the connection stays open and silent.
    Stall,
    /// Connections are closed, new ones as soon as they are made.
    Cut,
}

/// How open connections end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// Orderly, both ways.
    Close,
    /// By a reset: bytes under way are lost to both.
    Reset,
    /// The server sees an end, the client does not.
    HalfClose,
}

#[derive(Debug, Clone, Copy)]
struct State {
    mode: Mode,
    /// Counts the endings ordered: each is for the connections open then.
    endings: u64,
    ending: Ending,
}

/// A running proxy. Dropping it closes everything.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    state: watch::Sender<State>,
    passed: Arc<AtomicU64>,
    _accepting: Task<()>,
}

impl FaultProxy {
    /// Listens on a port of its own on the loopback interface and passes on to `target`.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (state, follow) = watch::channel(State { mode: Mode::Pass, endings: 0, ending: Ending::Close });
        let passed = Arc::new(AtomicU64::new(0));
        let accepting = task::spawn("fault-proxy", accept(listener, target, follow, Arc::clone(&passed)));
        Ok(Self { address, state, passed, _accepting: accepting })
    }

    /// Where clients connect.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes passed on so far, both ways.
    #[must_use]
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    /// Changes what happens from now on.
    pub fn set(&self, mode: Mode) {
        self.state.send_modify(|state| state.mode = mode);
    }

    /// Resets every connection that is open.
    pub fn reset(&self) {
        self.end_all(Ending::Reset);
    }

    /// Closes every connection that is open, in order.
    pub fn close(&self) {
        self.end_all(Ending::Close);
    }

    /// Closes the way to the server and leaves the way back.
    pub fn half_close(&self) {
        self.end_all(Ending::HalfClose);
    }

    fn end_all(&self, ending: Ending) {
        self.state.send_modify(|state| {
            state.endings += 1;
            state.ending = ending;
        });
    }
}

async fn accept(
    listener: TcpListener,
    target: SocketAddr,
    state: watch::Receiver<State>,
    passed: Arc<AtomicU64>,
) {
    let mut open: Vec<Task<()>> = Vec::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        open.retain(|connection| !connection.is_finished());
        if state.borrow().mode == Mode::Cut || open.len() >= MOST_CONNECTIONS {
            continue;
        }
        let serve = connection(client, target, state.clone(), Arc::clone(&passed));
        open.push(task::spawn("fault-proxy-connection", serve));
    }
}

/// One connection until either side or an order ends it.
async fn connection(
    client: TcpStream,
    target: SocketAddr,
    mut state: watch::Receiver<State>,
    passed: Arc<AtomicU64>,
) {
    let born = state.borrow_and_update().endings;
    let Ok(server) = TcpStream::connect(target).await else { return };
    if client.set_nodelay(true).and_then(|()| server.set_nodelay(true)).is_err() {
        return;
    }
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let mut up = Box::pin(pump(&mut from_client, &mut to_server, state.clone(), &passed));
    let mut down = Box::pin(pump(&mut from_server, &mut to_client, state.clone(), &passed));
    let ending = tokio::select! {
        () = &mut up => Ending::Close,
        () = &mut down => Ending::Close,
        ending = ordered(&mut state, born) => ending,
    };
    drop(up);
    match ending {
        Ending::Close => {}
        Ending::Reset => {
            drop(down);
            for half in [&to_client, &to_server] {
                let _ = half.as_ref().set_zero_linger();
            }
            // Dropping them would say an orderly end first.
            to_client.forget();
            to_server.forget();
        }
        Ending::HalfClose => {
            let born = state.borrow().endings;
            let _ = to_server.shutdown().await;
            tokio::select! {
                () = &mut down => {}
                _ = ordered(&mut state, born) => {}
            }
        }
    }
}

/// Waits for an order to end the connections that had seen `born` endings.
async fn ordered(state: &mut watch::Receiver<State>, born: u64) -> Ending {
    let seen = state.wait_for(|state| state.mode == Mode::Cut || state.endings > born).await;
    match seen {
        Ok(state) if state.mode != Mode::Cut => state.ending,
        _ => Ending::Close,
    }
}

/// Passes on one way until that way ends.
async fn pump(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    mut state: watch::Receiver<State>,
    passed: &AtomicU64,
) {
    let mut buffer = vec![0; PIECE];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let Ok(mode) = state.wait_for(|state| state.mode != Mode::Stall).await.map(|state| state.mode) else {
            return;
        };
        match mode {
            Mode::Delay(late) => tokio::time::sleep(late).await,
            Mode::Slow(rate) => {
                let micros = count as u64 * 1_000_000 / rate.max(1);
                tokio::time::sleep(Duration::from_micros(micros)).await;
            }
            Mode::Pass | Mode::Stall | Mode::Cut => {}
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
        passed.fetch_add(count as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A proxy in front of a server that sends back what it gets, and a connection through it.
    async fn echo() -> (FaultProxy, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let proxy = FaultProxy::start(listener.local_addr().unwrap()).await.unwrap();
        task::spawn("echo", async move {
            while let Ok((mut client, _)) = listener.accept().await {
                task::spawn("echo-connection", async move {
                    let (mut from, mut to) = client.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                })
                .detach();
            }
        })
        .detach();
        let client = TcpStream::connect(proxy.address()).await.unwrap();
        (proxy, client)
    }

    async fn sends_and_gets(client: &mut TcpStream, word: &[u8]) -> io::Result<Vec<u8>> {
        client.write_all(word).await?;
        let mut back = vec![0; word.len()];
        client.read_exact(&mut back).await?;
        Ok(back)
    }

    #[tokio::test]
    async fn bytes_pass_late_or_held_and_unchanged() {
        let (proxy, mut client) = echo().await;
        assert_eq!(sends_and_gets(&mut client, b"plain").await.unwrap(), b"plain");
        proxy.set(Mode::Delay(Duration::from_millis(5)));
        assert_eq!(sends_and_gets(&mut client, b"late").await.unwrap(), b"late");
        proxy.set(Mode::Stall);
        client.write_all(b"held").await.unwrap();
        let mut back = [0; 4];
        let waited = tokio::time::timeout(Duration::from_millis(50), client.read(&mut back)).await;
        assert!(waited.is_err(), "nothing passes a stalled proxy");
        proxy.set(Mode::Slow(1_000_000));
        client.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"held");
        assert_eq!(proxy.passed(), 26);
    }

    #[tokio::test]
    async fn connections_end_as_ordered_and_new_ones_live() {
        let (proxy, mut client) = echo().await;
        sends_and_gets(&mut client, b"1").await.unwrap();
        proxy.reset();
        let error = client.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        sends_and_gets(&mut client, b"2").await.unwrap();
        proxy.half_close();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "the echo ended with its input");
        proxy.set(Mode::Cut);
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(sends_and_gets(&mut client, b"3").await.is_err());
        proxy.set(Mode::Pass);
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(sends_and_gets(&mut client, b"4").await.unwrap(), b"4");
    }
}

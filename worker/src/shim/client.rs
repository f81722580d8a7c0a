//! The worker's end of a shim: starts one, connects to one, speaks its protocol.
//!
//! Called by the session actor. A link that ends without `Exited` says nothing about claude: the caller looks at the
//! attempt's directory and connects again.

use std::{collections::BTreeMap, io, path::Path, process::Stdio, time::Duration};

use muster_runtime::task::{self, Task};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    process::Command,
    sync::{mpsc, watch},
};

use super::{
    LEASE_IS_OVER,
    files::{AttemptDir, Exit},
    protocol::{FrameError, Frames, FromShim, OLDEST, ToShim, VERSION},
    socket_path,
};

/// Orders queued towards a shim. It takes them in microseconds; when full, the sender waits.
const ORDERS: usize = 64;
/// Words from a shim queued for its session. When full, the reading waits; growth is coalesced and not in here.
const WORDS: usize = 256;
/// From start to a running program. exec of a large binary from a cold disk takes long.
const LAUNCH_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a shim may take to answer Hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a shim could not be started or reached.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The shim program itself did not run.
    #[error("shim program does not start: {0}")]
    Shim(io::Error),
    /// The shim ran, and says why claude does not.
    #[error("{0}")]
    Start(String),
    /// The lease was over before claude began.
    #[error("{LEASE_IS_OVER}")]
    Lapsed,
    /// Its socket could not be reached.
    #[error("shim does not answer: {0}")]
    Connect(#[from] io::Error),
    /// It speaks another version, or not this protocol.
    #[error("shim refused the connection: {0}")]
    Refused(String),
    /// It broke the format.
    #[error("shim speaks another protocol: {0}")]
    Frame(#[from] FrameError),
}

/// What a shim says, but for growth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// An input is wholly in claude's stdin.
    InputWritten(u64),
    /// An input was not written, and why.
    Refused(u64, String),
    /// The disk refuses output (errno), or takes it again (0).
    SpoolState(u32),
    /// Nothing runs any more.
    Exited(Exit),
    /// The connection ended.
    Closed,
}

/// A connection to a shim.
#[derive(Debug)]
pub struct ShimLink {
    orders: mpsc::Sender<ToShim>,
    /// What the shim says.
    pub words: mpsc::Receiver<Word>,
    /// End of the spool.
    pub spool_end: watch::Receiver<u64>,
    /// Inputs written before this connection.
    pub written: Vec<u64>,
    /// Process id of claude.
    pub child: u32,
    _task: Task<()>,
}

impl ShimLink {
    /// Gives an order. Lost when the link is gone; the caller hears `Closed` then.
    pub async fn order(&self, order: ToShim) {
        let _ = self.orders.send(order).await;
    }
}

/// Starts a shim for the launch order in `dir` and connects to it. If one lives there already, only connects.
///
/// # Errors
/// [`LinkError::Start`] with the reason when the program cannot be executed.
pub async fn launch(shim_program: &Path, dir: &AttemptDir) -> Result<ShimLink, LinkError> {
    launch_with(shim_program, dir, &BTreeMap::new()).await
}

/// As [`launch`], with the values of the launch order's `secret_env`.
///
/// # Errors
/// As [`launch`].
pub async fn launch_with(
    shim_program: &Path,
    dir: &AttemptDir,
    secrets: &BTreeMap<String, String>,
) -> Result<ShimLink, LinkError> {
    let mut command = Command::new(shim_program);
    command.arg("shim").arg(dir.path()).env_clear();
    command.stdin(if secrets.is_empty() { Stdio::null() } else { Stdio::piped() });
    command.stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let run = async {
        let mut child = command.spawn()?;
        let stdin = child.stdin.take();
        let tell = async {
            if let Some(mut stdin) = stdin {
                // A shim that does not take them says why by its end.
                let _ = stdin.write_all(&serde_json::to_vec(secrets)?).await;
            }
            Ok::<_, io::Error>(())
        };
        let (output, told) = tokio::join!(child.wait_with_output(), tell);
        told.and(output)
    };
    let output = match tokio::time::timeout(LAUNCH_TIMEOUT, run).await {
        Ok(output) => output.map_err(LinkError::Shim)?,
        Err(_) => return Err(LinkError::Shim(io::ErrorKind::TimedOut.into())),
    };
    if !output.status.success() && !dir.shim_lives()? {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if said == LEASE_IS_OVER {
            return Err(LinkError::Lapsed);
        }
        return Err(LinkError::Start(if said.is_empty() {
            format!("shim ended with {}", output.status)
        } else {
            said
        }));
    }
    connect(dir).await
}

/// Connects to the shim of `dir`.
///
/// # Errors
/// [`LinkError::Connect`] when none lives there.
pub async fn connect(dir: &AttemptDir) -> Result<ShimLink, LinkError> {
    let (_handle, path) = socket_path(dir.path())?;
    let mut stream = UnixStream::connect(path).await?;
    let mut hello = Vec::new();
    ToShim::Hello { min: OLDEST, max: VERSION }.encode(&mut hello);
    stream.write_all(&hello).await?;
    let mut frames = Frames::default();
    let first = tokio::time::timeout(HELLO_TIMEOUT, first_frame(&mut stream, &mut frames))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let (child, end, written) = match first {
        FromShim::Welcome { child, spool_end, written, .. } => (child, spool_end, written),
        FromShim::Refused { text, .. } => return Err(LinkError::Refused(text)),
        other => return Err(LinkError::Refused(format!("it began with {other:?}"))),
    };
    let (orders, orders_rx) = mpsc::channel(ORDERS);
    let (words_tx, words) = mpsc::channel(WORDS);
    let (end_tx, spool_end) = watch::channel(end);
    let task = task::spawn("shim link", async move {
        let why = run(stream, frames, orders_rx, &words_tx, &end_tx).await;
        if let Err(error) = why {
            tracing::debug!(error = %error, "connection to a shim ended");
        }
        let _ = words_tx.send(Word::Closed).await;
    });
    Ok(ShimLink { orders, words, spool_end, written, child, _task: task })
}

async fn first_frame(stream: &mut UnixStream, frames: &mut Frames) -> Result<FromShim, LinkError> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        while let Some((kind, body)) = frames.next_frame()? {
            if let Some(frame) = FromShim::decode(kind, body)? {
                return Ok(frame);
            }
        }
        match stream.read(&mut buffer).await? {
            0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            count => frames.push(&buffer[..count]),
        }
    }
}

async fn run(
    stream: UnixStream,
    mut frames: Frames,
    mut orders: mpsc::Receiver<ToShim>,
    words: &mpsc::Sender<Word>,
    spool_end: &watch::Sender<u64>,
) -> Result<(), LinkError> {
    let (mut reader, mut writer) = stream.into_split();
    let write = async {
        let mut out = Vec::new();
        while let Some(order) = orders.recv().await {
            out.clear();
            order.encode(&mut out);
            writer.write_all(&out).await?;
        }
        std::future::pending::<Result<(), LinkError>>().await
    };
    let read = async {
        let mut buffer = vec![0; 16 << 10];
        loop {
            while let Some((kind, body)) = frames.next_frame()? {
                let word = match FromShim::decode(kind, body)? {
                    Some(FromShim::Grown { spool_end: end }) => {
                        spool_end.send_replace(end);
                        continue;
                    }
                    Some(FromShim::InputWritten { seq }) => Word::InputWritten(seq),
                    Some(FromShim::Refused { seq, text }) => Word::Refused(seq, text),
                    Some(FromShim::SpoolState { errno }) => Word::SpoolState(errno),
                    Some(FromShim::Exited { json }) => {
                        Word::Exited(serde_json::from_slice(&json).map_err(io::Error::other)?)
                    }
                    Some(FromShim::Welcome { .. }) | None => continue,
                };
                if words.send(word).await.is_err() {
                    return Ok(());
                }
            }
            match reader.read(&mut buffer).await? {
                0 => return Ok(()),
                count => frames.push(&buffer[..count]),
            }
        }
    };
    tokio::select! {
        result = read => result,
        result = write => result,
    }
}

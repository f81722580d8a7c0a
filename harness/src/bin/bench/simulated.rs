//! Workers that are not there: each speaks the worker's side of the link over a connection of its own, and runs
//! nothing.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use muster_proto::{
    PROTOCOL,
    ids::Incarnation,
    v1::{
        AttemptEnded, Capacity, ConnectRequest, ConnectResponse, End, EndReason, Heartbeat, Hello,
        InputApplied, Project, SessionEvent, TurnStarted, connect_request::Body as Up,
        connect_response::Body as Down, session_event::Body as Event,
        worker_service_client::WorkerServiceClient,
    },
};
use muster_runtime::task::{self, Task};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// What they all serve.
pub const PROJECT: &str = "simulated";
/// A welcome or a placement that takes longer will not come.
const LIMIT: Duration = Duration::from_secs(60);
/// Connecting at the same time.
const AT_ONCE: usize = 32;

/// A session that reached a worker.
#[derive(Debug)]
pub struct Placed {
    /// By position.
    pub worker: usize,
    pub session: String,
    pub attempt: u32,
    /// Of its first input.
    input: u64,
    pub at: Instant,
}

/// Some workers of one slot each. Dropping them cuts their connections.
#[derive(Debug)]
pub struct Workers {
    up: Vec<mpsc::Sender<ConnectRequest>>,
    placed_to: mpsc::UnboundedSender<Placed>,
    placed: mpsc::UnboundedReceiver<Placed>,
    _tasks: Vec<Task<()>>,
}

impl Workers {
    pub fn none() -> Self {
        let (placed_to, placed) = mpsc::unbounded_channel();
        Self { up: Vec::new(), placed_to, placed, _tasks: Vec::new() }
    }

    /// Connects so many more and waits until each is welcome.
    pub async fn join(&mut self, controller_url: &str, more: usize) -> anyhow::Result<()> {
        let first = self.up.len();
        let joining = (first..first + more).map(|index| connect(controller_url.to_owned(), index));
        let joined: Vec<_> = stream::iter(joining).buffered(AT_ONCE).try_collect().await?;
        for (offset, (up, down, beat)) in joined.into_iter().enumerate() {
            let placed = self.placed_to.clone();
            let serve = serve(first + offset, up.clone(), down, beat, placed);
            self._tasks.push(task::spawn("simulated-worker", serve));
            self.up.push(up);
        }
        Ok(())
    }

    /// The next session that reached any of them.
    pub async fn placed(&mut self) -> anyhow::Result<Placed> {
        let placed = timeout(LIMIT, self.placed.recv()).await.context("no session is placed")?;
        placed.context("the workers are gone")
    }

    /// Tells that a session ran and ended well: the slot is free.
    pub async fn end(&self, placed: &Placed) -> anyhow::Result<()> {
        let applied = InputApplied { seq: placed.input, delivered: true, reason: String::new() };
        let end = End { reason: EndReason::TurnCompleted.into(), exit_code: Some(0), ..End::default() };
        let ended = AttemptEnded { end: Some(end), resumable: true, ..AttemptEnded::default() };
        let events = [
            Event::TurnStarted(TurnStarted::default()),
            Event::InputApplied(applied),
            Event::AttemptEnded(ended),
        ];
        for (event_seq, body) in (1..).zip(events) {
            let event = SessionEvent {
                session_id: placed.session.clone(),
                attempt: placed.attempt,
                event_seq,
                at: Some(muster_proto::time::now()),
                body: Some(body),
            };
            let message = ConnectRequest { body: Some(Up::Event(event)) };
            self.up[placed.worker].send(message).await.ok().context("a simulated worker is gone")?;
        }
        Ok(())
    }
}

type Link = (mpsc::Sender<ConnectRequest>, Streaming<ConnectResponse>, Duration);

async fn connect(controller_url: String, index: usize) -> anyhow::Result<Link> {
    let hello = Hello {
        worker: format!("simulated-{index}"),
        incarnation: Incarnation::generate().to_string(),
        protocol: Some(PROTOCOL),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        capacity: Some(Capacity { slots: 1, ..Capacity::default() }),
        labels: HashMap::from([("os".to_owned(), "linux".to_owned())]),
        projects: vec![Project {
            name: PROJECT.to_owned(),
            path: "/simulated".to_owned(),
            ..Project::default()
        }],
        claude_version: "2.1.330".to_owned(),
        ..Hello::default()
    };
    let (up, messages) = mpsc::channel(64);
    up.send(ConnectRequest { body: Some(Up::Hello(hello)) }).await?;
    let mut client = WorkerServiceClient::new(muster_runtime::grpc::connect(&controller_url)?);
    let mut down = client.connect(ReceiverStream::new(messages)).await?.into_inner();
    let first = timeout(LIMIT, down.message()).await.context("no welcome")??;
    let Some(Down::Welcome(welcome)) = first.and_then(|message| message.body) else {
        anyhow::bail!("a simulated worker is not welcome");
    };
    ensure!(welcome.heartbeat_interval_ms > 0, "no heartbeat is asked for");
    Ok((up, down, Duration::from_millis(welcome.heartbeat_interval_ms.into())))
}

async fn serve(
    worker: usize,
    up: mpsc::Sender<ConnectRequest>,
    mut down: Streaming<ConnectResponse>,
    beat: Duration,
    placed: mpsc::UnboundedSender<Placed>,
) {
    let mut beats = interval(beat);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seq = 0;
    loop {
        tokio::select! {
            message = down.message() => match message {
                Ok(Some(ConnectResponse { body: Some(Down::Start(start)) })) => {
                    let input = start.inputs.first().map_or(0, |input| input.seq);
                    let at = Instant::now();
                    let (session, attempt) = (start.session_id, start.attempt);
                    if placed.send(Placed { worker, session, attempt, input, at }).is_err() {
                        return;
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return,
            },
            _ = beats.tick() => {
                seq += 1;
                let heartbeat = Heartbeat { seq, ..Heartbeat::default() };
                if up.send(ConnectRequest { body: Some(Up::Heartbeat(heartbeat)) }).await.is_err() {
                    return;
                }
            }
        }
    }
}

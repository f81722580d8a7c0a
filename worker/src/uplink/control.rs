//! The control stream: Hello, orders down, events and heartbeats up.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use muster_proto::{
    PROTOCOL,
    ids::SessionId,
    v1::{
        Capacity, ConnectRequest, ConnectResponse, Hello, Project, SessionEvent, Welcome, connect_request,
        connect_response,
    },
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{Uplink, closed, host, queries::Queries, unexpected};
use crate::{clock::boot_time, config::Config, supervisor::lease::Lease};

/// Messages on their way up. When full, events wait on the board, which is where they are kept anyway.
const UP: usize = 64;
/// How long a controller may take to answer Hello.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// Used when the controller names no interval.
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(2);

/// A stream that has been welcomed.
pub(super) struct Opened {
    pub(super) welcome: Welcome,
    up: mpsc::Sender<ConnectRequest>,
    down: Streaming<ConnectResponse>,
    /// Subscribed before Hello was made, so that no change is missed.
    changed: watch::Receiver<u64>,
    /// When Hello was sent, since boot.
    began: Duration,
}

/// Most projects named in a Hello.
const MIRRORED: usize = 1000;
/// Acknowledgements of heartbeats that are waited for. Older ones are told by newer ones.
const HEARTBEATS: usize = 64;

/// What the heartbeats of one stream do for the lease.
struct Leasing {
    life: Duration,
    /// Of the last heartbeat.
    seq: u64,
    /// When each was sent, since boot.
    sent: VecDeque<(u64, Duration)>,
}

impl Leasing {
    /// `None` when the controller knows no leases. An attempt that an earlier one bound to its lease ends with that then: only
    /// a controller that counts may say how long it runs.
    fn new(welcome: &Welcome, began: Duration, lease: &Lease) -> Option<Self> {
        if welcome.protocol < 2 || welcome.lease_ms == 0 {
            return None;
        }
        let life = Duration::from_millis(welcome.lease_ms.into());
        // It was heard when it took the Hello.
        lease.grant(began, life);
        Some(Self { life, seq: 0, sent: VecDeque::new() })
    }

    /// Number of the next heartbeat, which is sent now.
    fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        if self.sent.len() == HEARTBEATS {
            self.sent.pop_front();
        }
        self.sent.push_back((self.seq, boot_time()));
        self.seq
    }

    fn acked(&mut self, seq: u64, lease: &Lease) {
        while let Some((number, at)) = self.sent.front().copied().filter(|(number, _)| *number <= seq) {
            self.sent.pop_front();
            if number == seq {
                lease.grant(at, self.life);
            }
        }
    }
}

pub(super) async fn open(uplink: &Uplink) -> Result<Opened, Status> {
    let (up, up_rx) = mpsc::channel(UP);
    let changed = uplink.supervisor.board().subscribe();
    let began = boot_time();
    let hello = connect_request::Body::Hello(hello(uplink));
    up.try_send(ConnectRequest { body: Some(hello) }).expect("a new channel has room");
    let stream = uplink.link.request(ReceiverStream::new(up_rx));
    let mut client = uplink.link.client();
    let welcomed = async {
        let mut down = client.connect(stream).await?.into_inner();
        let first = down.message().await?.ok_or_else(closed)?;
        match first.body {
            Some(connect_response::Body::Welcome(welcome)) => Ok((welcome, down)),
            _ => Err(unexpected(&first)),
        }
    };
    let (welcome, down) = tokio::time::timeout(WELCOME_TIMEOUT, welcomed)
        .await
        .map_err(|_| Status::deadline_exceeded("the controller does not answer"))??;
    Ok(Opened { welcome, up, down, changed, began })
}

fn hello(uplink: &Uplink) -> Hello {
    let context = uplink.supervisor.context();
    let config = &context.config;
    let project = |project: &crate::config::ProjectConfig| Project {
        name: project.name.clone(),
        path: project.path.to_string_lossy().into_owned(),
        git: project.path.ancestors().any(|dir| dir.join(".git").exists()),
        allow_trust_mode: project.allow_trust_mode,
        trusted: project.trusted,
        allow_push: project.allow_push,
    };
    Hello {
        worker: config.name.to_string(),
        incarnation: uplink.incarnation.to_string(),
        protocol: Some(PROTOCOL),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        capacity: Some(capacity(config)),
        labels: config.labels.clone().into_iter().collect(),
        projects: config.projects.iter().map(project).collect(),
        held: uplink.supervisor.board().held(),
        claude_version: context.claude.version.clone(),
        boot_id: host::boot_id(),
        serves_declared: config.declared.serve,
        mirrored_projects: context.mirrors.projects(MIRRORED),
    }
}

fn capacity(config: &Config) -> Capacity {
    Capacity {
        slots: config.slots,
        memory_per_session_bytes: config.needs.memory_bytes,
        disk_reserve_bytes: config.needs.disk_reserve_bytes,
        starts_at_once: config.needs.starts_at_once,
    }
}

/// Serves the stream until it ends; returns why.
pub(super) async fn serve(uplink: &Uplink, opened: Opened) -> Status {
    let Opened { welcome, up, mut down, mut changed, began } = opened;
    let lease = &uplink.supervisor.context().lease;
    let mut leasing = Leasing::new(&welcome, began, lease);
    let every = match welcome.heartbeat_interval_ms {
        0 => DEFAULT_HEARTBEAT,
        millis => Duration::from_millis(millis.into()),
    };
    let mut beat = tokio::time::interval(every);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut sent: HashMap<SessionId, u64> = HashMap::new();
    let mut queries = Queries::new(uplink.link.clone(), uplink.supervisor.shared_context());
    changed.mark_changed();
    loop {
        tokio::select! {
            order = down.message() => match order {
                Ok(Some(ConnectResponse { body: Some(connect_response::Body::HeartbeatAck(ack)) })) => {
                    if let Some(leasing) = &mut leasing {
                        leasing.acked(ack.seq, lease);
                    }
                }
                Ok(Some(order)) => dispatch(uplink, &mut queries, order),
                Ok(None) => return closed(),
                Err(status) => return status,
            },
            Ok(()) = changed.changed() => {
                changed.mark_unchanged();
                if send_events(uplink, &up, &mut sent).await.is_err() {
                    return closed();
                }
            }
            _ = beat.tick() => {
                let config = &uplink.supervisor.context().config;
                let seq = leasing.as_mut().map_or(0, Leasing::next_seq);
                let beat = host::heartbeat(uplink.supervisor.running(), &config.state_dir, seq);
                let body = Some(connect_request::Body::Heartbeat(beat));
                if up.send(ConnectRequest { body }).await.is_err() {
                    return closed();
                }
            }
        }
    }
}

/// Sends what this stream has not carried yet. A new stream carries everything that is not acknowledged.
async fn send_events(
    uplink: &Uplink,
    up: &mpsc::Sender<ConnectRequest>,
    sent: &mut HashMap<SessionId, u64>,
) -> Result<(), mpsc::error::SendError<ConnectRequest>> {
    let entries = uplink.supervisor.board().entries();
    if sent.len() > entries.len() {
        sent.retain(|session, _| uplink.supervisor.board().get(*session).is_some());
    }
    for entry in entries {
        if !sent.contains_key(&entry.session)
            && let Some(standing) = entry.view().standing
        {
            send(up, standing).await?;
        }
        let last = sent.entry(entry.session).or_default();
        for event in entry.take_after(*last) {
            *last = event.event_seq.max(*last);
            send(up, event).await?;
        }
    }
    Ok(())
}

async fn send(
    up: &mpsc::Sender<ConnectRequest>,
    event: SessionEvent,
) -> Result<(), mpsc::error::SendError<ConnectRequest>> {
    up.send(ConnectRequest { body: Some(connect_request::Body::Event(event)) }).await
}

/// Hands an order on. Never waits: a busy session must not hold up a stop of another.
fn dispatch(uplink: &Uplink, queries: &mut Queries, order: ConnectResponse) {
    let supervisor = &uplink.supervisor;
    match order.body {
        Some(connect_response::Body::Start(start)) => supervisor.start(start),
        Some(connect_response::Body::Input(input)) => supervisor.input(input),
        Some(connect_response::Body::Stop(stop)) => supervisor.stop(&stop),
        Some(connect_response::Body::Release(release)) => supervisor.release(release),
        Some(connect_response::Body::EventAck(ack)) => supervisor.acked(&ack.session_id, ack.event_seq),
        Some(connect_response::Body::Query(query)) => queries.ask(query),
        Some(connect_response::Body::Welcome(_)) => tracing::warn!("second Welcome on one stream; ignored"),
        _ => tracing::warn!("the controller sent an order this worker does not know; ignored"),
    }
}

//! The control stream: Hello, orders down, events and heartbeats up.

use std::{collections::HashMap, time::Duration};

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
}

pub(super) async fn open(uplink: &Uplink) -> Result<Opened, Status> {
    let (up, up_rx) = mpsc::channel(UP);
    let changed = uplink.supervisor.board().subscribe();
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
    Ok(Opened { welcome, up, down, changed })
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
        capacity: Some(Capacity { slots: config.slots, ..Capacity::default() }),
        labels: config.labels.clone().into_iter().collect(),
        projects: config.projects.iter().map(project).collect(),
        held: uplink.supervisor.board().held(),
        claude_version: context.claude.version.clone(),
        ..Hello::default()
    }
}

/// Serves the stream until it ends; returns why.
pub(super) async fn serve(uplink: &Uplink, opened: Opened) -> Status {
    let Opened { welcome, up, mut down, mut changed } = opened;
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
                let beat = host::heartbeat(uplink.supervisor.running(), &config.state_dir);
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

//! Output coming up from a worker.
//!
//! One task per stream. It appends what is there, then makes it durable at most every 20 ms or 1 MiB, and
//! only then acknowledges. Readers see bytes as soon as they are appended. Reading never waits for an answer
//! to be taken: a worker that sends for all its sessions before it reads would wait for us, and we for it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt as _, Stream};
use muster_proto::{
    error::Error,
    ids::{SessionId, WorkerId},
    limits,
    v1::{
        OutputAck, OutputChunk, OutputPosition, OutputUnknown, PushOutputRequest, PushOutputResponse,
        push_output_request, push_output_response::Body,
    },
};
use muster_runtime::task;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};
use tracing::warn;

use super::{Context, leaving, peer};
use crate::{
    fleet::link::Closed,
    output::{Appended, Replica},
};

/// Longest time between an append and its fdatasync.
const SYNC_AFTER: Duration = Duration::from_millis(20);
/// Most bytes between two fdatasyncs.
const SYNC_BYTES: usize = 1 << 20;
/// Bytes appended in one switch of threads.
const BATCH_BYTES: usize = 1 << 20;
/// A file that took nothing for this long is closed: a stream lives longer than most of its sessions.
const REST_AFTER: Duration = Duration::from_secs(10);
/// Kinds of answers about one session.
const ANSWERS_EACH: usize = 3;
/// Answers on their way to the worker. When full, the newest of each session wait and replace older ones.
const ANSWERS: usize = 64;

type Answers = Pin<Box<dyn Stream<Item = Result<PushOutputResponse, Status>> + Send>>;

/// Checks who pushes and starts to take its output.
pub(super) async fn open(
    context: &Context,
    request: Request<Streaming<PushOutputRequest>>,
) -> Result<Answers, Status> {
    let (worker, link) = peer::linked(context, &request).await?;
    let (answers, stream) = mpsc::channel(ANSWERS);
    let push = Push {
        context: context.clone(),
        worker,
        incoming: request.into_inner(),
        answers,
        open: HashMap::new(),
        unsynced: HashSet::new(),
        unsynced_bytes: 0,
        sync_at: None,
        used: HashSet::new(),
        rest_at: Instant::now() + REST_AFTER,
        waiting: BTreeMap::new(),
    };
    task::spawn("push output", push.run(link)).detach();
    Ok(Box::pin(ReceiverStream::new(stream)))
}

struct Push {
    context: Context,
    worker: WorkerId,
    incoming: Streaming<PushOutputRequest>,
    answers: mpsc::Sender<Result<PushOutputResponse, Status>>,
    /// Each with the epoch it was opened in.
    open: HashMap<SessionId, (Arc<Replica>, u64)>,
    unsynced: HashSet<SessionId>,
    unsynced_bytes: usize,
    sync_at: Option<Instant>,
    /// Sessions that took something since the last look at who rests.
    used: HashSet<SessionId>,
    rest_at: Instant,
    /// Answers that are not on their way yet, by session as the worker names it.
    waiting: BTreeMap<String, Waiting>,
}

/// What is to be said of one session: the newest of each kind.
#[derive(Default)]
struct Waiting {
    unknown: bool,
    position: Option<u64>,
    ack: Option<u64>,
}

impl Waiting {
    fn bodies(self, session_id: &str) -> impl Iterator<Item = Body> {
        let session_id = || session_id.to_owned();
        let unknown = self.unknown.then(|| Body::Unknown(OutputUnknown { session_id: session_id() }));
        let position = self.position.map(|offset| OutputPosition { session_id: session_id(), offset });
        let ack = self.ack.map(|offset| OutputAck { session_id: session_id(), offset });
        [unknown, position.map(Body::Position), ack.map(Body::Ack)].into_iter().flatten()
    }
}

enum Next {
    Message(PushOutputRequest),
    Sync,
    End(End),
}

/// Why a stream ends.
enum End {
    /// The worker is gone or ended it.
    Quiet,
    /// With this.
    Status(Status),
}

impl Push {
    async fn run(mut self, mut link: Closed) {
        let end = loop {
            // Gathered first, acted on after: the permits borrow what the acting changes.
            let next = tokio::select! {
                biased;
                why = link.closed() => Next::End(End::Status(why.into())),
                () = self.context.leaving.requested() => Next::End(End::Status(leaving().into())),
                () = due(self.sync_at) => Next::Sync,
                room = self.answers.reserve_many(ANSWERS_EACH), if !self.waiting.is_empty() => match room {
                    Ok(permits) => {
                        if let Some((session_id, waiting)) = self.waiting.pop_first() {
                            for (permit, body) in permits.zip(waiting.bodies(&session_id)) {
                                permit.send(Ok(PushOutputResponse { body: Some(body) }));
                            }
                        }
                        continue;
                    }
                    Err(_) => Next::End(End::Quiet),
                },
                message = self.incoming.message() => match message {
                    Ok(Some(message)) => Next::Message(message),
                    Ok(None) | Err(_) => Next::End(End::Quiet),
                },
            };
            let step = match next {
                Next::Message(message) => self.take(message).await,
                Next::Sync => self.sync().await,
                Next::End(end) => Err(end),
            };
            if let Err(end) = step {
                break end;
            }
        };
        // What was appended is worth an acknowledgement, if anyone still listens.
        let _ = self.sync().await;
        for (session_id, waiting) in std::mem::take(&mut self.waiting) {
            for body in waiting.bodies(&session_id) {
                // A worker that takes nothing more asks for its positions again.
                let _ = self.answers.try_send(Ok(PushOutputResponse { body: Some(body) }));
            }
        }
        if let End::Status(status) = end {
            let _ = self.answers.send(Err(status)).await;
        }
        for (replica, _) in self.open.values() {
            replica.rest();
        }
    }

    /// Takes a message and all that came with it, appends the chunks in one go.
    async fn take(&mut self, first: PushOutputRequest) -> Result<(), End> {
        let mut next = Some(first);
        let mut chunks = Vec::new();
        let mut bytes = 0;
        while let Some(message) = next.take() {
            match message.body {
                Some(push_output_request::Body::Open(open)) => {
                    // The position must not be behind chunks that came before.
                    self.append(std::mem::take(&mut chunks)).await?;
                    self.open(open.session_id, open.attempt).await?;
                }
                Some(push_output_request::Body::Chunk(chunk)) => {
                    bytes += chunk.data.len();
                    chunks.push(chunk);
                }
                None => {}
            }
            if bytes < BATCH_BYTES
                && let Some(Ok(message)) = self.incoming.message().now_or_never()
            {
                next = message;
            }
        }
        self.append(chunks).await?;
        if self.unsynced_bytes >= SYNC_BYTES { self.sync().await } else { Ok(()) }
    }

    async fn open(&mut self, session_id: String, attempt: u32) -> Result<(), End> {
        let id = session_id.parse().ok();
        // Before it is asked who may append: a fence between the two is noticed.
        let opened =
            id.map(|id: SessionId| self.context.replicas.of(id)).map(|r| (Arc::clone(&r), r.epoch()));
        let held = match id {
            Some(id) => {
                let held = self.context.engine.holds(self.worker.clone(), id, attempt).await;
                held.map_err(|error| End::Status(error.into()))?
            }
            None => false,
        };
        let Some((id, (replica, epoch))) = id.zip(opened).filter(|_| held) else {
            self.waiting.entry(session_id).or_default().unknown = true;
            return Ok(());
        };
        let offset = replica.end();
        self.open.insert(id, (replica, epoch));
        let waiting = self.waiting.entry(session_id).or_default();
        waiting.position = Some(offset);
        waiting.unknown = false;
        // What is held may never have been acknowledged.
        self.unsynced.insert(id);
        self.sync_at.get_or_insert(Instant::now() + SYNC_AFTER);
        Ok(())
    }

    async fn append(&mut self, chunks: Vec<OutputChunk>) -> Result<(), End> {
        if chunks.is_empty() {
            return Ok(());
        }
        let mut work = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            if chunk.data.len() > limits::CHUNK_BYTES {
                let message = format!(
                    "a chunk has {} bytes, more than the {} allowed",
                    chunk.data.len(),
                    limits::CHUNK_BYTES
                );
                return Err(End::Status(Error::invalid("data", message).into()));
            }
            let opened = chunk.session_id.parse().ok().and_then(|id| Some((id, self.open.get(&id)?.clone())));
            match opened {
                Some((id, (replica, epoch))) => {
                    crate::metrics::OUTPUT.add(chunk.data.len() as u64, ["from_worker"]);
                    work.push((id, replica, epoch, chunk));
                }
                None => self.waiting.entry(chunk.session_id).or_default().unknown = true,
            }
        }
        let appended = task::spawn_blocking("append output", move || {
            let append = |(id, replica, epoch, chunk): (SessionId, Arc<Replica>, u64, OutputChunk)| {
                (id, chunk.data.len(), replica.append(epoch, chunk.offset, &chunk.data))
            };
            work.into_iter().map(append).collect::<Vec<_>>()
        });
        let mut gaps = HashMap::new();
        for (id, bytes, result) in appended.await.map_err(|error| failed(&error))? {
            match result.map_err(|error| failed(&error))? {
                Appended::Held(_) => {
                    self.unsynced.insert(id);
                    self.unsynced_bytes += bytes;
                }
                Appended::Gap(end) => {
                    gaps.insert(id, end);
                }
                Appended::Fenced => {
                    self.open.remove(&id);
                    self.unsynced.remove(&id);
                    self.waiting.entry(id.to_string()).or_default().unknown = true;
                }
            }
        }
        if !self.unsynced.is_empty() {
            self.sync_at.get_or_insert(Instant::now() + SYNC_AFTER);
        }
        for (id, offset) in gaps {
            self.waiting.entry(id.to_string()).or_default().position = Some(offset);
        }
        Ok(())
    }

    /// Makes what was appended durable and acknowledges it.
    async fn sync(&mut self) -> Result<(), End> {
        self.sync_at = None;
        self.unsynced_bytes = 0;
        let unsynced = std::mem::take(&mut self.unsynced);
        self.used.extend(&unsynced);
        if Instant::now() >= self.rest_at {
            self.rest_at = Instant::now() + REST_AFTER;
            let used = std::mem::take(&mut self.used);
            self.open
                .iter()
                .filter(|(id, _)| !used.contains(id))
                .for_each(|(_, (replica, _))| replica.rest());
        }
        let replicas: Vec<_> =
            unsynced.into_iter().filter_map(|id| Some((id, Arc::clone(&self.open.get(&id)?.0)))).collect();
        if replicas.is_empty() {
            return Ok(());
        }
        let synced = task::spawn_blocking("sync output", move || {
            replicas.into_iter().map(|(id, replica)| (id, replica.sync())).collect::<Vec<_>>()
        });
        for (id, result) in synced.await.map_err(|error| failed(&error))? {
            let offset = result.map_err(|error| failed(&error))?;
            self.waiting.entry(id.to_string()).or_default().ack = Some(offset);
        }
        Ok(())
    }
}

/// Returns at `at`; never when there is none.
async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The stream ends; the worker opens it again and goes on from the position it is told.
fn failed(error: &dyn std::error::Error) -> End {
    warn!(error = %error, "output cannot be written; the worker keeps it");
    End::Status(Status::unavailable(format!("output cannot be written: {error}")))
}

#[cfg(test)]
mod tests;

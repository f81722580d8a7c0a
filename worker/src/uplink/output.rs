//! The output stream: bytes of every session, from where the controller's replica ends.
//!
//! Per session: Open, wait for the Position, then chunks. Sessions take turns chunk by chunk, so a flood of one delays
//! the others by one chunk each. At most [`WINDOW`] bytes of a session are unacknowledged; the rest waits in its spool.

use std::{collections::BTreeMap, fs::File, sync::Arc};

use bytes::Bytes;
use muster_proto::{
    ids::SessionId,
    limits::CHUNK_BYTES,
    v1::{
        OutputChunk, OutputOpen, PushOutputRequest, PushOutputResponse, push_output_request,
        push_output_response,
    },
};
use nix::fcntl::{FallocateFlags, fallocate};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::{Uplink, closed};
use crate::{spool::Reader, supervisor::board::Entry};

/// Bytes of one session on their way.
const WINDOW: u64 = 4 << 20;
/// Chunks queued towards the network: 2 MiB over all sessions. When full, everybody waits.
const UP: usize = 32;
/// A stream opened a moment before its Connect was registered is refused; that passes.
const REOPEN_AFTER: std::time::Duration = std::time::Duration::from_millis(50);
/// Tries before the whole link is given up.
const REOPENS: u32 = 20;

/// Where the pushing of one session stands.
struct Flow {
    entry: Arc<Entry>,
    reader: Reader,
    opened_attempt: u32,
    /// `None`: the controller has not said where it is.
    position: Option<Position>,
    /// The controller wants nothing of it on this stream.
    unknown: bool,
}

struct Position {
    next: u64,
    acked: u64,
}

/// Pushes until the stream ends; returns why.
pub(super) async fn push(uplink: &Uplink) -> Status {
    let mut tries = 0;
    loop {
        let ended = push_once(uplink).await;
        tries += 1;
        if ended.code() != Code::FailedPrecondition || tries > REOPENS {
            return ended;
        }
        tokio::time::sleep(REOPEN_AFTER).await;
    }
}

async fn push_once(uplink: &Uplink) -> Status {
    let (up, up_rx) = mpsc::channel(UP);
    let mut changed = uplink.supervisor.board().subscribe();
    changed.mark_changed();
    let mut client = uplink.link.client();
    let request = uplink.link.request(ReceiverStream::new(up_rx));
    // The response may begin only after the first message: send and receive side by side.
    let (responses_tx, mut responses) = mpsc::channel(UP);
    let receive = async {
        match client.push_output(request).await {
            Ok(stream) => forward(stream.into_inner(), &responses_tx).await,
            Err(status) => status,
        }
    };
    tokio::select! {
        ended = receive => ended,
        ended = send(uplink, &up, &mut changed, &mut responses) => ended,
    }
}

async fn forward(mut stream: Streaming<PushOutputResponse>, to: &mpsc::Sender<PushOutputResponse>) -> Status {
    loop {
        match stream.message().await {
            Ok(Some(response)) => {
                if to.send(response).await.is_err() {
                    return closed();
                }
            }
            Ok(None) => return closed(),
            Err(status) => return status,
        }
    }
}

async fn send(
    uplink: &Uplink,
    up: &mpsc::Sender<PushOutputRequest>,
    changed: &mut watch::Receiver<u64>,
    responses: &mut mpsc::Receiver<PushOutputResponse>,
) -> Status {
    let mut flows: BTreeMap<SessionId, Flow> = BTreeMap::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        while let Ok(response) = responses.try_recv() {
            on_response(&mut flows, response);
        }
        if changed.has_changed().unwrap_or(false) {
            changed.mark_unchanged();
            for entry in uplink.supervisor.board().entries() {
                let flow = flows.entry(entry.session).or_insert_with(|| Flow::new(Arc::clone(&entry)));
                if !Arc::ptr_eq(&flow.entry, &entry) {
                    *flow = Flow::new(entry); // forgotten, and taken on anew
                }
            }
        }
        let mut busy = false;
        for flow in flows.values_mut() {
            let Some(request) = flow.next(&mut buffer) else { continue };
            busy = true;
            if up.send(request).await.is_err() {
                return closed();
            }
        }
        if busy {
            continue;
        }
        tokio::select! {
            response = responses.recv() => match response {
                Some(response) => on_response(&mut flows, response),
                None => return closed(),
            },
            more = changed.changed() => {
                if more.is_err() {
                    return closed();
                }
                changed.mark_changed();
            }
        }
    }
}

fn on_response(flows: &mut BTreeMap<SessionId, Flow>, response: PushOutputResponse) {
    use push_output_response::Body;
    let session = match &response.body {
        Some(Body::Position(at)) => &at.session_id,
        Some(Body::Ack(ack)) => &ack.session_id,
        Some(Body::Unknown(unknown)) => &unknown.session_id,
        None => return,
    };
    let Some(flow) = session.parse::<SessionId>().ok().and_then(|id| flows.get_mut(&id)) else { return };
    match response.body {
        Some(Body::Position(at)) => {
            flow.skip_to(at.offset);
            flow.position = Some(Position { next: at.offset, acked: at.offset });
            flow.entry.note_output_acked(at.offset);
        }
        Some(Body::Ack(ack)) => {
            if let Some(position) = flow.position.as_mut() {
                position.acked = position.acked.max(ack.offset);
                flow.entry.note_output_acked(ack.offset);
                position.next = position.next.max(ack.offset);
            }
        }
        Some(Body::Unknown(_)) | None => flow.unknown = true,
    }
}

impl Flow {
    fn new(entry: Arc<Entry>) -> Self {
        let view = entry.view();
        let reader = Reader::new(&view.spool, view.base_offset);
        Self { entry, reader, opened_attempt: 0, position: None, unknown: false }
    }

    /// A power cut took bytes that the replica has: what comes next must not get their offsets. The bytes themselves are
    /// only in the replica from now on; here is a hole in their place.
    fn skip_to(&self, offset: u64) {
        let view = self.entry.view();
        if view.end_offset >= offset || offset < view.base_offset {
            return;
        }
        let session = self.entry.session;
        if view.running {
            tracing::error!(session.id = %session, "the replica is ahead of a session that runs; output may be lost");
            return;
        }
        // Never shortens the file, whatever somebody else appends meanwhile.
        let last = nix::libc::off_t::try_from(offset - view.base_offset - 1).unwrap_or_default();
        let extended = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&view.spool)
            .and_then(|file| Ok(fallocate(file, FallocateFlags::empty(), last, 1)?));
        match extended {
            Ok(()) => {
                let missing = offset - view.end_offset;
                tracing::warn!(session.id = %session, missing, "the last output is with the controller alone");
                self.entry.update(|view| view.end_offset = view.end_offset.max(offset));
            }
            Err(error) => {
                tracing::error!(session.id = %session, error = %error, "the spool cannot be brought up to the replica");
            }
        }
    }

    /// The next message for this session, if it has one to send now.
    fn next(&mut self, buffer: &mut [u8]) -> Option<PushOutputRequest> {
        let view = self.entry.view();
        let session_id = self.entry.session.to_string();
        if view.attempt > self.opened_attempt && view.end_offset > view.base_offset && !view.fenced {
            // Each attempt is announced, also to a controller that did not know the session before.
            self.opened_attempt = view.attempt;
            self.position = None;
            self.unknown = false;
            self.reader = Reader::new(&view.spool, view.base_offset);
            let open = OutputOpen { session_id, attempt: view.attempt };
            return Some(PushOutputRequest { body: Some(push_output_request::Body::Open(open)) });
        }
        if self.unknown || view.fenced {
            return None;
        }
        if view.released && !view.running && view.end_offset <= view.base_offset {
            // Not a byte was ever said: nothing to bring, and the journals go.
            self.unknown = true;
            self.entry.discard_output();
            return None;
        }
        let position = self.position.as_mut()?;
        if view.released && !view.running && position.acked >= view.end_offset {
            self.unknown = true;
            self.entry.discard_output();
            return None;
        }
        if position.next >= view.end_offset || position.next - position.acked >= WINDOW {
            return None;
        }
        if position.next < view.base_offset {
            tracing::warn!(session.id = %session_id, "the controller misses output this worker never had");
            self.unknown = true;
            return None;
        }
        let want = usize::try_from(view.end_offset - position.next).unwrap_or(CHUNK_BYTES).min(buffer.len());
        let got = match self.reader.read_at(position.next, &mut buffer[..want]) {
            Ok(got) => got,
            Err(error) => {
                tracing::warn!(session.id = %session_id, error = %error, "spool cannot be read, its output stays here");
                self.unknown = true;
                return None;
            }
        };
        if got == 0 {
            return None;
        }
        let data = Bytes::copy_from_slice(&buffer[..got]);
        let chunk = OutputChunk { session_id, offset: position.next, data };
        position.next += got as u64;
        Some(PushOutputRequest { body: Some(push_output_request::Body::Chunk(chunk)) })
    }
}

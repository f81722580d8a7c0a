//! Reading output: from the file, never from memory, so that a slow reader costs nothing.

use std::collections::VecDeque;

use bytes::Bytes;
use futures::{Stream, stream};
use muster_proto::{
    error::{Error, ErrorCode},
    limits,
    v1::{ReadOutputRequest, ReadOutputResponse},
};
use muster_runtime::task;
use tokio::sync::watch;
use tonic::Status;

use super::{Context, leaving};
use crate::{
    engine::{OutputState, Watcher},
    output::Replica,
};

/// Bytes of one read of the file: several chunks per switch of threads.
const READ: usize = 4 * limits::CHUNK_BYTES;

/// One reader.
pub(super) struct Reader {
    context: Context,
    state: OutputState,
    replica: std::sync::Arc<Replica>,
    grown: watch::Receiver<u64>,
    watcher: Option<Watcher>,
    /// Where the next byte comes from.
    at: u64,
    /// Where it ends, without follow or with a limit.
    until: Option<u64>,
    follow: bool,
    /// Read and not sent.
    ready: VecDeque<ReadOutputResponse>,
    done: bool,
    sent_any: bool,
}

impl Reader {
    pub(super) async fn open(context: Context, request: ReadOutputRequest) -> Result<Self, Error> {
        let mut state = context.engine.output(request.session).await?;
        let mut watcher = None;
        if request.follow {
            let id = state.id.to_string();
            watcher = Some(context.engine.watch(vec![id.clone()]).await?.0);
            // Again, now that no change can be missed.
            state = context.engine.output(id).await?;
        }
        let replica = context.replicas.of(state.id);
        let grown = replica.watch();
        let end = replica.end();
        let at = request.from_offset;
        if at > end {
            let message = format!("offset {at} lies past the end of the output, which is {end}");
            return Err(Error {
                field: "fromOffset".to_owned(),
                ..Error::new(ErrorCode::InvalidCursor, message)
            }
            .hint("Read from the end given, or from 0."));
        }
        let limit = (request.limit_bytes > 0).then(|| at.saturating_add(request.limit_bytes));
        let until = match (request.follow, limit) {
            (true, limit) => limit,
            (false, limit) => Some(limit.unwrap_or(end).min(end)),
        };
        let follow = request.follow;
        let ready = VecDeque::new();
        Ok(Self {
            context,
            state,
            replica,
            grown,
            watcher,
            at,
            until,
            follow,
            ready,
            done: false,
            sent_any: false,
        })
    }

    pub(super) fn stream(self) -> impl Stream<Item = Result<ReadOutputResponse, Status>> + Send {
        stream::unfold(Some(self), |reader| async move {
            let mut reader = reader?;
            match reader.next().await {
                Ok(Some(response)) => Some((Ok(response), Some(reader))),
                Ok(None) => None,
                Err(error) => Some((Err(error.into()), None)),
            }
        })
    }

    async fn next(&mut self) -> Result<Option<ReadOutputResponse>, Error> {
        loop {
            if let Some(response) = self.ready.pop_front() {
                self.sent_any = true;
                crate::metrics::OUTPUT.add(response.data.len() as u64, ["to_reader"]);
                return Ok(Some(response));
            }
            if self.done {
                return Ok(None);
            }
            if self.context.leaving.is_requested() && self.follow {
                return Err(leaving());
            }
            let end = *self.grown.borrow_and_update();
            let until = self.until.map_or(end, |until| until.min(end));
            if self.at < until {
                self.fill(until).await?;
            } else if self.is_over(end) {
                self.done = true;
                // An empty answer still says where the end is; after data it says that it has come.
                if !self.sent_any || self.follow {
                    self.ready.push_back(self.response(self.at, Bytes::new(), end));
                }
            } else {
                self.wait().await?;
            }
        }
    }

    /// Whether nothing will come after `end` that this reader wants.
    fn is_over(&self, end: u64) -> bool {
        !self.follow || self.until.is_some_and(|until| self.at >= until) || self.has_ended(end)
    }

    fn has_ended(&self, end: u64) -> bool {
        self.state.complete_at.is_some_and(|complete| end >= complete)
    }

    async fn fill(&mut self, until: u64) -> Result<(), Error> {
        let replica = std::sync::Arc::clone(&self.replica);
        let from = self.at;
        let most = usize::try_from(until - from).unwrap_or(READ).min(READ);
        let read = task::spawn_blocking("read output", move || replica.read(from, most)).await;
        let failed = |reason: String| {
            tracing::error!(session.id = %self.state.id, error = reason, "output cannot be read");
            Error::new(ErrorCode::StoreUnavailable, format!("the output cannot be read: {reason}"))
        };
        let mut data =
            read.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))?;
        let end = self.replica.end();
        while !data.is_empty() {
            let chunk = data.split_to(data.len().min(limits::CHUNK_BYTES));
            let offset = self.at;
            self.at += chunk.len() as u64;
            let response = self.response(offset, chunk, end);
            self.ready.push_back(response);
        }
        Ok(())
    }

    fn response(&self, offset: u64, data: Bytes, end_offset: u64) -> ReadOutputResponse {
        let ended = self.has_ended(end_offset);
        ReadOutputResponse { offset, data, end_offset, ended }
    }

    /// Waits for more output, or for the session to change.
    async fn wait(&mut self) -> Result<(), Error> {
        let Some(watcher) = &mut self.watcher else { return Ok(()) };
        tokio::select! {
            grown = self.grown.changed() => if grown.is_err() { self.done = true },
            _ = watcher.changed() => {
                self.state = self.context.engine.output(self.state.id.to_string()).await?;
            }
            () = self.context.leaving.requested() => return Err(leaving()),
        }
        Ok(())
    }
}

//! A stream of session changes that outlives a restart of the controller.
//!
//! Used by `wait`, `ps --watch` and `up`. Nothing is lost by reconnecting: the first message of every stream
//! holds each watched session as it is.

use std::time::{Duration, Instant};

use futures::{Stream, stream};
use muster_proto::v1::{Session, WatchSessionsRequest, WatchSessionsResponse};
use muster_runtime::backoff::Backoff;
use tonic::{Status, Streaming};

use crate::{
    client::{Client, is_gone},
    failure::Failure,
    output,
};

/// How long a controller that answered before may be away: long enough for an upgrade of it.
const PATIENCE: Duration = Duration::from_secs(60);
const FIRST_DELAY: Duration = Duration::from_millis(100);
const MAX_DELAY: Duration = Duration::from_secs(2);

/// Sessions that changed, or all of them.
#[derive(Debug)]
pub struct Update {
    /// True: these are all there are; false: these changed.
    pub whole: bool,
    /// The sessions.
    pub sessions: Vec<Session>,
}

/// Follows sessions.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    names: Vec<String>,
    stream: Option<Streaming<WatchSessionsResponse>>,
    /// The next message of the stream is its first.
    fresh: bool,
    /// Since when nobody answers, once somebody did.
    away_since: Option<Instant>,
    answered: bool,
    backoff: Backoff,
}

impl Watch {
    /// Follows the sessions named; none: every session that is not archived.
    pub fn new(client: Client, names: Vec<String>) -> Self {
        let backoff = Backoff::new(FIRST_DELAY, MAX_DELAY);
        Self { client, names, stream: None, fresh: true, away_since: None, answered: false, backoff }
    }

    /// The changes as a stream that keeps its place while its reader looks elsewhere. Ends after an error.
    pub fn updates(self) -> impl Stream<Item = Result<Update, Failure>> {
        stream::unfold(Some(self), |watch| async move {
            let mut watch = watch?;
            let update = watch.next().await;
            let watch = update.is_ok().then_some(watch);
            Some((update, watch))
        })
    }

    /// The next change. To be awaited to its end: dropped half-way, it begins to connect anew.
    ///
    /// # Errors
    /// When a named session does not exist, when nobody answers the first time, or not again for a minute.
    pub async fn next(&mut self) -> Result<Update, Failure> {
        loop {
            match self.receive().await {
                Ok(Some(response)) => {
                    if self.away_since.take().is_some() {
                        output::stderr_line("the controller is back");
                    }
                    self.answered = true;
                    self.backoff.reset();
                    let whole = std::mem::replace(&mut self.fresh, false);
                    return Ok(Update { whole, sessions: response.sessions });
                }
                Ok(None) => self.lost(&Status::unavailable("the controller ended the stream")).await?,
                Err(status) => self.lost(&status).await?,
            }
        }
    }

    async fn receive(&mut self) -> Result<Option<WatchSessionsResponse>, Status> {
        if self.stream.is_none() {
            let request = WatchSessionsRequest { sessions: self.names.clone() };
            self.stream = Some(self.client.sessions.watch_sessions(request).await?.into_inner());
            self.fresh = true;
        }
        match &mut self.stream {
            Some(stream) => stream.message().await,
            None => Ok(None),
        }
    }

    /// Waits before the next try, or gives up.
    async fn lost(&mut self, status: &Status) -> Result<(), Failure> {
        self.stream = None;
        if !self.answered || !is_gone(status) {
            return Err(self.client.failed(status));
        }
        if self.away_since.is_none() {
            output::stderr_line("the controller is away, trying again");
        }
        if self.away_since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
            return Err(self.client.failed(status));
        }
        tokio::time::sleep(self.backoff.next_delay()).await;
        Ok(())
    }
}

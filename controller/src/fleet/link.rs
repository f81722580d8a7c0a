//! The pipe of commands to one worker.
//!
//! The engine holds the [`Link`], the gRPC stream reads the [`Commands`]. The pipe is bounded; when it is
//! full the link is cut, because a worker that connects again is told everything it needs by reconciliation.

use futures::stream::{self, Stream};
use muster_proto::{
    error::{Error, ErrorCode},
    v1::ConnectResponse,
};
use tokio::sync::{mpsc, watch};
use tonic::Status;

/// Commands on their way to one worker. Past it the link is cut.
const COMMANDS: usize = 1024;

/// One Connect stream, told apart from every other of this process.
pub type LinkId = u64;

/// Why the controller ends a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// The same worker name connected again.
    Replaced,
    /// The worker took its commands too slowly.
    Overflow,
    /// What it reported could not be made durable: it reports again after a new Hello.
    Store,
    /// Another live process shows the same identity.
    Duplicate,
    /// The controller leaves.
    Shutdown,
}

impl From<Closing> for Status {
    fn from(closing: Closing) -> Self {
        match closing {
            Closing::Replaced => Self::aborted("this worker name connected again; the newer link goes on"),
            Closing::Overflow => Self::unavailable("commands were not taken in time; connect again"),
            Closing::Store => Self::unavailable("the store cannot write; connect again"),
            Closing::Duplicate => Error::new(
                ErrorCode::DuplicateWorker,
                "another live process shows the identity of this worker",
            )
            .into(),
            Closing::Shutdown => Self::unavailable("the controller is shutting down; connect again"),
        }
    }
}

/// The engine's end.
#[derive(Debug)]
pub struct Link {
    /// Which stream.
    pub id: LinkId,
    commands: mpsc::Sender<ConnectResponse>,
    closing: watch::Sender<Option<Closing>>,
}

/// The stream's end.
#[derive(Debug)]
pub struct Commands {
    commands: mpsc::Receiver<ConnectResponse>,
    closing: watch::Receiver<Option<Closing>>,
}

/// Tells when a link is closed by the controller.
#[derive(Debug, Clone)]
pub struct Closed(watch::Receiver<Option<Closing>>);

impl Closed {
    /// Returns once the link is closed, and why.
    pub async fn closed(&mut self) -> Closing {
        match self.0.wait_for(Option::is_some).await {
            Ok(closing) => closing.unwrap_or(Closing::Shutdown),
            // The engine forgot the link without a reason: it is gone itself.
            Err(_) => Closing::Shutdown,
        }
    }
}

/// Both ends of a new link.
#[must_use]
pub fn open(id: LinkId) -> (Link, Commands) {
    let (commands, queue) = mpsc::channel(COMMANDS);
    let closing = watch::Sender::new(None);
    let receiver = closing.subscribe();
    (Link { id, commands, closing }, Commands { commands: queue, closing: receiver })
}

impl Link {
    /// Puts a command in the pipe; false when it is full or nobody reads it.
    #[must_use]
    pub fn offer(&self, command: ConnectResponse) -> bool {
        self.commands.try_send(command).is_ok()
    }

    /// Ends the stream with the status of `why`.
    pub fn close(&self, why: Closing) {
        self.closing.send_replace(Some(why));
    }

    /// Tells when this link is closed.
    #[must_use]
    pub fn watch(&self) -> Closed {
        Closed(self.closing.subscribe())
    }
}

impl Commands {
    /// Tells when this link is closed.
    #[must_use]
    pub fn watch(&self) -> Closed {
        Closed(self.closing.clone())
    }

    /// What goes down the stream: `first`, then every command, then the status the link is closed with.
    pub fn stream(self, first: Vec<ConnectResponse>) -> impl Stream<Item = Result<ConnectResponse, Status>> {
        let closed = self.watch();
        let state = Some((first.into_iter(), self.commands, closed));
        stream::unfold(state, |state| async move {
            let (mut first, mut commands, mut closed) = state?;
            if let Some(command) = first.next() {
                return Some((Ok(command), Some((first, commands, closed))));
            }
            tokio::select! {
                biased;
                why = closed.closed() => Some((Err(why.into()), None)),
                command = commands.recv() => Some((Ok(command?), Some((first, commands, closed)))),
            }
        })
    }
}

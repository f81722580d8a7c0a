//! The one owner of what sessions are.
//!
//! An actor: callers ask through [`Handle`]. It takes what waits as one batch, applies it to copies, makes
//! all of it durable with one commit of the store, and only then installs the copies, answers, and tells
//! workers and watchers. So nothing is ever said that a crash could take back, and a failed commit changes
//! nothing. Arrows: service -> engine -> {session, scheduler, fleet, output, store}, never back.

mod archive;
mod attach;
mod book;
mod declare;
mod events;
mod expire;
mod input;
mod lease;
mod maintain;
mod observe;
mod place;
mod read;
mod recover;
mod resume;
mod run;
mod scope;
mod spawn;
mod stage;
mod stop;
mod tree;
mod watch;
mod workplace;

use std::time::Duration;

use muster_proto::{
    error::{Error, ErrorCode},
    ids::{Incarnation, SessionId, WorkerId},
    v1::{
        self, ConnectResponse, DeclaredProject, Delivery, Heartbeat, Hello, ProjectPolicy, SessionEvent,
        SessionSpec, WorkspaceQuery, send_input_request,
    },
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    audit::Audit,
    fleet::link::{Closed, Link, LinkId},
    scheduler::Policy,
};
pub use maintain::Order;
pub use read::{ListQuery, Listed, OutputState, Place};
pub use recover::{RecoverError, start};
use scope::Named;
pub use scope::Scope;
pub use tree::TreeLimits;
pub use watch::{Selection, Watcher};
pub use workplace::{Purpose, Workplace};

/// Messages that wait for the engine. When full, callers wait: nothing is dropped.
const MAILBOX: usize = 4096;

/// What the engine needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// How often it looks at the workers.
    pub tick: Duration,
    /// After how long a worker counts as silent.
    pub unreachable_after: Duration,
    /// How long archived sessions are kept; none: for ever.
    pub keep_ended: Option<Duration>,
    /// How the farm is shared.
    pub policy: Policy,
    /// How far sessions may spawn sessions.
    pub tree: TreeLimits,
    /// How long a worker that hears nothing may run attempts that are started elsewhere then; zero: none are.
    pub lease: Duration,
    /// What passes beyond the lease before they are: the time a stop takes, and a margin.
    pub lease_margin: Duration,
    /// How often workers say that they are there.
    pub heartbeat_interval: Duration,
    /// Where it is noted what it does by itself.
    pub audit: Option<Audit>,
}

impl Default for Config {
    /// A look a second, silence after ten, everything kept, everybody alike.
    fn default() -> Self {
        Self {
            tick: Duration::from_secs(1),
            unreachable_after: Duration::from_secs(10),
            keep_ended: None,
            policy: Policy::default(),
            tree: TreeLimits::default(),
            lease: Duration::from_secs(60),
            lease_margin: Duration::from_secs(45),
            heartbeat_interval: Duration::from_secs(2),
            audit: None,
        }
    }
}

type Reply<T> = oneshot::Sender<Result<T, Error>>;

enum Message {
    Change(Change),
    Read(Read),
}

/// What may change a session: applied in batches, durable before it is answered.
enum Change {
    Spawn {
        request: Box<SpawnRequest>,
        scope: Scope,
        reply: Reply<(v1::Session, bool)>,
    },
    Input {
        request: InputRequest,
        scope: Scope,
        reply: Reply<(v1::Session, bool, Delivery)>,
    },
    Stop {
        session: Named,
        reason: String,
        reply: Reply<(v1::Session, bool)>,
    },
    Archive {
        session: Named,
        reply: Reply<(v1::Session, bool)>,
    },
    Attach {
        hello: Box<Attach>,
        reply: Reply<Attached>,
    },
    Detach {
        worker: WorkerId,
        link: LinkId,
    },
    Heartbeat {
        worker: WorkerId,
        link: LinkId,
        heartbeat: Heartbeat,
    },
    Event {
        worker: WorkerId,
        link: LinkId,
        event: Box<SessionEvent>,
    },
    PutProject {
        policy: Box<ProjectPolicy>,
        if_revision: u64,
        caller: String,
        reply: Reply<(DeclaredProject, bool)>,
    },
    RemoveProject {
        name: String,
        reply: Reply<()>,
    },
    Maintain {
        worker: WorkerId,
        order: Order,
        reply: Reply<v1::Worker>,
    },
}

/// What changes nothing: answered from what is installed.
enum Read {
    Get { session: Named, reply: Reply<v1::Session> },
    List { query: Box<ListQuery>, scope: Scope, reply: Reply<Listed> },
    Explain { session: Named, reply: Reply<v1::ExplainSessionResponse> },
    Workers { reply: Reply<Vec<v1::Worker>> },
    Empty { worker: WorkerId, reply: Reply<()> },
    Watch { sessions: Vec<String>, scope: Scope, reply: Reply<(Watcher, Vec<v1::Session>)> },
    Views { ids: Vec<SessionId>, scope: Scope, reply: Reply<Vec<v1::Session>> },
    Output { session: Named, reply: Reply<OutputState> },
    Link { worker: WorkerId, incarnation: Incarnation, reply: Reply<Option<Closed>> },
    Projects { scope: Scope, reply: Reply<Vec<DeclaredProject>> },
    Lives { session: SessionId, reply: Reply<bool> },
    Resolve { session: Named, reply: Reply<SessionId> },
    Holds { worker: WorkerId, session: SessionId, attempt: u32, reply: Reply<bool> },
    Workplace { session: Named, purpose: Purpose, reply: Reply<Workplace> },
    Query { worker: WorkerId, link: LinkId, query: Box<WorkspaceQuery>, reply: Reply<()> },
}

/// A checked request for a session.
#[derive(Debug)]
pub struct SpawnRequest {
    /// Checked, but for what depends on the fleet.
    pub spec: SessionSpec,
    /// Empty: none.
    pub request_id: String,
    /// Trace context of the caller.
    pub traceparent: String,
    /// Who asks.
    pub caller: String,
}

/// A checked request for input.
#[derive(Debug)]
pub struct InputRequest {
    /// Id, handle or prefix.
    pub session: String,
    /// Empty: none.
    pub request_id: String,
    /// What to give it.
    pub input: send_input_request::Input,
}

/// A worker that said a valid Hello, and the pipe to it.
#[derive(Debug)]
pub struct Attach {
    /// Its name.
    pub worker: WorkerId,
    /// Of its process.
    pub incarnation: Incarnation,
    /// As sent.
    pub hello: Hello,
    /// Version of the protocol both speak.
    pub protocol: u32,
    /// The pipe.
    pub link: Link,
}

/// What became of a worker that said Hello.
#[derive(Debug)]
pub enum Attached {
    /// It is linked, and is to be told this first, Welcome not included.
    Linked(Vec<ConnectResponse>),
    /// Another process has its link and may be gone or not: it asks again in a moment.
    Wait,
}

/// The way to ask the engine, for somebody who may see some of the sessions or all. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    mailbox: mpsc::Sender<Message>,
    scope: Scope,
}

impl Handle {
    /// The same for somebody who sees less, or more.
    #[must_use]
    pub fn scoped(&self, scope: Scope) -> Self {
        Self { mailbox: self.mailbox.clone(), scope }
    }

    fn named(&self, text: String) -> Named {
        Named { text, scope: self.scope.clone() }
    }

    async fn ask<T>(&self, message: impl FnOnce(Reply<T>) -> Message) -> Result<T, Error> {
        let gone = || {
            Error::new(ErrorCode::ControllerUnavailable, "the controller is shutting down").hint("Try again.")
        };
        let (reply, answer) = oneshot::channel();
        self.mailbox.send(message(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    async fn change<T>(&self, change: impl FnOnce(Reply<T>) -> Change) -> Result<T, Error> {
        self.ask(|reply| Message::Change(change(reply))).await
    }

    async fn read<T>(&self, read: impl FnOnce(Reply<T>) -> Read) -> Result<T, Error> {
        self.ask(|reply| Message::Read(read(reply))).await
    }

    /// Accepts a session; true: it was accepted before.
    ///
    /// # Errors
    /// As the RPC documents; so for all that follow.
    pub async fn spawn(&self, request: SpawnRequest) -> Result<(v1::Session, bool), Error> {
        let request = Box::new(request);
        let scope = self.scope.clone();
        self.change(|reply| Change::Spawn { request, scope, reply }).await
    }

    /// Gives a session input; true: it was given before.
    pub async fn input(&self, request: InputRequest) -> Result<(v1::Session, bool, Delivery), Error> {
        let scope = self.scope.clone();
        self.change(|reply| Change::Input { request, scope, reply }).await
    }

    /// Stops a session; true: it was not stopped before.
    pub async fn stop(&self, session: String, reason: String) -> Result<(v1::Session, bool), Error> {
        let session = self.named(session);
        self.change(|reply| Change::Stop { session, reason, reply }).await
    }

    /// Archives a session; true: it was not archived before. Does not wait for the worker.
    pub async fn archive(&self, session: String) -> Result<(v1::Session, bool), Error> {
        let session = self.named(session);
        self.change(|reply| Change::Archive { session, reply }).await
    }

    /// Links a worker.
    pub async fn attach(&self, hello: Attach) -> Result<Attached, Error> {
        let hello = Box::new(hello);
        self.change(|reply| Change::Attach { hello, reply }).await
    }

    /// A link ended.
    pub async fn detach(&self, worker: WorkerId, link: LinkId) {
        // An engine that is gone has no links.
        let _ = self.mailbox.send(Message::Change(Change::Detach { worker, link })).await;
    }

    /// A worker is there.
    pub async fn heartbeat(&self, worker: WorkerId, link: LinkId, heartbeat: Heartbeat) {
        let change = Change::Heartbeat { worker, link, heartbeat };
        let _ = self.mailbox.send(Message::Change(change)).await;
    }

    /// Something happened to a session. Acknowledged to the worker once durable.
    pub async fn event(&self, worker: WorkerId, link: LinkId, event: SessionEvent) {
        let event = Box::new(event);
        let _ = self.mailbox.send(Message::Change(Change::Event { worker, link, event })).await;
    }

    /// Reads one session.
    pub async fn get(&self, session: String) -> Result<v1::Session, Error> {
        let session = self.named(session);
        self.read(|reply| Read::Get { session, reply }).await
    }

    /// Lists sessions.
    pub async fn list(&self, query: ListQuery) -> Result<Listed, Error> {
        let (query, scope) = (Box::new(query), self.scope.clone());
        self.read(|reply| Read::List { query, scope, reply }).await
    }

    /// Why a session waits.
    pub async fn explain(&self, session: String) -> Result<v1::ExplainSessionResponse, Error> {
        let session = self.named(session);
        self.read(|reply| Read::Explain { session, reply }).await
    }

    /// Every worker.
    pub async fn workers(&self) -> Result<Vec<v1::Worker>, Error> {
        self.read(|reply| Read::Workers { reply }).await
    }

    /// Keeps a worker from sessions, or lets it have them again.
    pub async fn maintain(&self, worker: WorkerId, order: Order) -> Result<v1::Worker, Error> {
        self.change(|reply| Change::Maintain { worker, order, reply }).await
    }

    /// Returns once nothing runs on a worker.
    pub async fn empty(&self, worker: WorkerId) -> Result<(), Error> {
        self.read(|reply| Read::Empty { worker, reply }).await
    }

    /// Watches sessions (none named: all that are not archived), and reads them as they are.
    pub async fn watch(&self, sessions: Vec<String>) -> Result<(Watcher, Vec<v1::Session>), Error> {
        let scope = self.scope.clone();
        self.read(|reply| Read::Watch { sessions, scope, reply }).await
    }

    /// Reads sessions by id; ones that do not exist are left out.
    pub async fn views(&self, ids: Vec<SessionId>) -> Result<Vec<v1::Session>, Error> {
        let scope = self.scope.clone();
        self.read(|reply| Read::Views { ids, scope, reply }).await
    }

    /// What a reader of output has to know of a session.
    pub async fn output(&self, session: String) -> Result<OutputState, Error> {
        let session = self.named(session);
        self.read(|reply| Read::Output { session, reply }).await
    }

    /// Declares a project; true: one of the name was declared before.
    pub async fn put_project(
        &self,
        policy: ProjectPolicy,
        if_revision: u64,
        caller: String,
    ) -> Result<(DeclaredProject, bool), Error> {
        let policy = Box::new(policy);
        self.change(|reply| Change::PutProject { policy, if_revision, caller, reply }).await
    }

    /// Takes no new sessions of a project any more.
    pub async fn remove_project(&self, name: String) -> Result<(), Error> {
        self.change(|reply| Change::RemoveProject { name, reply }).await
    }

    /// Declared projects that may be known of, by name.
    pub async fn projects(&self) -> Result<Vec<DeclaredProject>, Error> {
        let scope = self.scope.clone();
        self.read(|reply| Read::Projects { scope, reply }).await
    }

    /// Whether a session has not ended, so that what is for it alone counts.
    pub async fn lives(&self, session: SessionId) -> Result<bool, Error> {
        self.read(|reply| Read::Lives { session, reply }).await
    }

    /// The id of a session.
    pub async fn resolve(&self, session: String) -> Result<SessionId, Error> {
        let session = self.named(session);
        self.read(|reply| Read::Resolve { session, reply }).await
    }

    /// The link of a worker, if it is of that incarnation.
    pub async fn link(&self, worker: WorkerId, incarnation: Incarnation) -> Result<Option<Closed>, Error> {
        self.read(|reply| Read::Link { worker, incarnation, reply }).await
    }

    /// Where the work of a session is, and the link to ask over.
    pub async fn workplace(&self, session: String, purpose: Purpose) -> Result<Workplace, Error> {
        let session = self.named(session);
        self.read(|reply| Read::Workplace { session, purpose, reply }).await
    }

    /// Sends a question over a link that must still be the worker's own.
    pub async fn query(&self, worker: WorkerId, link: LinkId, query: WorkspaceQuery) -> Result<(), Error> {
        let query = Box::new(query);
        self.read(|reply| Read::Query { worker, link, query, reply }).await
    }

    /// Whether the output of a session comes from this attempt on this worker. An older one is refused: a
    /// machine set back to an image of yesterday would go on writing where it was then.
    pub async fn holds(&self, worker: WorkerId, session: SessionId, attempt: u32) -> Result<bool, Error> {
        self.read(|reply| Read::Holds { worker, session, attempt, reply }).await
    }
}

#[cfg(test)]
mod interleavings;
#[cfg(test)]
mod tests;

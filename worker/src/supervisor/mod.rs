//! All sessions on this machine: one actor each, and the way to them.
//!
//! The uplink calls [`Supervisor`] with the controller's orders and reads the [`board`] for what to tell. Sessions do
//! not know whether there is a controller.

mod attempt;
pub(crate) mod board;
mod ending;
mod environment;
mod launching;
pub(crate) mod lease;
mod leftovers;
mod locate;
pub(crate) mod orphans;
mod outbox;
mod phase;
pub(crate) mod reaper;
mod session;
mod setup;
pub(crate) mod terms;
mod transcripts;

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use muster_proto::{
    ids::SessionId,
    v1::{ApplyInput, ReleaseWorkspace, StartSession, StopAttempt},
};
use muster_runtime::task::{self, Task};
use tokio::sync::{Semaphore, mpsc};

use self::{
    board::{Board, View},
    lease::Lease,
    outbox::Outbox,
    session::{Command, Session},
};
use crate::{
    agent::claude::version::Installed,
    config::{Config, Controller},
    local_state::{self, Record, SessionDir},
    room,
    workspace::{mirror::Mirrors, worktree::Worktrees},
};

/// Orders queued for one session. The controller has at most 64 inputs on their way; when full, the order is dropped and
/// the controller gives it again after the next Hello.
const COMMANDS: usize = 256;

/// What every session needs.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) claude: Installed,
    pub(crate) worktrees: Worktrees,
    pub(crate) mirrors: Mirrors,
    pub(crate) lease: Lease,
    /// Starts side by side: claude takes about a second of one core until it speaks.
    starts: Arc<Semaphore>,
    running: Arc<AtomicU32>,
}

/// A session's share of the worker; given back when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    running: Arc<AtomicU32>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.running.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Context {
    fn take_slot(&self) -> Option<Slot> {
        let free = |running: u32| (running < self.config.slots).then_some(running + 1);
        let taken = self.running.fetch_update(Ordering::AcqRel, Ordering::Acquire, free);
        taken.is_ok().then(|| Slot { running: Arc::clone(&self.running) })
    }

    fn force_slot(&self) -> Slot {
        self.running.fetch_add(1, Ordering::AcqRel);
        Slot { running: Arc::clone(&self.running) }
    }
}

struct Actor {
    commands: mpsc::Sender<Command>,
    _task: Task<()>,
}

/// See the module.
pub(crate) struct Supervisor {
    context: Arc<Context>,
    board: Board,
    actors: Mutex<HashMap<SessionId, Actor>>,
    /// Held while a session is taken on or forgotten.
    taking_on: Mutex<()>,
}

impl Supervisor {
    /// A supervisor over what is on disk: sessions whose shim lives go on, the others are told as ended.
    pub(crate) fn restore(config: Config, claude: Installed) -> io::Result<Self> {
        let worktrees = Worktrees::new(&config.state_dir);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let starts = Arc::new(Semaphore::new(cores));
        let (lease, running) = (Lease::new(), Arc::default());
        let local = matches!(config.controller, Controller::Local(_));
        let mirrors = Mirrors::new(&config.state_dir, &config.declared, local);
        let context = Arc::new(Context { config, claude, worktrees, mirrors, lease, starts, running });
        let supervisor =
            Self { context, board: Board::new(), actors: Mutex::default(), taking_on: Mutex::default() };
        for id in local_state::list(&supervisor.context.config.state_dir)? {
            if let Err(error) = supervisor.restore_one(id) {
                tracing::error!(session.id = %id, error = %error, "session on disk cannot be restored; left as it is");
            }
        }
        Ok(supervisor)
    }

    fn restore_one(&self, id: SessionId) -> io::Result<()> {
        let dir = self.dir(id);
        let Some(record) = dir.read_record()? else { return Ok(()) };
        let start = dir.newest_start()?;
        self.spawn(id, dir, record, start)
    }

    fn dir(&self, id: SessionId) -> SessionDir {
        SessionDir::new(&self.context.config.state_dir, id)
    }

    fn spawn(
        &self,
        id: SessionId,
        dir: SessionDir,
        record: Record,
        start: Option<StartSession>,
    ) -> io::Result<()> {
        let outbox = Outbox::open(&dir.events())?;
        let ended = outbox.ended_attempt();
        let newest = start.as_ref().map_or(ended, |start| start.attempt.max(ended));
        let last_input = start.as_ref().and_then(|start| start.inputs.iter().map(|input| input.seq).max());
        let view = View {
            attempt: newest,
            running: false,
            released: record.released,
            fenced: false,
            spool: dir.spool(),
            base_offset: record.base_offset,
            end_offset: record.base_offset + dir.spool_bytes(),
            last_input: last_input.unwrap_or_default(),
            activity: None,
            standing: None,
        };
        let entry = self.board.enter(id, outbox, view);
        let resumes = start.filter(|start| start.attempt > ended);
        if resumes.is_some() {
            entry.update(|view| view.running = true);
        }
        let (commands, commands_rx) = mpsc::channel(COMMANDS);
        let session = Session::new(Arc::clone(&self.context), id, dir, record, entry, commands_rx);
        let task = task::spawn("session", session.run(resumes));
        self.actors().insert(id, Actor { commands, _task: task });
        Ok(())
    }

    fn taking_on(&self) -> std::sync::MutexGuard<'_, ()> {
        self.taking_on.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn actors(&self) -> std::sync::MutexGuard<'_, HashMap<SessionId, Actor>> {
        self.actors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn board(&self) -> &Board {
        &self.board
    }

    pub(crate) fn context(&self) -> &Context {
        &self.context
    }

    pub(crate) fn shared_context(&self) -> Arc<Context> {
        Arc::clone(&self.context)
    }

    /// Attempts that run.
    pub(crate) fn running(&self) -> u32 {
        self.context.running.load(Ordering::Acquire)
    }

    /// Places an attempt. Idempotent.
    pub(crate) fn start(&self, start: StartSession) {
        let record = Record::new(&start.handle, start.output_base_offset);
        self.command(&start.session_id.clone(), Some(record), Command::Start(Box::new(start)));
    }

    /// One more input.
    pub(crate) fn input(&self, order: ApplyInput) {
        if let Some(input) = order.input {
            self.command(&order.session_id, None, Command::Input { attempt: order.attempt, input });
        }
    }

    /// Ends an attempt. Idempotent.
    pub(crate) fn stop(&self, order: &StopAttempt) {
        let record = Record::new("", 0);
        self.command(
            &order.session_id,
            Some(record),
            Command::Stop { attempt: order.attempt, fenced: order.fenced },
        );
    }

    /// Keeps a workspace's state and removes it. Idempotent.
    pub(crate) fn release(&self, order: ReleaseWorkspace) {
        let record = Record::new("", 0);
        self.command(&order.session_id, Some(record), Command::Release(order.workspace.unwrap_or_default()));
    }

    /// The controller has these events.
    pub(crate) fn acked(&self, session_id: &str, seq: u64) {
        if let Some(entry) = session_id.parse().ok().and_then(|id| self.board.get(id)) {
            entry.acked(seq);
        }
    }

    /// Hands an order to a session's actor, which is made from `record` if there is none and the order needs one.
    fn command(&self, session_id: &str, record: Option<Record>, command: Command) {
        let Ok(id) = session_id.parse::<SessionId>() else {
            tracing::warn!(session.id = session_id, "order for a session whose id is malformed; ignored");
            return;
        };
        let taking_on = self.taking_on();
        if !self.actors().contains_key(&id) {
            let Some(record) = record else {
                tracing::debug!(session.id = %id, "order for a session this worker does not hold; void");
                return;
            };
            let dir = self.dir(id);
            let made = match dir.create() {
                // The session waits for room with everything else it has to write.
                Err(error) if room::is_full(&error) => Ok(()),
                made => made,
            };
            if let Err(error) = made.and_then(|()| self.spawn(id, dir, record, None)) {
                tracing::error!(session.id = %id, error = %error, "session cannot be taken on; given again later");
                return;
            }
        }
        let Some(commands) = self.actors().get(&id).map(|actor| actor.commands.clone()) else { return };
        if let Err(error) = commands.try_send(command) {
            tracing::warn!(session.id = %id, error = %error, "order dropped; the controller gives it again");
        }
        drop(taking_on);
    }
}

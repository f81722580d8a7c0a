//! The actor of one session: gathers commands, results of slow work, words of the shim, output and time; lets
//! [`Attempt`] decide; performs. Slow work runs in tasks of its own, so a stop is never kept waiting.
//!
//! Owns the session's folder. Dropped at shutdown: the shim goes on, and the next worker finds everything on disk.

mod acting;
mod beginning;
mod fencing;
mod waiting;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use muster_proto::{
    ids::SessionId,
    v1::{Input, StartSession, Workspace, WorkspaceReleased, session_event::Body},
};
use muster_runtime::task::{self, Task};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tracing::{Instrument as _, Span, info_span};

use super::{
    Context, Slot,
    attempt::{Attempt, Effect},
    board::Entry,
    ending,
    launching::{self, NotLaunched, Obstacle},
    locate::{Found, locate},
    outbox::Draft,
};
use crate::{
    local_state::{Place, Record, SessionDir},
    room,
    shim::{
        client::{LinkError, ShimLink, Word},
        files::{AttemptDir, Exit},
        journal,
        protocol::ToShim,
        stderr,
    },
    spool::Reader,
};

/// Output folded at a time.
const READ_BYTES: usize = 256 << 10;
/// Last bytes of stderr that explain an end.
const STDERR_BYTES: usize = 1500;
/// How long a start may keep others waiting. claude speaks about a second after its first message.
const TURN_FOR: Duration = Duration::from_secs(10);
/// Results of slow work queued; there is at most one of each kind.
const OPS: usize = 8;

/// An order of the controller.
#[derive(Debug)]
pub(super) enum Command {
    Start(Box<StartSession>),
    Input {
        attempt: u32,
        input: Input,
    },
    /// `fenced`: another worker has a later attempt; what this one left is kept aside.
    Stop {
        attempt: u32,
        fenced: bool,
    },
    Release(Workspace),
}

/// What slow work came to.
enum Op {
    /// It may begin now.
    Turn(OwnedSemaphorePermit),
    /// Its start has taken long enough: others may begin.
    TurnOver,
    /// There is room on the disk, perhaps.
    Room,
    Workspace(Result<Workspace, Obstacle>),
    Launched(Result<ShimLink, NotLaunched>),
    Located(Found),
    Released(Result<Workspace, (Workspace, String)>),
    /// As `Room`, for a release.
    ReleaseAgain(Workspace),
}

enum Event {
    Command(Command),
    /// Of the attempt with this number; 0: of none.
    Op(u32, Op),
    Word(Word),
    Grown(u64),
    Lease(u64),
    Tick,
}

/// The attempt that runs.
struct Run {
    attempt: Attempt,
    dir: AttemptDir,
    link: Option<ShimLink>,
    reader: Reader,
    /// Up to which output was read.
    position: u64,
    began: std::time::SystemTime,
    span: Span,
    slot: Option<Slot>,
    /// Held from the making of the workspace until claude speaks.
    turn: Option<OwnedSemaphorePermit>,
    /// True ends a set-up that runs.
    stop: watch::Sender<bool>,
}

pub(super) struct Session {
    context: Arc<Context>,
    id: SessionId,
    dir: SessionDir,
    record: Record,
    entry: Arc<Entry>,
    commands: mpsc::Receiver<Command>,
    ops_tx: mpsc::Sender<(u32, Op)>,
    ops: mpsc::Receiver<(u32, Op)>,
    working: Vec<Task<()>>,
    run: Option<Run>,
    lease: watch::Receiver<Option<u64>>,
    /// Why no shim answered after a launch.
    launch_error: Option<String>,
    /// The attempt that is ended because a later one was placed elsewhere.
    fencing: Option<u32>,
    /// A newer attempt, held until the older one has ended.
    next: Option<Box<StartSession>>,
    last_activity: Instant,
    held: Held,
    /// A release is under way; the order may come again meanwhile, after each reconnect of the link.
    releasing: bool,
    /// When the record, which the disk did not take, is written again.
    record_again: Option<Instant>,
    buffer: Vec<u8>,
}

/// What the disk refuses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Held {
    /// claude's output; the shim holds claude.
    output: bool,
    /// What the session itself writes down.
    own: bool,
    /// The start: it begins when there is room.
    start: bool,
}

impl Session {
    pub(super) fn new(
        context: Arc<Context>,
        id: SessionId,
        dir: SessionDir,
        record: Record,
        entry: Arc<Entry>,
        commands: mpsc::Receiver<Command>,
    ) -> Self {
        let (ops_tx, ops) = mpsc::channel(OPS);
        let last_activity = Instant::now();
        let (working, buffer) = (Vec::new(), vec![0; READ_BYTES]);
        let lease = context.lease.subscribe();
        Self {
            context,
            id,
            dir,
            record,
            entry,
            commands,
            ops_tx,
            ops,
            working,
            run: None,
            lease,
            launch_error: None,
            fencing: None,
            next: None,
            last_activity,
            held: Held::default(),
            releasing: false,
            record_again: None,
            buffer,
        }
    }

    /// Runs until nobody commands it any more. `restored`: there may be an attempt on disk that goes on.
    pub(super) async fn run(mut self, restored: Option<StartSession>) {
        match restored {
            Some(start) => self.resume(start).await,
            None if self.record.released => self.dir.remove_release(),
            None => {
                if let Some(workspace) = self.dir.read_release() {
                    self.release(workspace);
                }
            }
        }
        while let Some(event) = self.select().await {
            self.handle(event).await;
        }
    }

    async fn select(&mut self) -> Option<Event> {
        let wake = self.run.as_ref().and_then(|run| run.attempt.next_wake());
        let wake = wake.into_iter().chain(self.record_again).min();
        let tick = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let bound = self.run.as_ref().is_some_and(|run| run.link.is_some() && run.attempt.start.lease_bound);
        let link = self.run.as_mut().and_then(|run| run.link.as_mut());
        let heard = async {
            let Some(link) = link else { return std::future::pending().await };
            tokio::select! {
                biased;
                Ok(()) = link.spool_end.changed() => Event::Grown(*link.spool_end.borrow_and_update()),
                word = link.words.recv() => Event::Word(word.unwrap_or(Word::Closed)),
            }
        };
        let lease = &mut self.lease;
        let granted = async {
            if !bound {
                return std::future::pending().await;
            }
            loop {
                if lease.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
                if let Some(until) = *lease.borrow_and_update() {
                    return Event::Lease(until);
                }
            }
        };
        tokio::select! {
            command = self.commands.recv() => command.map(Event::Command),
            Some((attempt, op)) = self.ops.recv() => Some(Event::Op(attempt, op)),
            event = heard => Some(event),
            event = granted => Some(event),
            () = tick => Some(Event::Tick),
        }
    }

    async fn handle(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::Command(command) => self.on_command(command, now).await,
            Event::Op(_, Op::Released(released)) => self.on_released(released).await,
            Event::Op(_, Op::ReleaseAgain(workspace)) => {
                self.releasing = false;
                self.release(workspace);
            }
            Event::Op(attempt, op) => {
                if self.run.as_ref().is_some_and(|run| run.attempt.start.attempt == attempt) {
                    self.on_op(op, now).await;
                }
            }
            Event::Grown(end) => self.read_output(end).await,
            Event::Lease(until) => self.order(ToShim::Lease { until }).await,
            Event::Word(word) => self.on_word(word, now).await,
            Event::Tick => {
                if self.record_again.is_some_and(|at| now >= at) {
                    self.write_record().await;
                }
                self.decide(|attempt| attempt.on_tick(now)).await;
            }
        }
    }

    async fn on_command(&mut self, command: Command, now: Instant) {
        match command {
            Command::Start(start) => self.on_start(start, now).await,
            Command::Input { attempt, .. } if self.fencing == Some(attempt) => {
                tracing::debug!(session.id = %self.id, attempt, "input for a fenced attempt; void");
            }
            Command::Input { attempt, input } if self.runs(attempt) => {
                self.decide(|attempt| attempt.on_input(input, now)).await;
            }
            Command::Input { attempt, .. } => {
                tracing::debug!(session.id = %self.id, attempt, "input for an attempt that does not run; void");
            }
            Command::Stop { attempt, fenced: true } => self.fence(attempt, now).await,
            Command::Stop { attempt, .. } if self.runs(attempt) => {
                self.decide(|attempt| attempt.on_stop(now)).await;
            }
            Command::Stop { attempt, .. } => self.refuse_stop(attempt).await,
            Command::Release(workspace) => self.release(workspace),
        }
    }

    fn runs(&self, attempt: u32) -> bool {
        self.run.as_ref().is_some_and(|run| run.attempt.start.attempt == attempt)
    }

    fn spool_end(&self) -> u64 {
        self.record.base_offset + self.dir.spool_bytes()
    }

    fn work(
        &mut self,
        attempt: u32,
        name: &'static str,
        span: Span,
        work: impl Future<Output = Op> + Send + 'static,
    ) {
        self.working.retain(|task| !task.is_finished());
        let done = self.ops_tx.clone();
        let work = async move {
            let op = work.await;
            let _ = done.send((attempt, op)).await;
        };
        self.working.push(task::spawn(name, work.instrument(span)));
    }

    async fn on_op(&mut self, op: Op, now: Instant) {
        match op {
            Op::Turn(turn) => self.on_turn(turn),
            Op::TurnOver => self.end_turn(),
            Op::Room => self.wait_for_turn().await,
            Op::Workspace(Err(Obstacle::Disk(reason))) => self.hold_for_room(&reason).await,
            Op::Workspace(Err(Obstacle::Fatal(reason, text))) => {
                self.decide(|attempt| attempt.on_workspace(Err((reason, text)), now)).await;
            }
            Op::Workspace(Ok(workspace)) => {
                self.record.place = Some(Place::from(&workspace));
                self.write_record().await;
                self.decide(|attempt| attempt.on_workspace(Ok(workspace), now)).await;
            }
            Op::Launched(Ok(link)) | Op::Located(Found::Link(link)) => self.on_link(link).await,
            Op::Launched(Err(NotLaunched::Setup(reason))) => {
                self.decide(|attempt| attempt.on_setup_failed(&reason, now)).await;
            }
            Op::Launched(Err(NotLaunched::Link(LinkError::Lapsed))) => {
                self.decide(|attempt| attempt.on_lapsed(now)).await;
            }
            Op::Launched(Err(NotLaunched::Link(LinkError::Start(reason)))) => {
                self.on_launch_failed(reason, now).await;
            }
            Op::Launched(Err(NotLaunched::Link(error))) => {
                // It may run all the same: only its directory knows.
                tracing::warn!(session.id = %self.id, error = %error, "no word from a new shim, looking for it");
                self.launch_error = Some(error.to_string());
                self.find_shim();
            }
            Op::Located(Found::Exited(exit)) => self.on_gone(Some(exit)).await,
            Op::Located(Found::Lost) => self.on_gone(None).await,
            Op::Located(Found::Never) => match self.launch_error.take() {
                Some(reason) => self.on_launch_failed(reason, now).await,
                // Found on disk, ordered and not begun: it begins now.
                None => self.perform(vec![Effect::Begin]).await,
            },
            Op::Released(_) | Op::ReleaseAgain(_) => {}
        }
    }

    async fn on_link(&mut self, mut link: ShimLink) {
        let end = *link.spool_end.borrow_and_update();
        let written = std::mem::take(&mut link.written);
        let Some(run) = self.run.as_mut() else { return };
        run.link = Some(link);
        run.attempt.skip_to_launch(Instant::now());
        self.set_held(|held| held.start = false);
        // What was granted meanwhile is told as soon as there is a link.
        self.lease.mark_changed();
        self.read_output(end).await;
        self.decide(|attempt| attempt.on_shim_up(&written, Instant::now())).await;
    }

    async fn on_word(&mut self, word: Word, now: Instant) {
        match word {
            Word::InputWritten(seq) => self.decide(|attempt| attempt.on_input_written(seq, now)).await,
            Word::Refused(seq, reason) => {
                tracing::warn!(session.id = %self.id, seq, reason, "shim refused an input");
                self.decide(|attempt| attempt.on_input_refused(seq, &reason, now)).await;
            }
            Word::SpoolState(0) => {
                tracing::info!(session.id = %self.id, "disk takes output again");
                self.set_held(|held| held.output = false);
            }
            Word::SpoolState(errno) => {
                let error = std::io::Error::from_raw_os_error(errno.cast_signed());
                tracing::warn!(session.id = %self.id, error = %error, "disk takes no output, claude is held");
                self.set_held(|held| held.output = true);
            }
            Word::Exited(exit) => self.on_gone(Some(exit)).await,
            Word::Closed => {
                if let Some(run) = self.run.as_mut() {
                    run.link = None;
                    self.find_shim();
                }
            }
        }
    }

    /// Nothing of the attempt runs any more.
    async fn on_gone(&mut self, exit: Option<Exit>) {
        let end = exit.as_ref().map_or_else(|| self.spool_end(), |exit| exit.spool_end);
        self.read_output(end).await;
        let Some(run) = self.run.as_mut() else { return };
        run.link = None;
        if exit.is_some() && run.attempt.is_to_begin_anew() && run.dir.resumed() {
            return self.begin_anew().await;
        }
        let written = journal::read(&run.dir.journal()).unwrap_or_default();
        let seqs: Vec<u64> = written.iter().map(|record| record.seq).collect();
        let said = stderr::tail(&run.dir.stderr_log(), STDERR_BYTES);
        self.decide(|attempt| attempt.on_gone(exit.as_ref(), &seqs, &said, Instant::now())).await;
    }

    /// Folds output up to `end`.
    async fn read_output(&mut self, end: u64) {
        self.entry.update(|view| view.end_offset = view.end_offset.max(end));
        loop {
            let Some(run) = self.run.as_mut() else { return };
            let want =
                usize::try_from(end.saturating_sub(run.position)).unwrap_or(READ_BYTES).min(READ_BYTES);
            if want == 0 {
                return;
            }
            let got = match run.reader.read_at(run.position, &mut self.buffer[..want]) {
                Ok(0) => return,
                Ok(got) => got,
                Err(error) => {
                    tracing::warn!(session.id = %self.id, error = %error, "spool cannot be read");
                    return;
                }
            };
            run.position += got as u64;
            crate::metrics::read(got);
            run.turn = None;
            let said = self.entry.outbox(|outbox| outbox.cursor());
            let located = run.attempt.fold.push(&self.buffer[..got]);
            let effects = run.attempt.on_output(located, said, Instant::now());
            let began = run.attempt.fold.has_begun();
            if began && !self.record.began {
                self.record.began = true;
                self.write_record().await;
            }
            self.perform(effects).await;
        }
    }

    fn release(&mut self, workspace: Workspace) {
        if self.run.is_some() {
            tracing::warn!(session.id = %self.id, "release ordered while an attempt runs; ignored");
            return;
        }
        if std::mem::replace(&mut self.releasing, true) {
            return;
        }
        if let Err(error) = self.dir.write_release(&workspace) {
            tracing::warn!(session.id = %self.id, error = %error, "a release is not noted; the controller orders it again");
        }
        let span = info_span!("workspace.release", session.id = %self.id);
        let (context, dir, session) = (Arc::clone(&self.context), self.dir.clone(), self.id.to_string());
        let was = self.record.place.as_ref().map_or(workspace, Workspace::from);
        self.work(0, "release workspace", span, async move {
            let released = context.worktrees.release(dir.path(), &session, &was).await;
            Op::Released(released.map_err(|error| (was, error.to_string())))
        });
    }

    async fn on_released(&mut self, released: Result<Workspace, (Workspace, String)>) {
        self.releasing = false;
        let (workspace, error) = match released {
            Ok(workspace) => (workspace, String::new()),
            Err((workspace, error)) if room::speaks_of_full(&error, self.dir.path()) => {
                return self.release_when_there_is_room(workspace, &error);
            }
            Err((workspace, error)) => {
                tracing::warn!(session.id = %self.id, error, "workspace cannot be released, it stays");
                (workspace, error)
            }
        };
        if error.is_empty() {
            self.record.released = true;
            self.write_record().await;
        }
        self.dir.remove_release();
        let attempt = self.entry.view().attempt;
        let body = Body::WorkspaceReleased(WorkspaceReleased { workspace: Some(workspace), error });
        self.append(vec![Draft { attempt, cursor: 0, body }]).await;
        let released = self.record.released;
        self.entry.update(|view| view.released = released);
    }
}

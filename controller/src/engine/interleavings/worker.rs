//! A model of a worker that keeps the protocol: what it holds, what it was told, what it has to say.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    pin::Pin,
    time::Duration,
};

use futures::{FutureExt as _, Stream, StreamExt as _};
use muster_proto::{
    ids::{Incarnation, SessionId, WorkerId},
    v1::{
        Activity, AttemptEnded, Attention, AttentionCleared, AttentionRaised, AttentionReason, Capacity,
        ConnectResponse, End, EndReason, Heartbeat, HeldSession, Hello, Input, InputApplied, PermissionAsk,
        Project, SessionEvent, StartSession, TurnEnded, TurnStarted, Workspace, WorkspaceReady,
        attention::Ask, connect_response::Body, input, session_event::Body as Event,
    },
};
use tonic::Status;

use super::LEASED;
use crate::{
    engine::{Attach, Change},
    fleet::link::{self, LinkId},
};

/// As the controller's.
const LEASE: Duration = Duration::from_secs(60);
/// The longest a stop takes: the margin of the controller is more.
const STOP: Duration = Duration::from_secs(44);

/// What an attempt that is over calls itself.
pub(super) const GHOST: &str = "ghost";

/// What may happen to a session on a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    Ready,
    Apply,
    Begin,
    Ask,
    Withdraw,
    EndTurn,
    Complete,
    Fail,
    Lose,
    Hang,
    /// A stop that was ordered comes to its end.
    Obey,
}

/// One session on the worker's disk.
#[derive(Default)]
struct Held {
    attempt: u32,
    running: bool,
    stopping: bool,
    conversation: bool,
    pending: BTreeMap<u64, Input>,
    last_input: u64,
    open: Vec<String>,
    lease_bound: bool,
    /// It was started elsewhere since: never again here.
    fenced: bool,
}

type Pipe = Pin<Box<dyn Stream<Item = Result<ConnectResponse, Status>>>>;

pub(super) struct Fake {
    pub(super) name: WorkerId,
    slots: u32,
    disk: BTreeMap<SessionId, Held>,
    seqs: BTreeMap<SessionId, u64>,
    /// Not acknowledged, in order.
    unacked: Vec<SessionEvent>,
    /// On their way up this link.
    outbox: VecDeque<SessionEvent>,
    /// Commands that have arrived and are not taken.
    pub(super) inbox: VecDeque<Body>,
    pub(super) link: Option<LinkId>,
    pipe: Option<Pipe>,
    old_links: Vec<LinkId>,
    /// All it ever reported; a disk that is lost takes them along.
    history: Vec<SessionEvent>,
    /// Questions ever asked here.
    pub(super) asked: Vec<(SessionId, String)>,
    /// Inputs written to claude: each once.
    written: BTreeSet<(SessionId, u64)>,
    questions: u64,
    /// What the attempt before says when the next one begins: nothing of the new one was heard by then, so
    /// only the attempt tells the two apart.
    haunted: Option<u8>,
    incarnation: Incarnation,
    /// When each heartbeat of this link was sent.
    beats: Vec<Duration>,
    /// Up to when what is bound to the lease may run.
    lease_until: Option<Duration>,
    /// Its clock.
    passed: Duration,
}

impl Fake {
    pub(super) fn new(number: usize, slots: u32) -> Self {
        Self {
            name: format!("w{number}").parse().expect("a name"),
            slots,
            disk: BTreeMap::new(),
            seqs: BTreeMap::new(),
            unacked: Vec::new(),
            outbox: VecDeque::new(),
            inbox: VecDeque::new(),
            link: None,
            pipe: None,
            old_links: Vec::new(),
            history: Vec::new(),
            asked: Vec::new(),
            written: BTreeSet::new(),
            questions: 0,
            haunted: None,
            incarnation: Incarnation::generate(),
            beats: Vec::new(),
            lease_until: None,
            passed: Duration::ZERO,
        }
    }

    pub(super) fn running(&self) -> impl Iterator<Item = (SessionId, u32)> {
        self.disk.iter().filter(|(_, held)| held.running).map(|(id, held)| (*id, held.attempt))
    }

    pub(super) fn connect(&mut self, id: LinkId) -> Attach {
        self.unlink();
        let (link, commands) = link::open(id);
        self.link = Some(id);
        self.pipe = Some(Box::pin(commands.stream(Vec::new())));
        self.outbox = self.unacked.iter().cloned().collect();
        let held = self.disk.iter().map(|(id, held)| HeldSession {
            session_id: id.to_string(),
            attempt: held.attempt,
            running: held.running,
            spool_end_offset: 0,
            last_input: held.last_input,
        });
        self.beats.clear();
        let projects = ["demo", LEASED].map(|name| Project { name: name.into(), ..Project::default() });
        let hello = Hello {
            worker: self.name.to_string(),
            capacity: Some(Capacity { slots: self.slots, ..Capacity::default() }),
            projects: projects.to_vec(),
            held: held.collect(),
            ..Hello::default()
        };
        let (worker, incarnation) = (self.name.clone(), self.incarnation.clone());
        Attach { worker, incarnation, hello, protocol: 2, link }
    }

    pub(super) fn unlink(&mut self) {
        self.old_links.extend(self.link.take());
        self.pipe = None;
        self.inbox.clear();
        self.outbox.clear();
    }

    /// What the engine has sent since the last call.
    pub(super) fn drain(&mut self) -> Vec<Body> {
        let mut sent = Vec::new();
        while let Some(pipe) = &mut self.pipe {
            match pipe.next().now_or_never() {
                // Heard at once: one that is heard late makes the lease shorter.
                Some(Some(Ok(ConnectResponse { body: Some(Body::HeartbeatAck(ack)) }))) => {
                    let sent = self.beats[usize::try_from(ack.seq).expect("few") - 1];
                    self.lease_until = self.lease_until.max(Some(sent + LEASE));
                }
                Some(Some(Ok(command))) => sent.extend(command.body),
                // The link was cut: what was on it is lost.
                Some(Some(Err(_)) | None) => self.unlink(),
                None => break,
            }
        }
        sent
    }

    pub(super) fn take(&mut self, count: usize) {
        for _ in 0..count {
            let Some(body) = self.inbox.pop_front() else { return };
            match body {
                Body::Start(start) => self.start(start),
                Body::Input(apply) => {
                    let id = apply.session_id.parse().expect("an id");
                    let held = self.disk.get_mut(&id).filter(|h| h.attempt == apply.attempt && h.running);
                    if let (Some(held), Some(input)) = (held, apply.input) {
                        held.pending.insert(input.seq, input);
                    }
                }
                Body::Stop(stop) => {
                    let id = stop.session_id.parse().expect("an id");
                    match self.disk.get_mut(&id).filter(|held| held.attempt == stop.attempt) {
                        Some(held) if stop.fenced => {
                            held.fenced = true;
                            held.running = false;
                        }
                        Some(held) => held.stopping = held.running,
                        None => self.say(id, stop.attempt, ended(EndReason::WorkerLost, false)),
                    }
                }
                Body::EventAck(ack) => {
                    self.unacked.retain(|e| e.session_id != ack.session_id || e.event_seq > ack.event_seq);
                }
                _ => {}
            }
        }
    }

    fn start(&mut self, start: StartSession) {
        let id: SessionId = start.session_id.parse().expect("an id");
        let held = self.disk.entry(id).or_default();
        if held.attempt >= start.attempt {
            return;
        }
        assert!(!held.fenced, "{id}: attempt {} where it was taken away", start.attempt);
        assert!(!held.running, "{id}: attempt {} while {} runs", start.attempt, held.attempt);
        let pending = start.inputs.into_iter().map(|input| (input.seq, input)).collect();
        *held = Held {
            attempt: start.attempt,
            running: true,
            conversation: start.resume,
            pending,
            last_input: held.last_input,
            lease_bound: start.lease_bound,
            ..Held::default()
        };
        if start.attempt > 1
            && let Some(what) = self.haunted.take()
            && let Some((attempt, body)) = self.last_words(id, what)
        {
            self.say(id, attempt, body);
        }
        // One that is bound to a lease which is over does not begin.
        if start.lease_bound && self.lease_until.is_none_or(|until| until <= self.passed) {
            self.end(id, EndReason::LeaseLapsed);
        }
        let running = self.running().count();
        assert!(running <= self.slots as usize, "{} runs {running}", self.name);
    }

    fn say(&mut self, id: SessionId, attempt: u32, body: Event) {
        let seq = self.seqs.entry(id).or_default();
        *seq += 1;
        let event = SessionEvent {
            session_id: id.to_string(),
            attempt,
            event_seq: *seq,
            at: Some(muster_proto::time::now()),
            body: Some(body),
        };
        self.history.push(event.clone());
        self.unacked.push(event.clone());
        if self.link.is_some() {
            self.outbox.push_back(event);
        }
    }

    pub(super) fn act(&mut self, id: SessionId, act: Act) {
        let Some(held) = self.disk.get_mut(&id).filter(|held| held.running) else { return };
        let attempt = held.attempt;
        match act {
            Act::Ready => {
                let workspace = Workspace { path: "/w".into(), branch: "b".into(), ..Workspace::default() };
                self.say(id, attempt, Event::WorkspaceReady(WorkspaceReady { workspace: Some(workspace) }));
            }
            Act::Apply => self.apply(id),
            Act::Begin if held.last_input > 0 => {
                held.conversation = true;
                self.say(id, attempt, Event::TurnStarted(TurnStarted::default()));
            }
            Act::Ask if held.conversation => {
                self.questions += 1;
                let attention_id = format!("a{}-{}", self.name, self.questions);
                held.open.push(attention_id.clone());
                self.asked.push((id, attention_id.clone()));
                let attention = Attention {
                    attention_id,
                    reason: AttentionReason::Permission.into(),
                    ask: Some(Ask::Permission(PermissionAsk::default())),
                    since: None,
                };
                self.say(id, attempt, Event::AttentionRaised(AttentionRaised { attention: Some(attention) }));
            }
            Act::Withdraw => {
                if let Some(attention_id) = held.open.pop() {
                    self.say(id, attempt, Event::AttentionCleared(AttentionCleared { attention_id }));
                }
            }
            Act::EndTurn if held.conversation => {
                self.say(id, attempt, Event::TurnEnded(TurnEnded::default()));
            }
            Act::Complete if held.conversation => self.end(id, EndReason::TurnCompleted),
            Act::Fail if held.conversation => self.end(id, EndReason::TurnFailed),
            Act::Lose => self.end(id, EndReason::ShimLost),
            Act::Hang => self.end(id, EndReason::Hung),
            Act::Obey if held.stopping => self.end(id, EndReason::Stopped),
            Act::Begin | Act::Ask | Act::EndTurn | Act::Complete | Act::Fail | Act::Obey => {}
        }
    }

    fn apply(&mut self, id: SessionId) {
        let Some(held) = self.disk.get_mut(&id) else { return };
        let Some((seq, next)) = held.pending.pop_first() else { return };
        let attempt = held.attempt;
        if seq > held.last_input {
            held.last_input = seq;
            if let Some(input::Body::Answer(answer)) = &next.body {
                held.open.retain(|open| *open != answer.attention_id);
            }
            assert!(self.written.insert((id, seq)), "{id}: input {seq} is written twice");
        }
        let applied = InputApplied { seq, delivered: true, reason: String::new() };
        self.say(id, attempt, Event::InputApplied(applied));
    }

    fn end(&mut self, id: SessionId, reason: EndReason) {
        let Some(held) = self.disk.get_mut(&id) else { return };
        held.running = false;
        held.open.clear();
        held.pending.clear();
        let (attempt, conversation) = (held.attempt, held.conversation);
        self.say(id, attempt, ended(reason, conversation));
    }

    /// Every session here comes to its end.
    pub(super) fn finish(&mut self) {
        let ids: Vec<_> = self.running().map(|(id, _)| id).collect();
        for id in ids {
            if self.disk.get(&id).is_some_and(|held| held.stopping) {
                self.act(id, Act::Obey);
                continue;
            }
            while self.disk.get(&id).is_some_and(|held| !held.pending.is_empty()) {
                self.apply(id);
            }
            for act in [Act::Ready, Act::Begin, Act::Complete, Act::Lose] {
                self.act(id, act);
            }
        }
    }

    pub(super) fn report(&mut self, count: usize) -> Vec<Change> {
        let Some(link) = self.link else { return Vec::new() };
        let count = count.min(self.outbox.len());
        let events: Vec<_> = self.outbox.drain(..count).collect();
        events.into_iter().map(|event| self.over(link, event)).collect()
    }

    pub(super) fn repeat(&self, which: u8) -> Option<Change> {
        let sent: Vec<_> = self.history.iter().filter(|event| !self.waits(event)).collect();
        let event = (!sent.is_empty()).then(|| sent[usize::from(which) % sent.len()].clone())?;
        Some(self.over(self.link?, event))
    }

    /// Whether it would overtake one that was not sent yet, which a worker never does.
    fn waits(&self, event: &SessionEvent) -> bool {
        self.outbox.iter().any(|o| o.session_id == event.session_id && o.event_seq <= event.event_seq)
            || (self.link.is_none() && self.unacked.contains(event))
    }

    pub(super) fn late(&self, which: u8) -> Option<Change> {
        let event = self.history.get(usize::from(which) % self.history.len().max(1))?;
        let link = self.old_links.last()?;
        Some(self.over(*link, event.clone()))
    }

    /// An older attempt of a session here speaks, now and when the next one begins. Some of it is numbered on
    /// and kept until it is acknowledged, as all that is reported; some is best effort and goes at once.
    pub(super) fn ghost(&mut self, which: u8, what: u8) -> Option<Change> {
        self.haunted = Some(what);
        let old: Vec<_> = self.disk.iter().filter(|(_, held)| held.attempt > 1).map(|(id, _)| *id).collect();
        let id = *old.get(usize::from(which) % old.len().max(1))?;
        let (attempt, body) = self.last_words(id, what)?;
        if !matches!(body, Event::Activity(_)) {
            self.say(id, attempt, body);
            return None;
        }
        let event =
            SessionEvent { session_id: id.to_string(), attempt, body: Some(body), ..SessionEvent::default() };
        Some(self.over(self.link?, event))
    }

    /// What the attempt before the one held of `id` may say.
    fn last_words(&self, id: SessionId, what: u8) -> Option<(u32, Event)> {
        let held = self.disk.get(&id)?;
        let next_input = held.pending.keys().next().copied().unwrap_or(held.last_input + 1);
        let body = match what % 7 {
            0 => ended(EndReason::TurnCompleted, true),
            1 => ended(EndReason::WorkerLost, false),
            2 => Event::TurnStarted(TurnStarted::default()),
            3 => Event::AttentionRaised(AttentionRaised {
                attention: Some(Attention {
                    attention_id: GHOST.to_owned(),
                    reason: AttentionReason::Permission.into(),
                    ask: Some(Ask::Permission(PermissionAsk::default())),
                    since: None,
                }),
            }),
            4 => {
                Event::InputApplied(InputApplied { seq: next_input, delivered: true, reason: String::new() })
            }
            5 => Event::AttentionCleared(AttentionCleared {
                attention_id: held.open.first().cloned().unwrap_or_default(),
            }),
            _ => Event::Activity(Activity {
                text: GHOST.to_owned(),
                blocked: GHOST.to_owned(),
                permission_mode: String::new(),
            }),
        };
        Some((held.attempt - 1, body))
    }

    fn over(&self, link: LinkId, event: SessionEvent) -> Change {
        Change::Event { worker: self.name.clone(), link, event: Box::new(event) }
    }

    /// Says that it is there.
    pub(super) fn beat(&mut self, passed: Duration) -> Option<Change> {
        let link = self.link?;
        self.beats.push(passed);
        let heartbeat = Heartbeat { seq: self.beats.len() as u64, ..Heartbeat::default() };
        Some(Change::Heartbeat { worker: self.name.clone(), link, heartbeat })
    }

    /// Time passes. What is bound to a lease that is over has just been stopped, as late as is allowed.
    pub(super) fn pass(&mut self, passed: Duration) {
        self.passed = passed;
        if self.lease_until.is_none_or(|until| until + STOP > passed) {
            return;
        }
        let bound = self.disk.iter().filter(|(_, held)| held.running && held.lease_bound);
        let bound: Vec<_> = bound.map(|(id, held)| (*id, held.stopping)).collect();
        for (id, stopping) in bound {
            self.end(id, if stopping { EndReason::Stopped } else { EndReason::LeaseLapsed });
        }
    }

    pub(super) fn reboot(&mut self) {
        self.unlink();
        self.incarnation = Incarnation::generate();
        let ids: Vec<_> = self.running().map(|(id, _)| id).collect();
        for id in ids {
            let stopped = self.disk.get(&id).is_some_and(|held| held.stopping);
            self.end(id, if stopped { EndReason::Stopped } else { EndReason::ShimLost });
        }
    }

    pub(super) fn wipe(&mut self) {
        self.unlink();
        let name = self.name.clone();
        let questions = self.questions;
        let old_links = std::mem::take(&mut self.old_links);
        let asked = std::mem::take(&mut self.asked);
        let (passed, lease_until) = (self.passed, self.lease_until);
        *self = Self { name, questions, old_links, asked, passed, lease_until, ..Self::new(0, self.slots) };
    }
}

fn ended(reason: EndReason, resumable: bool) -> Event {
    let end = End { reason: reason.into(), ..End::default() };
    Event::AttemptEnded(AttemptEnded { end: Some(end), resumable, ..AttemptEnded::default() })
}

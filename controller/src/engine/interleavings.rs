//! Random interleavings of callers, workers and crashes against the engine, without its loop and without I/O.
//!
//! The store is in memory and fails on demand; a crash drops the engine and loads it anew. The workers are
//! models that keep the protocol: they report in order, report again what is not acknowledged, and hold what
//! they were given over their own restarts. What is checked is what the promises say; see [`World::check`].

mod ops;
mod worker;

use std::collections::{BTreeMap, BTreeSet};

use futures::FutureExt as _;
use muster_proto::v1::{Answer, Decision, connect_response::Body, input};
use proptest::prelude::*;

use self::{
    ops::{Fate, Op, cases, fate, op},
    worker::{Fake, GHOST},
};
use super::{stage::Stage, *};
use crate::{
    engine::run::Engine,
    output::Replicas,
    session::Phase,
    store::{
        failing::{Failing, Switch},
        memory::Memory,
    },
};

const SLOTS: [u32; 3] = [2, 1, 1];
/// The project whose sessions end with the lease.
const LEASED: &str = "leased";

/// A change and who waits for its answer.
enum Waiting {
    Spawn(String, oneshot::Receiver<Result<(v1::Session, bool), Error>>),
    Stop(SessionId, oneshot::Receiver<Result<(v1::Session, bool), Error>>),
    Answer(SessionId, String, oneshot::Receiver<Result<(v1::Session, bool, Delivery), Error>>),
    Attach(usize, oneshot::Receiver<Result<Attached, Error>>),
}

struct World {
    _dir: tempfile::TempDir,
    store: crate::store::Shared,
    switch: Switch,
    outputs: Replicas,
    engine: Engine,
    workers: Vec<Fake>,
    next_link: LinkId,
    /// How much time has passed by the clocks of all.
    passed: Duration,
    /// What was promised.
    accepted: BTreeMap<String, SessionId>,
    stopped: BTreeSet<SessionId>,
    answered: BTreeSet<(SessionId, String)>,
    /// What was said to workers.
    started: BTreeMap<SessionId, (u32, usize)>,
    inputs: BTreeMap<(SessionId, u64), input::Body>,
    answers_sent: BTreeMap<(SessionId, String), u64>,
}

fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("a store in memory never waits")
}

fn named(id: SessionId) -> Named {
    Named { text: id.to_string(), scope: Scope::all() }
}

fn config() -> Config {
    Config { unreachable_after: Duration::from_secs(3600), ..Config::default() }
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let outputs = Replicas::open(dir.path()).expect("opened");
        let (store, switch) = Failing::new(std::sync::Arc::new(Memory::default()));
        let store: crate::store::Shared = std::sync::Arc::new(store);
        let passed = Duration::ZERO;
        let engine = now(recover::load(config(), store.clone(), outputs.clone(), passed)).expect("loaded").1;
        let workers = SLOTS.iter().enumerate().map(|(number, slots)| Fake::new(number, *slots)).collect();
        let mut world = Self {
            _dir: dir,
            store,
            switch,
            outputs,
            engine,
            workers,
            next_link: 1,
            passed,
            accepted: BTreeMap::new(),
            stopped: BTreeSet::new(),
            answered: BTreeSet::new(),
            started: BTreeMap::new(),
            inputs: BTreeMap::new(),
            answers_sent: BTreeMap::new(),
        };
        world.declare();
        // So that the projects are known.
        world.batch(&[Op::Connect { worker: 0 }], Fate::Lives);
        world
    }

    /// A project whose sessions are started elsewhere when their worker is cut off.
    fn declare(&mut self) {
        let policy = v1::ProjectPolicy {
            name: LEASED.into(),
            on_lost: v1::OnLost::Restart.into(),
            ..v1::ProjectPolicy::default()
        };
        let mut stage = Stage::new(&self.engine.book);
        self.engine.put_project(policy, 0, "somebody", &mut stage).expect("declared");
        now(self.engine.commit(stage));
    }

    fn crash(&mut self) {
        self.switch.fail(false);
        self.engine = now(recover::load(config(), self.store.clone(), self.outputs.clone(), self.passed))
            .expect("loaded")
            .1;
        self.workers.iter_mut().for_each(Fake::unlink);
    }

    /// The `nth` session there is, oldest first.
    fn session(&self, nth: u8) -> Option<SessionId> {
        let ids: Vec<_> = self.engine.book.sessions().map(|session| session.id).collect();
        (!ids.is_empty()).then(|| ids[usize::from(nth) % ids.len()])
    }

    fn batch(&mut self, ops: &[Op], fate: Fate) {
        let mut changes = Vec::new();
        let mut waiting = Vec::new();
        for op in ops {
            self.prepare(op, &mut changes, &mut waiting);
        }
        let mut stage = Stage::new(&self.engine.book);
        for change in changes {
            self.engine.apply(change, &mut stage);
        }
        if ops.iter().any(|op| matches!(op, Op::Tick | Op::Pass { .. })) {
            self.engine.tick();
            self.engine.lapse(&mut stage);
        }
        self.engine.place(&mut stage);
        match fate {
            Fate::DiesBefore => return self.crash(),
            Fate::CommitFails => self.switch.fail(true),
            Fate::Lives | Fate::DiesAfter => {}
        }
        now(self.engine.commit(stage));
        self.switch.fail(false);
        if let Fate::DiesAfter = fate {
            return self.crash();
        }
        self.hear(waiting);
        self.check();
    }

    fn prepare(&mut self, op: &Op, changes: &mut Vec<Change>, waiting: &mut Vec<Waiting>) {
        match *op {
            Op::Spawn { request } => {
                let request_id = format!("request {request}");
                let project = if request.is_multiple_of(2) { LEASED } else { "demo" };
                let spec = SessionSpec {
                    prompt: format!("prompt {request}"),
                    project: project.into(),
                    ..SessionSpec::default()
                };
                let spawn = SpawnRequest {
                    spec,
                    request_id: request_id.clone(),
                    traceparent: String::new(),
                    caller: "somebody".into(),
                };
                let (reply, answer) = oneshot::channel();
                let scope = Scope::all();
                changes.push(Change::Spawn { request: Box::new(spawn), scope, reply });
                waiting.push(Waiting::Spawn(request_id, answer));
            }
            Op::Message { session, request } => {
                let message = format!("message {request}");
                self.give(session, message.clone(), send_input_request::Input::Message(message), changes);
            }
            Op::Interrupt { session } => {
                self.give(session, String::new(), send_input_request::Input::Interrupt(true), changes);
            }
            Op::Answer { session, attention } => self.answer(session, attention, changes, waiting),
            Op::Stop { session } => {
                if let Some(id) = self.session(session) {
                    let (reply, answer) = oneshot::channel();
                    changes.push(Change::Stop { session: named(id), reason: String::new(), reply });
                    waiting.push(Waiting::Stop(id, answer));
                }
            }
            Op::Archive { session } => {
                if let Some(id) = self.session(session) {
                    changes.push(Change::Archive { session: named(id), reply: oneshot::channel().0 });
                }
            }
            Op::Tick => {}
            Op::Connect { worker } => {
                let number = usize::from(worker);
                let link = self.next_link;
                self.next_link += 1;
                let attach = self.workers[number].connect(link);
                let (reply, answer) = oneshot::channel();
                changes.push(Change::Attach { hello: Box::new(attach), reply });
                waiting.push(Waiting::Attach(number, answer));
            }
            Op::Disconnect { worker } => {
                let worker = &mut self.workers[usize::from(worker)];
                if let Some(link) = worker.link {
                    changes.push(Change::Detach { worker: worker.name.clone(), link });
                }
                worker.unlink();
            }
            Op::Take { worker, count } => self.workers[usize::from(worker)].take(usize::from(count)),
            Op::Act { worker, session, act } => {
                let worker = &mut self.workers[usize::from(worker)];
                let running: Vec<_> = worker.running().map(|(id, _)| id).collect();
                if !running.is_empty() {
                    worker.act(running[usize::from(session) % running.len()], act);
                }
            }
            Op::Report { worker, count } => {
                changes.extend(self.workers[usize::from(worker)].report(usize::from(count)));
            }
            Op::Repeat { worker, which } => changes.extend(self.workers[usize::from(worker)].repeat(which)),
            Op::Late { worker, which } => changes.extend(self.workers[usize::from(worker)].late(which)),
            Op::Ghost { worker, session, what } => {
                changes.extend(self.workers[usize::from(worker)].ghost(session, what));
            }
            Op::Beat { worker } => {
                let passed = self.passed;
                changes.extend(self.workers[usize::from(worker)].beat(passed));
            }
            Op::Pass { seconds, silent } => {
                self.passed += Duration::from_secs(seconds.into());
                self.engine.ahead = self.passed;
                let passed = self.passed;
                for (number, worker) in self.workers.iter_mut().enumerate() {
                    worker.pass(passed);
                    if number != usize::from(silent) {
                        changes.extend(worker.beat(passed));
                    }
                }
            }
            Op::Reboot { worker } => {
                let worker = &mut self.workers[usize::from(worker)];
                if let Some(link) = worker.link {
                    changes.push(Change::Detach { worker: worker.name.clone(), link });
                }
                worker.reboot();
            }
            Op::Wipe { worker } => {
                let worker = &mut self.workers[usize::from(worker)];
                if let Some(link) = worker.link {
                    changes.push(Change::Detach { worker: worker.name.clone(), link });
                }
                worker.wipe();
            }
        }
    }

    fn give(
        &self,
        session: u8,
        request: String,
        input: send_input_request::Input,
        changes: &mut Vec<Change>,
    ) {
        let Some(id) = self.session(session) else { return };
        let request = InputRequest { session: id.to_string(), request_id: request, input };
        changes.push(Change::Input { request, scope: Scope::all(), reply: oneshot::channel().0 });
    }

    /// Answers an open attention, or one that was open once.
    fn answer(&self, session: u8, which: u8, changes: &mut Vec<Change>, waiting: &mut Vec<Waiting>) {
        let worker = &self.workers[usize::from(session) % self.workers.len()];
        let Some(last) = worker.asked.len().checked_sub(1) else { return };
        let (id, attention_id) = worker.asked[last - usize::from(which).min(last)].clone();
        let answer = Answer {
            attention_id: attention_id.clone(),
            decision: Decision::Allow.into(),
            ..Answer::default()
        };
        let input = send_input_request::Input::Answer(answer);
        let request = InputRequest { session: id.to_string(), request_id: String::new(), input };
        let (reply, answer) = oneshot::channel();
        changes.push(Change::Input { request, scope: Scope::all(), reply });
        waiting.push(Waiting::Answer(id, attention_id, answer));
    }

    /// Takes in what was answered and what was sent, and holds it against what was promised before.
    fn hear(&mut self, waiting: Vec<Waiting>) {
        for worker in 0..self.workers.len() {
            for body in self.workers[worker].drain() {
                self.said(worker, &body);
                self.workers[worker].inbox.push_back(body);
            }
        }
        for waiting in waiting {
            match waiting {
                Waiting::Attach(worker, mut answer) => match answer.try_recv().expect("answered") {
                    // They come before everything else on the link.
                    Ok(Attached::Linked(commands)) => {
                        for body in commands.into_iter().rev().filter_map(|command| command.body) {
                            self.said(worker, &body);
                            self.workers[worker].inbox.push_front(body);
                        }
                    }
                    Ok(Attached::Wait) | Err(_) => self.workers[worker].unlink(),
                },
                Waiting::Spawn(request, mut answer) => {
                    if let Ok((session, _)) = answer.try_recv().expect("answered") {
                        let id = session.session_id.parse().expect("an id");
                        let first = *self.accepted.entry(request.clone()).or_insert(id);
                        assert_eq!(first, id, "{request} became two sessions");
                    }
                }
                Waiting::Stop(id, mut answer) => {
                    if let Ok((session, _)) = answer.try_recv().expect("answered")
                        && (session.stopping || session.status() == v1::SessionStatus::Stopped)
                    {
                        self.stopped.insert(id);
                    }
                }
                Waiting::Answer(id, attention, mut answer) => {
                    if answer.try_recv().expect("answered").is_ok() {
                        assert!(
                            self.answered.insert((id, attention.clone())),
                            "{attention} was answered twice"
                        );
                    }
                }
            }
        }
    }

    /// Something is sent to a worker.
    fn said(&mut self, worker: usize, body: &Body) {
        match body {
            Body::Start(start) => {
                let id: SessionId = start.session_id.parse().expect("an id");
                assert!(!self.stopped.contains(&id), "{id} is started although its stop was acknowledged");
                assert!(!start.inputs.is_empty(), "{id} is started with nothing to do");
                let (attempt, on) = *self.started.entry(id).or_insert((start.attempt, worker));
                assert!(start.attempt >= attempt, "{id}: attempt {} after {attempt}", start.attempt);
                let stays = on == worker || start.lease_bound;
                assert!(stays, "{id}: attempt {} away from the worker of {attempt}", start.attempt);
                self.started.insert(id, (start.attempt, worker));
                for input in &start.inputs {
                    self.input_said(id, input);
                }
            }
            Body::Input(apply) => {
                let id = apply.session_id.parse().expect("an id");
                self.input_said(id, apply.input.as_ref().expect("an input"));
            }
            _ => {}
        }
    }

    fn input_said(&mut self, id: SessionId, input: &v1::Input) {
        let body = input.body.clone().expect("a body");
        if let input::Body::Answer(answer) = &body {
            let seq = *self.answers_sent.entry((id, answer.attention_id.clone())).or_insert(input.seq);
            assert_eq!(seq, input.seq, "{id}: two answers to {}", answer.attention_id);
        }
        let first = self.inputs.entry((id, input.seq)).or_insert_with(|| body.clone());
        assert_eq!(*first, body, "{id}: input {} has two bodies", input.seq);
    }

    /// What holds at any time.
    fn check(&self) {
        let mut running = BTreeMap::new();
        for (number, worker) in self.workers.iter().enumerate() {
            assert!(self.engine.book.active_count(&worker.name) <= SLOTS[number] as usize, "over capacity");
            for (id, attempt) in worker.running() {
                let other = running.insert(id, attempt);
                assert_eq!(other, None, "{id} runs twice");
            }
        }
        for id in &self.stopped {
            let phase = self.engine.book.get(*id).expect("it is there").phase();
            assert!(matches!(phase, Phase::Stopping | Phase::Stopped), "{id}: a stop was undone: {phase:?}");
        }
        for session in self.engine.book.sessions() {
            let id = session.id;
            let said = session.activity.as_ref().map_or("", |(_, text)| &**text);
            assert!(&*session.blocked != GHOST && said != GHOST, "{id}: an old attempt was listened to");
            let asks = session.state.open.iter().any(|open| open.attention_id == GHOST);
            assert!(!asks, "{id}: an old attempt asks");
        }
        for (request, id) in &self.accepted {
            let known = ("somebody".to_owned(), request.clone());
            assert_eq!(self.engine.book.by_request(&known), Some(*id), "{request} was forgotten");
        }
    }

    /// Everybody comes back, answers what is asked and finishes: then nothing may hang.
    fn settle(&mut self) {
        for _ in 0..300 {
            for number in 0..self.workers.len() {
                let worker = u8::try_from(number).expect("few");
                if self.workers[number].link.is_none() {
                    self.batch(&[Op::Connect { worker }], Fate::Lives);
                }
                self.batch(&[Op::Beat { worker }], Fate::Lives);
                self.workers[number].take(usize::MAX);
                self.workers[number].finish();
                self.batch(&[Op::Report { worker, count: u8::MAX }], Fate::Lives);
            }
            let active = self.engine.book.sessions().any(|session| session.phase().is_active());
            if !active && self.engine.book.queue().is_empty() {
                break;
            }
        }
        let viewer = self.engine.viewer();
        for session in self.engine.book.sessions() {
            let reason = viewer.must_view(session.id).queue_reason;
            let waits = session.phase() == Phase::Queued && !reason.is_empty();
            assert!(session.phase().has_ended() || waits, "{} hangs: {:?}", session.id, session.state);
        }
        for worker in &self.workers {
            assert_eq!(worker.running().count(), 0, "something runs that has ended");
        }
    }

    /// What is installed is what a start would find.
    fn reload(&mut self) {
        let states = |engine: &Engine| -> Vec<_> {
            let copied =
                engine.book.sessions().map(|s| (s.id, s.state.clone(), s.inputs.clone(), s.requests.clone()));
            copied.collect()
        };
        let before = states(&self.engine);
        self.crash();
        assert_eq!(states(&self.engine), before);
    }
}

#[test]
fn a_session_of_a_lost_worker_starts_elsewhere_once_the_lease_and_a_stop_have_passed() {
    let mut world = World::new();
    let alone = |op: Op| [op];
    for op in [Op::Connect { worker: 1 }, Op::Beat { worker: 0 }, Op::Beat { worker: 1 }] {
        world.batch(&alone(op), Fate::Lives);
    }
    world.batch(&alone(Op::Spawn { request: 0 }), Fate::Lives);
    let id = world.session(0).expect("one");
    let on = |world: &World| world.engine.book.get(id).expect("there").worker().map(String::from);
    let lost = usize::from(on(&world).expect("placed") != "w0");
    let (lost_worker, other) = (u8::try_from(lost).expect("few"), u8::try_from(1 - lost).expect("few"));
    world.batch(&alone(Op::Take { worker: lost_worker, count: 9 }), Fate::Lives);
    world.batch(&alone(Op::Act { worker: lost_worker, session: 0, act: worker::Act::Ready }), Fate::Lives);
    world.batch(&alone(Op::Report { worker: lost_worker, count: 9 }), Fate::Lives);
    let running = |world: &World, worker: usize| world.workers[worker].running().count();
    assert_eq!(running(&world, lost), 1);
    world.batch(&alone(Op::Disconnect { worker: lost_worker }), Fate::Lives);
    world.batch(&alone(Op::Pass { seconds: 104, silent: lost_worker }), Fate::Lives);
    assert_eq!((on(&world), running(&world, lost)), (Some(format!("w{lost}")), 0), "a margin is left");
    // A start counts anew.
    world.crash();
    let op = Op::Connect { worker: other };
    world.batch(&alone(op), Fate::Lives);
    world.batch(&alone(Op::Pass { seconds: 104, silent: lost_worker }), Fate::Lives);
    assert_eq!(on(&world), Some(format!("w{lost}")));
    world.batch(&alone(Op::Pass { seconds: 1, silent: lost_worker }), Fate::Lives);
    world.batch(&alone(Op::Take { worker: other, count: 9 }), Fate::Lives);
    assert_eq!((on(&world), running(&world, 1 - lost)), (Some(format!("w{}", 1 - lost)), 1));
    // The old one is back, told to keep what it has, and not listened to.
    world.batch(&alone(Op::Connect { worker: lost_worker }), Fate::Lives);
    let fenced = |body: &Body| matches!(body, Body::Stop(stop) if stop.fenced);
    assert!(world.workers[lost].inbox.iter().any(fenced));
    world.batch(&alone(Op::Report { worker: lost_worker, count: 9 }), Fate::Lives);
    world.settle();
    assert_eq!(world.engine.book.get(id).expect("there").phase(), Phase::Completed);
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn no_interleaving_breaks_a_promise(
        batches in prop::collection::vec((prop::collection::vec(op(), 1..4), fate()), 1..120),
    ) {
        let mut world = World::new();
        for (ops, fate) in &batches {
            world.batch(ops, *fate);
        }
        world.settle();
        world.reload();
    }
}

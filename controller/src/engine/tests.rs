use std::sync::Arc;

use muster_proto::{
    ids::Incarnation,
    v1::{Capacity, Project, SessionStatus},
};
use muster_runtime::{shutdown::Shutdown, task::Task};

use super::*;
use crate::{
    fleet::link::{self, Commands},
    output::Replicas,
    store::{
        failing::{Failing, Switch},
        memory::Memory,
    },
};

struct Rig {
    engine: Handle,
    switch: Switch,
    _dir: tempfile::TempDir,
    _task: Task<()>,
}

async fn rig() -> Rig {
    let dir = tempfile::tempdir().expect("a folder");
    let (store, switch) = Failing::new(Arc::new(Memory::default()));
    let config = Config {
        tick: Duration::from_millis(20),
        unreachable_after: Duration::from_secs(60),
        ..Config::default()
    };
    let outputs = Replicas::open(dir.path()).expect("opened");
    let (engine, task) =
        start(config, Arc::new(store), outputs, Shutdown::new(), Shutdown::new()).await.expect("started");
    Rig { engine, switch, _dir: dir, _task: task }
}

impl Rig {
    async fn attach(&self, id: LinkId) -> Result<Commands, Error> {
        let project = Project { name: "demo".into(), ..Project::default() };
        let hello = Hello {
            worker: "w1".into(),
            capacity: Some(Capacity { slots: 1, ..Capacity::default() }),
            projects: vec![project],
            ..Hello::default()
        };
        let (link, commands) = link::open(id);
        let worker = "w1".parse().expect("a name");
        let attach = Attach { worker, incarnation: Incarnation::generate(), hello, link };
        self.engine.attach(attach).await.map(|_| commands)
    }

    async fn spawn(&self, request_id: &str) -> Result<(v1::Session, bool), Error> {
        let spec = SessionSpec { prompt: "do it".into(), ..SessionSpec::default() };
        let request = SpawnRequest {
            spec,
            request_id: request_id.into(),
            traceparent: String::new(),
            caller: "somebody".into(),
        };
        self.engine.spawn(request).await
    }
}

#[tokio::test]
async fn a_store_that_cannot_write_changes_nothing_and_the_same_call_works_later() {
    let rig = rig().await;
    rig.switch.fail(true);
    assert_eq!(rig.attach(1).await.expect_err("refused").code, ErrorCode::StoreUnavailable);
    rig.switch.fail(false);
    let commands = rig.attach(2).await.expect("attached");
    rig.switch.fail(true);
    let error = rig.spawn("key").await.expect_err("refused");
    assert_eq!(error.code, ErrorCode::StoreUnavailable);
    assert!(error.retryable() && error.message.contains("no space left"));
    assert!(
        rig.engine
            .list(ListQuery { limit: 9, ..ListQuery::default() })
            .await
            .expect("listed")
            .sessions
            .is_empty()
    );
    rig.switch.fail(false);
    let (session, replayed) = rig.spawn("key").await.expect("accepted");
    assert!(!replayed);
    assert_eq!(session.status(), SessionStatus::Starting);

    // What cannot be made durable is neither said nor forgotten by the caller.
    rig.switch.fail(true);
    let error = rig.engine.stop(session.session_id.clone(), String::new()).await.expect_err("refused");
    assert_eq!(error.code, ErrorCode::StoreUnavailable);
    assert!(!rig.engine.get(session.session_id.clone()).await.expect("there").stopping);

    // A report that cannot be made durable is not acknowledged: the worker has to connect again and say it
    // again.
    let event = SessionEvent {
        session_id: session.session_id,
        attempt: 1,
        event_seq: 1,
        body: Some(v1::session_event::Body::TurnStarted(v1::TurnStarted::default())),
        ..SessionEvent::default()
    };
    rig.engine.event("w1".parse().expect("a name"), 2, event).await;
    assert_eq!(commands.watch().closed().await, crate::fleet::link::Closing::Store);
}

#[tokio::test]
async fn a_worker_that_does_not_take_its_commands_is_cut_off_and_reconciled() {
    let rig = rig().await;
    let commands = rig.attach(1).await.expect("attached");
    let (session, _) = rig.spawn("").await.expect("accepted");
    // Nobody reads the pipe.
    let mut interrupts = 0;
    let mut closed = commands.watch();
    loop {
        let input = send_input_request::Input::Interrupt(true);
        let request = InputRequest { session: session.handle.clone(), request_id: String::new(), input };
        match rig.engine.input(request).await {
            Ok(_) => interrupts += 1,
            Err(error) => break assert_eq!(error.code, ErrorCode::LimitReached),
        }
    }
    assert_eq!(interrupts, muster_proto::limits::PENDING_INPUTS - 1, "the prompt waits too");
    let ack =
        SessionEvent { session_id: "stranger".into(), attempt: 1, event_seq: 1, ..SessionEvent::default() };
    for n in 0..2000 {
        let event = SessionEvent { session_id: format!("stranger {n}"), ..ack.clone() };
        rig.engine.event("w1".parse().expect("a name"), 1, event).await;
    }
    assert_eq!(closed.closed().await, crate::fleet::link::Closing::Overflow);
}

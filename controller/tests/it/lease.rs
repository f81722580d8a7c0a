//! Workers that are cut off, and two that show one identity.

use std::time::Duration;

use muster_controller::StoreKind;
use muster_proto::{
    error::{Error, ErrorCode},
    v1::{connect_response::Body as Down, session_event::Body as Event, *},
};

use muster_runtime::task;

use crate::{
    farm::{Farm, answer, spec},
    projects::{policy, put},
    worker::{FakeWorker, hello},
};

async fn quick() -> Farm {
    Farm::start_with(|config| {
        config.store = StoreKind::Memory;
        config.heartbeat_interval = Duration::from_millis(50);
        config.unreachable_after = Duration::from_millis(300);
        config.lease = Duration::from_millis(600);
        config.lease_margin = Duration::from_millis(300);
    })
    .await
}

fn clones(name: &str) -> Hello {
    Hello { projects: Vec::new(), serves_declared: true, ..hello(name, 1) }
}

async fn beat(worker: &mut FakeWorker, seq: u64) {
    worker.beat(Heartbeat { seq, ..Heartbeat::default() }).await;
    match worker.command().await {
        Down::HeartbeatAck(ack) => assert_eq!(ack.seq, seq),
        other => panic!("not an acknowledgement: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_a_cut_off_worker_starts_elsewhere_and_the_old_worker_is_fenced() {
    let farm = quick().await;
    let restart = ProjectPolicy { on_lost: OnLost::Restart.into(), ..policy("api") };
    put(&farm, restart, 0).await.expect("declared");
    let mut first = FakeWorker::connect(&farm, clones("w1")).await;
    let id = farm.spawn("the prompt").await.session_id;
    assert_eq!(farm.get(&id).await.status(), SessionStatus::Queued, "no lease, no session");
    beat(&mut first, 1).await;
    let start = first.start().await;
    assert!(start.lease_bound && start.output_base_offset == 0);
    first.work(&start).await;
    let away = farm.until_status(&id, SessionStatus::Unreachable).await;
    assert!(away.worker_last_heard_at.is_some());
    let mut second = FakeWorker::connect(&farm, clones("w2")).await;
    // Says that it is there until it is given something.
    let next = loop {
        second.beat(Heartbeat { seq: 1, ..Heartbeat::default() }).await;
        match second.command().await {
            Down::Start(start) => break start,
            Down::HeartbeatAck(_) => {}
            other => panic!("not expected: {other:?}"),
        }
    };
    assert_eq!((next.attempt, next.resume, next.workspace), (2, false, None));
    assert_eq!(next.inputs[0].body, Some(input::Body::Message("the prompt".into())));
    let held =
        HeldSession { session_id: id.clone(), attempt: 1, running: true, spool_end_offset: 9, last_input: 1 };
    let mut first = first.reconnect(&farm, vec![held]).await;
    match first.command().await {
        Down::Stop(stop) => assert!(stop.fenced && stop.attempt == 1 && stop.session_id == id),
        other => panic!("not a stop: {other:?}"),
    }
    // What it says of the old attempt is acknowledged and changes nothing.
    first.end(&id, 1, EndReason::LeaseLapsed, "stale").await;
    first
        .report(&id, 1, Event::TurnEnded(TurnEnded { result_text: "stale".into(), ..Default::default() }))
        .await;
    let now = farm.get(&id).await;
    assert_eq!((now.attempt, now.worker.as_str(), now.result_text.as_str()), (2, "w2", ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_goes_through_and_twins_are_both_refused_until_one_is_gone() {
    let farm = quick().await;
    let first = FakeWorker::connect(&farm, hello("w1", 1)).await;
    // Its process ends: the connection goes with it.
    drop(first);
    let mut first = FakeWorker::connect(&farm, hello("w1", 1)).await;
    let twin = hello("w1", 1);
    let client = farm.workers();
    let second = task::spawn("twin", FakeWorker::connect_over(client, twin.clone()));
    let refused = |status: &tonic::Status| Error::from_status(status).code == ErrorCode::DuplicateWorker;
    // The first goes on as if nothing were.
    let mut seq = 0;
    let ended = loop {
        seq += 1;
        if let Err(status) = first.try_beat(seq).await {
            break status;
        }
    };
    assert!(refused(&ended), "{ended:?}");
    let second = second.await.expect("it ends").map(drop).expect_err("refused");
    assert!(refused(&second), "{second:?}");
    let again = FakeWorker::connect_over(farm.workers(), first.hello.clone()).await;
    assert!(refused(&again.map(drop).expect_err("refused")));
    let workers = answer(farm.admin().list_workers(ListWorkersRequest {}).await).expect("listed").workers;
    assert_eq!(workers[0].health(), WorkerHealth::Duplicate);
    // One of them stops trying; the other tries on.
    let mut only = loop {
        match FakeWorker::connect_over(farm.workers(), twin.clone()).await {
            Ok(worker) => break worker,
            Err(status) => assert!(refused(&status), "{status:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    farm.try_spawn(spec("x"), "").await.expect("accepted");
    only.start().await;
}

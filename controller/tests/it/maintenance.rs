//! Workers that take no session: cordoned, draining, out of memory; sessions that take machines down; shares.

use std::{collections::BTreeMap, time::Duration};

use muster_proto::{error::ErrorCode, metadata, v1::*};
use tonic::Request;

use crate::{
    farm::{Farm, answer, refused, spec},
    worker::{FakeWorker, hello},
};

async fn explain(farm: &Farm, session: &str) -> ExplainSessionResponse {
    let request = ExplainSessionRequest { session: session.into() };
    answer(farm.admin().explain_session(request).await).expect("it is queued")
}

async fn cordon(farm: &Farm, reason: &str) -> Worker {
    let request = CordonWorkerRequest { worker: "w1".into(), reason: reason.into() };
    answer(farm.admin().cordon_worker(request).await).expect("cordoned").worker.expect("a worker")
}

async fn uncordon(farm: &Farm) -> Worker {
    let request = UncordonWorkerRequest { worker: "w1".into() };
    answer(farm.admin().uncordon_worker(request).await).expect("uncordoned").worker.expect("a worker")
}

async fn drain(farm: &Farm, deadline_seconds: u32, wait_seconds: u32) -> DrainWorkerResponse {
    let request =
        DrainWorkerRequest { worker: "w1".into(), reason: "update".into(), deadline_seconds, wait_seconds };
    answer(farm.admin().drain_worker(request).await).expect("draining")
}

fn held(id: &str, attempt: u32, running: bool) -> HeldSession {
    HeldSession { session_id: id.into(), attempt, running, spool_end_offset: 0, last_input: 1 }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cordoned_worker_takes_nothing_new_also_after_a_restart_until_it_may_again() {
    let mut farm = Farm::start().await;
    let mut worker = FakeWorker::connect(&farm, hello("w1", 2)).await;
    let running = farm.spawn("before").await.session_id;
    let start = worker.start().await;
    worker.work(&start).await;
    let shown = cordon(&farm, "new disk").await;
    assert_eq!((shown.running, shown.maintenance.expect("cordoned").mode()), (1, MaintenanceMode::Cordoned));
    let waiting = farm.spawn("after").await;
    assert_eq!(
        (waiting.status(), waiting.queue_reason.as_str()),
        (SessionStatus::Queued, "w1: cordoned: new disk")
    );
    farm.restart().await;
    worker = worker.reconnect(&farm, vec![held(&running, 1, true)]).await;
    let why = explain(&farm, &waiting.session_id).await;
    assert_eq!((why.verdicts[0].filter.as_str(), why.held_by.as_str()), ("maintenance", ""));
    assert!(why.waiting_since.is_some());
    worker.end(&running, 1, EndReason::TurnCompleted, "done").await;
    assert_eq!(farm.get(&waiting.session_id).await.status(), SessionStatus::Queued);
    assert_eq!(uncordon(&farm).await.maintenance, None);
    assert_eq!(uncordon(&farm).await.maintenance, None, "twice is once");
    assert_eq!(worker.start().await.session_id, waiting.session_id);

    let request = CordonWorkerRequest { worker: "w2".into(), reason: String::new() };
    let error = refused(answer(farm.admin().cordon_worker(request).await), ErrorCode::WorkerNotFound);
    assert_eq!(error.field, "worker");
    let request = CordonWorkerRequest { worker: "No Name".into(), reason: String::new() };
    refused(answer(farm.admin().cordon_worker(request).await), ErrorCode::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_waits_for_the_turns_that_run() {
    let farm = Farm::start().await;
    let mut worker = FakeWorker::connect(&farm, hello("w1", 2)).await;
    let id = farm.spawn("work").await.session_id;
    let start = worker.start().await;
    worker.work(&start).await;
    let told = drain(&farm, 0, 0).await;
    assert!(!told.empty && told.worker.expect("it").maintenance.expect("draining").deadline.is_none());
    let waited = tokio::join!(drain(&farm, 3600, 3600), async {
        // The turn goes on; a message for it is still given.
        farm.message(&id, "also this").await.expect("taken");
        assert!(matches!(worker.command().await, connect_response::Body::Input(_)));
        worker.applied(&id, 1, 2).await;
        worker.end(&id, 1, EndReason::TurnCompleted, "done").await;
    })
    .0;
    assert!(waited.empty && waited.worker.expect("it").maintenance.expect("draining").deadline.is_some());
    assert!(drain(&farm, 0, 3600).await.empty, "it is empty already");
    let too_long = DrainWorkerRequest { worker: "w1".into(), wait_seconds: u32::MAX, ..Default::default() };
    refused(answer(farm.admin().drain_worker(too_long).await), ErrorCode::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_past_its_deadline_interrupts_once_and_the_session_goes_on_later() {
    let farm = Farm::start_with(|config| config.heartbeat_interval = Duration::from_millis(40)).await;
    let mut worker = FakeWorker::connect(&farm, hello("w1", 1)).await;
    let id = farm.spawn("work").await.session_id;
    let start = worker.start().await;
    worker.work(&start).await;
    assert!(!drain(&farm, 1, 0).await.empty);
    let input = worker.input().await;
    assert_eq!(input.input.expect("one").body, Some(input::Body::Interrupt(true)));
    worker.applied(&id, 1, 2).await;
    worker.end(&id, 1, EndReason::Interrupted, "").await;
    let ended = farm.until_status(&id, SessionStatus::Completed).await;
    assert_eq!(ended.end.expect("an end").reason(), EndReason::Interrupted);
    // What comes now waits, and only one interrupt was ever sent.
    farm.message(&id, "go on").await.expect("taken");
    assert_eq!(farm.get(&id).await.queue_reason, "its workspace is on w1: draining: update");
    uncordon(&farm).await;
    let start = worker.start().await;
    assert_eq!((start.attempt, start.resume, start.inputs[0].seq), (2, true, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_without_memory_takes_nothing_until_it_says_there_is_some() {
    const GIB: u64 = 1 << 30;
    let farm = Farm::start().await;
    let capacity =
        Capacity { slots: 9, memory_per_session_bytes: GIB, disk_reserve_bytes: GIB, starts_at_once: 0 };
    let mut worker = FakeWorker::connect(&farm, Hello { capacity: Some(capacity), ..hello("w1", 9) }).await;
    let beat =
        Heartbeat { memory_available_bytes: 2 * GIB, disk_available_bytes: GIB, ..Heartbeat::default() };
    worker.beat(beat).await;
    let mut ids = Vec::new();
    for n in 0..3 {
        ids.push(farm.spawn(&format!("task {n}")).await.session_id);
    }
    let first = worker.start().await;
    worker.start().await;
    let why = explain(&farm, &ids[2]).await;
    assert_eq!(why.verdicts[0].filter, "memory");
    assert_eq!(why.reason, "w1: 2048 MiB of memory are free and 3072 are needed");
    // One that works shows in what is free.
    worker.work(&first).await;
    assert_eq!(worker.start().await.session_id, ids[2]);
    let last = farm.spawn("one more").await;
    assert_eq!(last.status(), SessionStatus::Queued);
    worker.beat(Heartbeat { memory_available_bytes: 3 * GIB, ..beat }).await;
    assert_eq!(worker.start().await.session_id, last.session_id);
    worker.beat(Heartbeat { memory_available_bytes: 9 * GIB, disk_available_bytes: 1, ..beat }).await;
    let waits = farm.spawn("no disk").await.session_id;
    assert_eq!(explain(&farm, &waits).await.verdicts[0].filter, "disk");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_its_machine_down_twice_waits_for_a_word() {
    let mut farm = Farm::start().await;
    let boot = |boot: &str| Hello { boot_id: boot.into(), ..hello("w1", 1) };
    let mut worker = FakeWorker::connect(&farm, boot("first")).await;
    let id = farm.spawn("work").await.session_id;
    for (attempt, next) in [(1, "second"), (2, "third")] {
        let start = worker.start().await;
        assert_eq!(start.attempt, attempt);
        worker.work(&start).await;
        let seqs = worker.seqs.clone();
        worker =
            FakeWorker::connect(&farm, Hello { held: vec![held(&id, attempt, false)], ..boot(next) }).await;
        worker.seqs = seqs;
        worker.end(&id, attempt, EndReason::ShimLost, "").await;
    }
    let waits = farm.until_status(&id, SessionStatus::Queued).await;
    assert!(waits.queue_reason.starts_with("in quarantine"), "{}", waits.queue_reason);
    assert_eq!(explain(&farm, &id).await.held_by, "quarantine");
    farm.restart().await;
    worker = worker.reconnect(&farm, Vec::new()).await;
    assert_eq!(explain(&farm, &id).await.held_by, "quarantine", "also after a restart");
    farm.message(&id, "it was the power supply").await.expect("taken");
    assert_eq!(worker.start().await.attempt, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_are_told_apart_and_share_the_farm() {
    let farm = Farm::start_with(|config| {
        config.policy.caller_caps = BTreeMap::from([("batch".to_owned(), 1)]);
    })
    .await;
    let mut worker = FakeWorker::connect(&farm, hello("w1", 3)).await;
    let spawn = async |caller: &'static str, priority: i32| {
        let spec = SessionSpec { priority, ..spec("work") };
        let mut request = Request::new(SpawnSessionRequest { spec: Some(spec), request_id: String::new() });
        request.metadata_mut().insert(metadata::CALLER, caller.parse().expect("ASCII"));
        answer(farm.sessions().spawn_session(request).await).map(|response| response.session.expect("one"))
    };
    let first = spawn("batch", 0).await.expect("accepted");
    assert_eq!((first.caller.as_str(), first.status()), ("batch", SessionStatus::Starting));
    let second = spawn("batch", 5).await.expect("accepted");
    assert_eq!(second.queue_reason, "its caller has 1 running, as many as allowed");
    let why = explain(&farm, &second.session_id).await;
    assert_eq!((why.held_by.as_str(), why.effective_priority), ("caller_cap", 5));
    assert_eq!(spawn("person", 0).await.expect("accepted").status(), SessionStatus::Starting);
    assert_eq!(farm.spawn("nobody says who").await.caller, "local");
    refused(spawn("not a name", 0).await, ErrorCode::InvalidArgument);
    let error = refused(spawn("person", 11).await, ErrorCode::InvalidArgument);
    assert_eq!(error.field, "priority");
    worker.play().await;
    assert_eq!(farm.get(&second.session_id).await.status(), SessionStatus::Starting);
}

//! Many sessions, several workers, silence.

use std::time::Duration;

use muster_controller::{Controller, StoreKind};
use muster_proto::{error::ErrorCode, v1::*};
use muster_runtime::shutdown::Shutdown;

use crate::{
    farm::{Farm, answer, config, refused, spec},
    worker::{FakeWorker, hello, project},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_full_farm_queues_in_order_and_says_why() {
    let farm = Farm::start().await;
    let mut worker = FakeWorker::connect(&farm, hello("w1", 2)).await;
    let mut spawned = Vec::new();
    for n in 0..6 {
        spawned.push(farm.spawn(&format!("task {n}")).await.session_id);
    }
    let last = farm.get(&spawned[5]).await;
    assert_eq!((last.status(), last.queue_position), (SessionStatus::Queued, 4));
    assert_eq!(last.queue_reason, "every worker that serves the project is full");
    let request = ExplainSessionRequest { session: spawned[5].clone() };
    let why = answer(farm.admin().explain_session(request).await).expect("explained");
    assert_eq!((why.queue_position, why.verdicts[0].reason.as_str()), (4, "all 2 slots are taken"));
    let request = ExplainSessionRequest { session: spawned[0].clone() };
    refused(answer(farm.admin().explain_session(request).await), ErrorCode::SessionRunning);

    let mut order = Vec::new();
    for _ in 0..6 {
        order.push(worker.play().await.session_id);
    }
    assert_eq!(order, spawned);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_ranked_counted_filtered_and_paged() {
    let farm = Farm::start_with(|config| config.store = StoreKind::Memory).await;
    let mut worker = FakeWorker::connect(&farm, hello("w1", 1)).await;
    let mut spawned = Vec::new();
    for n in 0..7 {
        let labels = [("odd".to_owned(), (n % 2 == 1).to_string())].into();
        let spec = SessionSpec { labels, ..spec(&format!("task {n}")) };
        spawned.push(farm.try_spawn(spec, "").await.expect("accepted").session.expect("one").session_id);
    }
    let start = worker.start().await;
    worker.ask(&start.session_id, 1, crate::worker::permission("a1")).await;
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page =
            farm.list(ListSessionsRequest { limit: 3, cursor, ..ListSessionsRequest::default() }).await;
        assert_eq!(page.total, 7);
        let counts: Vec<_> = page.counts.iter().map(|count| (count.status(), count.count)).collect();
        assert_eq!(counts, [(SessionStatus::Queued, 6), (SessionStatus::NeedsAttention, 1)]);
        seen.extend(page.sessions.into_iter().map(|session| session.session_id));
        cursor = page.next_cursor;
        if cursor.is_empty() {
            break;
        }
    }
    let newest_first: Vec<_> = spawned[1..].iter().rev().cloned().collect();
    assert_eq!(seen, [&[spawned[0].clone()], newest_first.as_slice()].concat());
    let odd = ListSessionsRequest {
        labels: [("odd".into(), "true".into())].into(),
        ..ListSessionsRequest::default()
    };
    assert_eq!(farm.list(odd).await.total, 3);
    let queued = ListSessionsRequest {
        statuses: vec![SessionStatus::Queued.into()],
        ..ListSessionsRequest::default()
    };
    let listed = farm.list(queued).await;
    assert_eq!((listed.total, listed.counts.len()), (6, 2), "counts are over all statuses");
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_projects_and_trust_choose_the_worker() {
    let farm = Farm::start_with(|config| config.store = StoreKind::Memory).await;
    let mut plain = FakeWorker::connect(&farm, hello("plain", 9)).await;
    let trusted = Project { allow_trust_mode: true, ..project("demo") };
    let gpu = Hello {
        labels: [("gpu".to_owned(), "yes".to_owned())].into(),
        projects: vec![trusted, project("other")],
        ..hello("gpu", 1)
    };
    let mut gpu = FakeWorker::connect(&farm, gpu).await;
    let error = refused(farm.try_spawn(spec("x"), "").await, ErrorCode::InvalidArgument);
    assert!(error.field == "project" && error.hint.contains("demo, other"), "{error:?}");
    refused(
        farm.try_spawn(SessionSpec { project: "nowhere".into(), ..spec("x") }, "").await,
        ErrorCode::ProjectNotFound,
    );
    let other = SessionSpec { project: "other".into(), trust_mode: true, ..spec("x") };
    refused(farm.try_spawn(other, "").await, ErrorCode::TrustNotAllowed);
    let demo = SessionSpec { project: "demo".into(), ..spec("x") };
    let trust = farm.try_spawn(SessionSpec { trust_mode: true, ..demo.clone() }, "").await.expect("accepted");
    assert_eq!(gpu.start().await.session_id, trust.session.expect("one").session_id);
    let label = [("gpu".to_owned(), "yes".to_owned())].into();
    let waits =
        farm.try_spawn(SessionSpec { required_labels: label, ..demo.clone() }, "").await.expect("accepted");
    let waits = waits.session.expect("one");
    assert_eq!(waits.status(), SessionStatus::Queued);
    // It holds up nobody behind it.
    let behind = farm.try_spawn(demo, "").await.expect("accepted").session.expect("one");
    assert_eq!(plain.start().await.session_id, behind.session_id);
    let workers = answer(farm.admin().list_workers(ListWorkersRequest {}).await).expect("listed").workers;
    let running: Vec<_> = workers.iter().map(|worker| (worker.worker.as_str(), worker.running)).collect();
    assert_eq!(running, [("gpu", 1), ("plain", 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_shown_and_ends_without_a_trace() {
    let farm = Farm::start_with(|config| {
        config.heartbeat_interval = Duration::from_millis(50);
        config.unreachable_after = Duration::from_millis(300);
    })
    .await;
    let mut worker = FakeWorker::connect(&farm, hello("w1", 1)).await;
    let id = farm.spawn("work").await.session_id;
    let start = worker.start().await;
    worker.work(&start).await;
    farm.until_status(&id, SessionStatus::Unreachable).await;
    let workers = answer(farm.admin().list_workers(ListWorkersRequest {}).await).expect("listed").workers;
    assert_eq!(workers[0].health(), WorkerHealth::Unreachable);
    let held =
        HeldSession { session_id: id.clone(), attempt: 1, running: true, spool_end_offset: 0, last_input: 1 };
    let _worker = worker.reconnect(&farm, vec![held]).await;
    farm.until_status(&id, SessionStatus::Working).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_never_comes_back_after_a_restart_is_shown() {
    let mut farm = Farm::start_with(|config| {
        config.heartbeat_interval = Duration::from_millis(50);
        config.unreachable_after = Duration::from_millis(300);
    })
    .await;
    let mut worker = FakeWorker::connect(&farm, hello("w1", 1)).await;
    let id = farm.spawn("work").await.session_id;
    worker.start().await;
    farm.restart().await;
    farm.until_status(&id, SessionStatus::Unreachable).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_link_of_the_same_name_replaces_the_older() {
    let farm = Farm::start().await;
    let mut first = FakeWorker::connect(&farm, hello("w1", 1)).await;
    let mut second = FakeWorker::connect(&farm, hello("w1", 1)).await;
    assert_eq!(first.ended().await.code(), tonic::Code::Aborted);
    let id = farm.spawn("work").await.session_id;
    assert_eq!(second.start().await.session_id, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_used_is_named() {
    let farm = Farm::start().await;
    let start = |dir: std::path::PathBuf| Controller::start(config(dir), Shutdown::new());
    let in_use = farm.dir.path().join("state");
    let error = start(in_use.clone()).await.expect_err("locked").to_string();
    assert!(
        error.contains("in use by another controller") && error.contains(in_use.to_str().expect("text")),
        "{error}"
    );
    let file = farm.dir.path().join("file");
    std::fs::write(&file, "x").expect("written");
    for bad in [file.clone(), file.join("below"), "/proc/muster".into()] {
        let error = start(bad.clone()).await.expect_err("refused").to_string();
        assert!(error.contains(bad.to_str().expect("text")), "{error}");
    }
    let mut outside = config(farm.dir.path().join("other"));
    outside.listen = "0.0.0.0:0".parse().expect("an address");
    let error = Controller::start(outside, Shutdown::new()).await.expect_err("refused").to_string();
    assert!(error.contains("loopback"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_spawns_is_accepted_durably_and_run_in_order() {
    let farm = Farm::start().await;
    let _worker = FakeWorker::connect(&farm, hello("w1", 4)).await;
    let client = farm.sessions();
    let begun = std::time::Instant::now();
    let burst = (0..32).map(|caller| {
        let mut client = client.clone();
        async move {
            for n in 0..32 {
                let request = SpawnSessionRequest {
                    spec: Some(spec(&format!("caller {caller} task {n}"))),
                    request_id: format!("{caller}/{n}"),
                };
                client.spawn_session(request).await.expect("accepted");
            }
        }
    });
    futures::future::join_all(burst).await;
    let seconds = begun.elapsed().as_secs_f64();
    println!("{:.0} spawns/s", 1024.0 / seconds);
    let listed = farm.list(ListSessionsRequest { limit: 1, ..ListSessionsRequest::default() }).await;
    let counts: Vec<_> = listed.counts.iter().map(|count| (count.status(), count.count)).collect();
    assert_eq!(counts, [(SessionStatus::Queued, 1020), (SessionStatus::Starting, 4)]);
}

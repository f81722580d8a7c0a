//! A controller that dies and comes back, and workers that do.

use muster_proto::{
    error::ErrorCode,
    v1::{connect_response::Body as Down, session_event::Body as Event, *},
};

use crate::{
    farm::{Farm, refused, spec},
    worker::{FakeWorker, hello, permission},
};

fn held(session: &str, attempt: u32, last_input: u64) -> HeldSession {
    HeldSession { session_id: session.into(), attempt, running: true, spool_end_offset: 0, last_input }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_controller_restarts_in_the_middle() {
    let mut farm = Farm::start().await;
    let mut worker = FakeWorker::connect(&farm, hello("w1", 1)).await;
    let running = farm.try_spawn(spec("running"), "key").await.expect("accepted").session.expect("one");
    let id = running.session_id.clone();
    let queued = farm.spawn("queued").await;
    let start = worker.start().await;
    worker.work(&start).await;
    worker.ask(&id, 1, permission("a10")).await;
    let mut watch = farm.watch(&[&id]).await;
    watch.message().await.expect("watched").expect("the state");
    let before = farm.get(&id).await;

    farm.leave().await;
    let end = watch.message().await.expect_err("the watch ends").code();
    assert_eq!(end, tonic::Code::Unavailable);
    assert_eq!(worker.ended().await.code(), tonic::Code::Unavailable);
    farm.restart().await;

    let after = farm.get(&id).await;
    assert!(after.revision > before.revision);
    assert_eq!(after.status(), SessionStatus::NeedsAttention);
    assert_eq!((&after.attention, &after.workspace), (&before.attention, &before.workspace));
    assert_eq!(farm.get(&queued.handle).await.status(), SessionStatus::Queued);
    let again = farm.try_spawn(spec("running"), "key").await.expect("known");
    assert!(again.replayed && again.session.expect("one").session_id == id);
    // Answered while the worker is away: delivered when it is back.
    let allow = Answer { decision: Decision::Allow.into(), ..Answer::default() };
    farm.input(&id, "", send_input_request::Input::Answer(allow)).await.expect("accepted");

    let mut worker = worker.reconnect(&farm, vec![held(&id, 1, 1)]).await;
    assert_eq!(worker.input().await.input.expect("one").seq, 2);
    worker.applied(&id, 1, 2).await;
    worker.end(&id, 1, EndReason::TurnCompleted, "done").await;
    assert_eq!(worker.start().await.session_id, queued.session_id);
    farm.restart().await;
    assert_eq!(farm.get(&id).await.result_text, "done");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_never_arrived_is_sent_again_and_a_lost_attempt_goes_on() {
    let mut farm = Farm::start().await;
    let mut worker = FakeWorker::connect(&farm, hello("w1", 2)).await;
    let seen = farm.spawn("seen").await.session_id;
    let start = worker.start().await;
    worker.work(&start).await;
    let unseen = farm.spawn("unseen").await.session_id;
    assert_eq!(worker.start().await.session_id, unseen);
    farm.restart().await;
    let mut worker = worker.reconnect(&farm, Vec::new()).await;
    let mut starts = [worker.start().await, worker.start().await];
    starts.sort_by_key(|start| start.attempt);
    let [again, resumed] = starts;
    assert_eq!((again.session_id.as_str(), again.attempt), (unseen.as_str(), 1));
    assert_eq!((resumed.session_id.as_str(), resumed.attempt, resumed.resume), (seen.as_str(), 2, true));
    assert_eq!(farm.get(&seen).await.interruptions, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_comes_to_its_end_also_when_the_worker_lost_its_disk() {
    let farm = Farm::start().await;
    let mut worker = FakeWorker::connect(&farm, hello("w1", 1)).await;
    let id = farm.spawn("work").await.session_id;
    let start = worker.start().await;
    worker.work(&start).await;
    farm.stop(&id).await;
    drop(worker);
    let _anew = FakeWorker::connect(&farm, hello("w1", 1)).await;
    let stopped = farm.until_status(&id, SessionStatus::Stopped).await;
    assert_eq!((stopped.stopping, stopped.end.expect("an end").reason()), (false, EndReason::Stopped));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_wants_is_stopped_and_old_events_change_nothing() {
    let farm = Farm::start().await;
    let mut worker = FakeWorker::connect(&farm, hello("w1", 1)).await;
    let id = farm.spawn("work").await.session_id;
    worker.play().await;
    farm.message(&id, "more").await.expect("accepted");
    let start = worker.start().await;
    assert_eq!(start.attempt, 2);
    worker.work(&start).await;
    let stranger = muster_proto::ids::SessionId::generate().to_string();
    let mut worker = worker.reconnect(&farm, vec![held(&id, 1, 1), held(&stranger, 3, 1)]).await;
    for expected in [(&id, 1), (&stranger, 3)] {
        let Down::Stop(stop) = worker.command().await else { panic!("not a stop") };
        assert_eq!((&stop.session_id, stop.attempt), expected);
    }
    // The last attempt was not in the list although it was seen: it is lost, and goes on as another.
    let start = worker.start().await;
    assert_eq!((start.attempt, start.resume), (3, true));
    worker.work(&start).await;
    let before = farm.get(&id).await;
    let ended = || Event::AttemptEnded(AttemptEnded::default());
    worker.report(&id, 1, ended()).await;
    worker.report_as(&id, 3, 1, ended()).await;
    worker.report_as(&stranger, 1, 7, ended()).await;
    let after = farm.get(&id).await;
    assert_eq!((after.status(), after.usage), (SessionStatus::Working, before.usage));
    worker.end(&id, start.attempt, EndReason::TurnCompleted, "").await;
    assert_eq!(farm.get(&id).await.status(), SessionStatus::Completed);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_waits_for_a_worker_that_is_away() {
    let mut farm = Farm::start().await;
    let mut worker = FakeWorker::connect(&farm, hello("w1", 1)).await;
    let id = farm.spawn("work").await.session_id;
    worker.play().await;
    farm.leave().await;
    farm.restart().await;
    let archiving = farm.archive(&id);
    let mut archiving = std::pin::pin!(archiving);
    // Durable at once; the answer waits for the worker.
    tokio::select! {
        archived = &mut archiving => panic!("nobody released it: {archived:?}"),
        found = farm.until(&id, |session| session.archived) => {
            assert_eq!(found.workspace.expect("one").state(), WorkspaceState::Releasing);
        }
    }
    let mut worker = worker.reconnect(&farm, Vec::new()).await;
    let Down::Release(release) = worker.command().await else { panic!("not a release") };
    let failed = WorkspaceReleased { workspace: release.workspace.clone(), error: "disk full".into() };
    worker.report(&id, 1, Event::WorkspaceReleased(failed)).await;
    let kept = archiving.await.expect("archived").session.expect("one");
    assert_eq!(kept.workspace.expect("one").state(), WorkspaceState::Present);
    assert!(kept.last_activity.contains("disk full"));
    let (again, ()) = tokio::join!(farm.archive(&id), async {
        assert!(matches!(worker.command().await, Down::Release(_)));
        let released = WorkspaceReleased { workspace: release.workspace, error: String::new() };
        worker.report(&id, 1, Event::WorkspaceReleased(released)).await;
    });
    let workspace = again.expect("archived").session.expect("one").workspace.expect("one");
    assert_eq!(workspace.state(), WorkspaceState::Released);
    refused(farm.message(&id, "more").await, ErrorCode::SessionEnded);
}

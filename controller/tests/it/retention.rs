//! What was archived long ago is forgotten, and nothing else.

use std::time::Duration;

use muster_proto::{
    error::ErrorCode,
    v1::{session_event::Body as Event, *},
};

use crate::{
    farm::{Farm, refused, spec},
    worker::{FakeWorker, hello, workspace},
};

fn outputs(farm: &Farm) -> Vec<String> {
    let entries = std::fs::read_dir(farm.dir.path().join("state/output")).expect("a folder");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archived_session_is_forgotten_after_its_time_and_an_ended_one_never() {
    let mut farm = Farm::start_with(|config| {
        config.heartbeat_interval = Duration::from_millis(20);
        config.unreachable_after = Duration::from_secs(60);
        config.keep_ended = None;
    })
    .await;
    let mut worker = FakeWorker::connect(&farm, hello("w1", 4)).await;
    let mut ids = Vec::new();
    for key in ["archived", "ended", "unreleased"] {
        let id = farm.try_spawn(spec("work"), key).await.expect("accepted").session.expect("one").session_id;
        let start = worker.start().await;
        worker.work(&start).await;
        let mut push = worker.push(&farm).await.expect("open");
        push.open(&id).await;
        assert_eq!(push.position().await, 0);
        push.chunk(&id, 0, "some output").await;
        push.acked(11).await;
        worker.end(&id, 1, EndReason::TurnCompleted, "done").await;
        ids.push(id);
    }
    let [archived, ended, unreleased] = &ids[..] else { panic!("three") };
    let (answered, ()) = tokio::join!(farm.archive(archived), async {
        let command = worker.command().await;
        assert!(matches!(command, connect_response::Body::Release(_)), "{command:?}");
        let released = Workspace { state: WorkspaceState::Released.into(), ..workspace("x") };
        let released = WorkspaceReleased { workspace: Some(released), error: String::new() };
        worker.report(archived, 1, Event::WorkspaceReleased(released)).await;
    });
    answered.expect("archived");
    // Its worktree could not be removed: it stays until it could.
    let (answered, ()) = tokio::join!(farm.archive(unreleased), async {
        worker.command().await;
        let released = WorkspaceReleased { workspace: None, error: "busy".into() };
        worker.report(unreleased, 1, Event::WorkspaceReleased(released)).await;
    });
    answered.expect("archived");
    drop(worker);
    farm.restart_with(|config| config.keep_ended = Some(Duration::from_millis(1))).await;
    let forgotten = async {
        while farm.try_get(archived).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::farm::PATIENCE, forgotten).await.expect("forgotten in time");
    refused(farm.try_get(archived).await, ErrorCode::SessionNotFound);
    let mut left = outputs(&farm);
    left.sort();
    let mut kept = vec![ended.clone(), unreleased.clone()];
    kept.sort();
    assert_eq!(left, kept);

    farm.restart().await;
    refused(farm.try_get(archived).await, ErrorCode::SessionNotFound);
    for id in [ended, unreleased] {
        assert_eq!(farm.output(id).await, b"some output");
    }
    assert_eq!(
        farm.list(ListSessionsRequest { include_archived: true, ..Default::default() }).await.total,
        2
    );
    // Its request id means a new session now.
    let again = farm.try_spawn(spec("work"), "archived").await.expect("accepted");
    assert!(!again.replayed);
}

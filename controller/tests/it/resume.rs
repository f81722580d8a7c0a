//! Sessions that are interrupted and go on by themselves, and what blocks one.

use muster_proto::v1::{session_event::Body as Event, *};

use crate::{
    farm::Farm,
    worker::{FakeWorker, hello, permission},
};

const SILENCE: &str = "nothing came from you for too long";

fn note(start: &StartSession) -> (u64, &str) {
    let last = start.inputs.last().expect("an input");
    match &last.body {
        Some(input::Body::Message(text)) => (last.seq, text),
        other => panic!("no message: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_session_goes_on_three_times_in_a_row_and_the_count_survives_a_restart() {
    let mut farm = Farm::start().await;
    let mut worker = FakeWorker::connect(&farm, hello("w1", 1)).await;
    let id = farm.spawn("work").await.session_id;
    let start = worker.start().await;
    worker.work(&start).await;
    worker.ask(&id, 1, permission("a1")).await;
    for lost in 1..=3u32 {
        worker.end(&id, lost, EndReason::ShimLost, "").await;
        let start = worker.start().await;
        assert_eq!((start.attempt, start.resume), (lost + 1, true));
        let (seq, text) = note(&start);
        assert_eq!(seq, u64::from(lost) + 1, "one note for each interruption");
        assert!(text.starts_with("[muster] You were interrupted (the process around you"), "{text}");
        assert!(start.workspace.is_some());
        let shown = farm.get(&id).await;
        assert_eq!((shown.interruptions, shown.open_attentions), (lost, 0));
        worker.work(&start).await;
        farm.restart().await;
        let held = HeldSession {
            session_id: id.clone(),
            attempt: lost + 1,
            running: true,
            ..HeldSession::default()
        };
        worker = worker.reconnect(&farm, vec![HeldSession { last_input: seq, ..held }]).await;
    }
    worker.end(&id, 4, EndReason::ShimLost, "").await;
    let failed = farm.until_status(&id, SessionStatus::Failed).await;
    assert_eq!((failed.interruptions, failed.end.expect("an end").reason()), (3, EndReason::ShimLost));
    // Whoever asks for more gives it a new chance.
    farm.message(&id, "go on").await.expect("accepted");
    let start = worker.start().await;
    worker.work(&start).await;
    worker.end(&id, 5, EndReason::WorkerLost, "").await;
    assert!(note(&worker.start().await).1.contains("the worker lost you"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_session_goes_on_once_in_a_row() {
    let farm = Farm::start().await;
    let mut worker = FakeWorker::connect(&farm, hello("w1", 1)).await;
    let id = farm.spawn("work").await.session_id;
    let start = worker.start().await;
    worker.work(&start).await;
    worker.end(&id, 1, EndReason::Hung, "").await;
    let start = worker.start().await;
    assert!(note(&start).1.contains(SILENCE));
    // What was not given is given again, and not said twice.
    worker.end(&id, 2, EndReason::WorkerLost, "").await;
    let again = worker.start().await;
    assert_eq!(again.inputs, start.inputs);
    worker.work(&again).await;
    worker.end(&id, 3, EndReason::Hung, "").await;
    let failed = farm.until_status(&id, SessionStatus::Failed).await;
    assert_eq!((failed.interruptions, failed.end.expect("an end").reason()), (2, EndReason::Hung));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_never_began_is_given_its_prompt_again_and_a_stopped_one_nothing() {
    let farm = Farm::start().await;
    let mut worker = FakeWorker::connect(&farm, hello("w1", 1)).await;
    let id = farm.spawn("work").await.session_id;
    worker.start().await;
    let ended = |reason: EndReason| {
        Event::AttemptEnded(AttemptEnded {
            end: Some(End { reason: reason.into(), ..End::default() }),
            ..AttemptEnded::default()
        })
    };
    worker.report(&id, 1, ended(EndReason::ShimLost)).await;
    let start = worker.start().await;
    assert_eq!((start.attempt, start.resume, note(&start)), (2, false, (1, "work")));
    // Given, and no conversation came of it: giving it again might do it twice.
    worker.applied(&id, 2, 1).await;
    worker.report(&id, 2, ended(EndReason::ShimLost)).await;
    assert_eq!(farm.until_status(&id, SessionStatus::Failed).await.interruptions, 1);

    let id = farm.spawn("work").await.session_id;
    let start = worker.start().await;
    worker.work(&start).await;
    farm.stop(&id).await;
    worker.end(&id, 1, EndReason::ShimLost, "").await;
    assert_eq!(farm.until_status(&id, SessionStatus::Stopped).await.interruptions, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_blocks_a_session_is_shown_until_it_is_gone_or_the_attempt_is() {
    let farm = Farm::start().await;
    let mut worker = FakeWorker::connect(&farm, hello("w1", 1)).await;
    let id = farm.spawn("work").await.session_id;
    let start = worker.start().await;
    worker.work(&start).await;
    let blocked = |text: &str, by: &str| {
        Event::Activity(Activity { text: text.into(), blocked: by.into(), ..Activity::default() })
    };
    worker.say(&id, 1, 0, blocked("runs ls", "")).await;
    worker.say(&id, 1, 0, blocked("", "disk_full")).await;
    let shown = farm.until(&id, |session| session.blocked == "disk_full").await;
    assert_eq!(shown.last_activity, "runs ls", "the last line stays");
    worker.say(&id, 1, 0, blocked("", "")).await;
    farm.until(&id, |session| session.blocked.is_empty()).await;
    worker.say(&id, 1, 0, blocked("", "disk_full")).await;
    worker.end(&id, 1, EndReason::TurnCompleted, "done").await;
    worker.say(&id, 1, 0, blocked("late", "disk_full")).await;
    let ended = farm.until(&id, |session| session.last_activity == "late").await;
    assert_eq!((ended.status(), ended.blocked.as_str()), (SessionStatus::Completed, ""));
}

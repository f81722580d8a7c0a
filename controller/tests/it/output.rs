//! Output: up, down, again, followed.

use bytes::Bytes;
use muster_proto::{
    error::ErrorCode,
    v1::{push_output_response::Body, session_event::Body as Event, *},
};
use tonic::Streaming;

use crate::{
    farm::{Farm, answer, refused},
    worker::{FakeWorker, hello},
};

async fn read(farm: &Farm, session: &str, from_offset: u64, follow: bool) -> Streaming<ReadOutputResponse> {
    let request = ReadOutputRequest { session: session.into(), from_offset, follow, limit_bytes: 0 };
    answer(farm.sessions().read_output(request).await).expect("readable")
}

/// All of it, checked to be contiguous from `at`.
async fn collect(mut stream: Streaming<ReadOutputResponse>, mut at: u64) -> (Vec<u8>, ReadOutputResponse) {
    let mut all = Vec::new();
    let mut last = None;
    while let Some(response) = stream.message().await.expect("the stream holds") {
        assert_eq!(response.offset, at);
        assert!(response.data.len() <= muster_proto::limits::CHUNK_BYTES);
        at += response.data.len() as u64;
        all.extend_from_slice(&response.data);
        last = Some(response);
    }
    (all, last.expect("at least one answer"))
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_appended_once_rewound_at_gaps_followed_and_kept() {
    let mut farm = Farm::start().await;
    let mut worker = FakeWorker::connect(&farm, hello("w1", 1)).await;
    let id = farm.spawn("work").await.session_id;
    let start = worker.start().await;
    worker.work(&start).await;
    let mut push = worker.push(&farm).await.expect("opened");
    push.open(&id).await;
    assert_eq!(push.position().await, 0);
    push.chunk(&id, 0, "hello ").await;
    push.acked(6).await;
    push.chunk(&id, 9, "gap").await;
    assert_eq!(push.position().await, 6);
    push.chunk(&id, 3, "lo world").await;
    push.acked(11).await;
    let (text, last) = collect(read(&farm, &id, 6, false).await, 6).await;
    assert_eq!((text.as_slice(), last.end_offset, last.ended), (&b"world"[..], 11, false));
    let late = read(&farm, &id, 12, false);
    drop(late);
    let request = ReadOutputRequest { session: id.clone(), from_offset: 12, ..ReadOutputRequest::default() };
    let error = refused(answer(farm.sessions().read_output(request).await), ErrorCode::InvalidCursor);
    assert_eq!(error.field, "fromOffset");

    // A follower sees what comes, and ends with the session once everything is there.
    let followed = read(&farm, &id, 0, true).await;
    let big = Bytes::from(vec![b'x'; 200_000]);
    let follower = async { collect(followed, 0).await };
    let writer = async {
        let ended = AttemptEnded {
            end: Some(End { reason: EndReason::TurnCompleted.into(), ..End::default() }),
            spool_end_offset: 11 + big.len() as u64,
            resumable: true,
            ..AttemptEnded::default()
        };
        worker.report(&id, 1, Event::AttemptEnded(ended)).await;
        for (n, part) in big.chunks(50_000).enumerate() {
            push.chunk(&id, 11 + n as u64 * 50_000, part).await;
        }
        push.acked(11 + big.len() as u64).await;
    };
    let ((text, last), ()) = tokio::join!(follower, writer);
    assert_eq!((text.len(), last.ended), (11 + big.len(), true));
    assert!(text.starts_with(b"hello worldxxx"));

    let stranger = muster_proto::ids::SessionId::generate().to_string();
    push.open(&stranger).await;
    assert!(matches!(push.answer().await, Body::Unknown(unknown) if unknown.session_id == stranger));

    farm.restart().await;
    assert_eq!(farm.get(&id).await.output_end_offset, 200_011);
    let limited =
        ReadOutputRequest { session: id.clone(), from_offset: 5, follow: true, limit_bytes: 100_000 };
    let stream = answer(farm.sessions().read_output(limited).await).expect("readable");
    assert_eq!(collect(stream, 5).await.0.len(), 100_000);
    let refused = worker.push(&farm).await.map(drop).expect_err("no link is live").code();
    assert_eq!(refused, tonic::Code::FailedPrecondition);
    let worker = worker.reconnect(&farm, Vec::new()).await;
    let mut push = worker.push(&farm).await.expect("opened");
    push.open(&id).await;
    assert_eq!(push.position().await, 200_011);
    push.acked(200_011).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_output_is_read_and_a_follower_of_a_stopped_session_ends() {
    let farm = Farm::start().await;
    let _worker = FakeWorker::connect(
        &farm,
        Hello { projects: vec![crate::worker::project("demo")], ..hello("w1", 1) },
    )
    .await;
    let _first = farm.spawn("takes the slot").await;
    let id = farm.spawn("waits").await.session_id;
    let (text, last) = collect(read(&farm, &id, 0, false).await, 0).await;
    assert!(text.is_empty() && last.end_offset == 0 && !last.ended);
    let followed = read(&farm, &id, 0, true).await;
    let ((text, last), stopped) = tokio::join!(collect(followed, 0), farm.stop(&id));
    assert!(stopped.changed && text.is_empty() && last.ended);
}

#[tokio::test(flavor = "multi_thread")]
async fn output_of_an_attempt_that_is_over_or_of_another_worker_is_not_taken() {
    let farm = Farm::start().await;
    let mut worker = FakeWorker::connect(&farm, hello("w1", 1)).await;
    let id = farm.spawn("work").await.session_id;
    let start = worker.start().await;
    worker.work(&start).await;
    let mut push = worker.push(&farm).await.expect("opened");
    push.open(&id).await;
    assert_eq!(push.position().await, 0);
    push.chunk(&id, 0, "first").await;
    push.acked(5).await;
    worker.end(&id, 1, EndReason::TurnCompleted, "done").await;
    farm.message(&id, "go on").await.expect("taken");
    assert_eq!(worker.start().await.attempt, 2);

    let mut push = worker.push(&farm).await.expect("opened");
    push.open_as(&id, 1).await;
    push.chunk(&id, 5, "of yesterday").await;
    assert!(matches!(push.answer().await, Body::Unknown(unknown) if unknown.session_id == id));
    push.open_as(&id, 2).await;
    assert_eq!(push.position().await, 5);
    let other = FakeWorker::connect(&farm, hello("w2", 1)).await;
    let mut foreign = other.push(&farm).await.expect("opened");
    foreign.open_as(&id, 2).await;
    foreign.chunk(&id, 5, "of somebody else").await;
    assert!(matches!(foreign.answer().await, Body::Unknown(unknown) if unknown.session_id == id));
    push.chunk(&id, 5, " second").await;
    push.acked(12).await;
    assert_eq!(farm.output(&id).await, b"first second");
}

//! Nonsense is answered clearly and harms nothing.

use muster_controller::StoreKind;
use muster_proto::{error::ErrorCode, limits, v1::*};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    farm::{Farm, answer, refused, spec},
    worker::{FakeWorker, hello},
};

async fn farm() -> Farm {
    Farm::start_with(|config| config.store = StoreKind::Memory).await
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_arrive_byte_for_byte_or_are_refused_by_name() {
    let farm = farm().await;
    refused(farm.try_spawn(spec("x"), "").await, ErrorCode::ProjectNotFound);
    let mut worker = FakeWorker::connect(&farm, hello("w1", 9)).await;
    let longest = "é".repeat(limits::PROMPT_BYTES / 2);
    for prompt in ["-p --help", "$(rm -rf /) `id`", "a \"b\" 'c'\n\r\n\t\\", "\u{1b}[31m 日本語 🦀", &longest]
    {
        let spawned = farm.spawn(prompt).await;
        let start = worker.start().await;
        assert_eq!(start.session_id, spawned.session_id);
        assert_eq!(start.inputs[0].body, Some(input::Body::Message(prompt.to_owned())));
        assert_eq!(farm.get(&spawned.handle).await.spec.expect("a spec").prompt, prompt);
    }
    let too_long = format!("{longest}x");
    for prompt in ["", " \n", &too_long] {
        let error = refused(farm.try_spawn(spec(prompt), "").await, ErrorCode::InvalidArgument);
        assert_eq!(error.field, "prompt", "{error:?}");
    }
    assert_eq!(farm.list(ListSessionsRequest::default()).await.total, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_found_by_id_handle_or_prefix_and_nothing_else() {
    let farm = farm().await;
    let mut worker = FakeWorker::connect(&farm, hello("w1", 9)).await;
    let (one, two) = (farm.spawn("alpha one").await, farm.spawn("alpha two").await);
    worker.start().await;
    for name in [&one.session_id, &one.handle, &one.session_id.to_uppercase(), &one.handle[..9].to_owned()] {
        assert_eq!(farm.get(name).await.session_id, one.session_id, "{name}");
    }
    let error = refused(farm.try_get("alpha").await, ErrorCode::AmbiguousSession);
    assert!(error.hint.contains(&one.handle) && error.hint.contains(&two.handle), "{error:?}");
    refused(farm.try_get("").await, ErrorCode::InvalidArgument);
    for name in ["alp", "nobody", "../../etc/passwd", "\0", &"x".repeat(100_000)] {
        let error = refused(farm.try_get(name).await, ErrorCode::SessionNotFound);
        assert!(error.message.len() < 500);
        refused(farm.message(name, "x").await, ErrorCode::SessionNotFound);
        refused(farm.archive(name).await, ErrorCode::SessionNotFound);
        let request = WatchSessionsRequest { sessions: vec![name.to_owned()] };
        refused(answer(farm.sessions().watch_sessions(request).await).map(drop), ErrorCode::SessionNotFound);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_make_no_sense_are_answered() {
    let farm = farm().await;
    let _worker = FakeWorker::connect(&farm, hello("w1", 9)).await;
    let id = farm.spawn("work").await.session_id;
    let nothing = SendInputRequest { session: id.clone(), ..SendInputRequest::default() };
    refused(answer(farm.sessions().send_input(nothing).await), ErrorCode::InvalidArgument);
    refused(farm.message(&id, "").await, ErrorCode::InvalidArgument);
    refused(farm.try_spawn(spec("x"), "naïve").await, ErrorCode::InvalidArgument);
    let list = |request| async { answer(farm.sessions().list_sessions(request).await) };
    for (request, field) in [
        (ListSessionsRequest { limit: 501, ..ListSessionsRequest::default() }, "limit"),
        (ListSessionsRequest { statuses: vec![99], ..ListSessionsRequest::default() }, "statuses"),
        (ListSessionsRequest { cursor: "é?".into(), ..ListSessionsRequest::default() }, "cursor"),
    ] {
        assert_eq!(list(request).await.expect_err("refused").field, field);
    }
    let longest = Hello { worker: "no good name".into(), ..hello("w", 1) };
    for (bad, field) in [
        (longest, "worker"),
        (Hello { capacity: None, ..hello("w2", 1) }, "capacity"),
        (Hello { incarnation: String::new(), ..hello("w2", 1) }, "incarnation"),
        (Hello { protocol: Some(ProtocolRange { min: 7, max: 9 }), ..hello("w2", 1) }, ""),
    ] {
        let request = ConnectRequest { body: Some(connect_request::Body::Hello(bad)) };
        let result = farm.workers().connect(tokio_stream::iter([request])).await;
        assert_eq!(answer(result).map(drop).expect_err("refused").field, field);
    }
    let early = ConnectRequest { body: Some(connect_request::Body::Heartbeat(Heartbeat::default())) };
    let result = farm.workers().connect(tokio_stream::iter([early])).await;
    refused(answer(result).map(drop), ErrorCode::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_megabytes_of_garbage_on_the_port_harm_nothing() {
    let farm = farm().await;
    let _worker = FakeWorker::connect(&farm, hello("w1", 9)).await;
    let garbage: Vec<u8> = (0u32..10 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice();
    for start in [b"".as_slice(), b"GET / HTTP/1.1\r\n", preface] {
        let mut stream = tokio::net::TcpStream::connect(farm.addr).await.expect("connected");
        // The controller hangs up somewhere in the middle.
        let _ = stream.write_all(start).await;
        let _ = stream.write_all(&garbage).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.len() < 1 << 16);
    }
    assert_eq!(farm.spawn("still there").await.status(), SessionStatus::Starting);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_large_sessions_still_fit_in_a_list_and_in_a_watch() {
    let farm = farm().await;
    let _worker = FakeWorker::connect(&farm, hello("w1", 1)).await;
    let prompt = "x".repeat(limits::PROMPT_BYTES);
    for _ in 0..5 {
        farm.spawn(&prompt).await;
    }
    let listed = farm.list(ListSessionsRequest::default()).await;
    assert_eq!(listed.sessions.len(), 5);
    assert!(listed.sessions[0].spec.as_ref().expect("a spec").prompt.len() < 2000);
    let first = farm.watch(&[]).await.message().await.expect("watched").expect("a message");
    assert_eq!(first.sessions.len(), 5);
    let whole = farm.get(&listed.sessions[0].session_id).await;
    assert_eq!(whole.spec.expect("a spec").prompt.len(), prompt.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_are_served() {
    let farm = farm().await;
    let mut health = tonic_health::pb::health_client::HealthClient::new(farm.channel());
    let request = tonic_health::pb::HealthCheckRequest { service: "muster.v1.SessionService".into() };
    let status = health.check(request).await.expect("answered").into_inner().status;
    assert_eq!(status, i32::from(tonic_health::ServingStatus::Serving as u8));
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest,
    };
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileContainingSymbol("muster.v1.SessionService".into())),
    };
    let mut client = ServerReflectionClient::new(farm.channel());
    let mut answers =
        client.server_reflection_info(tokio_stream::iter([request])).await.expect("answered").into_inner();
    assert!(answers.message().await.expect("an answer").is_some());
}

//! A controller of the first protocol version, as recorded, against the worker of today: one version back works.

use std::{path::PathBuf, pin::Pin};

use futures::Stream;
use muster_proto::v1::{
    AnswerQueryRequest, AnswerQueryResponse, ConnectRequest, ConnectResponse, EndReason, PushOutputRequest,
    PushOutputResponse, connect_request, connect_response,
    session_event::Body,
    worker_service_server::{WorkerService, WorkerServiceServer},
};
use muster_runtime::task;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use crate::support::{Controller, LONG, Machine};

/// What it said on the control stream, message by message.
const V1: &str = include_str!("../testdata/controller_v1.txt");

fn said() -> Vec<ConnectResponse> {
    let lines = V1.lines().filter(|line| !line.starts_with('#'));
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("text"), 16).expect("hex");
    let bytes = lines.map(|hex| hex.as_bytes().chunks(2).map(byte).collect::<Vec<u8>>());
    bytes.map(|bytes| ConnectResponse::decode(bytes.as_slice()).expect("a message")).collect()
}

/// Says what was recorded, and hands on what it hears.
struct Recorded(mpsc::Sender<ConnectRequest>);

type Out<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl WorkerService for Recorded {
    type ConnectStream = Out<ConnectResponse>;
    type PushOutputStream = Out<PushOutputResponse>;

    async fn connect(
        &self,
        request: Request<Streaming<ConnectRequest>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let (mut up, heard) = (request.into_inner(), self.0.clone());
        let (down, down_rx) = mpsc::channel(64);
        for message in said() {
            down.send(Ok(message)).await.expect("room");
        }
        task::spawn("recorded", async move {
            while let Ok(Some(message)) = up.message().await {
                let _ = heard.send(message).await;
            }
            drop(down);
        })
        .detach();
        Ok(Response::new(Box::pin(ReceiverStream::new(down_rx))))
    }

    async fn push_output(
        &self,
        _: Request<Streaming<PushOutputRequest>>,
    ) -> Result<Response<Self::PushOutputStream>, Status> {
        Ok(Response::new(Box::pin(tokio_stream::pending())))
    }

    async fn answer_query(
        &self,
        _: Request<Streaming<AnswerQueryRequest>>,
    ) -> Result<Response<AnswerQueryResponse>, Status> {
        Ok(Response::new(AnswerQueryResponse {}))
    }
}

#[test]
fn the_recording_is_a_whole_conversation() {
    let kinds: Vec<&str> = said()
        .iter()
        .map(|message| match &message.body {
            Some(connect_response::Body::Welcome(welcome)) if welcome.protocol == 1 => "welcome",
            Some(connect_response::Body::Start(_)) => "start",
            Some(connect_response::Body::Input(_)) => "input",
            _ => "other",
        })
        .collect();
    assert_eq!(kinds, ["welcome", "start", "input"]);
}

#[tokio::test]
async fn a_controller_of_the_first_version_is_served_without_leases() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let addr = listener.local_addr().expect("bound");
    let (heard, mut hears) = mpsc::channel(64);
    let server = tonic::transport::Server::builder()
        .add_service(WorkerServiceServer::new(Recorded(heard)))
        .serve_with_incoming(TcpListenerStream::new(listener));
    let _server = task::spawn("recorded controller", server);
    let unused = Controller::start().await;
    let mut machine = Machine::new(&unused);
    machine.config.controller = format!("http://{addr}").into();
    machine.start().await;
    let (mut turns, mut end) = (0, None);
    while end.is_none() {
        let message = tokio::time::timeout(LONG, hears.recv()).await.expect("it speaks").expect("open");
        match message.body.expect("known") {
            connect_request::Body::Hello(hello) => {
                let speaks = hello.protocol.expect("set");
                assert!(speaks.min <= 1 && speaks.max >= 1, "{speaks:?}");
            }
            connect_request::Body::Heartbeat(heartbeat) => assert_eq!(heartbeat.seq, 0),
            connect_request::Body::Event(event) => match event.body {
                Some(Body::TurnEnded(_)) => turns += 1,
                Some(Body::AttemptEnded(ended)) => end = ended.end,
                _ => {}
            },
        }
    }
    let end = end.expect("told");
    assert_eq!((end.reason(), turns), (EndReason::TurnCompleted, 2), "{end:?}");
    assert!(PathBuf::from(&machine.state).join("worktrees/recorded-abcdef").exists());
}

//! A controller for tests: takes one worker, keeps what it says, orders what the test wants.

#![allow(dead_code, unused_imports, reason = "each test program uses a part of it")]

mod machine;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{Stream, StreamExt as _};
use muster_proto::{
    error::{Error, ErrorCode},
    ids::SessionId,
    v1::{
        Answer, AnswerQueryRequest, AnswerQueryResponse, ApplyInput, AttemptEnded, Attention, ConnectRequest,
        ConnectResponse, Decision, EventAck, HeartbeatAck, Hello, Input, OutputAck, OutputPosition,
        PushOutputRequest, PushOutputResponse, SessionEvent, SessionSpec, StartSession, StopAttempt, Welcome,
        WorkspaceQuery, answer_query_request, connect_request, connect_response, input, push_output_request,
        push_output_response,
        session_event::Body,
        worker_service_server::{WorkerService, WorkerServiceServer},
        workspace_query,
    },
};
use muster_runtime::task;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

pub use machine::{Machine, SCRIPTED, git, there, until};

pub const LONG: Duration = Duration::from_secs(60);

#[derive(Default)]
pub struct Seen {
    pub hellos: Vec<Hello>,
    /// Reliable events by session, each once, in order.
    pub events: BTreeMap<String, Vec<SessionEvent>>,
    pub output: BTreeMap<String, Vec<u8>>,
    /// By query.
    pub answers: BTreeMap<String, Vec<AnswerQueryRequest>>,
    /// What each session said of being blocked, each change once.
    pub blocked: BTreeMap<String, Vec<String>>,
    orders: Option<mpsc::Sender<Result<ConnectResponse, Status>>>,
    /// Events are kept but not acknowledged.
    pub silent: bool,
    /// Leases: how long one is, in milliseconds. 0: a controller of the first version, which knows none.
    pub lease_ms: u32,
    pub heartbeats: Vec<u64>,
    /// Heartbeats are not acknowledged.
    pub deaf: bool,
    /// How often a Connect was refused because another process shows the same identity; `None`: none is.
    pub duplicates: Option<u32>,
}

#[derive(Clone)]
pub struct Controller {
    pub seen: Arc<Mutex<Seen>>,
    changed: watch::Sender<u64>,
    hang_ups: watch::Sender<u64>,
    pub addr: SocketAddr,
}

type Out<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl WorkerService for Controller {
    type ConnectStream = Out<ConnectResponse>;
    type PushOutputStream = Out<PushOutputResponse>;

    async fn connect(
        &self,
        request: Request<Streaming<ConnectRequest>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let mut up = request.into_inner();
        if let Some(count) = &mut self.seen.lock().expect("no test panicked").duplicates {
            *count += 1;
            self.changed.send_modify(|version| *version += 1);
            return Err(Error::new(ErrorCode::DuplicateWorker, "two processes are the worker w1").into());
        }
        let (orders, orders_rx) = mpsc::channel(64);
        let lease_ms = self.seen.lock().expect("no test panicked").lease_ms;
        let protocol = if lease_ms == 0 { 1 } else { 2 };
        let welcome = Welcome { protocol, heartbeat_interval_ms: 100, lease_ms, ..Welcome::default() };
        let first = ConnectResponse { body: Some(connect_response::Body::Welcome(welcome)) };
        orders.send(Ok(first)).await.expect("open");
        let this = self.clone();
        let mut hang_up = self.hang_ups.subscribe();
        task::spawn("controller", async move {
            loop {
                let message = tokio::select! {
                    message = up.next() => message,
                    _ = hang_up.changed() => {
                        let _ = orders.send(Err(Status::unavailable("hung up"))).await;
                        return;
                    }
                };
                let Some(Ok(message)) = message else { return };
                this.on_message(message, &orders).await;
            }
        })
        .detach();
        Ok(Response::new(Box::pin(ReceiverStream::new(orders_rx))))
    }

    async fn answer_query(
        &self,
        request: Request<Streaming<AnswerQueryRequest>>,
    ) -> Result<Response<AnswerQueryResponse>, Status> {
        let mut up = request.into_inner();
        let mut answer = Vec::new();
        while let Some(part) = up.message().await? {
            answer.push(part);
        }
        let id = answer.first().map(|part| part.query_id.clone()).unwrap_or_default();
        self.seen.lock().expect("no test panicked").answers.insert(id, answer);
        self.changed.send_modify(|version| *version += 1);
        Ok(Response::new(AnswerQueryResponse {}))
    }

    async fn push_output(
        &self,
        request: Request<Streaming<PushOutputRequest>>,
    ) -> Result<Response<Self::PushOutputStream>, Status> {
        let mut up = request.into_inner();
        let (down, down_rx) = mpsc::channel(64);
        let this = self.clone();
        task::spawn("replica", async move {
            while let Some(Ok(message)) = up.next().await {
                let body = this.on_output(message);
                if down.send(Ok(PushOutputResponse { body: Some(body) })).await.is_err() {
                    return;
                }
            }
        })
        .detach();
        Ok(Response::new(Box::pin(ReceiverStream::new(down_rx))))
    }
}

impl Controller {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let addr = listener.local_addr().expect("bound");
        let (changed, hang_ups) = (watch::Sender::new(0), watch::Sender::new(0));
        let controller = Self { seen: Arc::default(), changed, hang_ups, addr };
        let server = tonic::transport::Server::builder()
            .add_service(WorkerServiceServer::new(controller.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        task::spawn("test controller", server).detach();
        controller
    }

    async fn on_message(
        &self,
        message: ConnectRequest,
        orders: &mpsc::Sender<Result<ConnectResponse, Status>>,
    ) {
        let (mut ack, mut beat) = (None, None);
        {
            let mut seen = self.seen.lock().expect("no test panicked");
            match message.body {
                Some(connect_request::Body::Hello(hello)) => {
                    seen.hellos.push(hello);
                    seen.orders = Some(orders.clone());
                }
                Some(connect_request::Body::Event(event)) if event.event_seq > 0 => {
                    let silent = seen.silent;
                    let events = seen.events.entry(event.session_id.clone()).or_default();
                    let last = events.last().map_or(0, |event| event.event_seq);
                    assert!(event.event_seq <= last + 1, "a gap: {last} then {event:?}");
                    if !silent {
                        ack = Some(EventAck {
                            session_id: event.session_id.clone(),
                            event_seq: event.event_seq,
                        });
                    }
                    if event.event_seq == last + 1 {
                        events.push(event);
                    }
                }
                Some(connect_request::Body::Event(event)) => {
                    if let Some(Body::Activity(activity)) = event.body {
                        let told = seen.blocked.entry(event.session_id).or_default();
                        if told.last().is_none_or(|last| *last != activity.blocked) {
                            told.push(activity.blocked);
                        }
                    }
                }
                Some(connect_request::Body::Heartbeat(heartbeat)) => {
                    seen.heartbeats.push(heartbeat.seq);
                    beat = (seen.lease_ms > 0 && !seen.deaf).then_some(HeartbeatAck { seq: heartbeat.seq });
                }
                None => {}
            }
        }
        self.changed.send_modify(|version| *version += 1);
        if let Some(beat) = beat {
            let body = Some(connect_response::Body::HeartbeatAck(beat));
            let _ = orders.send(Ok(ConnectResponse { body })).await;
        }
        if let Some(ack) = ack {
            let _ =
                orders.send(Ok(ConnectResponse { body: Some(connect_response::Body::EventAck(ack)) })).await;
        }
    }

    fn on_output(&self, message: PushOutputRequest) -> push_output_response::Body {
        let mut seen = self.seen.lock().expect("no test panicked");
        let body = match message.body.expect("known") {
            push_output_request::Body::Open(open) => {
                let offset = seen.output.entry(open.session_id.clone()).or_default().len() as u64;
                push_output_response::Body::Position(OutputPosition { session_id: open.session_id, offset })
            }
            push_output_request::Body::Chunk(chunk) => {
                let output = seen.output.entry(chunk.session_id.clone()).or_default();
                assert_eq!(chunk.offset, output.len() as u64, "no gap and no overlap");
                assert!(chunk.data.len() <= 64 << 10);
                output.extend_from_slice(&chunk.data);
                let offset = output.len() as u64;
                push_output_response::Body::Ack(OutputAck { session_id: chunk.session_id, offset })
            }
        };
        drop(seen);
        self.changed.send_modify(|version| *version += 1);
        body
    }

    /// Ends the control stream of the worker that is connected.
    pub fn hang_up(&self) {
        self.seen.lock().expect("no test panicked").orders = None;
        self.hang_ups.send_modify(|count| *count += 1);
    }

    pub async fn until<T>(&self, what: &str, mut find: impl FnMut(&Seen) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        let wait = async {
            loop {
                if let Some(found) = find(&self.seen.lock().expect("no test panicked")) {
                    return found;
                }
                changed.changed().await.expect("open");
            }
        };
        match tokio::time::timeout(LONG, wait).await {
            Ok(found) => found,
            Err(_) => {
                let seen = self.seen.lock().expect("no test panicked");
                panic!("never: {what}; events: {:#?}", seen.events);
            }
        }
    }

    pub async fn order(&self, body: connect_response::Body) {
        let orders = self.until("a worker", |seen| seen.orders.clone()).await;
        orders.send(Ok(ConnectResponse { body: Some(body) })).await.expect("connected");
    }

    pub async fn start_session(&self, start: &StartSession) {
        self.order(connect_response::Body::Start(start.clone())).await;
    }

    pub async fn input(&self, start: &StartSession, seq: u64, body: input::Body) {
        let input = Some(Input { seq, body: Some(body) });
        let (session_id, attempt) = (start.session_id.clone(), start.attempt);
        self.order(connect_response::Body::Input(ApplyInput { session_id, attempt, input })).await;
    }

    pub async fn stop(&self, start: &StartSession) {
        let (session_id, attempt) = (start.session_id.clone(), start.attempt);
        self.order(connect_response::Body::Stop(StopAttempt { session_id, attempt, fenced: false })).await;
    }

    pub async fn event<T>(
        &self,
        start: &StartSession,
        what: &str,
        mut find: impl FnMut(&Body) -> Option<T>,
    ) -> T {
        let (id, attempt) = (start.session_id.clone(), start.attempt);
        self.until(what, |seen| {
            let events = seen.events.get(&id)?.iter().filter(|event| event.attempt == attempt);
            events.filter_map(|event| event.body.as_ref()).find_map(&mut find)
        })
        .await
    }

    pub async fn ended(&self, start: &StartSession) -> AttemptEnded {
        self.event(start, "the end", |body| match body {
            Body::AttemptEnded(ended) => Some(ended.clone()),
            _ => None,
        })
        .await
    }

    pub async fn attention(&self, start: &StartSession) -> Attention {
        self.event(start, "an attention", |body| match body {
            Body::AttentionRaised(raised) => raised.attention.clone(),
            _ => None,
        })
        .await
    }

    pub async fn applied(&self, start: &StartSession, seq: u64) -> (bool, String) {
        self.event(start, "an input applied", |body| match body {
            Body::InputApplied(applied) if applied.seq == seq => {
                Some((applied.delivered, applied.reason.clone()))
            }
            _ => None,
        })
        .await
    }

    /// Waits until a session says that this blocks it; empty: nothing does any more.
    pub async fn blocked(&self, start: &StartSession, by: &str) {
        self.until("what blocks it", |seen| {
            let last = seen.blocked.get(&start.session_id)?.last()?;
            (last == by).then_some(())
        })
        .await;
    }

    pub async fn output(&self, start: &StartSession, ended: &AttemptEnded) -> String {
        let bytes = self
            .until("the whole output", |seen| {
                let output = seen.output.get(&start.session_id)?;
                (output.len() as u64 >= ended.spool_end_offset).then(|| output.clone())
            })
            .await;
        String::from_utf8(bytes).expect("text")
    }

    /// Asks about a session's work: the result or the error, and the data.
    pub async fn ask(
        &self,
        start: &StartSession,
        ask: workspace_query::Ask,
    ) -> (answer_query_request::Body, String, Vec<u8>) {
        let query_id = SessionId::generate().to_string();
        let query = WorkspaceQuery {
            query_id: query_id.clone(),
            session_id: start.session_id.clone(),
            workspace: None,
            project: start.spec.as_ref().expect("set").project.clone(),
            ask: Some(ask),
        };
        self.order(connect_response::Body::Query(query)).await;
        let answer = self.until("an answer", |seen| seen.answers.get(&query_id).cloned()).await;
        let mut data = Vec::new();
        for part in &answer[1..] {
            let Some(answer_query_request::Body::Data(bytes)) = &part.body else { panic!("{part:?}") };
            assert!(bytes.len() <= 64 << 10);
            data.extend_from_slice(bytes);
        }
        (answer[0].body.clone().expect("set"), answer[0].error_message.clone(), data)
    }

    /// The kinds of an attempt's events, in order.
    pub fn story(&self, start: &StartSession) -> Vec<&'static str> {
        let seen = self.seen.lock().expect("no test panicked");
        let events = seen.events.get(&start.session_id).into_iter().flatten();
        let events = events.filter(|event| event.attempt == start.attempt);
        events
            .map(|event| match event.body.as_ref().expect("known") {
                Body::WorkspaceReady(_) => "workspace",
                Body::TurnStarted(_) => "started",
                Body::AttentionRaised(_) => "asks",
                Body::AttentionCleared(_) => "cleared",
                Body::InputApplied(_) => "applied",
                Body::TurnEnded(_) => "turn",
                Body::AttemptEnded(_) => "ended",
                Body::WorkspaceReleased(_) => "released",
                Body::Activity(_) => "activity",
            })
            .collect()
    }
}

pub fn start_order(handle: &str, prompt: &str) -> StartSession {
    StartSession {
        session_id: SessionId::generate().to_string(),
        attempt: 1,
        handle: handle.to_owned(),
        spec: Some(SessionSpec {
            prompt: prompt.to_owned(),
            project: "p".to_owned(),
            ..SessionSpec::default()
        }),
        inputs: vec![message(1, prompt)],
        ..StartSession::default()
    }
}

pub fn message(seq: u64, text: &str) -> Input {
    Input { seq, body: Some(input::Body::Message(text.to_owned())) }
}

pub fn answer(attention: &Attention, decision: Decision, text: &str) -> input::Body {
    input::Body::Answer(Answer {
        attention_id: attention.attention_id.clone(),
        decision: decision.into(),
        text: text.to_owned(),
        ..Answer::default()
    })
}

//! A scripted worker: says what the test tells it to say.

use std::collections::{HashMap, VecDeque};

use muster_proto::{
    PROTOCOL, metadata,
    v1::{
        connect_request::Body as Up, connect_response::Body as Down, session_event::Body as Event,
        worker_service_client::WorkerServiceClient, *,
    },
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming, metadata::MetadataValue, transport::Channel};

use crate::farm::{Farm, PATIENCE};

pub struct FakeWorker {
    pub hello: Hello,
    up: mpsc::Sender<ConnectRequest>,
    down: Streaming<ConnectResponse>,
    commands: VecDeque<Down>,
    acked: HashMap<String, u64>,
    /// The last event of each session: goes on over reconnects.
    pub seqs: HashMap<String, u64>,
}

pub fn project(name: &str) -> Project {
    Project {
        name: name.into(),
        path: format!("/{name}"),
        git: true,
        allow_trust_mode: false,
        trusted: false,
        allow_push: false,
    }
}

pub fn hello(name: &str, slots: u32) -> Hello {
    Hello {
        worker: name.into(),
        incarnation: muster_proto::ids::Incarnation::generate().to_string(),
        protocol: Some(PROTOCOL),
        version: "test".into(),
        capacity: Some(Capacity { slots, ..Capacity::default() }),
        labels: HashMap::from([("os".into(), "linux".into())]),
        projects: vec![project("demo")],
        held: Vec::new(),
        claude_version: "2.1.0".into(),
        boot_id: String::new(),
        ..Hello::default()
    }
}

impl FakeWorker {
    pub async fn connect(farm: &Farm, hello: Hello) -> Self {
        Self::connect_over(farm.workers(), hello).await.expect("connected")
    }

    pub async fn connect_over(
        mut client: WorkerServiceClient<Channel>,
        hello: Hello,
    ) -> Result<Self, Status> {
        let (up, stream) = mpsc::channel(64);
        up.send(ConnectRequest { body: Some(Up::Hello(hello.clone())) }).await.expect("room");
        let connected = client.connect(ReceiverStream::new(stream)).await?;
        let (commands, acked, seqs) = (VecDeque::new(), HashMap::new(), HashMap::new());
        let mut worker = Self { hello, up, down: connected.into_inner(), commands, acked, seqs };
        match worker.receive().await {
            Down::Welcome(welcome) => {
                let most = worker.hello.protocol.expect("a range").max;
                assert_eq!(welcome.protocol, PROTOCOL.max.min(most));
            }
            other => panic!("the first message is {other:?}"),
        }
        Ok(worker)
    }

    /// Connects again as the same process, holding `held`.
    pub async fn reconnect(self, farm: &Farm, held: Vec<HeldSession>) -> Self {
        let hello = Hello { held, ..self.hello };
        let mut again = Self::connect(farm, hello).await;
        again.seqs = self.seqs;
        again
    }

    async fn receive(&mut self) -> Down {
        let message = timeout(PATIENCE, self.down.message()).await.expect("a command in time");
        message.expect("the link holds").expect("the link does not end").body.expect("a body")
    }

    /// The status the link ends with.
    pub async fn ended(&mut self) -> Status {
        loop {
            match timeout(PATIENCE, self.down.message()).await.expect("the link ends in time") {
                Ok(Some(_)) => {}
                Ok(None) => return Status::ok("ended"),
                Err(status) => return status,
            }
        }
    }

    /// The next command.
    pub async fn command(&mut self) -> Down {
        loop {
            if let Some(command) = self.commands.pop_front() {
                return command;
            }
            match self.receive().await {
                Down::EventAck(ack) => drop(self.acked.insert(ack.session_id, ack.event_seq)),
                command => return command,
            }
        }
    }

    pub async fn start(&mut self) -> StartSession {
        match self.command().await {
            Down::Start(start) => start,
            other => panic!("not a start: {other:?}"),
        }
    }

    pub async fn input(&mut self) -> ApplyInput {
        match self.command().await {
            Down::Input(input) => input,
            other => panic!("not an input: {other:?}"),
        }
    }

    /// Reports something and waits until it is acknowledged.
    pub async fn report(&mut self, session: &str, attempt: u32, body: Event) {
        let seq = self.seqs.entry(session.to_owned()).or_default();
        *seq += 1;
        let seq = *seq;
        self.report_as(session, attempt, seq, body).await;
    }

    pub async fn report_as(&mut self, session: &str, attempt: u32, seq: u64, body: Event) {
        self.say(session, attempt, seq, body).await;
        while self.acked.get(session).is_none_or(|acked| *acked < seq) {
            match self.receive().await {
                Down::EventAck(ack) => drop(self.acked.insert(ack.session_id, ack.event_seq)),
                command => self.commands.push_back(command),
            }
        }
    }

    pub async fn say(&self, session: &str, attempt: u32, event_seq: u64, body: Event) {
        let at = Some(muster_proto::time::now());
        let event = SessionEvent { session_id: session.into(), attempt, event_seq, at, body: Some(body) };
        self.up.send(ConnectRequest { body: Some(Up::Event(event)) }).await.expect("the link holds");
    }

    /// Says how the machine is, and waits until that is known.
    pub async fn beat(&mut self, heartbeat: Heartbeat) {
        self.up.send(ConnectRequest { body: Some(Up::Heartbeat(heartbeat)) }).await.expect("the link holds");
        // What comes after it on the same link is acknowledged after it was heard.
        let stranger = format!("beat {}", self.seqs.len());
        self.report(&stranger, 1, Event::TurnEnded(TurnEnded::default())).await;
    }

    /// Says that it is there and waits for the answer; the status its link ended with.
    pub async fn try_beat(&mut self, seq: u64) -> Result<(), Status> {
        let beat = Heartbeat { seq, ..Heartbeat::default() };
        // A link that has ended takes nothing; what it ended with is still there to be read.
        let _ = self.up.send(ConnectRequest { body: Some(Up::Heartbeat(beat)) }).await;
        loop {
            let message = timeout(PATIENCE, self.down.message()).await.expect("an answer in time")?;
            match message.and_then(|message| message.body) {
                Some(Down::HeartbeatAck(ack)) if ack.seq == seq => return Ok(()),
                Some(_) => {}
                None => return Err(Status::ok("ended")),
            }
        }
    }

    /// Workspace, first input and first turn.
    pub async fn work(&mut self, start: &StartSession) {
        let (id, attempt) = (&start.session_id, start.attempt);
        let ready = WorkspaceReady { workspace: Some(workspace(&start.handle)) };
        self.report(id, attempt, Event::WorkspaceReady(ready)).await;
        self.applied(id, attempt, start.inputs[0].seq).await;
        let turn = TurnStarted { claude_version: "2.1.0".into(), permission_mode: "default".into() };
        self.report(id, attempt, Event::TurnStarted(turn)).await;
    }

    pub async fn applied(&mut self, session: &str, attempt: u32, seq: u64) {
        let applied = InputApplied { seq, delivered: true, reason: String::new() };
        self.report(session, attempt, Event::InputApplied(applied)).await;
    }

    pub async fn ask(&mut self, session: &str, attempt: u32, attention: Attention) {
        self.report(session, attempt, Event::AttentionRaised(AttentionRaised { attention: Some(attention) }))
            .await;
    }

    pub async fn end(&mut self, session: &str, attempt: u32, reason: EndReason, result: &str) {
        let usage = Usage { turns: 1, input_tokens: 10, output_tokens: 5, cost_usd: 0.5, ..Usage::default() };
        let ended = AttemptEnded {
            end: Some(End {
                reason: reason.into(),
                message: "so it was".into(),
                exit_code: Some(0),
                ..End::default()
            }),
            spool_end_offset: 0,
            resumable: true,
            attempt_usage: Some(usage),
            result_text: result.into(),
        };
        self.report(session, attempt, Event::AttemptEnded(ended)).await;
    }

    /// Takes a start and plays it to a good end.
    pub async fn play(&mut self) -> StartSession {
        let start = self.start().await;
        self.work(&start).await;
        self.end(&start.session_id, start.attempt, EndReason::TurnCompleted, "done").await;
        start
    }

    pub async fn query(&mut self) -> WorkspaceQuery {
        match self.command().await {
            Down::Query(query) => query,
            other => panic!("not a query: {other:?}"),
        }
    }

    /// A call with the metadata of this worker.
    pub fn signed<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let text = |text: &str| MetadataValue::try_from(text).expect("ASCII");
        request.metadata_mut().insert(metadata::WORKER, text(&self.hello.worker));
        request.metadata_mut().insert(metadata::INCARNATION, text(&self.hello.incarnation));
        request
    }

    /// Answers a query with these parts.
    pub async fn reply(
        &self,
        farm: &Farm,
        query_id: &str,
        parts: Vec<answer_query_request::Body>,
    ) -> Result<(), Status> {
        let message = |body| AnswerQueryRequest {
            query_id: query_id.to_owned(),
            body: Some(body),
            ..Default::default()
        };
        let parts: Vec<_> = parts.into_iter().map(message).collect();
        farm.workers().answer_query(self.signed(futures::stream::iter(parts))).await.map(|_| ())
    }

    /// Opens the stream output goes up on.
    pub async fn push(&self, farm: &Farm) -> Result<Push, Status> {
        let (up, stream) = mpsc::channel(64);
        let request = self.signed(ReceiverStream::new(stream));
        Ok(Push { up, down: farm.workers().push_output(request).await?.into_inner() })
    }
}

pub struct Push {
    up: mpsc::Sender<PushOutputRequest>,
    down: Streaming<PushOutputResponse>,
}

impl Push {
    pub async fn send(&self, body: push_output_request::Body) {
        // A stream that has ended says so to whoever waits for its answers.
        let _ = self.up.send(PushOutputRequest { body: Some(body) }).await;
    }

    pub async fn open(&self, session: &str) {
        self.open_as(session, 1).await;
    }

    pub async fn open_as(&self, session: &str, attempt: u32) {
        self.send(push_output_request::Body::Open(OutputOpen { session_id: session.into(), attempt })).await;
    }

    pub async fn chunk(&self, session: &str, offset: u64, data: impl Into<Vec<u8>>) {
        let chunk = OutputChunk { session_id: session.into(), offset, data: data.into().into() };
        self.send(push_output_request::Body::Chunk(chunk)).await;
    }

    /// The status the stream ends with, and how far it was acknowledged until then.
    pub async fn ended(&mut self) -> (Status, u64) {
        let mut acked = 0;
        loop {
            match timeout(PATIENCE, self.down.message()).await.expect("the stream ends in time") {
                Ok(Some(PushOutputResponse { body: Some(push_output_response::Body::Ack(ack)) })) => {
                    acked = acked.max(ack.offset);
                }
                Ok(Some(_)) => {}
                Ok(None) => return (Status::ok("ended"), acked),
                Err(status) => return (status, acked),
            }
        }
    }

    pub async fn answer(&mut self) -> push_output_response::Body {
        let message = timeout(PATIENCE, self.down.message()).await.expect("an answer in time");
        message.expect("the stream holds").expect("the stream does not end").body.expect("a body")
    }

    /// The next position; acknowledgements before it are skipped.
    pub async fn position(&mut self) -> u64 {
        loop {
            match self.answer().await {
                push_output_response::Body::Position(position) => return position.offset,
                push_output_response::Body::Ack(_) => {}
                other => panic!("not a position: {other:?}"),
            }
        }
    }

    /// Waits until everything below `offset` is acknowledged.
    pub async fn acked(&mut self, offset: u64) {
        loop {
            if let push_output_response::Body::Ack(ack) = self.answer().await
                && ack.offset >= offset
            {
                return assert_eq!(ack.offset, offset);
            }
        }
    }
}

pub fn workspace(handle: &str) -> Workspace {
    Workspace {
        path: format!("/work/{handle}"),
        worktree: true,
        branch: format!("muster/{handle}"),
        base_commit: "abc".into(),
        state: WorkspaceState::Present.into(),
        ..Workspace::default()
    }
}

pub fn permission(id: &str) -> Attention {
    let ask = PermissionAsk {
        tool_name: "Bash".into(),
        summary: "ls".into(),
        input_json: "{}".into(),
        ..PermissionAsk::default()
    };
    Attention {
        attention_id: id.into(),
        reason: AttentionReason::Permission.into(),
        ask: Some(attention::Ask::Permission(ask)),
        since: None,
    }
}

pub fn question(id: &str, text: &str) -> Attention {
    let question = Question { question: text.into(), ..Question::default() };
    let ask = InputAsk { questions: vec![question], ..InputAsk::default() };
    Attention {
        attention_id: id.into(),
        reason: AttentionReason::Input.into(),
        ask: Some(attention::Ask::Input(ask)),
        since: None,
    }
}

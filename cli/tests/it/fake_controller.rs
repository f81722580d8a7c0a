//! A controller of one session, behind real gRPC, that says what it is told: for what needs a worker with a
//! history, and for what only a worker in trouble says.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
};

use futures::{Stream, StreamExt as _, stream};
use muster_proto::{
    error::{Error, ErrorCode},
    v1::{
        ArchiveSessionRequest, ArchiveSessionResponse, ChangesSummary, FetchBundleRequest,
        FetchBundleResponse, GetChangesRequest, GetChangesResponse, GetSessionRequest, GetSessionResponse,
        ListSessionsRequest, ListSessionsResponse, PushBranchRequest, PushBranchResponse, ReadOutputRequest,
        ReadOutputResponse, SendInputRequest, SendInputResponse, Session, SessionStatus, SpawnSessionRequest,
        SpawnSessionResponse, StopSessionRequest, StopSessionResponse, WatchSessionsRequest,
        WatchSessionsResponse,
        send_input_request::Input,
        session_service_server::{SessionService, SessionServiceServer},
    },
};
use tonic::{Request, Response, Status};

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub const HANDLE: &str = "fix-login-000001";
pub const ID: &str = "019aab00-0000-7000-8000-000000000001";

/// What it says.
#[derive(Default)]
pub struct State {
    pub session: Session,
    pub output: Vec<u8>,
    /// Instead of an answer about the work.
    pub refusal: Option<Error>,
    pub text: String,
    /// For each page of text in turn; the last one for all that follow.
    pub summaries: Vec<ChangesSummary>,
    pub bundle: Vec<u8>,
    /// The bundle breaks off before its end.
    pub breaks: bool,
    /// The bundle never ends.
    pub hangs: bool,
    pub asked: Vec<GetChangesRequest>,
    pub pushes: Vec<PushBranchRequest>,
    /// What was sent, in order. An answer takes the question away, a message starts a turn.
    pub inputs: Vec<Input>,
}

#[derive(Clone)]
struct Fake(Arc<Mutex<State>>);

/// Serves until dropped.
pub struct Controller {
    fake: Fake,
    pub address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl Controller {
    pub fn start() -> Self {
        let mut session = Session { session_id: ID.into(), handle: HANDLE.into(), ..Session::default() };
        session.set_status(SessionStatus::Completed);
        let fake = Fake(Arc::new(Mutex::new(State { session, ..State::default() })));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("its address");
        let service = SessionServiceServer::new(fake.clone());
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        runtime.block_on(async {
            muster_runtime::task::spawn("fake controller", async move {
                muster_runtime::grpc::server()
                    .add_service(service)
                    .serve_with_incoming(incoming)
                    .await
                    .expect("it serves");
            })
            .detach();
        });
        Self { fake, address, _runtime: runtime }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.fake.state()
    }
}

impl Fake {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("not poisoned")
    }

    fn known(&self, session: &str) -> Result<(), Status> {
        if session == ID || HANDLE.starts_with(session) {
            return Ok(());
        }
        Err(Error::new(ErrorCode::SessionNotFound, format!("no session {session:?}")).into())
    }

    fn about_work(&self, session: &str) -> Result<ChangesSummary, Status> {
        self.known(session)?;
        let mut state = self.state();
        if let Some(refusal) = state.refusal.clone() {
            return Err(refusal.into());
        }
        if state.summaries.len() > 1 {
            return Ok(state.summaries.remove(0));
        }
        Ok(state.summaries.first().cloned().unwrap_or_default())
    }
}

fn unused<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("this controller only shows work"))
}

#[async_trait::async_trait]
impl SessionService for Fake {
    async fn get_session(
        &self,
        request: Request<GetSessionRequest>,
    ) -> Result<Response<GetSessionResponse>, Status> {
        self.known(&request.into_inner().session)?;
        Ok(Response::new(GetSessionResponse { session: Some(self.state().session.clone()) }))
    }

    async fn get_changes(
        &self,
        request: Request<GetChangesRequest>,
    ) -> Result<Response<GetChangesResponse>, Status> {
        let request = request.into_inner();
        let summary = self.about_work(&request.session)?;
        let mut state = self.state();
        let from = usize::try_from(request.from_offset).expect("small");
        let end = state.text.len().min(from + request.limit_bytes as usize);
        let text = state.text[from..end].to_owned();
        let truncated = end < state.text.len();
        state.asked.push(request);
        let next_offset = end as u64;
        Ok(Response::new(GetChangesResponse { text, next_offset, truncated, summary: Some(summary) }))
    }

    type FetchBundleStream = Streamed<FetchBundleResponse>;

    async fn fetch_bundle(
        &self,
        request: Request<FetchBundleRequest>,
    ) -> Result<Response<Self::FetchBundleStream>, Status> {
        let summary = self.about_work(&request.into_inner().session)?;
        let state = self.state();
        let first = FetchBundleResponse { summary: Some(summary), data: Vec::new().into() };
        let data = |part: &[u8]| FetchBundleResponse { summary: None, data: part.to_vec().into() };
        let mut parts = vec![Ok(first)];
        parts.extend(state.bundle.chunks(64).map(|part| Ok(data(part))));
        if state.breaks {
            parts.truncate(2);
            parts.push(Err(Error::new(ErrorCode::WorkerUnreachable, "worker box went away").into()));
        }
        if state.hangs {
            return Ok(Response::new(stream::iter(parts).chain(stream::pending()).boxed()));
        }
        Ok(Response::new(stream::iter(parts).boxed()))
    }

    async fn push_branch(
        &self,
        request: Request<PushBranchRequest>,
    ) -> Result<Response<PushBranchResponse>, Status> {
        let request = request.into_inner();
        let summary = self.about_work(&request.session)?;
        let remote = if request.remote.is_empty() { "origin".to_owned() } else { request.remote.clone() };
        self.state().pushes.push(request);
        Ok(Response::new(PushBranchResponse { remote, branch: summary.branch, commit: summary.head_commit }))
    }

    type ReadOutputStream = Streamed<ReadOutputResponse>;

    async fn read_output(
        &self,
        request: Request<ReadOutputRequest>,
    ) -> Result<Response<Self::ReadOutputStream>, Status> {
        let request = request.into_inner();
        self.known(&request.session)?;
        let (all, runs) = {
            let state = self.state();
            let runs =
                [SessionStatus::Working, SessionStatus::NeedsAttention].contains(&state.session.status());
            (state.output.clone(), runs)
        };
        let mut offset = request.from_offset;
        let from = usize::try_from(offset).expect("small");
        let end_offset = all.len() as u64;
        let mut chunks = Vec::new();
        for data in all[from..].chunks(1000) {
            let response = ReadOutputResponse { offset, data: data.to_vec().into(), end_offset, ended: true };
            offset += data.len() as u64;
            chunks.push(Ok(response));
        }
        let known = stream::iter(chunks);
        let waits = request.follow && runs;
        Ok(Response::new(if waits { known.chain(stream::pending()).boxed() } else { known.boxed() }))
    }

    async fn spawn_session(
        &self,
        _request: Request<SpawnSessionRequest>,
    ) -> Result<Response<SpawnSessionResponse>, Status> {
        unused()
    }

    async fn list_sessions(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        let wanted = request.into_inner().statuses;
        let session = self.state().session.clone();
        let fits = wanted.is_empty() || wanted.contains(&session.status);
        let sessions = if fits { vec![session] } else { Vec::new() };
        Ok(Response::new(ListSessionsResponse { total: 1, sessions, ..ListSessionsResponse::default() }))
    }

    async fn send_input(
        &self,
        request: Request<SendInputRequest>,
    ) -> Result<Response<SendInputResponse>, Status> {
        let request = request.into_inner();
        self.known(&request.session)?;
        let mut state = self.state();
        let input = request.input.ok_or_else(|| Error::invalid("input", "is missing"))?;
        if let Input::Answer(answer) = &input {
            let open = state.session.attention.take();
            if open.is_none_or(|open| open.attention_id != answer.attention_id) {
                return Err(Error::new(ErrorCode::AttentionStale, "it was answered").into());
            }
        }
        state.session.end = None;
        state.session.set_status(SessionStatus::Working);
        state.session.revision += 1;
        state.inputs.push(input);
        let session = Some(state.session.clone());
        Ok(Response::new(SendInputResponse { session, ..SendInputResponse::default() }))
    }

    async fn stop_session(
        &self,
        _request: Request<StopSessionRequest>,
    ) -> Result<Response<StopSessionResponse>, Status> {
        unused()
    }

    async fn archive_session(
        &self,
        _request: Request<ArchiveSessionRequest>,
    ) -> Result<Response<ArchiveSessionResponse>, Status> {
        unused()
    }

    type WatchSessionsStream = Streamed<WatchSessionsResponse>;

    async fn watch_sessions(
        &self,
        _request: Request<WatchSessionsRequest>,
    ) -> Result<Response<Self::WatchSessionsStream>, Status> {
        let fake = self.clone();
        let changes = stream::unfold(None, move |seen: Option<u64>| {
            let fake = fake.clone();
            async move {
                loop {
                    let session = fake.state().session.clone();
                    if seen != Some(session.revision) {
                        let revision = session.revision;
                        let response = WatchSessionsResponse { sessions: vec![session] };
                        return Some((Ok(response), Some(revision)));
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
            }
        });
        Ok(Response::new(changes.boxed()))
    }
}

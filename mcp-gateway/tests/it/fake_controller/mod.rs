//! A controller in memory, behind real gRPC, that does what it is told.

mod identity;
mod tasks;

use std::{
    collections::HashMap,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
};

use futures::{Stream, StreamExt as _, stream};
use muster_proto::{
    error::{Error, ErrorCode},
    v1::{
        ArchiveSessionRequest, ArchiveSessionResponse, Attention, AttentionReason, ChangesFormat,
        ChangesSummary, CordonWorkerRequest, CordonWorkerResponse, Delivery, DrainWorkerRequest,
        DrainWorkerResponse, End, EndReason, ExplainSessionRequest, ExplainSessionResponse,
        FetchBundleRequest, FetchBundleResponse, GetChangesRequest, GetChangesResponse, GetSessionRequest,
        GetSessionResponse, InputAsk, ListSessionsRequest, ListSessionsResponse, ListWorkersRequest,
        ListWorkersResponse, PermissionAsk, PlanAsk, Principal, PushBranchRequest, PushBranchResponse,
        Question, QuestionOption, ReadOutputRequest, ReadOutputResponse, SendInputRequest, SendInputResponse,
        Session, SessionSpec, SessionStatus, SpawnSessionRequest, SpawnSessionResponse, StatusCount,
        StopSessionRequest, StopSessionResponse, Task as GatewayTask, UncordonWorkerRequest,
        UncordonWorkerResponse, WatchSessionsRequest, WatchSessionsResponse, Worker,
        admin_service_server::{AdminService, AdminServiceServer},
        attention::Ask,
        identity_service_server::IdentityServiceServer,
        send_input_request::Input,
        session_service_server::{SessionService, SessionServiceServer},
        task_service_server::TaskServiceServer,
    },
};
use muster_runtime::task::{self, Task};
use tokio::{net::TcpListener, sync::watch};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Default)]
pub struct State {
    pub sessions: Vec<Session>,
    pub output: HashMap<String, Vec<u8>>,
    /// What each session changed: text by format, and the figures.
    pub changes: HashMap<String, Changes>,
    pub asked_changes: Vec<GetChangesRequest>,
    pub spawns: Vec<SpawnSessionRequest>,
    pub inputs: Vec<SendInputRequest>,
    pub stops: Vec<StopSessionRequest>,
    pub lists: Vec<ListSessionsRequest>,
    /// traceparent of each call that carried one.
    pub traces: Vec<String>,
    /// What operators are shown.
    pub workers: Vec<Worker>,
    pub pushes: Vec<PushBranchRequest>,
    /// Calls of any kind.
    pub calls: usize,
    /// Watches that are open.
    pub watchers: usize,
    /// Watches that were ever opened.
    pub watches: usize,
    /// Every call and stream fails as if the process were gone.
    pub down: bool,
    /// Output that arrives only for who follows: the worker's last bytes, late.
    pub late: Vec<u8>,
    /// The next spawn is done, and its answer is lost.
    pub lose_next_answer: bool,
    /// Whose each token is.
    pub tokens: HashMap<String, Principal>,
    /// Tokens that were checked.
    pub checks: usize,
    /// Whom calls were for.
    pub principals: Vec<Principal>,
    /// `authorization` of each call that carried one.
    pub authorizations: Vec<String>,
    /// Whose a session is, by handle. One without an owner everybody sees.
    pub owners: HashMap<String, String>,
    /// By owner and id.
    pub tasks: HashMap<(String, String), GatewayTask>,
    /// Instead of a session.
    pub refuse_spawn: Option<Error>,
    /// It knows no tasks.
    pub no_tasks: bool,
}

impl State {
    fn sees(&self, caller: &str, session: &Session) -> bool {
        caller.is_empty() || self.owners.get(&session.handle).is_none_or(|owner| owner == caller)
    }
}

#[derive(Default, Clone)]
pub struct Changes {
    pub texts: HashMap<ChangesFormat, String>,
    pub summary: ChangesSummary,
    /// Instead of an answer.
    pub error: Option<Error>,
}

#[derive(Clone)]
pub struct Fake {
    state: Arc<Mutex<State>>,
    changed: Arc<watch::Sender<u64>>,
}

pub struct Running {
    pub fake: Fake,
    pub addr: SocketAddr,
    _serving: Task<()>,
}

impl Running {
    pub async fn start() -> Self {
        let fake = Fake { state: Arc::default(), changed: Arc::new(watch::channel(0).0) };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let service = SessionServiceServer::new(fake.clone())
            .max_decoding_message_size(8 << 20)
            .max_encoding_message_size(64 << 20);
        let admin = AdminServiceServer::new(fake.clone());
        let identity = IdentityServiceServer::new(fake.clone());
        let tasks = TaskServiceServer::new(fake.clone());
        let serving = task::spawn("fake controller", async move {
            muster_runtime::grpc::server()
                .add_service(service)
                .add_service(admin)
                .add_service(identity)
                .add_service(tasks)
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .expect("it serves");
        });
        Self { fake, addr, _serving: serving }
    }

    pub fn uri(&self) -> String {
        format!("http://{}", self.addr)
    }
}

impl Fake {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("not poisoned")
    }

    /// Adds a session and tells nobody.
    pub fn add(&self, handle: &str, status: SessionStatus) -> String {
        let mut state = self.state();
        let id = format!("019aab00-0000-7000-8000-{:012}", state.sessions.len() + 1);
        state.sessions.push(Session {
            session_id: id.clone(),
            handle: handle.to_owned(),
            spec: Some(SessionSpec {
                prompt: format!("do {handle}"),
                project: "api".into(),
                ..Default::default()
            }),
            status: status.into(),
            created_at: Some(muster_proto::time::now()),
            ..Default::default()
        });
        id
    }

    /// Changes a session and wakes who watches it.
    pub fn change(&self, handle: &str, change: impl FnOnce(&mut Session)) {
        let mut state = self.state();
        let session = state.sessions.iter_mut().find(|session| session.handle == handle).expect("it exists");
        change(session);
        session.revision += 1;
        drop(state);
        self.changed.send_modify(|version| *version += 1);
    }

    pub fn finish(&self, handle: &str, status: SessionStatus, result: &str) {
        self.change(handle, |session| {
            session.set_status(status);
            session.attention = None;
            result.clone_into(&mut session.result_text);
            let reason = if status == SessionStatus::Completed {
                EndReason::TurnCompleted
            } else {
                EndReason::TurnFailed
            };
            session.end =
                Some(End { reason: reason.into(), message: "it ended".into(), ..Default::default() });
        });
    }

    pub fn ask(&self, handle: &str, id: &str, reason: AttentionReason) {
        self.ask_all(&[(handle, id)], reason);
    }

    /// Questions that are seen at the same time.
    pub fn ask_all(&self, questions: &[(&str, &str)], reason: AttentionReason) {
        let ask = match reason {
            AttentionReason::Input => Ask::Input(InputAsk {
                questions: vec![Question {
                    question: "Which DB?".into(),
                    header: "DB".into(),
                    options: vec![
                        QuestionOption { label: "Postgres".into(), description: "pg".into() },
                        QuestionOption { label: "SQLite".into(), description: String::new() },
                    ],
                    multi_select: true,
                }],
                ..Default::default()
            }),
            AttentionReason::PlanApproval => Ask::Plan(PlanAsk { plan: "# Plan".into() }),
            _ => Ask::Permission(PermissionAsk {
                tool_name: "Bash".into(),
                summary: "git push origin main".into(),
                input_json: r#"{"command":"git push origin main"}"#.into(),
                can_allow_always: true,
                ..Default::default()
            }),
        };
        let mut state = self.state();
        for (handle, id) in questions {
            let session =
                state.sessions.iter_mut().find(|session| session.handle == *handle).expect("it exists");
            session.set_status(SessionStatus::NeedsAttention);
            session.attention = Some(Attention {
                attention_id: (*id).to_owned(),
                reason: reason.into(),
                ask: Some(ask.clone()),
                since: Some(muster_proto::time::now()),
            });
            session.revision += 1;
        }
        drop(state);
        self.changed.send_modify(|version| *version += 1);
    }

    pub fn set_output(&self, handle: &str, bytes: Vec<u8>) {
        let end = bytes.len() as u64;
        self.state().output.insert(handle.to_owned(), bytes);
        self.change(handle, |session| session.output_end_offset = end);
    }

    pub fn set_changes(&self, handle: &str, changes: Changes) {
        self.state().changes.insert(handle.to_owned(), changes);
    }

    fn changes(&self, caller: &str, session: &str) -> Result<Changes, Error> {
        let handle = self.find(caller, session)?.handle;
        let Some(changes) = self.state().changes.get(&handle).cloned() else {
            return Err(Error::new(ErrorCode::NoChangesKept, format!("{handle} did not work in git")));
        };
        changes.error.clone().map_or(Ok(changes), Err)
    }

    pub fn set_down(&self, down: bool) {
        self.state().down = down;
        self.changed.send_modify(|version| *version += 1);
    }

    /// Waits until `condition` holds; the fake wakes it by changes, so poll gently beside it.
    pub async fn until(&self, what: &str, condition: impl Fn(&State) -> bool) {
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
        while !condition(&self.state()) {
            assert!(tokio::time::Instant::now() < deadline, "never: {what}");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// Gives the name of whom the call is for.
    fn enter<T>(&self, request: &Request<T>) -> Result<String, Status> {
        let principal = identity::principal(request);
        let mut state = self.state();
        state.calls += 1;
        if let Some(trace) = request.metadata().get("traceparent").and_then(|value| value.to_str().ok()) {
            state.traces.push(trace.to_owned());
        }
        if let Some(authorization) = request.metadata().get("authorization") {
            state.authorizations.push(authorization.to_str().expect("ASCII").to_owned());
        }
        state.principals.extend(principal.clone());
        if state.down {
            return Err(Status::unavailable("connection refused"));
        }
        Ok(principal.map(|principal| principal.name).unwrap_or_default())
    }

    fn find(&self, caller: &str, name: &str) -> Result<Session, Error> {
        let state = self.state();
        let matching: Vec<&Session> = state
            .sessions
            .iter()
            .filter(|session| state.sees(caller, session))
            .filter(|session| {
                session.handle == name
                    || session.session_id == name
                    || (name.len() >= 4
                        && (session.handle.starts_with(name) || session.session_id.starts_with(name)))
            })
            .collect();
        match matching.as_slice() {
            [] => Err(Error::new(ErrorCode::SessionNotFound, format!("no session {name:?}"))),
            [session] => Ok((*session).clone()),
            _ => {
                Err(Error::new(ErrorCode::AmbiguousSession, format!("{name:?} begins more than one session")))
            }
        }
    }
}

#[async_trait::async_trait]
impl SessionService for Fake {
    async fn spawn_session(
        &self,
        request: Request<SpawnSessionRequest>,
    ) -> Result<Response<SpawnSessionResponse>, Status> {
        let caller = self.enter(&request)?;
        let request = request.into_inner();
        let spec = request.spec.clone().unwrap_or_default();
        if spec.prompt.is_empty() {
            return Err(Error::invalid("prompt", "the prompt is empty").into());
        }
        if let Some(error) = self.state().refuse_spawn.clone() {
            return Err(error.into());
        }
        if spec.trust_mode && spec.project == "strict" {
            return Err(Error::new(
                ErrorCode::TrustNotAllowed,
                "project \"strict\" does not allow trust mode",
            )
            .into());
        }
        let before = self.state().spawns.iter().position(|spawn| spawn.request_id == request.request_id);
        if let Some(index) = before {
            let state = self.state();
            if state.spawns[index].spec != request.spec {
                let message = format!("request id {:?} was used with other arguments", request.request_id);
                return Err(Error::new(ErrorCode::RequestIdConflict, message).into());
            }
            let session = state.sessions[index].clone();
            return Ok(Response::new(SpawnSessionResponse { session: Some(session), replayed: true }));
        }
        let handle = format!("spawned-{}", self.state().sessions.len());
        self.add(&handle, SessionStatus::Queued);
        let mut state = self.state();
        if !caller.is_empty() {
            state.owners.insert(handle, caller);
        }
        let session = state.sessions.last_mut().expect("just added");
        session.spec = request.spec.clone();
        session.queue_position = 1;
        "no free slot".clone_into(&mut session.queue_reason);
        let session = session.clone();
        state.spawns.push(request);
        if std::mem::take(&mut state.lose_next_answer) {
            return Err(Status::unavailable("the answer got lost"));
        }
        Ok(Response::new(SpawnSessionResponse { session: Some(session), replayed: false }))
    }

    async fn get_session(
        &self,
        request: Request<GetSessionRequest>,
    ) -> Result<Response<GetSessionResponse>, Status> {
        let caller = self.enter(&request)?;
        let session = self.find(&caller, &request.into_inner().session)?;
        Ok(Response::new(GetSessionResponse { session: Some(session) }))
    }

    async fn list_sessions(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        let caller = self.enter(&request)?;
        let request = request.into_inner();
        let mut state = self.state();
        let from: usize = request.cursor.parse().unwrap_or(0);
        let all: Vec<Session> = state
            .sessions
            .iter()
            .filter(|session| state.sees(&caller, session))
            .filter(|session| request.statuses.is_empty() || request.statuses.contains(&session.status))
            .filter(|session| {
                let labels = session.spec.as_ref().map(|spec| &spec.labels);
                request.labels.iter().all(|(key, value)| {
                    key == "a" || labels.is_some_and(|labels| labels.get(key) == Some(value))
                })
            })
            .cloned()
            .collect();
        let to = all.len().min(from + request.limit as usize);
        let next_cursor = if to < all.len() { to.to_string() } else { String::new() };
        let counts = vec![StatusCount {
            status: SessionStatus::Working.into(),
            count: state.sessions.iter().filter(|session| session.status() == SessionStatus::Working).count()
                as u32,
        }];
        state.lists.push(request);
        Ok(Response::new(ListSessionsResponse {
            sessions: all[from..to].to_vec(),
            next_cursor,
            counts,
            total: all.len() as u32,
        }))
    }

    async fn send_input(
        &self,
        request: Request<SendInputRequest>,
    ) -> Result<Response<SendInputResponse>, Status> {
        let caller = self.enter(&request)?;
        let request = request.into_inner();
        let session = self.find(&caller, &request.session)?;
        let known = self.state().inputs.iter().find(|input| input.request_id == request.request_id).cloned();
        if let Some(before) = known {
            if before.input != request.input {
                return Err(Error::new(ErrorCode::RequestIdConflict, "used with other arguments").into());
            }
            let delivery = Delivery::Now.into();
            return Ok(Response::new(SendInputResponse { session: Some(session), replayed: true, delivery }));
        }
        let delivery = match request.input.as_ref().expect("an input") {
            Input::Answer(answer) => {
                let open = session.attention.as_ref().map(|attention| attention.attention_id.clone());
                let meant = answer.attention_id.is_empty() || open.as_ref() == Some(&answer.attention_id);
                if open.is_none() || !meant {
                    return Err(Error::new(ErrorCode::AttentionStale, "it was answered already").into());
                }
                self.change(&session.handle, |session| {
                    session.set_status(SessionStatus::Working);
                    session.attention = None;
                });
                Delivery::Now
            }
            Input::Message(_) if session.attention.is_some() => {
                return Err(Error::new(ErrorCode::AttentionPending, "it waits on a question").into());
            }
            Input::Message(_) if session.status() == SessionStatus::Stopped => {
                return Err(Error::new(ErrorCode::SessionEnded, "it is stopped").into());
            }
            Input::Message(_) if session.status() == SessionStatus::Completed => {
                self.change(&session.handle, |session| session.set_status(SessionStatus::Queued));
                Delivery::NextAttempt
            }
            Input::Message(_) => Delivery::AfterTurn,
            Input::Interrupt(_) if session.status() == SessionStatus::Working => Delivery::Now,
            Input::Interrupt(_) => Delivery::Nothing,
        };
        let session = self.find(&caller, &request.session)?;
        self.state().inputs.push(request);
        Ok(Response::new(SendInputResponse {
            session: Some(session),
            replayed: false,
            delivery: delivery.into(),
        }))
    }

    async fn stop_session(
        &self,
        request: Request<StopSessionRequest>,
    ) -> Result<Response<StopSessionResponse>, Status> {
        let caller = self.enter(&request)?;
        let request = request.into_inner();
        let session = self.find(&caller, &request.session)?;
        let changed = session.status() != SessionStatus::Stopped;
        self.change(&session.handle, |session| session.set_status(SessionStatus::Stopped));
        self.state().stops.push(request);
        Ok(Response::new(StopSessionResponse {
            session: Some(self.find(&caller, &session.handle)?),
            changed,
        }))
    }

    async fn archive_session(
        &self,
        request: Request<ArchiveSessionRequest>,
    ) -> Result<Response<ArchiveSessionResponse>, Status> {
        let caller = self.enter(&request)?;
        let session = self.find(&caller, &request.into_inner().session)?;
        if session.status() == SessionStatus::Working {
            return Err(Error::new(ErrorCode::SessionRunning, "it runs").into());
        }
        let changed = !session.archived;
        self.change(&session.handle, |session| session.archived = true);
        Ok(Response::new(ArchiveSessionResponse {
            session: Some(self.find(&caller, &session.handle)?),
            changed,
        }))
    }

    type WatchSessionsStream = Streamed<WatchSessionsResponse>;

    async fn watch_sessions(
        &self,
        request: Request<WatchSessionsRequest>,
    ) -> Result<Response<Self::WatchSessionsStream>, Status> {
        let caller = self.enter(&request)?;
        let mut names = Vec::new();
        for name in request.into_inner().sessions {
            names.push(self.find(&caller, &name)?.handle);
        }
        {
            let mut state = self.state();
            state.watchers += 1;
            state.watches += 1;
        }
        let guard = Watcher(self.clone());
        let mut changes = self.changed.subscribe();
        changes.mark_changed();
        // The first look comes a session at a time, as that of a farm with long prompts does.
        let mut first = Vec::new();
        for name in &names {
            first.push(Ok(WatchSessionsResponse { sessions: vec![self.find(&caller, name)?] }));
        }
        let stream = stream::unfold((guard, changes, names), |(guard, mut changes, names)| async move {
            changes.changed().await.ok()?;
            if guard.0.state().down {
                return Some((Err(Status::unavailable("going down")), (guard, changes, names)));
            }
            let sessions = guard
                .0
                .state()
                .sessions
                .iter()
                .filter(|session| names.contains(&session.handle))
                .cloned()
                .collect();
            Some((Ok(WatchSessionsResponse { sessions }), (guard, changes, names)))
        });
        Ok(Response::new(stream::iter(first).chain(stream).boxed()))
    }

    type ReadOutputStream = Streamed<ReadOutputResponse>;

    async fn read_output(
        &self,
        request: Request<ReadOutputRequest>,
    ) -> Result<Response<Self::ReadOutputStream>, Status> {
        let caller = self.enter(&request)?;
        let request = request.into_inner();
        let session = self.find(&caller, &request.session)?;
        let mut all = self.state().output.get(&session.handle).cloned().unwrap_or_default();
        let late = self.state().late.clone();
        if request.follow {
            all.extend_from_slice(&late);
        }
        let from = request.from_offset as usize;
        if from > all.len() {
            return Err(Error::new(ErrorCode::InvalidCursor, "the offset lies past the end").into());
        }
        let limit = if request.limit_bytes == 0 { usize::MAX } else { request.limit_bytes as usize };
        let to = all.len().min(from.saturating_add(limit));
        let ended = matches!(session.status(), SessionStatus::Completed | SessionStatus::Failed)
            && (request.follow || late.is_empty());
        let end_offset = all.len() as u64;
        let mut offset = from as u64;
        let chunks: Vec<_> = all[from..to]
            .chunks(64 << 10)
            .map(|chunk| {
                let response = ReadOutputResponse { offset, data: chunk.to_vec().into(), end_offset, ended };
                offset += chunk.len() as u64;
                Ok(response)
            })
            .collect();
        Ok(Response::new(stream::iter(chunks).boxed()))
    }

    async fn get_changes(
        &self,
        request: Request<GetChangesRequest>,
    ) -> Result<Response<GetChangesResponse>, Status> {
        let caller = self.enter(&request)?;
        let request = request.into_inner();
        self.state().asked_changes.push(request.clone());
        let changes = self.changes(&caller, &request.session)?;
        let text = changes.texts.get(&request.format()).cloned().unwrap_or_default();
        let from = request.from_offset as usize;
        if !text.is_char_boundary(from) {
            return Err(Error::new(ErrorCode::InvalidCursor, "the offset lies outside the text").into());
        }
        let limit = if request.limit_bytes == 0 { 256 << 10 } else { request.limit_bytes as usize };
        let end = page_end(&text, from, limit);
        Ok(Response::new(GetChangesResponse {
            text: text[from..end].to_owned(),
            next_offset: end as u64,
            truncated: end < text.len(),
            summary: Some(changes.summary),
        }))
    }

    type FetchBundleStream = Streamed<FetchBundleResponse>;

    async fn fetch_bundle(
        &self,
        request: Request<FetchBundleRequest>,
    ) -> Result<Response<Self::FetchBundleStream>, Status> {
        let caller = self.enter(&request)?;
        let changes = self.changes(&caller, &request.into_inner().session)?;
        let first = FetchBundleResponse { summary: Some(changes.summary), data: b"# v2 git".to_vec().into() };
        let second = FetchBundleResponse { summary: None, data: b" bundle\n".to_vec().into() };
        Ok(Response::new(stream::iter([Ok(first), Ok(second)]).boxed()))
    }

    async fn push_branch(
        &self,
        request: Request<PushBranchRequest>,
    ) -> Result<Response<PushBranchResponse>, Status> {
        let caller = self.enter(&request)?;
        let request = request.into_inner();
        let summary = self.changes(&caller, &request.session)?.summary;
        self.state().pushes.push(request.clone());
        let remote = if request.remote.is_empty() { "origin".to_owned() } else { request.remote };
        Ok(Response::new(PushBranchResponse { remote, branch: summary.branch, commit: summary.head_commit }))
    }
}

#[async_trait::async_trait]
impl AdminService for Fake {
    async fn list_workers(
        &self,
        request: Request<ListWorkersRequest>,
    ) -> Result<Response<ListWorkersResponse>, Status> {
        self.enter(&request)?;
        Ok(Response::new(ListWorkersResponse { workers: self.state().workers.clone() }))
    }

    async fn explain_session(
        &self,
        _request: Request<ExplainSessionRequest>,
    ) -> Result<Response<ExplainSessionResponse>, Status> {
        Err(Status::unimplemented("nobody asks for it"))
    }

    async fn cordon_worker(
        &self,
        _request: Request<CordonWorkerRequest>,
    ) -> Result<Response<CordonWorkerResponse>, Status> {
        Err(Status::unimplemented("nobody asks for it"))
    }

    async fn drain_worker(
        &self,
        _request: Request<DrainWorkerRequest>,
    ) -> Result<Response<DrainWorkerResponse>, Status> {
        Err(Status::unimplemented("nobody asks for it"))
    }

    async fn uncordon_worker(
        &self,
        _request: Request<UncordonWorkerRequest>,
    ) -> Result<Response<UncordonWorkerResponse>, Status> {
        Err(Status::unimplemented("nobody asks for it"))
    }
}

/// The end of the page of `text` that begins at `from`: at most `limit` bytes, whole characters.
fn page_end(text: &str, from: usize, limit: usize) -> usize {
    let end = text.len().min(from.saturating_add(limit));
    (from..=end).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(from)
}

/// Counts a watch as open for as long as its stream lives.
struct Watcher(Fake);

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.state().watchers -= 1;
    }
}

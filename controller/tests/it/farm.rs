//! A controller on a port of the kernel, and the calls tests make.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use muster_controller::{Config, Controller, StoreKind};
use muster_proto::{
    error::{Error, ErrorCode},
    v1::{
        admin_service_client::AdminServiceClient, session_service_client::SessionServiceClient,
        worker_service_client::WorkerServiceClient, *,
    },
};
use muster_runtime::{grpc, shutdown::Shutdown};
use tokio::time::timeout;
use tonic::{Status, Streaming, transport::Channel};

/// Longer than anything here takes on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Farm {
    pub dir: tempfile::TempDir,
    pub controller: Option<Controller>,
    shutdown: Shutdown,
    pub addr: SocketAddr,
    config: Config,
}

pub fn config(state_dir: PathBuf) -> Config {
    Config::new("127.0.0.1:0".parse().expect("an address"), state_dir)
}

impl Farm {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_in(tempfile::tempdir().expect("a folder"), change).await
    }

    pub async fn start_in(dir: tempfile::TempDir, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config(dir.path().join("state"));
        change(&mut config);
        let shutdown = Shutdown::new();
        let controller = Controller::start(config.clone(), shutdown.clone()).await.expect("it starts");
        let addr = controller.local_addr();
        Self { dir, controller: Some(controller), shutdown, addr, config }
    }

    pub async fn leave(&mut self) {
        self.shutdown.request();
        let controller = self.controller.take().expect("it runs");
        timeout(PATIENCE, controller.finished()).await.expect("it leaves in time");
    }

    /// The same folder, another life, the same port.
    pub async fn restart(&mut self) {
        assert_eq!(self.config.store, StoreKind::Sled, "a restart forgets otherwise");
        if self.controller.is_some() {
            self.leave().await;
        }
        self.shutdown = Shutdown::new();
        self.config.listen = self.addr;
        let controller =
            Controller::start(self.config.clone(), self.shutdown.clone()).await.expect("it starts again");
        self.controller = Some(controller);
    }

    pub fn channel(&self) -> Channel {
        grpc::connect(&format!("http://{}", self.addr)).expect("a channel")
    }

    pub fn sessions(&self) -> SessionServiceClient<Channel> {
        SessionServiceClient::new(self.channel())
            .max_decoding_message_size(muster_proto::limits::MESSAGE_BYTES)
            .max_encoding_message_size(muster_proto::limits::MESSAGE_BYTES)
    }

    pub fn workers(&self) -> WorkerServiceClient<Channel> {
        WorkerServiceClient::new(self.channel())
            .max_decoding_message_size(muster_proto::limits::MESSAGE_BYTES)
    }

    pub fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel())
    }

    pub async fn spawn(&self, prompt: &str) -> Session {
        self.try_spawn(spec(prompt), "").await.expect("accepted").session.expect("a session")
    }

    pub async fn try_spawn(
        &self,
        spec: SessionSpec,
        request_id: &str,
    ) -> Result<SpawnSessionResponse, Error> {
        let request = SpawnSessionRequest { spec: Some(spec), request_id: request_id.to_owned() };
        answer(self.sessions().spawn_session(request).await)
    }

    pub async fn get(&self, session: &str) -> Session {
        self.try_get(session).await.expect("it exists")
    }

    pub async fn try_get(&self, session: &str) -> Result<Session, Error> {
        let request = GetSessionRequest { session: session.to_owned() };
        answer(self.sessions().get_session(request).await)
            .map(|response| response.session.expect("a session"))
    }

    pub async fn input(
        &self,
        session: &str,
        request_id: &str,
        input: send_input_request::Input,
    ) -> Result<SendInputResponse, Error> {
        let request = SendInputRequest {
            session: session.to_owned(),
            request_id: request_id.to_owned(),
            input: Some(input),
        };
        answer(self.sessions().send_input(request).await)
    }

    pub async fn message(&self, session: &str, text: &str) -> Result<Delivery, Error> {
        let input = send_input_request::Input::Message(text.to_owned());
        self.input(session, "", input).await.map(|response| response.delivery())
    }

    pub async fn stop(&self, session: &str) -> StopSessionResponse {
        let request = StopSessionRequest { session: session.to_owned(), reason: "enough".into() };
        answer(self.sessions().stop_session(request).await).expect("stopping never fails")
    }

    pub async fn archive(&self, session: &str) -> Result<ArchiveSessionResponse, Error> {
        let request = ArchiveSessionRequest { session: session.to_owned() };
        answer(self.sessions().archive_session(request).await)
    }

    pub async fn list(&self, request: ListSessionsRequest) -> ListSessionsResponse {
        answer(self.sessions().list_sessions(request).await).expect("listed")
    }

    pub async fn watch(&self, sessions: &[&str]) -> Streaming<WatchSessionsResponse> {
        let sessions = sessions.iter().map(|session| (*session).to_owned()).collect();
        self.sessions().watch_sessions(WatchSessionsRequest { sessions }).await.expect("watched").into_inner()
    }

    /// All the output there is.
    pub async fn output(&self, session: &str) -> Vec<u8> {
        let request = ReadOutputRequest { session: session.to_owned(), ..ReadOutputRequest::default() };
        let mut stream = answer(self.sessions().read_output(request).await).expect("readable");
        let mut output = Vec::new();
        while let Some(message) = stream.message().await.expect("it goes on") {
            output.extend_from_slice(&message.data);
        }
        output
    }

    /// Waits, woken by changes, until the session is as wanted.
    pub async fn until(&self, session: &str, wanted: impl Fn(&Session) -> bool) -> Session {
        let mut watch = self.watch(&[session]).await;
        let mut last = None;
        let waiting = async {
            loop {
                let message =
                    watch.message().await.expect("the watch goes on").expect("the watch does not end");
                let found = message.sessions.into_iter().next().expect("the session");
                if wanted(&found) {
                    return found;
                }
                last = Some(found);
            }
        };
        let found = timeout(PATIENCE, waiting).await;
        found.unwrap_or_else(|_| panic!("it never came to this: {last:?}"))
    }

    pub async fn until_status(&self, session: &str, status: SessionStatus) -> Session {
        self.until(session, |found| found.status() == status).await
    }
}

pub fn spec(prompt: &str) -> SessionSpec {
    SessionSpec { prompt: prompt.to_owned(), ..SessionSpec::default() }
}

pub fn answer<T>(result: Result<tonic::Response<T>, Status>) -> Result<T, Error> {
    result.map(tonic::Response::into_inner).map_err(|status| Error::from_status(&status))
}

#[track_caller]
pub fn refused<T: std::fmt::Debug>(result: Result<T, Error>, code: ErrorCode) -> Error {
    let error = result.expect_err("refused");
    assert_eq!(error.code, code, "{error:?}");
    error
}

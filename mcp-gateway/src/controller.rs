//! The controller, as the tools see it: typed calls that either answer or say what to do.
//!
//! Every call here may be repeated without doing its work twice (reads; stop and archive, which are
//! idempotent; spawn and input, which carry a request id), so each is retried while the controller is away,
//! for at most `Config::patience`.

use std::{future::Future, time::Duration};

use muster_proto::{
    error::{Error, ErrorCode},
    limits,
    v1::{
        ArchiveSessionRequest, ArchiveSessionResponse, CheckAccessRequest, FetchBundleRequest,
        FetchBundleResponse, GetChangesRequest, GetChangesResponse, GetSessionRequest, ListSessionsRequest,
        ListSessionsResponse, ListWorkersRequest, Principal, PushBranchRequest, PushBranchResponse,
        ReadOutputRequest, ReadOutputResponse, SendInputRequest, SendInputResponse, Session,
        SpawnSessionRequest, SpawnSessionResponse, StopSessionRequest, StopSessionResponse,
        WatchSessionsRequest, WatchSessionsResponse, Worker, admin_service_client::AdminServiceClient,
        identity_service_client::IdentityServiceClient, session_service_client::SessionServiceClient,
    },
};
use muster_runtime::backoff::Backoff;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Response, Status, Streaming};

use crate::{
    Config,
    caller::Caller,
    link::{Link, LinkError, Service},
};

type Client = SessionServiceClient<Service>;

/// A call that has no answer after this long is given up: the controller waits at most 10 s for anything.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// The same for what the controller asks of a worker first, for which it waits 30 s itself.
const WORKER_TIMEOUT: Duration = Duration::from_secs(45);
/// Largest answer taken: a full page of sessions whose prompts are as long as they may be.
const ANSWER_BYTES: usize = 512 << 20;
/// How long the last bytes of a session that has ended may take to arrive from its worker. They travel beside
/// the news of its end and are rarely behind it by more than a moment.
const LAST_BYTES: Duration = Duration::from_secs(3);
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(1);

/// Cheap to clone; connects at the first call and again whenever the connection is lost.
#[derive(Debug, Clone)]
pub(crate) struct Controller {
    link: Link,
    client: Client,
    address: String,
    patience: Duration,
}

/// A part of a session's output.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span<'a> {
    pub(crate) session: &'a str,
    pub(crate) from: u64,
    /// Bytes at most.
    pub(crate) limit: u64,
    /// The session has ended: wait a moment for bytes that are still on their way.
    pub(crate) to_the_end: bool,
}

impl Controller {
    /// As the gateway itself.
    pub(crate) fn new(config: &Config) -> Result<Self, LinkError> {
        let link = Link::new(config)?;
        let client = client(&link);
        Ok(Self { link, client, address: config.controller.clone(), patience: config.patience })
    }

    /// The same controller, for `caller`.
    pub(crate) fn on_behalf_of(&self, caller: &Caller) -> Self {
        let link = self.link.on_behalf_of(caller);
        let client = client(&link);
        Self { link, client, address: self.address.clone(), patience: self.patience }
    }

    pub(crate) fn service(&self) -> Service {
        self.link.service()
    }

    /// Whom an access token belongs to.
    pub(crate) async fn check_access(&self, token: &str) -> Result<Principal, Error> {
        let identity = IdentityServiceClient::new(self.service());
        let response = self
            .call(|_| {
                let mut identity = identity.clone();
                let request = CheckAccessRequest { token: token.to_owned() };
                async move { identity.check_access(request).await }
            })
            .await?;
        let missing = || Error::new(ErrorCode::Internal, "the controller answered without a principal");
        response.principal.ok_or_else(missing)
    }

    /// `request.request_id` must not be empty: without one a retry could spawn twice.
    pub(crate) async fn spawn(&self, request: SpawnSessionRequest) -> Result<SpawnSessionResponse, Error> {
        debug_assert!(!request.request_id.is_empty(), "a spawn without a request id is not safe to retry");
        self.call(|mut client| {
            let request = request.clone();
            async move { client.spawn_session(request).await }
        })
        .await
    }

    pub(crate) async fn get(&self, session: &str) -> Result<Session, Error> {
        let request = GetSessionRequest { session: session.to_owned() };
        let response = self
            .call(|mut client| {
                let request = request.clone();
                async move { client.get_session(request).await }
            })
            .await?;
        required(response.session)
    }

    pub(crate) async fn list(&self, request: ListSessionsRequest) -> Result<ListSessionsResponse, Error> {
        self.call(|mut client| {
            let request = request.clone();
            async move { client.list_sessions(request).await }
        })
        .await
    }

    /// `request.request_id` must not be empty: without one a retry could deliver twice.
    pub(crate) async fn send(&self, request: SendInputRequest) -> Result<SendInputResponse, Error> {
        debug_assert!(!request.request_id.is_empty(), "input without a request id is not safe to retry");
        self.call(|mut client| {
            let request = request.clone();
            async move { client.send_input(request).await }
        })
        .await
    }

    pub(crate) async fn stop(&self, request: StopSessionRequest) -> Result<StopSessionResponse, Error> {
        self.call(|mut client| {
            let request = request.clone();
            async move { client.stop_session(request).await }
        })
        .await
    }

    pub(crate) async fn archive(&self, session: &str) -> Result<ArchiveSessionResponse, Error> {
        let request = ArchiveSessionRequest { session: session.to_owned() };
        self.call(|mut client| {
            let request = request.clone();
            async move { client.archive_session(request).await }
        })
        .await
    }

    pub(crate) async fn changes(&self, request: GetChangesRequest) -> Result<GetChangesResponse, Error> {
        self.call_within(WORKER_TIMEOUT, |mut client| {
            let request = request.clone();
            async move { client.get_changes(request).await }
        })
        .await
    }

    /// Never forced, so a repetition finds it done.
    pub(crate) async fn push(&self, request: PushBranchRequest) -> Result<PushBranchResponse, Error> {
        self.call_within(WORKER_TIMEOUT, |mut client| {
            let request = request.clone();
            async move { client.push_branch(request).await }
        })
        .await
    }

    /// Hands each part of a session's bundle to `take`, which says whether it wants more. A bundle that breaks
    /// off is an error: another would begin anew.
    pub(crate) async fn bundle(
        &self,
        session: &str,
        mut take: impl FnMut(&[u8]) -> bool + Send,
    ) -> Result<(), Error> {
        let request = FetchBundleRequest { session: session.to_owned() };
        let mut stream: Streaming<FetchBundleResponse> = self
            .call_within(WORKER_TIMEOUT, |mut client| {
                let request = request.clone();
                async move { client.fetch_bundle(request).await }
            })
            .await?;
        loop {
            match timeout(WORKER_TIMEOUT, stream.message()).await {
                Ok(Ok(Some(part))) if part.data.is_empty() || take(&part.data) => {}
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(status)) => return Err(self.explain(Error::from_status(&status))),
                Err(_) => return Err(self.silent_for(WORKER_TIMEOUT)),
            }
        }
    }

    /// Every worker the controller has seen.
    pub(crate) async fn workers(&self) -> Result<Vec<Worker>, Error> {
        let admin = AdminServiceClient::new(self.service()).max_decoding_message_size(ANSWER_BYTES);
        let response = self
            .call(move |_| {
                let mut admin = admin.clone();
                async move { admin.list_workers(ListWorkersRequest {}).await }
            })
            .await?;
        Ok(response.workers)
    }

    /// Opens a watch, once: the caller decides how long a wait is worth retrying.
    pub(crate) async fn watch(&self, sessions: &[String]) -> Result<Streaming<WatchSessionsResponse>, Error> {
        let request = WatchSessionsRequest { sessions: sessions.to_vec() };
        let mut client = self.client.clone();
        match timeout(CALL_TIMEOUT, client.watch_sessions(request)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.explain(Error::from_status(&status))),
            Err(_) => Err(self.silent()),
        }
    }

    /// Reads output and hands each chunk to `take`, which says whether it wants more. A broken stream is
    /// taken up again at the byte where it broke. Returns whether the session has ended and nothing comes
    /// after what was read.
    pub(crate) async fn read(
        &self,
        span: Span<'_>,
        mut take: impl FnMut(&[u8]) -> bool + Send,
    ) -> Result<bool, Error> {
        let Span { session, from, limit, to_the_end } = span;
        let end = from.saturating_add(limit);
        let silence = if to_the_end { LAST_BYTES } else { CALL_TIMEOUT };
        let mut at = from;
        let mut ended = false;
        while at < end {
            let request = ReadOutputRequest {
                session: session.to_owned(),
                from_offset: at,
                follow: to_the_end,
                limit_bytes: end - at,
            };
            let mut stream: Streaming<ReadOutputResponse> = self
                .call(|mut client| {
                    let request = request.clone();
                    async move { client.read_output(request).await }
                })
                .await?;
            let before = at;
            loop {
                match timeout(silence, stream.message()).await {
                    Ok(Ok(Some(chunk))) => {
                        at = chunk.offset + chunk.data.len() as u64;
                        ended = chunk.ended && at >= chunk.end_offset;
                        if (!chunk.data.is_empty() && !take(&chunk.data)) || ended {
                            return Ok(ended);
                        }
                    }
                    // A stream that follows an ended session ends when all of it is sent.
                    Ok(Ok(None)) => return Ok(ended || (to_the_end && at < end)),
                    Ok(Err(status)) => {
                        let error = Error::from_status(&status);
                        if error.code != ErrorCode::ControllerUnavailable || at == before {
                            return Err(self.explain(error));
                        }
                        break;
                    }
                    Err(_) if to_the_end => return Ok(false),
                    Err(_) => return Err(self.silent()),
                }
            }
        }
        Ok(ended)
    }

    pub(crate) async fn call<T, F, Fut>(&self, attempt: F) -> Result<T, Error>
    where
        F: FnMut(Client) -> Fut + Send,
        Fut: Future<Output = Result<Response<T>, Status>> + Send,
    {
        self.call_within(CALL_TIMEOUT, attempt).await
    }

    async fn call_within<T, F, Fut>(&self, silence: Duration, mut attempt: F) -> Result<T, Error>
    where
        F: FnMut(Client) -> Fut + Send,
        Fut: Future<Output = Result<Response<T>, Status>> + Send,
    {
        let deadline = Instant::now() + self.patience;
        let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
        loop {
            let error = match timeout(silence, attempt(self.client.clone())).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => Error::from_status(&status),
                Err(_) => return Err(self.silent_for(silence)),
            };
            let delay = backoff.next_delay();
            if error.code != ErrorCode::ControllerUnavailable || Instant::now() + delay >= deadline {
                return Err(self.explain(error));
            }
            tracing::debug!(error = %error, "controller is away, will retry");
            sleep(delay).await;
        }
    }

    /// Says where the controller was looked for; a transport's own words ("tcp connect error") help nobody.
    pub(crate) fn explain(&self, error: Error) -> Error {
        if error.code != ErrorCode::ControllerUnavailable || !error.hint.is_empty() {
            return error;
        }
        let address = &self.address;
        Error::new(ErrorCode::ControllerUnavailable, format!("the controller at {address} cannot be reached"))
            .hint(
                "start it with `muster up` or `muster controller`, or give the gateway its right \
             address; then call again",
            )
    }

    /// It took the call and said nothing.
    pub(crate) fn silent(&self) -> Error {
        self.silent_for(CALL_TIMEOUT)
    }

    fn silent_for(&self, silence: Duration) -> Error {
        let seconds = silence.as_secs();
        Error::new(
            ErrorCode::ControllerUnavailable,
            format!("the controller at {} did not answer within {seconds} s", self.address),
        )
        .hint("call again; if it stays silent, restart the controller: sessions go on meanwhile")
    }
}

fn client(link: &Link) -> Client {
    SessionServiceClient::new(link.service())
        .max_decoding_message_size(ANSWER_BYTES)
        .max_encoding_message_size(limits::MESSAGE_BYTES)
}

/// A message the wire makes optional and the contract does not.
pub(crate) fn required(session: Option<Session>) -> Result<Session, Error> {
    session.ok_or_else(|| Error::new(ErrorCode::Internal, "the controller answered without a session"))
}

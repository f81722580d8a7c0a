//! What callers ask of sessions.

use std::{pin::Pin, time::Duration};

use futures::{Stream, StreamExt as _, stream};
use muster_proto::{
    error::{Error, ErrorCode},
    limits,
    v1::{
        ArchiveSessionRequest, ArchiveSessionResponse, FetchBundleRequest, FetchBundleResponse,
        GetChangesRequest, GetChangesResponse, GetSessionRequest, GetSessionResponse, ListSessionsRequest,
        ListSessionsResponse, PushBranchRequest, PushBranchResponse, ReadOutputRequest, ReadOutputResponse,
        SendInputRequest, SendInputResponse, Session, SessionStatus, SpawnSessionRequest,
        SpawnSessionResponse, StopSessionRequest, StopSessionResponse, WatchSessionsRequest,
        WatchSessionsResponse, WorkspaceState, send_input_request::Input,
        session_service_server::SessionService,
    },
};
use muster_runtime::{grpc, telemetry};
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Response, Status};
use tracing::Instrument as _;

use super::{
    Context, changes, fit, leaving, peer, read,
    recorded::{About, hashed},
    validate,
};
use crate::engine::{InputRequest, ListQuery, Place, SpawnRequest, Watcher};

/// How long ArchiveSession waits for the worker.
const RELEASE_WAIT: Duration = Duration::from_secs(10);
/// Sessions of a page when the caller does not say.
const PAGE: usize = 50;
/// Sessions one watch may name: each costs an entry until it ends.
const WATCHED: usize = 10_000;

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// See the module.
#[derive(Debug)]
pub struct Sessions {
    context: Context,
}

impl Sessions {
    pub(super) const fn new(context: Context) -> Self {
        Self { context }
    }
}

#[tonic::async_trait]
impl SessionService for Sessions {
    type WatchSessionsStream = Streamed<WatchSessionsResponse>;
    type ReadOutputStream = Streamed<ReadOutputResponse>;
    type FetchBundleStream = Streamed<FetchBundleResponse>;

    async fn spawn_session(
        &self,
        request: Request<SpawnSessionRequest>,
    ) -> Result<Response<SpawnSessionResponse>, Status> {
        let span = tracing::info_span!("session.spawn", session.id = tracing::field::Empty);
        grpc::set_parent(&span, request.metadata());
        let (context, caller) = (self.context.seen_by(&request)?, peer::caller(&request)?);
        let asks_trust = request.get_ref().spec.as_ref().is_some_and(|spec| spec.trust_mode);
        if asks_trust && !peer::principal(&request)?.scopes().trust {
            return Err(no_trust(&caller).into());
        }
        let about = About::of(&request);
        let request = request.into_inner();
        let prompt = request.spec.as_ref().map_or("", |spec| &spec.prompt);
        let prompt = format!("prompt of {}", hashed(prompt));
        about.set("", prompt.as_str());
        let spawned = spawn(&context, request, caller).instrument(span).await?;
        if let Some(session) = &spawned.session {
            // Its handle is made of words of the prompt.
            about.set(&session.session_id, prompt);
        }
        Ok(Response::new(spawned))
    }

    async fn get_session(
        &self,
        request: Request<GetSessionRequest>,
    ) -> Result<Response<GetSessionResponse>, Status> {
        let context = self.context.seen_by(&request)?;
        let session = context.engine.get(request.into_inner().session).await?;
        Ok(Response::new(GetSessionResponse { session: Some(fit::one(session)) }))
    }

    async fn list_sessions(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        let context = self.context.seen_by(&request)?;
        let listed = context.engine.list(list_query(request.into_inner())?).await?;
        let mut pages = fit::fit(listed.sessions).into_iter();
        let sessions = pages.next().unwrap_or_default();
        let next = if pages.len() > 0 { sessions.last().and_then(place) } else { listed.next };
        Ok(Response::new(ListSessionsResponse {
            sessions,
            next_cursor: next.map(cursor).unwrap_or_default(),
            counts: listed.counts,
            total: listed.total,
        }))
    }

    async fn send_input(
        &self,
        request: Request<SendInputRequest>,
    ) -> Result<Response<SendInputResponse>, Status> {
        let context = self.context.seen_by(&request)?;
        let about = About::of(&request);
        let SendInputRequest { session, request_id, input } = request.into_inner();
        about.set(&session, input.as_ref().map_or_else(String::new, said));
        validate::request_id(&request_id)?;
        let missing = || Error::invalid("input", "neither an answer, a message nor an interrupt is given");
        let input = input.ok_or_else(missing)?;
        validate::input(&input)?;
        let request = InputRequest { session, request_id, input };
        let (session, replayed, delivery) = context.engine.input(request).await?;
        Ok(Response::new(SendInputResponse {
            session: Some(fit::one(session)),
            replayed,
            delivery: delivery.into(),
        }))
    }

    async fn stop_session(
        &self,
        request: Request<StopSessionRequest>,
    ) -> Result<Response<StopSessionResponse>, Status> {
        let context = self.context.seen_by(&request)?;
        let about = About::of(&request);
        let StopSessionRequest { session, reason } = request.into_inner();
        about.set(&session, "");
        validate::reason(&reason)?;
        let (session, changed) = context.engine.stop(session, reason).await?;
        Ok(Response::new(StopSessionResponse { session: Some(fit::one(session)), changed }))
    }

    async fn archive_session(
        &self,
        request: Request<ArchiveSessionRequest>,
    ) -> Result<Response<ArchiveSessionResponse>, Status> {
        let context = self.context.seen_by(&request)?;
        About::of(&request).set(&request.get_ref().session, "");
        let (session, changed) = context.engine.archive(request.into_inner().session).await?;
        let session = released(&context, session).await?;
        Ok(Response::new(ArchiveSessionResponse { session: Some(fit::one(session)), changed }))
    }

    async fn watch_sessions(
        &self,
        request: Request<WatchSessionsRequest>,
    ) -> Result<Response<Self::WatchSessionsStream>, Status> {
        let context = self.context.seen_by(&request)?;
        let named = request.into_inner().sessions;
        if named.len() > WATCHED {
            let message = format!("names {} sessions, more than the {WATCHED} allowed", named.len());
            return Err(Error::invalid("sessions", message).into());
        }
        let (watcher, now) = context.engine.watch(named).await?;
        let first = messages(now).into_iter().map(Ok);
        let later = seen(context, watcher);
        Ok(Response::new(Box::pin(stream::iter(first).chain(later))))
    }

    async fn read_output(
        &self,
        request: Request<ReadOutputRequest>,
    ) -> Result<Response<Self::ReadOutputStream>, Status> {
        let reader = read::Reader::open(self.context.seen_by(&request)?, request.into_inner()).await?;
        Ok(Response::new(Box::pin(reader.stream())))
    }

    async fn get_changes(
        &self,
        request: Request<GetChangesRequest>,
    ) -> Result<Response<GetChangesResponse>, Status> {
        Ok(Response::new(changes::get(&self.context.seen_by(&request)?, request.into_inner()).await?))
    }

    async fn fetch_bundle(
        &self,
        request: Request<FetchBundleRequest>,
    ) -> Result<Response<Self::FetchBundleStream>, Status> {
        let bundle = changes::bundle(&self.context.seen_by(&request)?, request.into_inner()).await?;
        Ok(Response::new(Box::pin(bundle)))
    }

    async fn push_branch(
        &self,
        request: Request<PushBranchRequest>,
    ) -> Result<Response<PushBranchResponse>, Status> {
        About::of(&request).set(&request.get_ref().session, "");
        Ok(Response::new(changes::push(&self.context.seen_by(&request)?, request.into_inner()).await?))
    }
}

/// What an input is, without its words.
fn said(input: &Input) -> String {
    match input {
        Input::Message(text) => format!("message of {}", hashed(text)),
        Input::Answer(answer) => {
            format!("answer to {}, text of {}", answer.attention_id, hashed(&answer.text))
        }
        Input::Interrupt(_) => "interrupt".to_owned(),
    }
}

fn no_trust(caller: &str) -> Error {
    let message = format!("the access token of {caller} has not the scope trust");
    let error = Error::new(ErrorCode::TrustNotAllowed, message).hint("Spawn without trustMode.");
    Error { field: "trustMode".to_owned(), ..error }
}

async fn spawn(
    context: &Context,
    request: SpawnSessionRequest,
    caller: String,
) -> Result<SpawnSessionResponse, Error> {
    let spec = request.spec.unwrap_or_default();
    validate::spec(&spec)?;
    validate::request_id(&request.request_id)?;
    let traceparent = telemetry::traceparent();
    let request = SpawnRequest { spec, request_id: request.request_id, traceparent, caller };
    let (session, replayed) = context.engine.spawn(request).await?;
    tracing::Span::current().record("session.id", session.session_id.as_str());
    Ok(SpawnSessionResponse { session: Some(fit::one(session)), replayed })
}

/// Waits until the worker has answered about the workspace of `session`, or gives up.
async fn released(context: &Context, session: Session) -> Result<Session, Error> {
    if !is_releasing(&session) {
        return Ok(session);
    }
    let deadline = Instant::now() + RELEASE_WAIT;
    let id = session.session_id.clone();
    // Archived and, where nothing is kept for long, forgotten: it did happen.
    let is_forgotten = |error: &Error| error.code == ErrorCode::SessionNotFound;
    let (mut watcher, now) = match context.engine.watch(vec![id.clone()]).await {
        Err(error) if is_forgotten(&error) => return Ok(session),
        watched => watched?,
    };
    let mut session = now.into_iter().next().unwrap_or(session);
    while is_releasing(&session) {
        tokio::select! {
            changed = timeout_at(deadline, watcher.changed()) => if changed.is_err() { break },
            () = context.leaving.requested() => break,
        }
        match context.engine.get(id.clone()).await {
            Err(error) if is_forgotten(&error) => break,
            now => session = now?,
        }
    }
    Ok(session)
}

fn is_releasing(session: &Session) -> bool {
    session.workspace.as_ref().is_some_and(|workspace| workspace.state() == WorkspaceState::Releasing)
}

fn messages(sessions: Vec<Session>) -> Vec<WatchSessionsResponse> {
    fit::fit(sessions).into_iter().map(|sessions| WatchSessionsResponse { sessions }).collect()
}

/// The changes a watcher sees, until the caller goes or the process leaves.
fn seen(
    context: Context,
    watcher: Watcher,
) -> impl Stream<Item = Result<WatchSessionsResponse, Status>> + Send {
    let state = Some((context, watcher));
    let batches = stream::unfold(state, |state| async move {
        let (context, mut watcher) = state?;
        let changed = tokio::select! {
            changed = watcher.changed() => context.engine.views(changed).await,
            () = context.leaving.requested() => Err(leaving()),
        };
        match changed {
            // What changed is nothing the caller may see.
            Ok(sessions) if sessions.is_empty() => Some((Vec::new(), Some((context, watcher)))),
            Ok(sessions) => {
                let messages: Vec<_> = messages(sessions).into_iter().map(Ok).collect();
                Some((messages, Some((context, watcher))))
            }
            Err(error) => Some((vec![Err(error.into())], None)),
        }
    });
    batches.map(stream::iter).flatten()
}

fn list_query(request: ListSessionsRequest) -> Result<ListQuery, Error> {
    if request.limit > limits::LIST_LIMIT {
        let message = format!("is {}, more than the {} allowed", request.limit, limits::LIST_LIMIT);
        return Err(Error::invalid("limit", message));
    }
    let statuses: Result<Vec<_>, _> =
        request.statuses.iter().map(|status| SessionStatus::try_from(*status)).collect();
    let statuses = statuses.ok().filter(|statuses| !statuses.contains(&SessionStatus::Unspecified));
    let after = match request.cursor.as_str() {
        "" => None,
        cursor => Some(parse_cursor(cursor).ok_or_else(|| {
            Error {
                field: "cursor".to_owned(),
                ..Error::new(ErrorCode::InvalidCursor, "the cursor is none of ours")
            }
            .hint("Use next_cursor of an earlier answer, or none.")
        })?),
    };
    Ok(ListQuery {
        statuses: statuses.ok_or_else(|| Error::invalid("statuses", "holds a status that does not exist"))?,
        project: request.project,
        labels: request.labels,
        include_archived: request.include_archived,
        limit: if request.limit == 0 { PAGE } else { request.limit as usize },
        after,
    })
}

/// Where a session stands in a list.
fn place(session: &Session) -> Option<Place> {
    Some((session.status() == SessionStatus::NeedsAttention, session.session_id.parse().ok()?))
}

fn cursor((needs_attention, id): Place) -> String {
    format!("{}{id}", if needs_attention { 'a' } else { 'b' })
}

fn parse_cursor(cursor: &str) -> Option<Place> {
    let (first, id) = cursor.split_at_checked(1)?;
    let needs_attention = match first {
        "a" => true,
        "b" => false,
        _ => return None,
    };
    Some((needs_attention, id.parse().ok()?))
}

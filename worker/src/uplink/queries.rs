//! Questions of the controller about sessions' work, answered over calls of their own: result or error first, then the
//! data. At most [`AT_ONCE`] at a time; more wait. They end with the link that asked them, and so does git.

use std::{fs::File, io::Read as _, sync::Arc, time::Duration};

use bytes::Bytes;
use muster_proto::{
    error::{Error, ErrorCode},
    ids::SessionId,
    limits::CHUNK_BYTES,
    v1::{
        AnswerQueryRequest, ErrorDetail, QueryResult, WorkspaceQuery, answer_query_request::Body,
        workspace_query::Ask,
    },
};
use muster_runtime::task::{self, Task};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::Link;
use crate::{
    local_state::SessionDir,
    supervisor::{Context, terms},
    workspace::{
        WorkspaceError, bundle,
        changes::{self, Asked, QueryError},
        git::GitError,
        push, worktree,
    },
};

/// Questions answered side by side: each runs git over a whole repository.
const AT_ONCE: usize = 4;
/// From a question to the beginning of its answer; the controller gives up after 30 s.
const ANSWER_WITHIN: Duration = Duration::from_secs(25);
/// Messages between the disk and the network. When full, the reading waits.
const UP: usize = 4;
/// Lines of git that an error quotes, and characters of them.
const SAID_LINES: usize = 6;
/// See [`SAID_LINES`].
const SAID_CHARS: usize = 1500;

/// The questions of one link.
pub(super) struct Queries {
    link: Link,
    context: Arc<Context>,
    gate: Arc<Semaphore>,
    running: Vec<Task<()>>,
}

/// What an answer is made of.
struct Answer {
    result: QueryResult,
    data: Data,
}

enum Data {
    None,
    Text(Vec<u8>),
    File(File),
}

impl Queries {
    pub(super) fn new(link: Link, context: Arc<Context>) -> Self {
        Self { link, context, gate: Arc::new(Semaphore::new(AT_ONCE)), running: Vec::new() }
    }

    /// Answers in a task of its own.
    pub(super) fn ask(&mut self, query: WorkspaceQuery) {
        self.running.retain(|task| !task.is_finished());
        let (link, context, gate) = (self.link.clone(), Arc::clone(&self.context), Arc::clone(&self.gate));
        self.running.push(task::spawn("query", async move {
            let found = tokio::time::timeout(ANSWER_WITHIN, async {
                let permit = gate.acquire_owned().await;
                (answer(&context, &query).await, permit)
            });
            // The permit is held while the answer is sent: that bounds what lies on the disk.
            let (found, _permit) = match found.await {
                Ok((found, permit)) => (found, Some(permit)),
                Err(_) => (Err(too_long()), None),
            };
            send(&link, query.query_id, found).await;
        }));
    }
}

fn too_long() -> Error {
    let text = format!("the worker did not get to an answer within {} s", ANSWER_WITHIN.as_secs());
    Error::new(ErrorCode::LimitReached, text)
        .hint("Try again; ask for fewer paths if it is a large repository.")
}

async fn answer(context: &Context, query: &WorkspaceQuery) -> Result<Answer, Error> {
    let ask =
        query.ask.as_ref().ok_or_else(|| Error::invalid("ask", "a question this worker does not know"))?;
    let id = query.session_id.parse::<SessionId>();
    let id = id.map_err(|_| Error::invalid("sessionId", "the session's id is malformed"))?;
    let config = &context.config;
    let session_dir = SessionDir::new(&config.state_dir, id);
    // What the workspace was made of, whatever the name means now.
    let announced = config.projects.iter().find(|project| project.name == query.project);
    let mirror = worktree::mirror_of(session_dir.path())
        .or_else(|| if announced.is_none() { context.mirrors.of_project(&query.project) } else { None });
    let project =
        mirror.clone().or_else(|| announced.map(|project| project.path.clone())).ok_or_else(|| {
            let text = format!("worker {} does not serve project {:?} any more", config.name, query.project);
            Error::new(ErrorCode::ProjectNotFound, text)
        })?;
    let was = query.workspace.clone().unwrap_or_default();
    let temporary = crate::local_state::temporary(&config.state_dir);
    let asked = Asked {
        session: &query.session_id,
        session_dir: session_dir.path(),
        temporary: &temporary,
        project: &project,
        was: &was,
    };
    let answered = async {
        if matches!(ask, Ask::Push(_)) {
            let start = session_dir.newest_start().ok().flatten();
            if !terms::allows_push(config, &query.project, start.as_ref()) {
                return Err(QueryError::PushNotAllowed(query.project.clone()));
            }
        }
        if let Some(mirror) = &mirror {
            context.mirrors.secure(mirror)?;
        }
        let state = changes::state(&context.worktrees, &asked).await?;
        let mut result = state.summary().await?;
        let data = match ask {
            Ask::Changes(query) => {
                let page = state.text(query).await?;
                result.total_bytes = page.total;
                Data::Text(page.bytes)
            }
            Ask::Bundle(_) => bundle::make(&state, &temporary).await?.map_or(Data::None, Data::File),
            Ask::Push(query) => {
                result.remote = match &mirror {
                    Some(mirror) => {
                        push::push_mirrored(&state, &context.mirrors, mirror, &query.remote).await?
                    }
                    None => push::push(&state, &project, &query.remote).await?,
                };
                Data::None
            }
        };
        Ok(Answer { result, data })
    };
    answered.await.map_err(told)
}

/// What the caller is told.
fn told(error: QueryError) -> Error {
    let text = error.to_string();
    match error {
        QueryError::NothingKept(_) => Error::new(ErrorCode::NoChangesKept, text),
        QueryError::PushNotAllowed(_) => Error::new(ErrorCode::PushNotAllowed, text)
            .hint("Fetch the branch as a bundle, or let the operator set allow_push for the project."),
        QueryError::Remote(_) => Error::invalid("remote", plain(&text)),
        QueryError::Failed(WorkspaceError::Git(GitError::Failed { verb, said, .. })) => {
            let lines: Vec<&str> = said.split("; ").collect();
            let last = lines[lines.len().saturating_sub(SAID_LINES)..].join("; ");
            Error::new(ErrorCode::GitFailed, format!("git {verb} failed: {}", plain(&last)))
        }
        QueryError::Failed(_) => Error::new(ErrorCode::GitFailed, plain(&text)),
    }
}

/// Without what would move a terminal's cursor.
fn plain(text: &str) -> String {
    text.chars().filter(|char| !char.is_control()).take(SAID_CHARS).collect()
}

/// Sends an answer; when nobody waits for it any more, it is dropped.
async fn send(link: &Link, query_id: String, answer: Result<Answer, Error>) {
    let (up, up_rx) = mpsc::channel(UP);
    let message = |body| AnswerQueryRequest {
        query_id: query_id.clone(),
        body: Some(body),
        error_message: String::new(),
    };
    let produce = async {
        let up = up; // dropped at the end, which ends the stream
        match answer {
            Ok(Answer { result, data }) => {
                if up.send(message(Body::Result(result))).await.is_ok() {
                    send_data(&up, data, &message).await;
                }
            }
            Err(error) => {
                let detail = ErrorDetail { code: error.code.into(), field: error.field, hint: error.hint };
                let told =
                    AnswerQueryRequest { error_message: error.message, ..message(Body::Error(detail)) };
                let _ = up.send(told).await;
            }
        }
    };
    let mut client = link.client();
    let request = link.request(ReceiverStream::new(up_rx));
    let ((), answered) = tokio::join!(produce, client.answer_query(request));
    match answered {
        Ok(_) => {}
        Err(status) if status.code() == Code::NotFound => {
            tracing::debug!(query_id, "nobody waits for the answer");
        }
        Err(status) => tracing::warn!(query_id, error = %status.message(), "an answer was not taken"),
    }
}

async fn send_data(
    up: &mpsc::Sender<AnswerQueryRequest>,
    data: Data,
    message: &impl Fn(Body) -> AnswerQueryRequest,
) {
    match data {
        Data::None => {}
        Data::Text(text) => {
            for part in text.chunks(CHUNK_BYTES) {
                if up.send(message(Body::Data(Bytes::copy_from_slice(part)))).await.is_err() {
                    return;
                }
            }
        }
        Data::File(mut file) => loop {
            let read = task::spawn_blocking("read bundle", move || {
                let mut part = Vec::with_capacity(CHUNK_BYTES);
                (&file).take(CHUNK_BYTES as u64).read_to_end(&mut part).map(|_| (file, part))
            });
            let (next, part) = match read.await.map_err(std::io::Error::other).and_then(|read| read) {
                Ok((next, part)) if !part.is_empty() => (next, part),
                Ok(_) => return,
                Err(error) => {
                    let text = format!("the bundle cannot be read: {error}");
                    let detail = ErrorDetail { code: ErrorCode::GitFailed.into(), ..ErrorDetail::default() };
                    let _ = up
                        .send(AnswerQueryRequest { error_message: text, ..message(Body::Error(detail)) })
                        .await;
                    return;
                }
            };
            file = next;
            if up.send(message(Body::Data(part.into()))).await.is_err() {
                return;
            }
        },
    }
}

//! What a session changed in git, asked of the worker that holds the work.

use bytes::Bytes;
use futures::{Stream, stream};
use muster_proto::{
    error::{Error, ErrorCode},
    ids::WorkerId,
    limits,
    v1::{
        BundleQuery, ChangesQuery, ChangesSummary, FetchBundleRequest, FetchBundleResponse,
        GetChangesRequest, GetChangesResponse, PushBranchRequest, PushBranchResponse, PushQuery, QueryResult,
        WorkspaceQuery, workspace_query::Ask,
    },
};
use tonic::Status;

use super::{Context, answer::Part, leaving, validate};
use crate::{engine::Purpose, fleet::queries::Asked};

/// Bytes of text when the caller does not say.
const TEXT_BYTES: u32 = 256 << 10;

/// One question on its way.
struct Question {
    context: Context,
    worker: WorkerId,
    asked: Asked<Part>,
}

impl Question {
    /// Asks the worker of `session`.
    async fn ask(context: &Context, session: String, purpose: Purpose, ask: Ask) -> Result<Self, Error> {
        let place = context.engine.workplace(session, purpose).await?;
        let asked = context.queries.open(place.worker.clone(), place.closed)?;
        let query = WorkspaceQuery {
            query_id: asked.id.clone(),
            session_id: place.session.to_string(),
            workspace: Some(place.workspace),
            project: place.project,
            ask: Some(ask),
        };
        context.engine.query(place.worker.clone(), place.link, query).await?;
        Ok(Self { context: context.clone(), worker: place.worker, asked })
    }

    async fn next(&mut self) -> Result<Option<Part>, Error> {
        tokio::select! {
            part = self.asked.next() => part,
            () = self.context.leaving.requested() => Err(leaving()),
        }
    }

    /// What the answer begins with.
    async fn result(&mut self) -> Result<QueryResult, Error> {
        match self.next().await? {
            Some(Part::Result(result)) => Ok(result),
            Some(Part::Failed(error)) => Err(error),
            Some(Part::Data(_)) | None => Err(self.nonsense("answered without a result")),
        }
    }

    /// The next piece of data; none at the end.
    async fn data(&mut self) -> Result<Option<Bytes>, Error> {
        match self.next().await? {
            Some(Part::Data(data)) => Ok(Some(data)),
            Some(Part::Failed(error)) => Err(error),
            Some(Part::Result(_)) => Err(self.nonsense("answered twice")),
            None => Ok(None),
        }
    }

    fn nonsense(&self, what: &str) -> Error {
        Error::new(ErrorCode::Internal, format!("the worker {} {what}", self.worker))
    }
}

pub(super) async fn get(context: &Context, request: GetChangesRequest) -> Result<GetChangesResponse, Error> {
    validate::changes(&request)?;
    let limit = if request.limit_bytes == 0 { TEXT_BYTES } else { request.limit_bytes };
    let from = request.from_offset;
    let ask = Ask::Changes(ChangesQuery {
        format: u32::try_from(request.format).unwrap_or_default(),
        paths: request.paths,
        from_offset: from,
        limit_bytes: limit,
    });
    let mut question = Question::ask(context, request.session, Purpose::Read, ask).await?;
    let result = question.result().await?;
    let mut text = Vec::new();
    while let Some(data) = question.data().await? {
        text.extend_from_slice(&data);
        if text.len() > limit as usize {
            return Err(question.nonsense("sent more text than it was asked for"));
        }
    }
    let total = result.total_bytes;
    let goes_on = from.saturating_add(text.len() as u64) < total;
    if goes_on {
        text.truncate(whole_chars(&text));
    }
    let next_offset = from.saturating_add(text.len() as u64);
    Ok(GetChangesResponse {
        text: String::from_utf8_lossy(&text).into_owned(),
        next_offset,
        truncated: next_offset < total,
        summary: Some(summary(result)),
    })
}

pub(super) async fn bundle(
    context: &Context,
    request: FetchBundleRequest,
) -> Result<impl Stream<Item = Result<FetchBundleResponse, Status>> + Send + use<>, Error> {
    let ask = Ask::Bundle(BundleQuery {});
    let mut question = Question::ask(context, request.session, Purpose::Read, ask).await?;
    // What fails at once fails the call and not its stream.
    let first = FetchBundleResponse { summary: Some(summary(question.result().await?)), data: Bytes::new() };
    let rest = stream::unfold(Some(question), |question| async move {
        let mut question = question?;
        match question.data().await {
            Ok(Some(data)) => Some((Ok(FetchBundleResponse { summary: None, data }), Some(question))),
            Ok(None) => None,
            Err(error) => Some((Err(error.into()), None)),
        }
    });
    Ok(futures::StreamExt::chain(stream::iter([Ok(first)]), rest))
}

pub(super) async fn push(context: &Context, request: PushBranchRequest) -> Result<PushBranchResponse, Error> {
    validate::remote(&request.remote)?;
    let remote = if request.remote.is_empty() { "origin".to_owned() } else { request.remote };
    let ask = Ask::Push(PushQuery { remote: remote.clone() });
    let mut question = Question::ask(context, request.session, Purpose::Push, ask).await?;
    let result = question.result().await?;
    // To its end: a worker whose caller left early would take its answer for unwanted.
    while question.data().await?.is_some() {}
    let remote = if result.remote.is_empty() { remote } else { result.remote };
    Ok(PushBranchResponse { remote, branch: result.branch, commit: result.head_commit })
}

fn summary(result: QueryResult) -> ChangesSummary {
    ChangesSummary {
        branch: result.branch,
        base_commit: result.base_commit,
        head_commit: result.head_commit,
        work_commit: result.work_commit,
        kept_ref: result.kept_ref,
        files_changed: result.files_changed,
        lines_added: result.lines_added,
        lines_deleted: result.lines_deleted,
        commits: result.commits,
    }
}

/// How much of `text` ends with a whole character, so that the next page begins with one. All of it when
/// that would leave nothing: a page always goes on.
fn whole_chars(text: &[u8]) -> usize {
    let last_start = text.iter().rposition(|byte| byte & 0b1100_0000 != 0b1000_0000).unwrap_or(0);
    match std::str::from_utf8(&text[last_start..]) {
        Err(error) if error.error_len().is_none() && last_start > 0 => last_start,
        _ => text.len(),
    }
}

const _: () = assert!(limits::MESSAGE_BYTES > 3 * validate::CHANGES_BYTES as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_ends_with_a_whole_character_and_is_never_empty() {
        let text = "aé€".as_bytes();
        for (cut, whole) in [(1, 1), (2, 1), (3, 3), (4, 3), (5, 3), (6, 6)] {
            assert_eq!(whole_chars(&text[..cut]), whole, "cut at {cut}");
        }
        assert_eq!(whole_chars(&"é".as_bytes()[..1]), 1);
        assert_eq!(whole_chars(b"a\xff"), 2, "what is no UTF-8 at all is replaced, not waited for");
        assert_eq!(whole_chars(b""), 0);
    }
}

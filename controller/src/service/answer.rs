//! A worker's answer to a question, on its way to the caller who asked.

use bytes::Bytes;
use muster_proto::{
    error::{Error, ErrorCode},
    limits,
    v1::{AnswerQueryRequest, AnswerQueryResponse, ErrorDetail, QueryResult, answer_query_request::Body},
};
use tonic::{Request, Status, Streaming};

use super::{Context, peer};
use crate::fleet::queries::Forgotten;

/// Characters of a worker's error that go on to the caller.
const MESSAGE_CHARS: usize = 2000;

/// One message of an answer.
#[derive(Debug)]
pub enum Part {
    /// Comes first.
    Result(QueryResult),
    /// Follows it.
    Data(Bytes),
    /// Comes instead of a result, or ends an answer that cannot go on.
    Failed(Error),
}

/// Hands on what the worker says until its stream ends.
pub(super) async fn take(
    context: &Context,
    request: Request<Streaming<AnswerQueryRequest>>,
) -> Result<AnswerQueryResponse, Status> {
    let (worker, _link) = peer::linked(context, &request).await?;
    let mut incoming = request.into_inner();
    let Some(first) = incoming.message().await? else {
        return Err(Error::invalid("queryId", "the answer is empty").into());
    };
    let query_id = first.query_id.clone();
    let answering = context.queries.answer(&worker, &query_id).map_err(forgotten)?;
    let mut begun = false;
    let mut next = Some(first);
    while let Some(message) = next {
        if message.query_id != query_id {
            return Err(Error::invalid("queryId", "two queries are answered in one call").into());
        }
        let part = part(message, begun)?;
        begun = true;
        let is_last = matches!(part, Part::Failed(_));
        answering.give(part).await.map_err(forgotten)?;
        if is_last {
            return Ok(AnswerQueryResponse {});
        }
        next = incoming.message().await?;
    }
    answering.end().await.map_err(forgotten)?;
    Ok(AnswerQueryResponse {})
}

fn part(message: AnswerQueryRequest, begun: bool) -> Result<Part, Error> {
    match message.body {
        Some(Body::Error(detail)) => Ok(Part::Failed(error(&detail, &message.error_message))),
        Some(Body::Result(result)) if !begun => Ok(Part::Result(result)),
        Some(Body::Data(data)) if begun => {
            if data.len() > limits::CHUNK_BYTES {
                let problem =
                    format!("has {} bytes, more than the {} allowed", data.len(), limits::CHUNK_BYTES);
                return Err(Error::invalid("data", problem));
            }
            Ok(Part::Data(data))
        }
        Some(Body::Result(_) | Body::Data(_)) | None => {
            Err(Error::invalid("body", "an answer is one result or error, then data"))
        }
    }
}

/// What a worker could not do, as the caller is told it. A code that no caller could act on is a defect.
fn error(detail: &ErrorDetail, message: &str) -> Error {
    let code = match detail.code() {
        code @ (ErrorCode::NoChangesKept
        | ErrorCode::PushNotAllowed
        | ErrorCode::GitFailed
        | ErrorCode::InvalidArgument
        | ErrorCode::InvalidCursor
        | ErrorCode::LimitReached
        | ErrorCode::WorkerUnreachable) => code,
        _ => ErrorCode::Internal,
    };
    let short = |text: &str| text.trim().chars().take(MESSAGE_CHARS).collect::<String>();
    let message =
        if message.trim().is_empty() { "the worker gave no reason".to_owned() } else { short(message) };
    Error { code, message, field: short(&detail.field), hint: short(&detail.hint) }
}

fn forgotten(forgotten: Forgotten) -> Status {
    Status::not_found(forgotten.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workers_error_reaches_the_caller_with_its_code_and_a_strange_one_is_a_defect() {
        let detail = |code: ErrorCode| ErrorDetail { code: code.into(), ..ErrorDetail::default() };
        let told = error(&detail(ErrorCode::GitFailed), "remote rejected\n");
        assert_eq!((told.code, told.message.as_str()), (ErrorCode::GitFailed, "remote rejected"));
        let told = error(&detail(ErrorCode::SessionNotFound), "");
        assert_eq!((told.code, told.message.as_str()), (ErrorCode::Internal, "the worker gave no reason"));
        assert_eq!(
            error(&ErrorDetail { code: 999, ..ErrorDetail::default() }, "x").code,
            ErrorCode::Internal
        );
    }

    #[test]
    fn an_answer_out_of_order_or_too_large_is_refused() {
        let message = |body| AnswerQueryRequest { body, ..AnswerQueryRequest::default() };
        assert!(part(message(Some(Body::Data(Bytes::new()))), false).is_err());
        assert!(part(message(Some(Body::Result(QueryResult::default()))), true).is_err());
        let large = Bytes::from(vec![0; limits::CHUNK_BYTES + 1]);
        assert!(part(message(Some(Body::Data(large))), true).is_err());
        assert!(part(message(None), true).is_err());
    }
}

//! Stopping a session for good.

use muster_proto::{
    error::{Error, ErrorCode},
    ids::SessionId,
    v1::{End, EndReason, StopAttempt, connect_response::Body},
};

use super::{Named, book::Book, input::defect, stage::Stage};
use crate::session::{Phase, Session, phase::Event};

/// Wishes a session stopped; false: it has ended, or the wish is known.
pub(super) fn apply(
    book: &Book,
    stage: &mut Stage,
    session: &Named,
    reason: &str,
) -> Result<(SessionId, bool), Error> {
    let Named { text, scope } = session;
    let id = book.resolve(text, scope)?;
    let gone = || Error::new(ErrorCode::SessionNotFound, format!("there is no session {text:?}"));
    let mut session = stage.copy(book, id).ok_or_else(gone)?;
    if session.phase().has_ended() || session.phase() == Phase::Stopping {
        return Ok((id, false));
    }
    session.state.stop_reason = reason.to_owned();
    session.happens(Event::Stop, muster_proto::time::now()).map_err(defect)?;
    if session.phase() == Phase::Stopped {
        session.state.queue_ticket = 0;
        session.state.end = Some(end(&session, None));
        let waiting: Vec<_> = session.inputs.keys().copied().collect();
        for seq in waiting {
            session.drop_input(seq);
        }
    } else if let Some(worker) = session.worker() {
        stage.send(&worker, command(&session));
    }
    stage.put(session);
    Ok((id, true))
}

/// The end of a stopped session; `reported` is what the worker saw of it.
pub(super) fn end(session: &Session, reported: Option<&End>) -> End {
    let reason = session.state.stop_reason.trim();
    let message = if reason.is_empty() {
        "stopped on request".to_owned()
    } else {
        format!("stopped on request: {reason}")
    };
    End { reason: EndReason::Stopped.into(), message, ..reported.cloned().unwrap_or_default() }
}

/// The command that ends the attempt of `session`.
pub(super) fn command(session: &Session) -> Body {
    Body::Stop(StopAttempt {
        session_id: session.id.to_string(),
        attempt: session.state.attempt,
        fenced: false,
    })
}

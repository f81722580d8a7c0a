//! What workers report of their attempts.
//!
//! Invariant: an event of an older attempt, or one applied before, changes nothing and is acknowledged, so
//! that a worker may report everything again after each Hello.

use muster_proto::{
    ids::WorkerId,
    limits,
    v1::{
        Activity, AttemptEnded, AttentionRaised, End, EndReason, InputApplied, SessionEvent, TurnEnded,
        TurnStarted, Workspace, WorkspaceReleased, WorkspaceState, session_event::Body,
    },
};
use prost_types::Timestamp;
use tracing::{info, warn};

use super::{book::Book, resume, stage::Stage, stop};
use crate::session::{
    Phase, Session, input,
    phase::{Event, Illegal, Outcome},
};

/// Characters of what keeps a session from going on.
const BLOCKED_CHARS: usize = 64;

/// Whether it says that nothing can be started there.
pub(super) fn says_broken(event: &SessionEvent) -> bool {
    match &event.body {
        Some(Body::AttemptEnded(ended)) => {
            ended.end.as_ref().is_some_and(|end| end.reason() == EndReason::StartFailed)
        }
        _ => false,
    }
}

/// Applies one event and has it acknowledged once durable.
pub(super) fn apply(book: &Book, stage: &mut Stage, worker: &WorkerId, event: SessionEvent) {
    if event.event_seq > 0 {
        stage.ack(worker, &event.session_id, event.event_seq);
    }
    let session = event.session_id.parse().ok().and_then(|id| stage.copy(book, id));
    let Some(mut session) = session.filter(|session| session.is_on(worker)) else {
        info!(worker.id = %worker, session.id = event.session_id, "an event of a strange session is ignored");
        return;
    };
    let at = event.at.unwrap_or_else(muster_proto::time::now);
    let id = session.id;
    match event.body {
        Some(Body::Activity(activity)) if event.attempt == session.state.attempt => {
            activity_seen(&mut session, activity, at);
        }
        Some(Body::WorkspaceReleased(released)) => workspace_released(&mut session, released, at),
        Some(body) if is_news(&session, event.attempt, event.event_seq) => {
            if event.event_seq > 0 {
                session.state.event_attempt = event.attempt;
                session.state.event_seq = event.event_seq;
            }
            if event.attempt == session.state.attempt && session.phase().is_active() {
                session.state.activity_at = Some(at);
                if let Err(illegal) = happened(&mut session, body, at, stage) {
                    warn!(session.id = %id, error = %illegal, "an event that makes no sense is ignored");
                }
            }
        }
        // Applied before, of an older attempt, or of a newer muster.
        Some(_) | None => return,
    }
    stage.put(session);
}

fn activity_seen(session: &mut Session, activity: Activity, at: Timestamp) {
    if !activity.text.is_empty() {
        let text: String = activity.text.chars().take(limits::ACTIVITY_CHARS).collect();
        session.activity = Some((at, text.into()));
    }
    if !activity.permission_mode.is_empty() {
        session.state.permission_mode = activity.permission_mode;
    }
    // What comes after the end says nothing of an attempt that is gone.
    if session.phase().is_active() {
        session.blocked = activity.blocked.chars().take(BLOCKED_CHARS).collect::<String>().into();
    }
}

/// Whether an event was not applied before. Numbers begin anew only with a worker that lost its disk, and
/// then the attempt has grown.
fn is_news(session: &Session, attempt: u32, seq: u64) -> bool {
    // An attempt that was never placed is nonsense, and noting it would hide what comes.
    attempt <= session.state.attempt
        && (seq == 0 || (attempt, seq) > (session.state.event_attempt, session.state.event_seq))
}

fn happened(session: &mut Session, body: Body, at: Timestamp, stage: &mut Stage) -> Result<(), Illegal> {
    match body {
        Body::WorkspaceReady(ready) => {
            session.state.seen = true;
            session.state.workspace =
                ready.workspace.map(|w| Workspace { state: WorkspaceState::Present.into(), ..w });
            Ok(())
        }
        Body::TurnStarted(TurnStarted { claude_version, permission_mode }) => {
            session.state.seen = true;
            session.state.conversation = true;
            if !claude_version.is_empty() {
                session.state.claude_version = claude_version;
            }
            if !permission_mode.is_empty() {
                session.state.permission_mode = permission_mode;
            }
            session.happens(Event::Began, at)
        }
        Body::AttentionRaised(AttentionRaised { attention }) => match attention {
            Some(mut attention) => {
                session.state.seen = true;
                attention.since = attention.since.or(Some(at));
                let known = session.state.open.iter().any(|open| open.attention_id == attention.attention_id);
                if !known {
                    session.state.open.push(attention);
                }
                session.happens(Event::Asked, at)
            }
            None => Ok(()),
        },
        Body::AttentionCleared(cleared) => {
            session.state.open.retain(|open| open.attention_id != cleared.attention_id);
            if session.state.open.is_empty() { session.happens(Event::Unasked, at) } else { Ok(()) }
        }
        Body::InputApplied(applied) => {
            input_applied(session, &applied);
            Ok(())
        }
        Body::TurnEnded(TurnEnded { attempt_usage, result_text, .. }) => {
            session.state.usage_now = attempt_usage.or(session.state.usage_now);
            keep_result(session, result_text);
            Ok(())
        }
        Body::AttemptEnded(ended) => attempt_ended(session, ended, at, stage),
        Body::WorkspaceReleased(_) | Body::Activity(_) => Ok(()),
    }
}

fn input_applied(session: &mut Session, applied: &InputApplied) {
    session.state.seen = true;
    let is_message = session.messages().any(|input| input.seq == applied.seq);
    if applied.delivered {
        session.state.progressed |= is_message;
        session.drop_input(applied.seq);
    } else if is_message {
        // It was never written: it waits for the next attempt.
        info!(session.id = %session.id, input = applied.seq, reason = applied.reason, "a message waits on");
    } else {
        info!(session.id = %session.id, input = applied.seq, reason = applied.reason, "an answer came late");
        session.drop_input(applied.seq);
    }
}

/// Ends the attempt of an active session.
pub(super) fn attempt_ended(
    session: &mut Session,
    ended: AttemptEnded,
    at: Timestamp,
    stage: &mut Stage,
) -> Result<(), Illegal> {
    session.state.usage_now = ended.attempt_usage.or(session.state.usage_now);
    session.state.conversation = ended.resumable;
    session.state.output_complete_at = ended.spool_end_offset;
    session.state.open.clear();
    session.blocked = "".into();
    keep_result(session, ended.result_text);
    let void: Vec<_> =
        session.inputs.values().filter(|i| input::ends_with_attempt(&i.body)).map(|i| i.seq).collect();
    for seq in void {
        session.drop_input(seq);
    }
    let unknown = || End { message: "the worker gave no reason".to_owned(), ..End::default() };
    let end = ended.end.unwrap_or_else(unknown);
    let was_stopping = session.phase() == Phase::Stopping;
    let goes_on = !was_stopping && resume::after(session, end.reason(), at);
    let outcome = if goes_on { Outcome::MessagesLeft } else { outcome(session, end.reason()) };
    session.happens(Event::Ended(outcome), at)?;
    if session.phase() == Phase::Queued {
        session.state.queue_ticket = stage.ticket();
    } else {
        session.state.end = Some(if was_stopping { stop::end(session, Some(&end)) } else { end });
    }
    if was_stopping {
        let void: Vec<_> = session.inputs.keys().copied().collect();
        for seq in void {
            session.drop_input(seq);
        }
    }
    Ok(())
}

fn outcome(session: &Session, reason: EndReason) -> Outcome {
    let turn_ended = resume::is_end_of_turn(reason);
    let messages_wait = session.messages().next().is_some();
    if turn_ended && messages_wait && session.state.progressed {
        // An attempt that took nothing would come back for ever.
        Outcome::MessagesLeft
    } else if matches!(reason, EndReason::TurnCompleted | EndReason::Interrupted) {
        Outcome::Completed
    } else {
        Outcome::Failed
    }
}

fn keep_result(session: &mut Session, mut text: String) {
    if text.is_empty() {
        return;
    }
    text.truncate(text.floor_char_boundary(limits::RESULT_TEXT_BYTES));
    session.result = text.into();
}

fn workspace_released(session: &mut Session, released: WorkspaceReleased, at: Timestamp) {
    let Some(workspace) = &mut session.state.workspace else { return };
    if released.error.is_empty() {
        if let Some(reported) = released.workspace {
            *workspace = reported;
        }
        workspace.set_state(WorkspaceState::Released);
    } else if workspace.state() == WorkspaceState::Releasing {
        warn!(session.id = %session.id, error = released.error, "the workspace was not released and stays");
        workspace.set_state(WorkspaceState::Present);
        session.activity = Some((at, format!("workspace not released: {}", released.error).into()));
    }
}

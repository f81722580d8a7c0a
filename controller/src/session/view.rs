//! A session as callers see it: the record, and what only the moment knows.

use muster_proto::v1::{self, SessionStatus};

use prost_types::Timestamp;

use super::{phase::Phase, record::Session};

/// What the record does not hold.
#[derive(Debug, Clone, Default)]
pub struct Moment {
    /// The worker of its active attempt is silent for too long.
    pub unreachable: bool,
    /// When that worker was last heard.
    pub last_heard: Option<Timestamp>,
    /// Place in the queue from 1, and why it is not placed. For queued sessions.
    pub queue: Option<(u32, String)>,
    /// Bytes of output held.
    pub output_end: u64,
}

/// The status callers see.
#[must_use]
pub fn status(session: &Session, unreachable: bool) -> SessionStatus {
    match session.phase() {
        phase if unreachable && phase.is_active() => SessionStatus::Unreachable,
        Phase::Queued => SessionStatus::Queued,
        Phase::Starting => SessionStatus::Starting,
        // A stop that is under way: what runs still runs.
        Phase::Working | Phase::Stopping => SessionStatus::Working,
        Phase::NeedsAttention => SessionStatus::NeedsAttention,
        Phase::Completed => SessionStatus::Completed,
        Phase::Failed => SessionStatus::Failed,
        Phase::Stopped => SessionStatus::Stopped,
    }
}

/// The whole of it.
#[must_use]
pub fn view(session: &Session, moment: Moment) -> v1::Session {
    let state = &session.state;
    let status = status(session, moment.unreachable);
    let asks = status == SessionStatus::NeedsAttention;
    let (queue_position, queue_reason) = moment.queue.unwrap_or_default();
    let (activity_at, activity) = match &session.activity {
        Some((at, text)) => (Some(*at), text.to_string()),
        None => (state.activity_at, String::new()),
    };
    v1::Session {
        session_id: session.id.to_string(),
        handle: session.fixed.handle.clone(),
        spec: session.fixed.spec.clone(),
        status: status.into(),
        attention: if asks { state.open.first().cloned() } else { None },
        open_attentions: u32::try_from(state.open.len()).unwrap_or(u32::MAX),
        attempt: state.attempt,
        worker: session.worker().map(String::from).unwrap_or_default(),
        workspace: state.workspace.clone(),
        usage: Some(session.usage()),
        end: if session.phase().has_ended() { state.end.clone() } else { None },
        archived: state.archived,
        created_at: session.fixed.created_at,
        changed_at: state.changed_at,
        ended_at: state.ended_at,
        last_activity_at: activity_at,
        last_activity: activity,
        result_text: session.result.to_string(),
        queue_position,
        queue_reason,
        output_end_offset: moment.output_end,
        pending_inputs: u32::try_from(session.messages().count()).unwrap_or(u32::MAX),
        revision: session.revision,
        claude_version: state.claude_version.clone(),
        permission_mode_now: state.permission_mode.clone(),
        stopping: session.phase() == Phase::Stopping,
        blocked: session.blocked.to_string(),
        interruptions: state.interruptions,
        caller: session.caller().to_owned(),
        worker_last_heard_at: if status == SessionStatus::Unreachable { moment.last_heard } else { None },
    }
}

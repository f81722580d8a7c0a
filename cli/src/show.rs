//! How values look to people: names of statuses, ages, money, and text from sessions made safe for a
//! terminal.
//!
//! Pure. What a session says is data from a stranger: an escape sequence in it could rewrite the operator's
//! screen.

use std::time::{Duration, SystemTime};

use muster_proto::{
    time,
    v1::{
        AttentionReason, ChangesFormat, EndReason, MaintenanceMode, Role, Session, SessionStatus,
        WorkerHealth, WorkspaceState, attention,
    },
};

use crate::output::Tone;

/// A time as the wire carries it.
pub type Timestamp = prost_types::Timestamp;

/// One line without control characters: white space becomes a space, escape sequences go.
pub fn line(text: &str) -> String {
    block(text).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Text of many lines without anything that acts instead of being read; newlines and tabs stay.
pub fn block(text: &str) -> String {
    muster_mcp_gateway::render::sanitise(text).into_owned()
}

/// `NEEDS_ATTENTION` without its prefix, in lower case: `needs_attention`.
fn name(full: &str, prefix: &str) -> String {
    full.trim_start_matches(prefix).to_ascii_lowercase()
}

/// `needs_attention`.
pub fn status(status: SessionStatus) -> String {
    name(status.as_str_name(), "SESSION_STATUS_")
}

/// The same for people: with what keeps the session from going on, `working (disk_full)`.
pub fn status_and_block(session: &Session) -> String {
    let name = status(session.status());
    if session.blocked.is_empty() || session.end.is_some() {
        return name;
    }
    format!("{name} ({})", line(&session.blocked))
}

/// `plan_approval`.
pub fn attention_reason(reason: AttentionReason) -> String {
    name(reason.as_str_name(), "ATTENTION_REASON_")
}

/// `turn_completed`.
pub fn end_reason(reason: EndReason) -> String {
    name(reason.as_str_name(), "END_REASON_")
}

/// `present`.
pub fn workspace_state(state: WorkspaceState) -> String {
    name(state.as_str_name(), "WORKSPACE_STATE_")
}

/// `patch`.
pub fn changes_format(format: ChangesFormat) -> String {
    name(format.as_str_name(), "CHANGES_FORMAT_")
}

/// `connected`.
pub fn worker_health(health: WorkerHealth) -> String {
    name(health.as_str_name(), "WORKER_HEALTH_")
}

/// `cordoned`, `draining`.
pub fn maintenance_mode(mode: MaintenanceMode) -> String {
    name(mode.as_str_name(), "MAINTENANCE_MODE_")
}

/// `operator`.
pub fn role(role: Role) -> String {
    name(role.as_str_name(), "ROLE_")
}

/// What a status says about its row.
pub const fn status_tone(status: SessionStatus) -> Tone {
    match status {
        SessionStatus::NeedsAttention => Tone::Asks,
        SessionStatus::Failed | SessionStatus::Unreachable => Tone::Bad,
        SessionStatus::Working | SessionStatus::Starting => Tone::Good,
        SessionStatus::Stopped => Tone::Faint,
        SessionStatus::Completed | SessionStatus::Queued | SessionStatus::Unspecified => Tone::Plain,
    }
}

/// `42s`, `5m`, `3h`, `4d`: since a moment, as a person says it. Empty without one; `0s` for one in the
/// future.
pub fn age(since: Option<&Timestamp>, now: SystemTime) -> String {
    since
        .map(|since| span(now.duration_since(time::to_system(since)).unwrap_or(Duration::ZERO)))
        .unwrap_or_default()
}

/// `42s`, `5m`, `3h`, `4d`.
pub fn span(span: Duration) -> String {
    match span.as_secs() {
        seconds @ 0..=119 => format!("{seconds}s"),
        seconds @ 120..=7199 => format!("{}m", seconds / 60),
        seconds @ 7200..=172_799 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// RFC 3339 in UTC; empty without a time.
pub fn moment(timestamp: Option<&Timestamp>) -> String {
    timestamp.map(ToString::to_string).unwrap_or_default()
}

/// The same for people: to the second.
pub fn second(timestamp: Option<&Timestamp>) -> String {
    moment(timestamp.map(|exact| Timestamp { nanos: 0, ..*exact }).as_ref())
}

/// US dollars with cents: `$0.42`; empty when nothing was spent.
pub fn cost(dollars: f64) -> String {
    match dollars {
        0.01.. => format!("${dollars:.2}"),
        _ if dollars > 0.0 => "<$0.01".to_owned(),
        _ => String::new(),
    }
}

/// The beginning of a commit's id, long enough to be unique in any repository.
pub fn commit(id: &str) -> String {
    line(id).chars().take(12).collect()
}

/// `1.5 GiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64 / 1024.0;
    for unit in &UNITS[..3] {
        if value < 1024.0 {
            return format!("{value:.1} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} {}", UNITS[3])
}

/// What matters most about a session now, in a line: the question, why it waits, how it ended, or what it
/// does.
pub fn headline(session: &Session) -> String {
    if let Some(attention) = &session.attention {
        return match &attention.ask {
            Some(attention::Ask::Permission(ask)) => format!("may use {}: {}", ask.tool_name, ask.summary),
            Some(attention::Ask::Input(ask)) => {
                let first = ask.questions.first().map_or("", |question| question.question.as_str());
                format!("asks: {first}")
            }
            Some(attention::Ask::Plan(ask)) => format!("plan: {}", ask.plan),
            None => "asks something this version does not know".to_owned(),
        };
    }
    if session.stopping && session.end.is_none() {
        return "stopping".to_owned();
    }
    if session.status() == SessionStatus::Queued && !session.queue_reason.is_empty() {
        return format!("#{} in the queue: {}", session.queue_position, session.queue_reason);
    }
    if !session.blocked.is_empty() && session.end.is_none() {
        return format!("blocked: {}", session.blocked);
    }
    if let (SessionStatus::Unreachable, Some(heard)) = (session.status(), &session.worker_last_heard_at) {
        return format!("worker {} was last heard at {}", session.worker, second(Some(heard)));
    }
    if let Some(end) = session.end.as_ref().filter(|_| session.status() != SessionStatus::Completed) {
        return end.message.clone();
    }
    if session.status() == SessionStatus::Completed && !session.result_text.is_empty() {
        return session.result_text.clone();
    }
    session.last_activity.clone()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn nothing_that_moves_a_cursor_survives() {
        assert_eq!(line("a\u{1b}[2J\u{1b}[31;1mb\r\nc\td\u{9b}31me\u{202e}f"), "ab c def");
        assert_eq!(block("one\n\ttwo\u{8}\u{1b}]0;title\u{7}"), "one\n\ttwo");
    }

    #[test]
    fn names_ages_and_sizes_read_well() {
        assert_eq!(status(SessionStatus::NeedsAttention), "needs_attention");
        assert_eq!(end_reason(EndReason::TurnCompleted), "turn_completed");
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let ago = |seconds| time::from_system(now - Duration::from_secs(seconds));
        for (seconds, text) in [(0, "0s"), (119, "119s"), (120, "2m"), (7200, "2h"), (200_000, "2d")] {
            assert_eq!(age(Some(&ago(seconds)), now), text);
        }
        assert_eq!(age(None, now), "");
        assert_eq!(size(1536 << 20), "1.5 GiB");
        assert_eq!(cost(0.0), "");
        assert_eq!(cost(0.4215), "$0.42");
        assert_eq!(cost(0.004), "<$0.01");
        assert_eq!(second(Some(&Timestamp { seconds: 0, nanos: 5 })), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn the_headline_is_what_matters_most() {
        let mut session = Session { last_activity: "reads".into(), ..Session::default() };
        assert_eq!(headline(&session), "reads");
        session.set_status(SessionStatus::Queued);
        session.queue_reason = "every slot is taken".into();
        session.queue_position = 2;
        assert_eq!(headline(&session), "#2 in the queue: every slot is taken");
        session.set_status(SessionStatus::Working);
        session.blocked = "disk_full".into();
        assert_eq!(headline(&session), "blocked: disk_full");
        assert_eq!(status_and_block(&session), "working (disk_full)");
    }
}

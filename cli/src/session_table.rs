//! Sessions as a table: `ps`, `wait`, and the live view of `up`.

use std::time::SystemTime;

use muster_proto::v1::{Session, SessionStatus};

use crate::{
    output::{Cell, Table, Tone},
    show,
};

/// Longest text a cell is given: a result may be 64 KiB, and only its beginning fits anywhere.
const HEADLINE_CHARS: usize = 400;

const PROJECT: usize = 2;
const WORKER: usize = 3;
const TURNS: usize = 5;
const COST: usize = 6;

/// A row a session: handle, status, project, worker, age, turns, cost, what matters most.
///
/// Programs get the creation time instead of the age, and the status of an archived session as it is.
pub fn table<'a>(sessions: impl IntoIterator<Item = &'a Session>, now: SystemTime) -> Table {
    let mut table = Table::new(&["SESSION", "STATUS", "PROJECT", "WORKER", "AGE", "TURNS", "COST", "WHAT"])
        .optional(&[COST, TURNS, WORKER, PROJECT]);
    for session in sessions {
        table.row(row(session, now));
    }
    table
}

fn row(session: &Session, now: SystemTime) -> Vec<Cell> {
    let usage = session.usage.unwrap_or_default();
    let project = session.spec.as_ref().map_or("", |spec| spec.project.as_str());
    let headline: String = show::headline(session).chars().take(HEADLINE_CHARS).collect();
    let tone = match session.archived {
        true => Tone::Faint,
        false if !session.blocked.is_empty() && session.end.is_none() => Tone::Bad,
        false => show::status_tone(session.status()),
    };
    vec![
        Cell::new(&session.handle),
        Cell::new(&status(session)).plain(&show::status(session.status())).tone(tone),
        Cell::new(project),
        Cell::new(&session.worker),
        Cell::new(&show::age(session.created_at.as_ref(), now))
            .plain(&show::moment(session.created_at.as_ref())),
        Cell::new(&usage.turns.to_string()),
        Cell::new(&show::cost(usage.cost_usd)).plain(&format!("{:.4}", usage.cost_usd)),
        Cell::new(&headline),
    ]
}

/// The status for people: with the reason of a question, and what goes beside it.
fn status(session: &Session) -> String {
    let mut status = show::status_and_block(session);
    if let (SessionStatus::NeedsAttention, Some(attention)) = (session.status(), &session.attention) {
        status = format!("asks: {}", show::attention_reason(attention.reason()).replace('_', " "));
    }
    if session.archived {
        status.push_str(" (archived)");
    }
    status
}

/// How many sessions are in which status: `3 working, 1 needs attention`.
pub fn summary<'a>(sessions: impl IntoIterator<Item = &'a Session>) -> String {
    const ORDER: [SessionStatus; 8] = [
        SessionStatus::NeedsAttention,
        SessionStatus::Working,
        SessionStatus::Starting,
        SessionStatus::Queued,
        SessionStatus::Unreachable,
        SessionStatus::Failed,
        SessionStatus::Completed,
        SessionStatus::Stopped,
    ];
    let mut counts = [0_usize; ORDER.len()];
    for session in sessions {
        if let Some(place) = ORDER.iter().position(|status| *status == session.status()) {
            counts[place] += 1;
        }
    }
    let parts: Vec<String> = ORDER
        .iter()
        .zip(counts)
        .filter(|(_, count)| *count > 0)
        .map(|(status, count)| format!("{count} {}", show::status(*status).replace('_', " ")))
        .collect();
    if parts.is_empty() { "no sessions".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use muster_proto::v1::{Attention, AttentionReason, PermissionAsk, SessionSpec, attention::Ask};

    use super::*;

    fn asking() -> Session {
        let ask =
            PermissionAsk { tool_name: "Bash".into(), summary: "rm -rf\tbuild".into(), ..Default::default() };
        let mut attention =
            Attention { attention_id: "a1".into(), ask: Some(Ask::Permission(ask)), ..Default::default() };
        attention.set_reason(AttentionReason::Permission);
        let mut session = Session {
            handle: "tidy-up-000000".into(),
            spec: Some(SessionSpec { project: "web".into(), ..Default::default() }),
            attention: Some(attention),
            worker: "box".into(),
            ..Default::default()
        };
        session.set_status(SessionStatus::NeedsAttention);
        session
    }

    #[test]
    fn programs_get_exact_columns() {
        let columns = table([&asking()], SystemTime::now()).to_columns();
        assert_eq!(
            columns,
            "tidy-up-000000\tneeds_attention\tweb\tbox\t\t0\t0.0000\tmay use Bash: rm -rf build\n"
        );
    }

    #[test]
    fn what_blocks_a_session_stands_beside_its_status() {
        let mut session = Session { handle: "h".into(), blocked: "disk_full".into(), ..Default::default() };
        session.set_status(SessionStatus::Working);
        let screen = table([&session], SystemTime::now()).to_screen(120, false);
        assert!(screen.contains("working (disk_full)"), "{screen}");
        let columns = table([&session], SystemTime::now()).to_columns();
        assert_eq!(columns, "h\tworking\t\t\t\t0\t0.0000\tblocked: disk_full\n");
    }

    #[test]
    fn people_see_what_is_asked_and_a_summary() {
        let screen = table([&asking()], SystemTime::now()).to_screen(120, false);
        assert!(screen.contains("asks: permission") && screen.contains("rm -rf build"), "{screen}");
        assert_eq!(summary([&asking(), &asking()]), "2 needs attention");
        assert_eq!(summary([]), "no sessions");
    }
}

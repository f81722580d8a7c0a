//! The picture of `top`: a strip for the fleet, the sessions, and what the chosen one is about. Pure.

use std::time::SystemTime;

use muster_proto::v1::{Session, SessionStatus, WorkerHealth};
use ratatui::{
    Frame,
    layout::{Constraint, Layout},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Paragraph, Row, Table, TableState, Wrap},
};

use super::board::Board;
use crate::{commands::status, output::Tone, session_table, show};

/// Lines for what the chosen session asks or says.
const DETAIL: u16 = 9;

/// Draws everything.
pub fn draw(frame: &mut Frame<'_>, board: &Board, now: SystemTime) {
    let [fleet, sessions, detail, keys] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Min(4),
        Constraint::Length(DETAIL),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let shown = board.shown();
    frame.render_widget(Paragraph::new(vec![Line::from(workers(board)), summary(board, &shown)]), fleet);
    let mut state = TableState::default().with_selected(board.place(&shown));
    frame.render_stateful_widget(table(&shown, now), sessions, &mut state);
    let (title, text) = board.chosen().map(about).unwrap_or_default();
    let block = Block::bordered().title(title);
    frame.render_widget(Paragraph::new(text).block(block).wrap(Wrap { trim: false }), detail);
    frame.render_widget(Paragraph::new(footer(board)), keys);
}

fn workers(board: &Board) -> Vec<Span<'static>> {
    let Some(workers) = &board.workers else { return vec![Span::raw("workers: not known")] };
    let mut spans = vec![Span::styled("workers  ", Style::new().add_modifier(Modifier::BOLD))];
    for worker in workers {
        let slots = worker.capacity.map_or(0, |capacity| capacity.slots);
        let (mark, colour) = match (worker.health(), &worker.maintenance) {
            (WorkerHealth::Connected, None) => ("", Color::Green),
            (WorkerHealth::Connected, Some(_)) => (" held back", Color::Yellow),
            _ => (" silent", Color::Red),
        };
        let text = format!("{} {}/{slots}{mark}  ", show::line(&worker.worker), worker.running);
        spans.push(Span::styled(text, Style::new().fg(colour)));
    }
    if workers.is_empty() {
        spans.push(Span::raw("none"));
    }
    spans
}

fn summary(board: &Board, shown: &[&Session]) -> Line<'static> {
    let counts = session_table::summary(shown.iter().copied());
    match board.filter.as_str() {
        "" => Line::raw(counts),
        filter => Line::raw(format!("{counts}, of those with {filter:?}")),
    }
}

fn table(shown: &[&Session], now: SystemTime) -> Table<'static> {
    let rows = shown.iter().map(|session| {
        let style = match show::status_tone(session.status()) {
            Tone::Good => Style::new().fg(Color::Green),
            Tone::Asks => Style::new().fg(Color::Yellow).add_modifier(Modifier::BOLD),
            Tone::Bad => Style::new().fg(Color::Red),
            Tone::Faint => Style::new().add_modifier(Modifier::DIM),
            Tone::Plain => Style::new(),
        };
        let project = session.spec.as_ref().map_or("", |spec| spec.project.as_str());
        Row::new(vec![
            show::line(&session.handle),
            show::status_and_block(session),
            show::line(project),
            show::line(&session.worker),
            show::age(session.created_at.as_ref(), now),
            show::line(&show::headline(session)),
        ])
        .style(style)
    });
    let widths = [
        Constraint::Length(26),
        Constraint::Length(16),
        Constraint::Length(12),
        Constraint::Length(12),
        Constraint::Length(5),
        Constraint::Min(10),
    ];
    let heading = Row::new(["SESSION", "STATUS", "PROJECT", "WORKER", "AGE", "WHAT"]);
    Table::new(rows, widths)
        .header(heading.style(Style::new().add_modifier(Modifier::DIM)))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
}

/// What matters about one session, with room for the whole question.
fn about(session: &Session) -> (String, String) {
    let title = format!(" {} ", show::line(&session.handle));
    if let (SessionStatus::NeedsAttention, Some(attention)) = (session.status(), &session.attention) {
        let asked = status::asked(session, attention);
        let lines: Vec<&str> = asked.lines().filter(|line| !line.starts_with("answer with:")).collect();
        return (title, lines.join("\n"));
    }
    let prompt = session.spec.as_ref().map_or("", |spec| spec.prompt.as_str());
    (title, format!("{}\n\nprompt: {}", show::line(&show::headline(session)), show::line(prompt)))
}

fn footer(board: &Board) -> Line<'static> {
    if board.filtering {
        return Line::raw(format!("/{}_   Enter keeps, Esc clears", board.filter));
    }
    if !board.said.is_empty() {
        return Line::styled(show::line(&board.said), Style::new().fg(Color::Yellow));
    }
    let keys = "Enter attach  a allow  d deny  j/k move  / filter  q quit";
    Line::styled(keys, Style::new().add_modifier(Modifier::DIM))
}

#[cfg(test)]
mod tests {
    use muster_proto::v1::{Attention, Capacity, PermissionAsk, Worker, attention::Ask};
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;
    use crate::watch::Update;

    fn screen(board: &Board, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a screen");
        terminal.draw(|frame| draw(frame, board, SystemTime::now())).expect("drawn");
        terminal.backend().to_string()
    }

    fn board() -> Board {
        let ask = PermissionAsk {
            tool_name: "Bash".into(),
            summary: "rm -rf \u{1b}[2Jbuild".into(),
            ..PermissionAsk::default()
        };
        let attention =
            Attention { attention_id: "a1".into(), ask: Some(Ask::Permission(ask)), ..Attention::default() };
        let mut asks = Session {
            session_id: "1".into(),
            handle: "tidy-up-000001".into(),
            attention: Some(attention),
            ..Session::default()
        };
        asks.set_status(SessionStatus::NeedsAttention);
        let mut board = Board::default();
        board.apply(Update { whole: true, sessions: vec![asks] });
        let capacity = Some(Capacity { slots: 4, ..Capacity::default() });
        let mut worker = Worker { worker: "build-07".into(), running: 1, capacity, ..Worker::default() };
        worker.set_health(WorkerHealth::Connected);
        board.workers = Some(vec![worker]);
        board
    }

    #[test]
    fn the_fleet_the_sessions_and_the_question_are_on_the_screen() {
        let screen = screen(&board(), 100, 30);
        let parts =
            ["build-07 1/4", "1 needs attention", "tidy-up-000001", "may it use Bash?", "Enter attach"];
        for part in parts {
            assert!(screen.contains(part), "{part} in {screen}");
        }
        assert!(!screen.contains('\u{1b}'), "what a session says cannot act on the screen");
    }

    #[test]
    fn a_screen_with_no_room_and_a_farm_with_nothing_are_drawn_all_the_same() {
        screen(&board(), 20, 6);
        screen(&board(), 1, 1);
        assert!(screen(&Board::default(), 80, 24).contains("workers: not known"));
    }
}

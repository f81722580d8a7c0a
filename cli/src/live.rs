//! The live view: a table that redraws itself on a terminal, a line a change elsewhere, NDJSON with `--json`.
//!
//! Used by `ps --watch` and `up`. Owns what was drawn last; nobody else may print to stdout while it runs.

use std::{
    collections::BTreeMap,
    pin::pin,
    time::{Duration, SystemTime},
};

use futures::StreamExt as _;
use muster_proto::v1::{Session, SessionStatus};
use tokio::time::{Instant, MissedTickBehavior};

use crate::{
    client::Client,
    failure::{Exit, Failure},
    json,
    output::Output,
    session_table, show,
    watch::{Update, Watch},
};

/// At most so many pictures a second: a busy farm changes faster than anybody reads.
const MIN_FRAME: Duration = Duration::from_millis(150);
/// Ages go on although nothing changes.
const MAX_FRAME: Duration = Duration::from_secs(1);
/// Lines of the terminal that are left for what stands above the table.
const RESERVED_LINES: u16 = 8;

/// What is known and what of it was shown.
struct Board {
    output: Output,
    sessions: BTreeMap<String, Session>,
    /// For each session the line last printed, to tell a change worth a line from a mere tick.
    told: BTreeMap<String, String>,
    /// Lines of the last picture.
    drawn: usize,
}

/// Shows the sessions that `matches`, for as long as it is polled.
pub async fn watch(
    client: Client,
    output: Output,
    matches: impl Fn(&Session) -> bool,
) -> Result<Exit, Failure> {
    let mut updates = pin!(Watch::new(client, Vec::new()).updates());
    let mut board = Board { output, sessions: BTreeMap::new(), told: BTreeMap::new(), drawn: 0 };
    let mut frames = tokio::time::interval(MIN_FRAME);
    frames.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut stale, mut shown_at) = (true, Instant::now());
    loop {
        tokio::select! {
            Some(update) = updates.next() => {
                let told = board.apply(update?, &matches);
                if !told.is_empty() {
                    output.write(told).await?;
                }
                stale = true;
            }
            now = frames.tick(), if output.terminal && !output.json => {
                if stale || now.duration_since(shown_at) >= MAX_FRAME {
                    output.write(board.draw()).await?;
                    (stale, shown_at) = (false, now);
                }
            }
        }
    }
}

impl Board {
    /// Takes a change in; gives what is to be printed of it.
    fn apply(&mut self, update: Update, matches: &impl Fn(&Session) -> bool) -> String {
        let mut told = String::new();
        if update.whole {
            self.sessions.clear();
        }
        for session in update.sessions {
            let shown = matches(&session) && !session.archived;
            if shown || self.sessions.contains_key(&session.session_id) {
                told.push_str(&self.tell(&session));
            }
            if shown {
                self.sessions.insert(session.session_id.clone(), session);
            } else {
                self.sessions.remove(&session.session_id);
            }
        }
        told
    }

    /// A line or a document for a change; nothing on a terminal, where the table tells it.
    fn tell(&mut self, session: &Session) -> String {
        if self.output.json {
            return format!("{}\n", json::session(session));
        }
        if self.output.terminal {
            return String::new();
        }
        let mut line = format!("{}\t{}", session.handle, show::status_and_block(session));
        if session.archived {
            line.push_str(" (archived)");
        }
        // What it is doing changes every second and belongs into the log; a question or an end does not.
        if session.attention.is_some() || session.end.is_some() || session.status() == SessionStatus::Queued {
            let headline: String = show::line(&show::headline(session)).chars().take(200).collect();
            line.push_str(&format!("\t{headline}"));
        }
        if self.told.insert(session.session_id.clone(), line.clone()).as_ref() == Some(&line) {
            return String::new();
        }
        format!("{}\t{line}\n", show::moment(Some(&muster_proto::time::now())))
    }

    /// A picture that goes over the last one.
    fn draw(&mut self) -> String {
        let picture = self.picture(Output::size());
        let back = if self.drawn == 0 { String::new() } else { format!("\u{1b}[{}F", self.drawn) };
        self.drawn = picture.lines().count();
        format!("{back}\u{1b}[J{picture}")
    }

    /// A heading with counts, then the sessions that fit: those that need somebody first, then the newest.
    fn picture(&self, (width, height): (u16, u16)) -> String {
        let mut sessions: Vec<&Session> = self.sessions.values().collect();
        sessions.sort_by_key(|session| {
            (session.status() != SessionStatus::NeedsAttention, std::cmp::Reverse(&session.session_id))
        });
        let room = usize::from(height.saturating_sub(RESERVED_LINES).max(3));
        let hidden = sessions.len().saturating_sub(room);
        let mut picture = session_table::summary(sessions.iter().copied());
        picture.push('\n');
        if !sessions.is_empty() {
            let table = session_table::table(sessions.into_iter().take(room), SystemTime::now());
            picture.push_str(&table.to_screen(width, self.output.colour));
        }
        if hidden > 0 {
            picture.push_str(&format!("and {hidden} more\n"));
        }
        picture
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board() -> Board {
        let output = Output { json: false, terminal: true, colour: false };
        Board { output, sessions: BTreeMap::new(), told: BTreeMap::new(), drawn: 0 }
    }

    fn session(number: usize, status: SessionStatus) -> Session {
        let mut session = Session {
            session_id: format!("{number:04}"),
            handle: format!("work-{number:06}"),
            ..Default::default()
        };
        session.set_status(status);
        session
    }

    #[test]
    fn a_picture_fits_the_screen_and_begins_with_who_needs_somebody() {
        let mut board = board();
        let mut sessions: Vec<Session> =
            (0..100).map(|number| session(number, SessionStatus::Working)).collect();
        sessions[7].set_status(SessionStatus::NeedsAttention);
        board.apply(Update { whole: true, sessions }, &|_| true);
        let picture = board.picture((100, 30));
        assert!(picture.lines().count() < 30, "{picture}");
        assert!(picture.lines().nth(2).is_some_and(|line| line.contains("work-000007")), "{picture}");
        assert!(picture.starts_with("1 needs attention, 99 working\n"), "{picture}");
        assert!(picture.contains("and 78 more"), "{picture}");
    }

    #[test]
    fn a_line_is_told_when_a_session_is_blocked_and_when_it_goes_on() {
        let mut board = board();
        board.output.terminal = false;
        let mut work = session(1, SessionStatus::Working);
        let mut tell = |blocked: &str| {
            work.blocked = blocked.into();
            board.apply(Update { whole: false, sessions: vec![work.clone()] }, &|_| true)
        };
        assert!(tell("").ends_with("\twork-000001\tworking\n"));
        assert!(tell("disk_full").ends_with("\twork-000001\tworking (disk_full)\n"));
        assert_eq!(tell("disk_full"), "");
        assert!(tell("").ends_with("\tworking\n"));
    }

    #[test]
    fn what_is_archived_or_gone_leaves_the_picture() {
        let mut board = board();
        let sessions = vec![session(1, SessionStatus::Completed), session(2, SessionStatus::Working)];
        board.apply(Update { whole: true, sessions }, &|_| true);
        let archived = Session { archived: true, ..session(1, SessionStatus::Completed) };
        board.apply(Update { whole: false, sessions: vec![archived] }, &|_| true);
        assert_eq!(board.sessions.keys().collect::<Vec<_>>(), ["0002"]);
        board.apply(Update { whole: true, sessions: Vec::new() }, &|_| true);
        assert!(board.picture((80, 24)).starts_with("no sessions"));
    }
}

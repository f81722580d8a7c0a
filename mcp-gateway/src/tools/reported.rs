//! What a wait has reported already: the cursor `since`.
//!
//! The cursor holds a mark of each session that was reported and of the state it was in; nobody has to
//! remember anything for it, so it outlives every restart. A state that comes later has another mark. Marks
//! have 36 bits: two hundred sessions would have to be waited for a hundred thousand times before one of them
//! is likely to be taken for another.

use std::collections::BTreeSet;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use muster_proto::{
    error::{Error, ErrorCode},
    v1::{Session, SessionStatus},
};

const PREFIX: char = 'c';
/// Characters of a mark.
const MARK: usize = 6;
/// Most marks taken: those of the largest wait, several times over.
const MARKS: usize = 2_000;

/// A set of marks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Reported {
    marks: BTreeSet<String>,
}

impl Reported {
    /// Reads a cursor of an earlier result.
    pub(super) fn parse(cursor: &str) -> Result<Self, Error> {
        let marks = cursor.trim().strip_prefix(PREFIX).filter(|marks| {
            let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
            marks.len() % MARK == 0 && marks.len() / MARK <= MARKS && marks.bytes().all(plain)
        });
        let Some(marks) = marks else {
            let shown: String = cursor.chars().take(40).collect();
            let mut error = Error::invalid("since", format!("{shown:?} is no cursor of wait_for_completion"));
            error.code = ErrorCode::InvalidCursor;
            return Err(error.hint("give `cursor` of an earlier result whole, or leave `since` out"));
        };
        let marks = marks.as_bytes().chunks(MARK).map(|mark| String::from_utf8_lossy(mark).into_owned());
        Ok(Self { marks: marks.collect() })
    }

    pub(super) fn has(&self, session: &Session) -> bool {
        self.marks.contains(&mark(session))
    }

    pub(super) fn add(&mut self, session: &Session) {
        self.marks.insert(mark(session));
    }

    /// As the caller gives it back.
    pub(super) fn cursor(&self) -> String {
        let mut cursor = String::from(PREFIX);
        cursor.extend(self.marks.iter().map(String::as_str));
        cursor
    }
}

/// Names the state a session is in, as far as a wait reports it: which question it waits on, or how and when
/// it ended.
fn mark(session: &Session) -> String {
    let state = match &session.attention {
        Some(attention) if session.status() == SessionStatus::NeedsAttention => {
            attention.attention_id.clone()
        }
        _ => {
            let at = session.ended_at.as_ref().or(session.changed_at.as_ref());
            let at = at.map(|at| (at.seconds, at.nanos)).unwrap_or_default();
            format!("{} {} {}.{}", session.status, session.attempt, at.0, at.1)
        }
    };
    let hash = fnv1a(&[session.session_id.as_bytes(), b" ", state.as_bytes()].concat());
    // The upper bits of this hash are the well mixed ones.
    BASE64.encode((hash >> 24).to_be_bytes().get(3..).unwrap_or_default()).chars().take(MARK).collect()
}

/// FNV-1a with 64 bits, the same in every build of every version: cursors outlive gateways.
fn fnv1a(bytes: &[u8]) -> u64 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // FNV leaves its last bytes badly spread over the upper half.
    (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use muster_proto::v1::{Attention, End};

    use super::*;

    fn ended(id: &str, attempt: u32) -> Session {
        let mut session = Session { session_id: id.into(), attempt, ..Session::default() };
        session.set_status(SessionStatus::Completed);
        session.end = Some(End::default());
        session
    }

    #[test]
    fn a_state_is_reported_once_and_the_next_one_anew() {
        let mut reported = Reported::default();
        let first = ended("one", 1);
        reported.add(&first);
        let again = Reported::parse(&reported.cursor()).expect("our own");
        assert_eq!(again, reported);
        assert!(again.has(&first) && !again.has(&ended("two", 1)) && !again.has(&ended("one", 2)));
        let mut asking = ended("one", 1);
        asking.set_status(SessionStatus::NeedsAttention);
        asking.attention = Some(Attention { attention_id: "a5".into(), ..Attention::default() });
        assert!(!again.has(&asking));
        assert_eq!(reported.cursor().len(), 1 + MARK);
        assert_eq!(Reported::default().cursor(), "c");
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        for cursor in ["", "c1", "o17", "c12345!", &format!("c{}", "a".repeat(MARK * (MARKS + 1)))] {
            assert_eq!(Reported::parse(cursor).expect_err("refused").code, ErrorCode::InvalidCursor);
        }
    }

    #[test]
    fn marks_of_many_sessions_differ() {
        let marks: BTreeSet<String> = (0..20_000).map(|n| mark(&ended(&format!("019aab-{n}"), 1))).collect();
        assert!(marks.len() >= 19_998, "{}", marks.len());
        assert!(marks.iter().all(|mark| mark.len() == MARK));
    }
}

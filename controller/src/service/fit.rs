//! Keeps answers that hold many sessions below the size of a message.
//!
//! Long texts (prompt, result, what is asked) are cut when the whole would not fit; GetSession always has
//! them whole.

use muster_proto::v1::{Attention, Session, attention::Ask};
use prost::Message as _;

/// Bytes of sessions in one message: well below `limits::MESSAGE_BYTES`.
const BUDGET: usize = 6 << 20;
/// Bytes left of a text that is cut.
const CUT: usize = 1 << 10;

/// The sessions in messages that fit: one when possible, texts cut when they have to be.
pub(super) fn fit(mut sessions: Vec<Session>) -> Vec<Vec<Session>> {
    let total = |sessions: &[Session]| sessions.iter().map(prost::Message::encoded_len).sum::<usize>();
    if total(&sessions) <= BUDGET {
        return vec![sessions];
    }
    sessions.iter_mut().for_each(cut);
    let mut messages = vec![Vec::new()];
    let mut room = BUDGET;
    for session in sessions {
        let size = session.encoded_len() + 8;
        if size > room {
            messages.push(Vec::new());
            room = BUDGET;
        }
        room = room.saturating_sub(size);
        if let Some(last) = messages.last_mut() {
            last.push(session);
        }
    }
    messages
}

/// One session in an answer of its own: whole, unless it alone would be too large.
pub(super) fn one(mut session: Session) -> Session {
    if session.encoded_len() > BUDGET {
        cut(&mut session);
    }
    session
}

fn cut(session: &mut Session) {
    if let Some(spec) = &mut session.spec {
        cut_text(&mut spec.prompt);
        spec.allowed_tools.truncate(8);
    }
    cut_text(&mut session.result_text);
    if let Some(Attention { ask: Some(ask), .. }) = &mut session.attention {
        match ask {
            Ask::Permission(ask) => {
                cut_text(&mut ask.summary);
                cut_text(&mut ask.input_json);
                cut_text(&mut ask.decision_reason);
            }
            Ask::Input(ask) => cut_text(&mut ask.schema_json),
            Ask::Plan(ask) => cut_text(&mut ask.plan),
        }
    }
}

fn cut_text(text: &mut String) {
    if text.len() > CUT {
        text.truncate(text.floor_char_boundary(CUT));
        text.push('…');
    }
}

#[cfg(test)]
mod tests {
    use muster_proto::{limits, v1::SessionSpec};

    use super::*;

    fn session(prompt: usize) -> Session {
        let spec = SessionSpec { prompt: "é".repeat(prompt / 2), ..SessionSpec::default() };
        Session { spec: Some(spec), ..Session::default() }
    }

    #[test]
    fn what_fits_is_whole_and_what_does_not_is_cut_and_then_split() {
        let whole = fit(vec![session(2 << 20); 2]);
        assert_eq!((whole.len(), whole[0].len()), (1, 2));
        assert_eq!(whole[0][0].encoded_len(), session(2 << 20).encoded_len());
        let cut = fit(vec![session(2 << 20); 10]);
        assert_eq!((cut.len(), cut[0].len()), (1, 10));
        let many = fit(vec![session(4 << 10); 20_000]);
        assert_eq!(many.iter().map(Vec::len).sum::<usize>(), 20_000);
        for message in many {
            assert!(message.iter().map(|s| s.encoded_len() + 8).sum::<usize>() < limits::MESSAGE_BYTES);
        }
    }
}

//! What `top` knows, what is chosen, and what a key means. Pure.

use std::collections::BTreeMap;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use muster_proto::v1::{
    Answer, Decision, Session, SessionStatus, Worker, attention::Ask, send_input_request::Input,
};

use crate::{show, watch::Update};

/// What is known of the farm.
#[derive(Debug, Default)]
pub struct Board {
    sessions: BTreeMap<String, Session>,
    /// None: not known (yet).
    pub workers: Option<Vec<Worker>>,
    /// Id of the chosen session.
    chosen: Option<String>,
    /// Only sessions that hold this.
    pub filter: String,
    /// Keys go into the filter.
    pub filtering: bool,
    /// What came of the last key, in a line.
    pub said: String,
}

/// What a key asks for.
#[derive(Debug, PartialEq)]
pub enum Wish {
    /// It was about the picture.
    Nothing,
    Leave,
    /// To the session of this handle.
    Attach(String),
    /// Send this to that one.
    Answer(Box<Session>, Input),
}

impl Board {
    /// Takes changes in.
    pub fn apply(&mut self, update: Update) {
        if update.whole {
            self.sessions.clear();
        }
        for session in update.sessions {
            if session.archived {
                self.sessions.remove(&session.session_id);
            } else {
                self.sessions.insert(session.session_id.clone(), session);
            }
        }
    }

    /// Those that match the filter: who needs somebody first, then who lives, then the newest.
    pub fn shown(&self) -> Vec<&Session> {
        let mut shown: Vec<&Session> =
            self.sessions.values().filter(|session| self.matches(session)).collect();
        shown.sort_by_key(|session| {
            let asks = session.status() != SessionStatus::NeedsAttention;
            (asks, session.end.is_some(), std::cmp::Reverse(&session.session_id))
        });
        shown
    }

    fn matches(&self, session: &Session) -> bool {
        let project = session.spec.as_ref().map_or("", |spec| spec.project.as_str());
        let status = show::status(session.status());
        [session.handle.as_str(), project, session.worker.as_str(), status.as_str()]
            .iter()
            .any(|text| text.contains(&self.filter))
    }

    /// Place of the chosen session among those shown; the first when it is gone.
    pub fn place(&self, shown: &[&Session]) -> Option<usize> {
        let at = shown.iter().position(|session| Some(&session.session_id) == self.chosen.as_ref());
        at.or((!shown.is_empty()).then_some(0))
    }

    /// The chosen session.
    pub fn chosen(&self) -> Option<&Session> {
        let shown = self.shown();
        self.place(&shown).map(|at| shown[at])
    }

    /// Does what a key says, as far as that is a matter of the picture.
    pub fn press(&mut self, key: KeyEvent) -> Wish {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if matches!(key.code, KeyCode::Char('c' | 'd')) { Wish::Leave } else { Wish::Nothing };
        }
        self.said.clear();
        if self.filtering {
            match key.code {
                KeyCode::Enter => self.filtering = false,
                KeyCode::Esc => {
                    self.filtering = false;
                    self.filter.clear();
                }
                KeyCode::Backspace => drop(self.filter.pop()),
                KeyCode::Char(c) if self.filter.len() < 64 => self.filter.push(c),
                _ => {}
            }
            return Wish::Nothing;
        }
        match key.code {
            KeyCode::Char('q') => return Wish::Leave,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('/') => self.filtering = true,
            KeyCode::Down | KeyCode::Char('j') => self.step(1),
            KeyCode::Up | KeyCode::Char('k') => self.step(-1),
            KeyCode::Enter => {
                if let Some(session) = self.chosen() {
                    return Wish::Attach(session.handle.clone());
                }
            }
            KeyCode::Char('a') => return self.decide(Decision::Allow),
            KeyCode::Char('d') => return self.decide(Decision::Deny),
            _ => {}
        }
        Wish::Nothing
    }

    fn step(&mut self, by: isize) {
        let shown = self.shown();
        let Some(at) = self.place(&shown) else { return };
        let to = at.saturating_add_signed(by).min(shown.len() - 1);
        let chosen = shown[to].session_id.clone();
        self.chosen = Some(chosen);
    }

    /// Answers the question that is on the screen, and no other.
    fn decide(&mut self, decision: Decision) -> Wish {
        let Some(session) = self.chosen().cloned() else { return Wish::Nothing };
        self.chosen = Some(session.session_id.clone());
        let Some(attention) = &session.attention else {
            self.said = format!("{} does not ask anything", session.handle);
            return Wish::Nothing;
        };
        if decision == Decision::Allow && matches!(attention.ask, Some(Ask::Input(_))) {
            self.said = "a question wants words: Enter attaches, then type the answer".to_owned();
            return Wish::Nothing;
        }
        let answer = Answer {
            attention_id: attention.attention_id.clone(),
            decision: decision.into(),
            ..Answer::default()
        };
        Wish::Answer(Box::new(session), Input::Answer(answer))
    }
}

#[cfg(test)]
mod tests {
    use muster_proto::v1::{Attention, InputAsk, PermissionAsk};

    use super::*;

    fn board() -> Board {
        let session = |number: u32, status| {
            let mut session = Session {
                session_id: format!("{number:04}"),
                handle: format!("work-{number:06}"),
                ..Session::default()
            };
            session.set_status(status);
            session
        };
        let mut asks = session(1, SessionStatus::NeedsAttention);
        asks.attention = Some(Attention {
            attention_id: "a7".into(),
            ask: Some(Ask::Permission(PermissionAsk {
                tool_name: "Bash".into(),
                ..PermissionAsk::default()
            })),
            ..Attention::default()
        });
        let mut board = Board::default();
        let sessions = vec![session(3, SessionStatus::Working), session(2, SessionStatus::Working), asks];
        board.apply(Update { whole: true, sessions });
        board
    }

    fn press(board: &mut Board, code: KeyCode) -> Wish {
        board.press(KeyEvent::from(code))
    }

    #[test]
    fn who_asks_comes_first_and_is_answered_by_the_question_shown() {
        let mut board = board();
        let handles: Vec<_> = board.shown().iter().map(|session| session.handle.clone()).collect();
        assert_eq!(handles, ["work-000001", "work-000003", "work-000002"]);
        let Wish::Answer(session, Input::Answer(answer)) = press(&mut board, KeyCode::Char('a')) else {
            panic!("no answer")
        };
        assert_eq!((session.handle.as_str(), answer.attention_id.as_str()), ("work-000001", "a7"));
        assert_eq!(answer.decision(), Decision::Allow);
        assert_eq!(press(&mut board, KeyCode::Down), Wish::Nothing);
        assert_eq!(press(&mut board, KeyCode::Char('d')), Wish::Nothing);
        assert!(board.said.contains("work-000003"), "{}", board.said);
        assert_eq!(press(&mut board, KeyCode::Enter), Wish::Attach("work-000003".into()));
    }

    #[test]
    fn a_question_for_words_is_not_allowed_blindly() {
        let mut board = board();
        let mut asks = board.sessions["0001"].clone();
        let ask = Some(Ask::Input(InputAsk::default()));
        asks.attention = Some(Attention { attention_id: "a9".into(), ask, ..Attention::default() });
        board.apply(Update { whole: false, sessions: vec![asks] });
        assert_eq!(press(&mut board, KeyCode::Char('a')), Wish::Nothing);
        assert!(board.said.contains("Enter attaches"), "{}", board.said);
    }

    #[test]
    fn the_choice_stays_with_its_session_and_keys_go_into_a_filter_while_one_is_typed() {
        let mut board = board();
        press(&mut board, KeyCode::Down);
        let mut more = board.sessions["0002"].clone();
        more.session_id = "0009".into();
        board.apply(Update { whole: false, sessions: vec![more] });
        assert_eq!(board.chosen().map(|session| session.session_id.as_str()), Some("0003"));
        let typed =
            [KeyCode::Char('/'), KeyCode::Char('q'), KeyCode::Backspace, KeyCode::Char('2'), KeyCode::Enter];
        for code in typed {
            assert_eq!(press(&mut board, code), Wish::Nothing);
        }
        assert!(board.shown().iter().all(|session| session.handle.contains('2')));
        press(&mut board, KeyCode::Esc);
        assert_eq!(board.shown().len(), 4);
        assert_eq!(press(&mut board, KeyCode::Char('q')), Wish::Leave);
    }
}

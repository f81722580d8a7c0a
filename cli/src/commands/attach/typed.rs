//! What a line typed at an attached session means. Pure.

use muster_proto::v1::{Answer, Attention, Decision, attention::Ask};

use crate::commands::answer::match_answers;

/// Shown by `/help`.
pub const HELP: &str = "\
/allow              permit what is asked, or approve the plan
/always             permit it and its like for the rest of the session
/deny [WHY]         refuse it; the words tell claude why, or what to do instead
/answer Q=LABEL     answer one question by its number, heading or text
/interrupt          end the current turn; the session can go on with a message
/detach             leave; the session goes on (also Ctrl-D, Ctrl-C)
anything else       the answer to an open question, else the next message";

/// What was meant.
#[derive(Debug, PartialEq)]
pub enum Typed {
    /// An empty line.
    Nothing,
    /// `/help`.
    Help,
    /// `/detach`.
    Detach,
    /// `/interrupt`.
    Interrupt,
    /// The next message.
    Message(String),
    /// To the open question; its id is the caller's to fill in.
    Answer(Answer),
}

/// How to answer this one.
pub const fn how(attention: &Attention) -> &'static str {
    match &attention.ask {
        Some(Ask::Permission(ask)) if ask.can_allow_always => "/allow, /always or /deny [WHY]",
        Some(Ask::Permission(_)) => "/allow or /deny [WHY]",
        Some(Ask::Plan(_)) => "/allow, or /deny WHAT TO CHANGE",
        Some(Ask::Input(_)) => {
            "type the answer, or /answer NUMBER=LABEL for several questions, or /deny [WHY]"
        }
        None => "/allow or /deny [WHY]",
    }
}

/// Understands a line, or says why not.
pub fn understand(line: &str, open: Option<&Attention>) -> Result<Typed, String> {
    let line = line.trim();
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let decided = |decision: Decision, text: &str| match open {
        Some(_) => Ok(Typed::Answer(Answer {
            decision: decision.into(),
            text: text.to_owned(),
            ..Answer::default()
        })),
        None => Err("nothing is asked now".to_owned()),
    };
    match word {
        "" => Ok(Typed::Nothing),
        "/help" => Ok(Typed::Help),
        "/detach" | "/quit" | "/exit" => Ok(Typed::Detach),
        "/interrupt" => Ok(Typed::Interrupt),
        "/allow" => decided(Decision::Allow, ""),
        "/always" => decided(Decision::AllowAlways, ""),
        "/deny" => decided(Decision::Deny, rest),
        "/answer" => words(&rest_or(rest, "/answer NUMBER=LABEL")?, open),
        _ if word.starts_with('/') && word[1..].chars().all(|c| c.is_ascii_alphabetic()) => {
            Err(format!("{word} is no command here; /help lists them"))
        }
        _ => match open.map(|attention| &attention.ask) {
            None => Ok(Typed::Message(line.to_owned())),
            Some(Some(Ask::Input(_))) => words(line, open),
            // Words alone do not decide a permission: nobody should approve one by a slip.
            Some(_) => Err("a question is open: /allow, or /deny with these words".to_owned()),
        },
    }
}

fn rest_or(rest: &str, usage: &str) -> Result<String, String> {
    if rest.is_empty() { Err(format!("it goes {usage}")) } else { Ok(rest.to_owned()) }
}

fn words(text: &str, open: Option<&Attention>) -> Result<Typed, String> {
    let Some(Ask::Input(ask)) = open.and_then(|attention| attention.ask.as_ref()) else {
        return Err("no question is open".to_owned());
    };
    if ask.questions.is_empty() {
        return Ok(Typed::Answer(Answer { text: text.to_owned(), ..Answer::default() }));
    }
    match match_answers(&[text.to_owned()], &ask.questions) {
        Ok(answers) => Ok(Typed::Answer(Answer { answers, ..Answer::default() })),
        Err(failure) => Err(format!("{}; {}", failure.what, failure.hint)),
    }
}

#[cfg(test)]
mod tests {
    use muster_proto::v1::{InputAsk, PermissionAsk, Question};

    use super::*;

    fn asks(ask: Ask) -> Attention {
        Attention { attention_id: "a1".into(), ask: Some(ask), ..Attention::default() }
    }

    #[test]
    fn without_a_question_words_are_a_message() {
        assert_eq!(understand(" go on ", None), Ok(Typed::Message("go on".into())));
        assert_eq!(understand("", None), Ok(Typed::Nothing));
        assert_eq!(understand("/usr/bin is on PATH", None), Ok(Typed::Message("/usr/bin is on PATH".into())));
        assert!(understand("/allow", None).is_err() && understand("/alow", None).is_err());
    }

    #[test]
    fn words_never_approve_a_permission() {
        let open = asks(Ask::Permission(PermissionAsk::default()));
        assert!(understand("yes", Some(&open)).is_err());
        let Ok(Typed::Answer(answer)) = understand("/deny use the staging one", Some(&open)) else {
            panic!("no")
        };
        assert_eq!((answer.decision(), answer.text.as_str()), (Decision::Deny, "use the staging one"));
    }

    #[test]
    fn a_question_is_answered_by_words_and_several_by_number() {
        let question = |text: &str| Question { question: text.into(), ..Question::default() };
        let one = asks(Ask::Input(InputAsk { questions: vec![question("Which?")], ..InputAsk::default() }));
        let Ok(Typed::Answer(answer)) = understand("the blue one", Some(&one)) else { panic!("no") };
        assert_eq!(answer.answers["Which?"], "the blue one");
        let two = asks(Ask::Input(InputAsk {
            questions: vec![question("Which?"), question("How?")],
            ..InputAsk::default()
        }));
        let Ok(Typed::Answer(answer)) = understand("/answer 2=fast", Some(&two)) else { panic!("no") };
        assert_eq!(answer.answers["How?"], "fast");
        assert!(understand("the blue one", Some(&two)).is_err());
    }
}

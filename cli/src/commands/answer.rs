//! `muster answer`: answers what a session waits on.
//!
//! The question is read first, so that an answer meets the question the operator saw (`--attention` pins it)
//! and a short form can be matched to it.

use std::collections::HashMap;

use clap::Args;
use muster_proto::v1::{
    Answer, Attention, Decision, Question, SendInputRequest, Session, attention::Ask,
    send_input_request::Input,
};

use crate::{
    args::Remote,
    client::Client,
    commands::{send, status, text_or_stdin},
    failure::{Exit, Failure},
    output::Output,
    show,
};

/// Arguments of `answer`.
#[derive(Debug, Args)]
pub struct Options {
    /// Handle, id or the beginning of either
    #[arg(add = super::completion::sessions())]
    session: String,
    /// Permit it, or approve the plan
    #[arg(long, group = "decision")]
    allow: bool,
    /// Permit it and its like for the rest of the session
    #[arg(long, group = "decision")]
    allow_always: bool,
    /// Refuse it; --text tells claude why or what instead
    #[arg(long, group = "decision")]
    deny: bool,
    /// Words for claude; `-` reads stdin
    #[arg(short, long, value_name = "TEXT")]
    text: Option<String>,
    /// Answer to one question: its text, heading or number, `=`, and a label or words of your own. With a
    /// single question the label alone will do. Repeat it for several questions, or for several labels of one
    #[arg(short, long = "answer", value_name = "QUESTION=LABEL")]
    answers: Vec<String>,
    /// Allow it with this input instead of the one asked for (a JSON object)
    #[arg(long, value_name = "JSON", conflicts_with = "deny")]
    input: Option<String>,
    /// Answer only this question; without it the oldest open one
    #[arg(long, value_name = "ID")]
    attention: Option<String>,
    /// The same id again answers nothing a second time
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ID")]
    request_id: String,
    #[command(flatten)]
    remote: Remote,
}

/// Answers.
pub async fn run(options: Options) -> Result<Exit, Failure> {
    let mut client = Client::new(&options.remote)?;
    let output = Output::new(options.remote.json);
    let session = client.session(&options.session).await?;
    let answer = options.answer(&session)?;
    // The id the controller knows, not what was typed: a prefix may have become ambiguous meanwhile.
    let request = SendInputRequest {
        session: session.session_id,
        request_id: options.request_id,
        input: Some(Input::Answer(answer)),
    };
    send::submit(client, output, request).await
}

impl Options {
    fn answer(&self, session: &Session) -> Result<Answer, Failure> {
        let open = session.attention.as_ref();
        let attention_id = match (&self.attention, open) {
            (Some(named), _) => named.clone(),
            (None, Some(open)) => open.attention_id.clone(),
            (None, None) => {
                let status = show::status(session.status());
                let what = format!("{} does not wait on an answer: it is {status}", session.handle);
                return Err(Failure::new(Exit::Failed, what)
                    .hint(format!("`muster send {} TEXT` gives it a message", session.handle)));
            }
        };
        let open = open.filter(|open| open.attention_id == attention_id);
        if self.says_nothing() {
            let asked = open.map(|open| status::asked(session, open)).unwrap_or_default();
            return Err(
                Failure::usage(format!("no answer was given\n{asked}")).hint("see `muster answer --help`")
            );
        }
        let questions: &[Question] = match open.and_then(|open| open.ask.as_ref()) {
            Some(Ask::Input(ask)) => &ask.questions,
            _ => &[],
        };
        let answer = Answer {
            attention_id,
            text: self.text.as_deref().map(text_or_stdin).transpose()?.unwrap_or_default(),
            answers: match_answers(&self.answers, questions)?,
            updated_input_json: self.input.clone().map(object).transpose()?.unwrap_or_default(),
            decision: self.decision(open)?.into(),
        };
        Ok(answer)
    }

    fn says_nothing(&self) -> bool {
        !(self.allow || self.allow_always || self.deny)
            && self.text.is_none()
            && self.answers.is_empty()
            && self.input.is_none()
    }

    /// What was said, or what it means where only one thing can be meant.
    fn decision(&self, open: Option<&Attention>) -> Result<Decision, Failure> {
        let asks_words = matches!(open.and_then(|open| open.ask.as_ref()), Some(Ask::Input(_)));
        match (self.allow, self.allow_always, self.deny) {
            (true, ..) => Ok(Decision::Allow),
            (_, true, _) => Ok(Decision::AllowAlways),
            (_, _, true) => Ok(Decision::Deny),
            _ if self.input.is_some() => Ok(Decision::Allow),
            _ if asks_words || !self.answers.is_empty() || open.is_none() => Ok(Decision::Unspecified),
            _ => Err(Failure::usage("words alone do not decide a permission or a plan")
                .hint("add --allow or --deny: --deny --text WHY tells claude what to do instead")),
        }
    }
}

/// Question text -> label(s), as the wire wants it.
pub fn match_answers(given: &[String], questions: &[Question]) -> Result<HashMap<String, String>, Failure> {
    let mut answers: HashMap<String, Vec<String>> = HashMap::new();
    for text in given {
        let (question, label) = split(text, questions).ok_or_else(|| {
            let known: Vec<String> =
                questions.iter().map(|question| format!("{:?}", show::line(&question.question))).collect();
            Failure::usage(format!("--answer {text:?} names no open question")).hint(if known.is_empty() {
                "give QUESTION=LABEL".to_owned()
            } else {
                format!("the questions are: {}", known.join(", "))
            })
        })?;
        answers.entry(question).or_default().push(label);
    }
    Ok(answers.into_iter().map(|(question, labels)| (question, labels.join(", "))).collect())
}

/// Which question a given answer means. A question may hold `=` itself, so every one of them is tried.
fn split(text: &str, questions: &[Question]) -> Option<(String, String)> {
    for (at, _) in text.match_indices('=') {
        let (name, label) = (text[..at].trim(), text[at + 1..].trim());
        let named = questions.iter().enumerate().find(|(number, question)| {
            question.question == name
                || show::line(&question.question) == name
                || (!question.header.is_empty() && question.header.eq_ignore_ascii_case(name))
                || name.parse() == Ok(number + 1)
        });
        if let Some((_, question)) = named {
            return Some((question.question.clone(), label.to_owned()));
        }
    }
    match questions {
        [only] => Some((only.question.clone(), text.to_owned())),
        // Nothing is known of the question (it is not the oldest one): the caller names it in full.
        [] => text.split_once('=').map(|(name, label)| (name.to_owned(), label.to_owned())),
        _ => None,
    }
}

fn object(text: String) -> Result<String, Failure> {
    match serde_json::from_str::<serde_json::Value>(&text) {
        Ok(serde_json::Value::Object(_)) => Ok(text),
        Ok(_) => Err(Failure::usage("--input is not a JSON object")),
        Err(error) => Err(Failure::usage("--input is not JSON").caused_by(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(text: &str, header: &str) -> Question {
        Question { question: text.into(), header: header.into(), ..Default::default() }
    }

    fn pairs(given: &[&str], questions: &[Question]) -> Result<Vec<(String, String)>, Failure> {
        let given: Vec<String> = given.iter().map(ToString::to_string).collect();
        let mut pairs: Vec<_> = match_answers(&given, questions)?.into_iter().collect();
        pairs.sort();
        Ok(pairs)
    }

    #[test]
    fn an_answer_names_its_question_by_text_heading_or_number() {
        let questions = [question("Is a=b?", "Maths"), question("Which colours?", "Colour")];
        for given in ["Is a=b?=yes", "maths=yes", "1=yes"] {
            assert_eq!(pairs(&[given], &questions).expect(given), [("Is a=b?".into(), "yes".into())]);
        }
        assert_eq!(
            pairs(&["2=red", "colour=light blue"], &questions).expect("taken"),
            [("Which colours?".into(), "red, light blue".into())]
        );
        let failure = pairs(&["shape=round"], &questions).expect_err("refused");
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.hint.contains("Which colours?"), "{}", failure.hint);
    }

    #[test]
    fn a_single_question_needs_no_name() {
        let questions = [question("Which?", "")];
        assert_eq!(pairs(&["x=1"], &questions).expect("taken"), [("Which?".into(), "x=1".into())]);
    }

    #[test]
    fn changed_input_must_be_an_object() {
        assert!(object("{\"a\":1}".into()).is_ok());
        assert!(object("[1]".into()).is_err());
        assert!(object("{".into()).is_err());
    }
}

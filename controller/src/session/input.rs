//! What may be said to a session, and what a second saying of it is.

use std::collections::HashSet;

use muster_proto::{
    error::{Error, ErrorCode},
    v1::{
        Answer, Attention, AttentionReason, Decision, attention::Ask, input::Body,
        send_input_request::Input as Asked,
    },
};

use super::record::Session;

/// Tells two inputs apart, for request ids: FNV-1a over a form that does not depend on the order of maps.
/// Finds a caller's mistake, not an attack: it guards only the caller's own session. Stored, so never
/// changed.
#[must_use]
pub fn digest(input: &Asked) -> u64 {
    let mut sum = Fnv(0xcbf2_9ce4_8422_2325);
    match input {
        Asked::Message(text) => {
            sum.text("message");
            sum.text(text);
        }
        Asked::Interrupt(_) => sum.text("interrupt"),
        Asked::Answer(answer) => {
            sum.text("answer");
            sum.text(&answer.attention_id);
            sum.text(answer.decision().as_str_name());
            sum.text(&answer.text);
            sum.text(&answer.updated_input_json);
            let mut answers: Vec<_> = answer.answers.iter().collect();
            answers.sort_unstable();
            for (question, reply) in answers {
                sum.text(question);
                sum.text(reply);
            }
        }
    }
    sum.0
}

struct Fnv(u64);

impl Fnv {
    /// Length first, so that "ab" + "c" is not "a" + "bc".
    fn text(&mut self, text: &str) {
        for byte in (text.len() as u64).to_le_bytes().iter().chain(text.as_bytes()) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

/// The open attention an answer is meant for.
///
/// # Errors
/// `ATTENTION_STALE`, saying what was answered, when it is not open.
pub fn answered_attention<'a>(session: &'a Session, answer: &Answer) -> Result<&'a Attention, Error> {
    let open = &session.state.open;
    if answer.attention_id.is_empty() {
        let none =
            || Error::new(ErrorCode::AttentionStale, format!("{} asks nothing now", session.fixed.handle));
        return open.first().ok_or_else(|| none().hint("Send text to give it its next message."));
    }
    if let Some(attention) = open.iter().find(|attention| attention.attention_id == answer.attention_id) {
        return Ok(attention);
    }
    let id = &answer.attention_id;
    let earlier = session.state.answered.iter().rev().find(|answered| answered.attention_id == *id);
    let message = match earlier {
        Some(answered) => format!("attention {id} was already answered: {}", answered.what),
        None => format!("attention {id} is not open: it was withdrawn, or the session never asked it"),
    };
    let hint = match open.first() {
        Some(attention) => format!("The session now waits on {}.", attention.attention_id),
        None => "The session waits on nothing now; read its status.".to_owned(),
    };
    Err(Error::new(ErrorCode::AttentionStale, message).hint(hint))
}

/// Whether `answer` answers what `attention` asks. Returns what it says, in a few words.
///
/// # Errors
/// `INVALID_ARGUMENT` naming the field and what it should be.
pub fn check_answer(attention: &Attention, answer: &Answer) -> Result<String, Error> {
    if !answer.updated_input_json.is_empty() {
        check_object(&answer.updated_input_json)?;
    }
    let decision = answer.decision();
    if !answer.updated_input_json.is_empty() && decision == Decision::Deny {
        return Err(Error::invalid("updatedInputJson", "a denied request has no changed input")
            .hint("Leave it out, or allow."));
    }
    match attention.reason() {
        AttentionReason::Input => check_input(attention, answer),
        reason => {
            if !answer.answers.is_empty() {
                let asks =
                    if reason == AttentionReason::PlanApproval { "a plan approval" } else { "a permission" };
                return Err(Error::invalid(
                    "answers",
                    format!("the session asks for {asks}, not for answers"),
                )
                .hint("Send a decision: allow or deny."));
            }
            match decision {
                Decision::Unspecified => {
                    Err(Error::invalid("decision", "a decision is needed: allow, allow_always or deny")
                        .hint("With deny, text is given to claude as the reason."))
                }
                Decision::Allow => Ok("allow".to_owned()),
                Decision::AllowAlways => Ok("allow_always".to_owned()),
                Decision::Deny => Ok("deny".to_owned()),
            }
        }
    }
}

fn check_input(attention: &Attention, answer: &Answer) -> Result<String, Error> {
    if answer.decision() == Decision::Deny {
        return Ok("deny".to_owned());
    }
    let asked: Vec<&str> = match &attention.ask {
        Some(Ask::Input(ask)) => ask.questions.iter().map(|question| question.question.as_str()).collect(),
        _ => Vec::new(),
    };
    let known: HashSet<&str> = asked.iter().copied().collect();
    let strange = answer.answers.keys().find(|question| !known.contains(question.as_str()));
    // An elicitation has a schema instead of questions: its fields are checked by the server that asks.
    if let Some(strange) = strange.filter(|_| !known.is_empty()) {
        let listed: Vec<_> = asked.iter().map(|question| format!("{question:?}")).collect();
        return Err(Error::invalid("answers", format!("no question {strange:?} is open"))
            .hint(format!("The questions are: {}.", listed.join(", "))));
    }
    if answer.answers.is_empty() && answer.text.is_empty() && answer.updated_input_json.is_empty() {
        let listed: Vec<_> = asked.iter().map(|question| format!("{question:?}")).collect();
        return Err(Error::invalid("answers", "the session waits for answers, and none is given").hint(
            format!(
                "Give answers by question ({}), or text for a free answer, or decision deny.",
                listed.join(", ")
            ),
        ));
    }
    Ok("answers".to_owned())
}

fn check_object(json: &str) -> Result<(), Error> {
    let parsed: Result<serde_json::Value, _> = serde_json::from_str(json);
    match parsed {
        Ok(serde_json::Value::Object(_)) => Ok(()),
        Ok(_) => Err(Error::invalid("updatedInputJson", "it is JSON but no object")),
        Err(error) => Err(Error::invalid("updatedInputJson", format!("it is not JSON: {error}"))),
    }
}

/// Whether an input that waits is void once its attempt has ended: only messages outlive one.
#[must_use]
pub const fn ends_with_attempt(body: &Option<Body>) -> bool {
    !matches!(body, Some(Body::Message(_)))
}

#[cfg(test)]
mod tests {
    use muster_proto::v1::{InputAsk, PermissionAsk, Question};

    use super::*;

    fn permission() -> Attention {
        let ask = Ask::Permission(PermissionAsk::default());
        Attention { reason: AttentionReason::Permission.into(), ask: Some(ask), ..Attention::default() }
    }

    fn question() -> Attention {
        let question = Question { question: "Which?".into(), ..Question::default() };
        let ask = Ask::Input(InputAsk { questions: vec![question], ..InputAsk::default() });
        Attention { reason: AttentionReason::Input.into(), ask: Some(ask), ..Attention::default() }
    }

    fn decided(decision: Decision) -> Answer {
        Answer { decision: decision.into(), ..Answer::default() }
    }

    #[test]
    fn an_answer_must_fit_what_is_asked() {
        let by_question = |text: &str| Answer {
            answers: [(text.to_owned(), "this".to_owned())].into(),
            ..Answer::default()
        };
        let changed = |json: &str, decision| Answer { updated_input_json: json.into(), ..decided(decision) };
        let text = Answer { text: "free".into(), ..Answer::default() };
        for (attention, answer, field) in [
            (permission(), decided(Decision::Allow), None),
            (permission(), changed("{\"command\":\"ls\"}", Decision::Allow), None),
            (permission(), changed("[1]", Decision::Allow), Some("updatedInputJson")),
            (permission(), changed("{", Decision::Allow), Some("updatedInputJson")),
            (permission(), changed("{}", Decision::Deny), Some("updatedInputJson")),
            (permission(), text.clone(), Some("decision")),
            (permission(), by_question("Which?"), Some("answers")),
            (question(), by_question("Which?"), None),
            (question(), by_question("What?"), Some("answers")),
            (question(), decided(Decision::Allow), Some("answers")),
            (question(), decided(Decision::Deny), None),
            (question(), text, None),
        ] {
            let checked = check_answer(&attention, &answer);
            assert_eq!(checked.as_ref().err().map(|e| e.field.as_str()), field, "{answer:?}: {checked:?}");
        }
        let error = check_answer(&question(), &by_question("What?")).expect_err("refused");
        assert!(error.hint.contains("Which?"), "{error:?}");
    }

    #[test]
    fn digests_tell_inputs_apart_and_do_not_depend_on_order() {
        let answers = |pairs: &[(&str, &str)]| {
            let answers = pairs.iter().map(|(q, a)| ((*q).to_owned(), (*a).to_owned())).collect();
            digest(&Asked::Answer(Answer { answers, ..Answer::default() }))
        };
        assert_eq!(answers(&[("a", "1"), ("b", "2")]), answers(&[("b", "2"), ("a", "1")]));
        assert_ne!(answers(&[("a", "1")]), answers(&[("a", "2")]));
        assert_ne!(digest(&Asked::Message("a".into())), digest(&Asked::Message("b".into())));
        assert_eq!(
            digest(&Asked::Message("go".into())),
            0x65a1_eeda_4e2c_c331,
            "stored digests must not change"
        );
    }
}

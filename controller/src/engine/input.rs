//! Answers, messages and interrupts.

use std::sync::Arc;

use muster_proto::{
    error::{Error, ErrorCode},
    ids::SessionId,
    limits,
    v1::{
        Answer, ApplyInput, AttentionReason, Delivery, Input, connect_response::Body as Command, input::Body,
        send_input_request::Input as Asked,
    },
};

use super::{InputRequest, Scope, resume, run::Engine, stage::Stage};
use crate::session::{Phase, Session, input, phase::Event, record::Request};

/// What became of an input.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) id: SessionId,
    pub(super) replayed: bool,
    pub(super) delivery: Delivery,
}

impl Engine {
    pub(super) fn input(
        &mut self,
        request: InputRequest,
        scope: &Scope,
        stage: &mut Stage,
    ) -> Result<Done, Error> {
        let InputRequest { session, request_id, input } = request;
        let id = self.book.resolve(&session, scope)?;
        let gone = || Error::new(ErrorCode::SessionNotFound, format!("there is no session {session:?}"));
        let mut session = stage.copy(&self.book, id).ok_or_else(gone)?;
        let digest = input::digest(&input);
        if let Some(earlier) = session.requests.get(&request_id).filter(|_| !request_id.is_empty()) {
            if earlier.digest != digest {
                let message = format!("the request id {request_id:?} was used before with another input");
                return Err(Error {
                    field: "requestId".to_owned(),
                    ..Error::new(ErrorCode::RequestIdConflict, message)
                }
                .hint("Use a new request id for a new input."));
            }
            return Ok(Done { id, replayed: true, delivery: earlier.delivery() });
        }
        let delivery = match input {
            Asked::Answer(answer) => give_answer(&mut session, answer, stage)?,
            Asked::Message(text) => give_message(&mut session, text, stage)?,
            Asked::Interrupt(_) => interrupt(&mut session, stage)?,
        };
        if !request_id.is_empty() {
            let record = Request { digest, delivery: delivery.into() };
            Arc::make_mut(&mut session.requests).insert(request_id, record);
        }
        stage.put(session);
        Ok(Done { id, replayed: false, delivery })
    }
}

fn give_answer(session: &mut Session, mut answer: Answer, stage: &mut Stage) -> Result<Delivery, Error> {
    if session.phase() == Phase::Stopping {
        return Err(ended(session, "it was stopped"));
    }
    let attention = input::answered_attention(session, &answer)?;
    let what = input::check_answer(attention, &answer)?;
    answer.attention_id.clone_from(&attention.attention_id);
    check_room(session)?;
    session.answer(&answer.attention_id, what);
    send(session, Body::Answer(answer), stage);
    if session.state.open.is_empty() {
        session.happens(Event::Unasked, muster_proto::time::now()).map_err(defect)?;
    }
    Ok(Delivery::Now)
}

fn give_message(session: &mut Session, text: String, stage: &mut Stage) -> Result<Delivery, Error> {
    let now = muster_proto::time::now();
    session.can_go_on(now).map_err(|reason| ended(session, reason))?;
    if let Some(attention) = session.state.open.first() {
        let what = match attention.reason() {
            AttentionReason::Permission => "a permission: send a decision (allow, allow_always or deny)",
            AttentionReason::PlanApproval => {
                "the approval of a plan: send a decision (allow, or deny with text)"
            }
            AttentionReason::Input | AttentionReason::Unspecified => {
                "answers: send answers by question, or an answer with text"
            }
        };
        let message =
            format!("{} waits on {} and takes no message", session.fixed.handle, attention.attention_id);
        return Err(Error::new(ErrorCode::AttentionPending, message)
            .hint(format!("It asks for {what}, with attentionId {}.", attention.attention_id)));
    }
    check_room(session)?;
    let phase = session.phase();
    if phase.is_active() {
        send(session, Body::Message(text), stage);
        return Ok(Delivery::AfterTurn);
    }
    session.add_input(Body::Message(text));
    resume::began_anew(session);
    if phase.has_ended() {
        session.happens(Event::Resume, now).map_err(defect)?;
        session.state.queue_ticket = stage.ticket();
    }
    Ok(Delivery::NextAttempt)
}

pub(super) fn interrupt(session: &mut Session, stage: &mut Stage) -> Result<Delivery, Error> {
    if !matches!(session.phase(), Phase::Starting | Phase::Working | Phase::NeedsAttention) {
        return Ok(Delivery::Nothing);
    }
    check_room(session)?;
    send(session, Body::Interrupt(true), stage);
    Ok(Delivery::Now)
}

fn send(session: &mut Session, body: Body, stage: &mut Stage) {
    let input = session.add_input(body);
    if let Some(worker) = session.worker() {
        stage.send(&worker, apply_input(session, &input));
    }
}

/// The command that gives `input` to the attempt of `session`.
pub(super) fn apply_input(session: &Session, input: &Input) -> Command {
    Command::Input(ApplyInput {
        session_id: session.id.to_string(),
        attempt: session.state.attempt,
        input: Some(input.clone()),
    })
}

fn check_room(session: &Session) -> Result<(), Error> {
    if session.inputs.len() < limits::PENDING_INPUTS {
        return Ok(());
    }
    let message = format!("{} has {} inputs that wait already", session.fixed.handle, limits::PENDING_INPUTS);
    Err(Error::new(ErrorCode::LimitReached, message).hint("Wait until it has taken some."))
}

fn ended(session: &Session, reason: &str) -> Error {
    let message = format!("{} takes no more input: {reason}", session.fixed.handle);
    Error::new(ErrorCode::SessionEnded, message).hint("Spawn a new session.")
}

/// A transition that the code above made sure is legal.
pub(super) fn defect(illegal: crate::session::phase::Illegal) -> Error {
    Error::new(ErrorCode::Internal, illegal.to_string())
}

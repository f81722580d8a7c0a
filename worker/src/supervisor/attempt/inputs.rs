//! What is given to claude, and when: messages between turns, answers to open questions, interrupts to running turns.

use std::time::{Duration, Instant};

use muster_proto::v1::{Answer, AttentionCleared, Input, InputApplied, input, session_event::Body};

use super::{Attempt, Effect, Phase, Sent, Why};
use crate::{
    agent::{
        AgentEvent,
        claude::{answer, protocol},
    },
    shim::protocol::ToShim,
};

/// After a journal that took nothing: when a message is offered again.
const OFFER_AGAIN: Duration = Duration::from_secs(1);

impl Attempt {
    /// These inputs are in claude's stdin.
    pub(super) fn on_journal(&mut self, journal: &[u64]) -> Vec<Effect> {
        let mut effects = Vec::new();
        for seq in journal {
            if self.applied.contains_key(seq) {
                continue;
            }
            let known = self.pending.remove(seq).or_else(|| self.sent.remove(seq).map(|(input, _)| input));
            match known.and_then(|input| input.body) {
                Some(input::Body::Message(_)) => {
                    let uuid = protocol::message_uuid(&self.session, *seq).to_string();
                    let taken = self.taken.contains(&uuid);
                    self.message = Some((uuid, taken));
                    self.opening = None;
                }
                Some(input::Body::Answer(answer)) => effects.extend(self.cleared(&answer.attention_id)),
                Some(input::Body::Interrupt(_)) | None => {}
            }
            effects.push(self.applied(*seq, None));
        }
        effects
    }

    pub(super) fn cleared(&mut self, attention_id: &str) -> Option<Effect> {
        match self.fold.answered(attention_id)? {
            AgentEvent::AttentionCleared { attention_id } => {
                Some(self.emit(Body::AttentionCleared(AttentionCleared { attention_id })))
            }
            _ => None,
        }
    }

    /// Says what became of an input: `reason` why it was not given.
    pub(super) fn applied(&mut self, seq: u64, reason: Option<&str>) -> Effect {
        let reason = self.applied.entry(seq).or_insert_with(|| reason.unwrap_or_default().to_owned()).clone();
        self.emit(Body::InputApplied(InputApplied { seq, delivered: reason.is_empty(), reason }))
    }

    /// Whether claude surely has nothing to do. Right after a message it may still say `idle` about the turn before.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        let message_on_its_way = self.sent.values().any(|(_, sent)| *sent == Sent::Message);
        if self.fold.is_running() || message_on_its_way {
            return false;
        }
        match (&self.message, self.idle_since) {
            (None, _) | (Some((_, true)), Some(_)) => true,
            (Some(_), Some(since)) => now.duration_since(since) >= self.timing.settle,
            (Some((_, taken)), None) => *taken && self.has_result,
        }
    }

    /// Gives what can be given now; ends the attempt when nothing is left to do.
    pub(super) fn settle(&mut self, now: Instant) -> Vec<Effect> {
        if self.phase != Phase::Working || self.offer_after.is_some_and(|after| now < after) {
            return Vec::new();
        }
        self.offer_after = None;
        let mut effects = Vec::new();
        for seq in self.pending.keys().copied().collect::<Vec<_>>() {
            let Some(input) = self.pending.get(&seq).cloned() else { continue };
            match input.body.clone() {
                Some(input::Body::Answer(answer)) => effects.push(self.give_answer(seq, input, &answer)),
                // Before the turn runs an interrupt would be taken for nothing.
                Some(input::Body::Interrupt(_)) if !self.fold.is_running() && !self.is_idle(now) => {}
                Some(input::Body::Interrupt(_)) => effects.push(self.give_interrupt(seq, input, now)),
                Some(input::Body::Message(text)) if self.is_idle(now) => {
                    effects.push(self.give_message(seq, input, &text));
                }
                Some(input::Body::Message(_)) => {}
                None => {
                    self.pending.remove(&seq);
                    effects.push(self.applied(seq, Some("this worker does not know that kind of input")));
                }
            }
        }
        let messages = |input: &Input| matches!(input.body, Some(input::Body::Message(_)));
        let waits =
            self.pending.values().any(messages) || !self.sent.is_empty() || self.fold.waits_for_answer();
        if !waits && self.is_idle(now) {
            effects.extend(self.end(Why::Finish, now));
        }
        effects
    }

    pub(super) fn give(&mut self, seq: u64, input: Input, sent: Sent, bytes: Vec<u8>) -> Effect {
        self.pending.remove(&seq);
        self.sent.insert(seq, (input, sent));
        Effect::Order(ToShim::Input { seq, bytes })
    }

    pub(super) fn give_message(&mut self, seq: u64, input: Input, text: &str) -> Effect {
        let uuid = protocol::message_uuid(&self.session, seq).to_string();
        self.message = Some((uuid, false));
        self.idle_since = None;
        self.has_result = false;
        let opened = self.opening.as_ref().map(|prompt| format!("{prompt}\n\n{text}"));
        let text = opened.as_deref().unwrap_or(text);
        self.give(seq, input, Sent::Message, protocol::message(&self.session, seq, text))
    }

    pub(super) fn give_answer(&mut self, seq: u64, input: Input, answer: &Answer) -> Effect {
        let id = &answer.attention_id;
        let under_way = self.sent.values().any(|(_, sent)| *sent == Sent::Answer(id.clone()));
        let line = match self.fold.open_request(id) {
            Some(_) if under_way => Err("another answer came first".to_owned()),
            Some(open) => {
                let trust = self.start.spec.as_ref().is_some_and(|spec| spec.trust_mode);
                answer::line(open, answer, trust).map_err(|error| error.to_string())
            }
            None => Err("the question was answered or withdrawn".to_owned()),
        };
        match line {
            Ok(bytes) => self.give(seq, input, Sent::Answer(id.clone()), bytes),
            Err(reason) => {
                self.pending.remove(&seq);
                self.applied(seq, Some(&reason))
            }
        }
    }

    pub(super) fn give_interrupt(&mut self, seq: u64, input: Input, now: Instant) -> Effect {
        if self.is_idle(now) {
            self.pending.remove(&seq);
            return self.applied(seq, Some("there is no turn to interrupt"));
        }
        self.give(seq, input, Sent::Interrupt, protocol::interrupt(seq))
    }

    /// One more input from the controller.
    pub(in crate::supervisor) fn on_input(&mut self, input: Input, now: Instant) -> Vec<Effect> {
        let seq = input.seq;
        if self.applied.contains_key(&seq) {
            return vec![self.applied(seq, None)];
        }
        if self.phase == Phase::Ended || self.sent.contains_key(&seq) {
            return Vec::new();
        }
        if self.start.inputs.iter().all(|known| known.seq != seq) {
            self.start.inputs.push(input.clone());
        }
        self.pending.entry(seq).or_insert(input);
        self.settle(now)
    }

    /// The shim has it in claude's stdin.
    pub(in crate::supervisor) fn on_input_written(&mut self, seq: u64, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        match self.sent.remove(&seq) {
            Some((_, Sent::Answer(id))) => effects.extend(self.cleared(&id)),
            Some((_, Sent::Message)) => self.opening = None,
            Some((_, Sent::Interrupt)) | None => {}
        }
        self.last_event = now;
        effects.push(self.applied(seq, None));
        effects.extend(self.settle(now));
        effects
    }

    /// The shim did not take it. A message waits for better times; what cannot wait is void.
    pub(in crate::supervisor) fn on_input_refused(
        &mut self,
        seq: u64,
        reason: &str,
        now: Instant,
    ) -> Vec<Effect> {
        let Some((input, sent)) = self.sent.remove(&seq) else { return Vec::new() };
        match sent {
            Sent::Message => {
                self.pending.insert(seq, input);
                self.message = None;
                self.offer_after = Some(now + OFFER_AGAIN);
                Vec::new()
            }
            Sent::Answer(_) | Sent::Interrupt => vec![self.applied(seq, Some(reason))],
        }
    }
}

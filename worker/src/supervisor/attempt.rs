//! One attempt, decided: what arrives becomes effects. Sync, without I/O; the session actor gathers and performs.
//!
//! Invariants: a message is given only between turns, in order; an answer only to an open question; nothing is given
//! twice; stdin is closed only when nothing waits. Everything here is found again by replaying spool and journal.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use muster_proto::v1::{
    Answer, AttemptEnded, AttentionCleared, AttentionRaised, End, EndReason, Input, InputApplied,
    StartSession, TurnEnded, TurnStarted, Workspace, WorkspaceReady, input, session_event::Body,
};
use uuid::Uuid;

use super::{
    ending,
    phase::{Phase, Step, Trigger, Why},
};
use crate::{
    agent::{
        AgentEvent, Located,
        claude::{answer, fold::Fold, protocol},
    },
    config::Timing,
    shim::{files::Exit, protocol::ToShim},
};

/// After a journal that took nothing: when a message is offered again.
const OFFER_AGAIN: Duration = Duration::from_secs(1);
/// Linux's number of SIGTERM.
const SIGTERM: u32 = 15;

/// What the actor is to do, in order.
#[derive(Debug, PartialEq)]
pub(super) enum Effect {
    /// Tell the controller, reliably. The cursor is an output offset or 0.
    Emit(u64, Body),
    /// Tell it if there is time.
    Activity(String),
    MakeWorkspace,
    Launch,
    Order(ToShim),
    /// The shim itself does not answer any more.
    KillShim,
    /// The attempt is over; its `AttemptEnded` is among the events.
    Over,
}

/// What was sent to the shim and not confirmed.
#[derive(Debug, Clone, PartialEq)]
enum Sent {
    Message,
    Answer(String),
    Interrupt,
}

pub(super) struct Attempt {
    pub(super) start: StartSession,
    session: Uuid,
    timing: Timing,
    phase: Phase,
    phase_since: Instant,
    pub(super) fold: Fold,
    /// Offset up to which output was folded; the cursor of what is said.
    folded: u64,
    pending: BTreeMap<u64, Input>,
    sent: BTreeMap<u64, (Input, Sent)>,
    /// Inputs given (empty) or void (why), for telling a repetition.
    applied: BTreeMap<u64, String>,
    /// Messages claude said it took.
    taken: BTreeSet<String>,
    /// Ordered before claude ran.
    end_early: Option<Why>,
    /// The last message given, and whether claude took it. `None`: no message since claude was idle.
    message: Option<(String, bool)>,
    /// The last turn has a result.
    has_result: bool,
    idle_since: Option<Instant>,
    last_event: Instant,
    offer_after: Option<Instant>,
    deadline: Option<Instant>,
    detail: String,
    shim_killed: bool,
}

impl Attempt {
    /// `deadline` is the order's, on this process's clock.
    pub(super) fn new(
        start: StartSession,
        session: Uuid,
        output_start: u64,
        timing: Timing,
        now: Instant,
        deadline: Option<Instant>,
    ) -> Self {
        let pending = start.inputs.iter().map(|input| (input.seq, input.clone())).collect();
        Self {
            start,
            session,
            timing,
            phase: Phase::Preparing,
            phase_since: now,
            fold: Fold::new(output_start),
            folded: output_start,
            pending,
            sent: BTreeMap::new(),
            applied: BTreeMap::new(),
            taken: BTreeSet::new(),
            end_early: None,
            message: None,
            has_result: false,
            idle_since: None,
            last_event: now,
            offer_after: None,
            deadline,
            detail: String::new(),
            shim_killed: false,
        }
    }

    /// Highest input such that it and all before it in this attempt are applied or void.
    pub(super) fn last_input(&self) -> u64 {
        let first = self.start.inputs.iter().map(|input| input.seq).min().unwrap_or(1);
        let mut last = first.saturating_sub(1);
        while self.applied.contains_key(&(last + 1)) {
            last += 1;
        }
        last
    }

    fn go(&mut self, trigger: Trigger, now: Instant) -> bool {
        let Some(next) = self.phase.transition(trigger) else { return false };
        self.phase = next;
        self.phase_since = now;
        true
    }

    fn emit(&self, body: Body) -> Effect {
        Effect::Emit(self.folded, body)
    }

    /// The workspace stands, or cannot be made.
    pub(super) fn on_workspace(&mut self, made: Result<Workspace, String>, now: Instant) -> Vec<Effect> {
        if self.phase != Phase::Preparing {
            return Vec::new();
        }
        let workspace = match made {
            Ok(workspace) => workspace,
            Err(reason) => {
                return self.over(ending::without_process(EndReason::WorkspaceFailed, reason), now);
            }
        };
        let mut effects =
            vec![self.emit(Body::WorkspaceReady(WorkspaceReady { workspace: Some(workspace) }))];
        if let Some(why) = self.end_early {
            effects.extend(self.over(self.early_end(why), now));
        } else {
            self.go(Trigger::WorkspaceReady, now);
            effects.push(Effect::Launch);
        }
        effects
    }

    fn early_end(&self, why: Why) -> End {
        match why {
            Why::TimedOut => ending::without_process(EndReason::TimedOut, &*self.detail),
            _ => ending::without_process(EndReason::Stopped, "stopped on request before claude ran"),
        }
    }

    /// An attempt found on disk whose workspace stands already.
    pub(super) fn skip_to_launch(&mut self, now: Instant) {
        self.go(Trigger::WorkspaceReady, now);
    }

    /// claude could not be started.
    pub(super) fn on_launch_failed(&mut self, reason: String, now: Instant) -> Vec<Effect> {
        match self.end_early {
            Some(why) => self.over(self.early_end(why), now),
            None => self.over(ending::without_process(EndReason::StartFailed, reason), now),
        }
    }

    /// The shim answers, for the first time or again. `journal` is what claude was given before.
    pub(super) fn on_shim_up(&mut self, journal: &[u64], now: Instant) -> Vec<Effect> {
        let mut effects = self.on_journal(journal);
        self.last_event = now;
        let first = self.go(Trigger::ShimUp, now);
        match (self.phase, self.end_early) {
            (Phase::Working, Some(why)) if first => effects.extend(self.end(why, now)),
            (Phase::Working, _) => {
                // What an earlier connection lost on the way is offered again; the shim knows what it has.
                for (seq, (input, sent)) in std::mem::take(&mut self.sent) {
                    self.pending.insert(seq, input);
                    if sent == Sent::Message {
                        self.message = None;
                    }
                }
                effects.extend(self.settle(now));
            }
            (Phase::Ending(..), _) => effects.extend(self.take_step()),
            _ => {}
        }
        effects
    }

    /// These inputs are in claude's stdin.
    fn on_journal(&mut self, journal: &[u64]) -> Vec<Effect> {
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
                }
                Some(input::Body::Answer(answer)) => effects.extend(self.cleared(&answer.attention_id)),
                Some(input::Body::Interrupt(_)) | None => {}
            }
            effects.push(self.applied(*seq, None));
        }
        effects
    }

    fn cleared(&mut self, attention_id: &str) -> Option<Effect> {
        match self.fold.answered(attention_id)? {
            AgentEvent::AttentionCleared { attention_id } => {
                Some(self.emit(Body::AttentionCleared(AttentionCleared { attention_id })))
            }
            _ => None,
        }
    }

    /// Says what became of an input: `reason` why it was not given.
    fn applied(&mut self, seq: u64, reason: Option<&str>) -> Effect {
        let reason = self.applied.entry(seq).or_insert_with(|| reason.unwrap_or_default().to_owned()).clone();
        self.emit(Body::InputApplied(InputApplied { seq, delivered: reason.is_empty(), reason }))
    }

    /// More output. `said`: the cursor of the outbox; what was derived before it is not said again.
    pub(super) fn on_output(&mut self, located: Vec<Located>, said: u64, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        for Located { line_end, event } in located {
            self.folded = self.folded.max(line_end);
            self.last_event = now;
            let is_new = line_end > said;
            let idle = event == AgentEvent::Idle;
            let effect = self.on_event(event, is_new);
            effects.extend(effect.filter(|_| is_new));
            if idle {
                effects.extend(self.on_idle(now));
            }
        }
        effects.extend(self.settle(now));
        effects
    }

    fn on_event(&mut self, event: AgentEvent, is_new: bool) -> Option<Effect> {
        match event {
            AgentEvent::TurnStarted { version, permission_mode } => {
                self.idle_since = None;
                self.has_result = false;
                Some(self.emit(Body::TurnStarted(TurnStarted { claude_version: version, permission_mode })))
            }
            AgentEvent::AttentionRaised(mut attention) => {
                attention.since = Some(muster_proto::time::now());
                Some(self.emit(Body::AttentionRaised(AttentionRaised { attention: Some(attention) })))
            }
            AgentEvent::AttentionCleared { attention_id } => {
                Some(self.emit(Body::AttentionCleared(AttentionCleared { attention_id })))
            }
            AgentEvent::MessageTaken { uuid } => {
                self.has_result = false;
                if let Some((last, taken)) = &mut self.message {
                    *taken |= *last == uuid;
                }
                self.taken.insert(uuid);
                None
            }
            AgentEvent::TurnEnded(turn) => {
                self.has_result = true;
                Some(self.emit(Body::TurnEnded(TurnEnded {
                    attempt_usage: Some(turn.usage),
                    is_error: turn.is_error,
                    result_text: turn.text,
                    api_error_status: turn.api_error_status,
                })))
            }
            AgentEvent::Activity(text) => Some(Effect::Activity(text)),
            AgentEvent::Decline(bytes) if is_new => Some(Effect::Order(ToShim::Input { seq: 0, bytes })),
            AgentEvent::Decline(_) | AgentEvent::Idle => None,
        }
    }

    fn on_idle(&mut self, now: Instant) -> Vec<Effect> {
        self.idle_since = Some(now);
        match self.phase {
            Phase::Working => self.settle(now),
            // What an interrupt was for is done.
            Phase::Ending(_, Step::Interrupt) => self.escalate(now),
            _ => Vec::new(),
        }
    }

    /// Whether claude surely has nothing to do. Right after a message it may still say `idle` about the turn before.
    fn is_idle(&self, now: Instant) -> bool {
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
    fn settle(&mut self, now: Instant) -> Vec<Effect> {
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

    fn give(&mut self, seq: u64, input: Input, sent: Sent, bytes: Vec<u8>) -> Effect {
        self.pending.remove(&seq);
        self.sent.insert(seq, (input, sent));
        Effect::Order(ToShim::Input { seq, bytes })
    }

    fn give_message(&mut self, seq: u64, input: Input, text: &str) -> Effect {
        let uuid = protocol::message_uuid(&self.session, seq).to_string();
        self.message = Some((uuid, false));
        self.idle_since = None;
        self.has_result = false;
        self.give(seq, input, Sent::Message, protocol::message(&self.session, seq, text))
    }

    fn give_answer(&mut self, seq: u64, input: Input, answer: &Answer) -> Effect {
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

    fn give_interrupt(&mut self, seq: u64, input: Input, now: Instant) -> Effect {
        if self.is_idle(now) {
            self.pending.remove(&seq);
            return self.applied(seq, Some("there is no turn to interrupt"));
        }
        self.give(seq, input, Sent::Interrupt, protocol::interrupt(seq))
    }

    /// One more input from the controller.
    pub(super) fn on_input(&mut self, input: Input, now: Instant) -> Vec<Effect> {
        let seq = input.seq;
        if self.applied.contains_key(&seq) {
            return vec![self.applied(seq, None)];
        }
        if self.phase == Phase::Ended || self.sent.contains_key(&seq) {
            return Vec::new();
        }
        self.pending.entry(seq).or_insert(input);
        self.settle(now)
    }

    /// The shim has it in claude's stdin.
    pub(super) fn on_input_written(&mut self, seq: u64, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        if let Some((_, Sent::Answer(id))) = self.sent.remove(&seq) {
            effects.extend(self.cleared(&id));
        }
        self.last_event = now;
        effects.push(self.applied(seq, None));
        effects.extend(self.settle(now));
        effects
    }

    /// The shim did not take it. A message waits for better times; what cannot wait is void.
    pub(super) fn on_input_refused(&mut self, seq: u64, reason: &str, now: Instant) -> Vec<Effect> {
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

    /// Ordered to end.
    pub(super) fn on_stop(&mut self, now: Instant) -> Vec<Effect> {
        self.end_or_remember(Why::Stop, now)
    }

    fn end_or_remember(&mut self, why: Why, now: Instant) -> Vec<Effect> {
        if matches!(self.phase, Phase::Preparing | Phase::Launching) {
            self.end_early.get_or_insert(why);
            return Vec::new();
        }
        self.end(why, now)
    }

    fn end(&mut self, why: Why, now: Instant) -> Vec<Effect> {
        let works = self.fold.is_running() || self.message.is_some() && !self.is_idle(now);
        let first = if why == Why::Finish || !works { Step::Close } else { Step::Interrupt };
        if !self.go(Trigger::End(why, first), now) {
            return Vec::new();
        }
        self.take_step()
    }

    fn escalate(&mut self, now: Instant) -> Vec<Effect> {
        if self.go(Trigger::Escalate, now) { self.take_step() } else { Vec::new() }
    }

    fn take_step(&mut self) -> Vec<Effect> {
        let Phase::Ending(_, step) = self.phase else { return Vec::new() };
        let order = match step {
            Step::Interrupt => ToShim::Input { seq: 0, bytes: protocol::interrupt(0) },
            Step::Close => ToShim::CloseStdin,
            Step::Terminate => ToShim::Signal(SIGTERM),
            Step::Kill => ToShim::KillTree,
        };
        vec![Effect::Order(order)]
    }

    fn grace(&self, why: Why, step: Step) -> Duration {
        match (why, step) {
            (Why::Finish, Step::Close) => self.timing.exit_grace,
            (_, Step::Interrupt) => self.timing.interrupt_grace,
            (_, Step::Close) => self.timing.close_grace,
            (_, Step::Terminate) => self.timing.term_grace,
            (_, Step::Kill) => self.timing.kill_grace,
        }
    }

    /// When [`Self::on_tick`] is due next.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        let deadline = self.deadline.filter(|_| self.end_early.is_none());
        match self.phase {
            Phase::Ended => None,
            Phase::Ending(why, step) => Some(self.phase_since + self.grace(why, step)),
            Phase::Preparing | Phase::Launching => deadline,
            Phase::Working => {
                let settle = self.idle_since.map(|since| since + self.timing.settle);
                let settle = settle.filter(|_| self.message.as_ref().is_some_and(|(_, taken)| !taken));
                let silence = self.is_watched().then(|| self.last_event + self.timing.silence);
                [deadline, settle, silence, self.offer_after].into_iter().flatten().min()
            }
        }
    }

    /// Whether silence means that claude hangs.
    fn is_watched(&self) -> bool {
        !self.fold.waits_for_answer() && !self.fold.runs_tool()
    }

    /// Time passed.
    pub(super) fn on_tick(&mut self, now: Instant) -> Vec<Effect> {
        if let Phase::Ending(why, step) = self.phase {
            if now < self.phase_since + self.grace(why, step) {
                return Vec::new();
            }
            if step == Step::Kill {
                self.phase_since = now;
                return if std::mem::replace(&mut self.shim_killed, true) {
                    Vec::new()
                } else {
                    vec![Effect::KillShim]
                };
            }
            return self.escalate(now);
        }
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            let minutes = self.start.spec.as_ref().map(|spec| spec.timeout_minutes).unwrap_or_default();
            self.detail = format!("the session ran longer than its {minutes} minutes");
            self.deadline = None;
            return self.end_or_remember(Why::TimedOut, now);
        }
        if self.phase != Phase::Working {
            return Vec::new();
        }
        let effects = self.settle(now);
        if effects.is_empty() && self.is_watched() && now >= self.last_event + self.timing.silence {
            self.detail =
                format!("claude said nothing for {} s while it worked", self.timing.silence.as_secs());
            return self.end(Why::Hung, now);
        }
        effects
    }

    /// Nothing of it runs any more; all its output is folded. `exit`: `None` when the shim is lost. `journal`: what
    /// claude was given.
    pub(super) fn on_gone(
        &mut self,
        exit: Option<&Exit>,
        journal: &[u64],
        stderr: &str,
        now: Instant,
    ) -> Vec<Effect> {
        let mut effects = self.on_journal(journal);
        let why = match self.phase {
            Phase::Ending(why, _) => Some(why),
            _ => self.end_early,
        };
        let end = ending::of(&ending::Known {
            exit,
            why,
            // Closing stdin may cut short what claude began by itself; its work for us was done.
            result: self.fold.last_result().filter(|_| self.has_result || why == Some(Why::Finish)),
            spoke: self.fold.has_spoken(),
            stderr,
            detail: &self.detail,
        });
        effects.extend(self.over(end, now));
        effects
    }

    fn over(&mut self, end: End, now: Instant) -> Vec<Effect> {
        if !self.go(Trigger::Gone, now) {
            return Vec::new();
        }
        let mut effects = Vec::new();
        // Messages stay with the controller, which queues the session again; the rest has lost its meaning.
        let sent = std::mem::take(&mut self.sent).into_values().map(|(input, _)| input);
        let void = std::mem::take(&mut self.pending).into_values().chain(sent.collect::<Vec<_>>());
        for input in void.filter(|input| !matches!(input.body, Some(input::Body::Message(_)))) {
            effects.push(self.applied(input.seq, Some("the attempt ended first")));
        }
        for event in self.fold.close_all() {
            if let AgentEvent::AttentionCleared { attention_id } = event {
                effects.push(self.emit(Body::AttentionCleared(AttentionCleared { attention_id })));
            }
        }
        let text = self.fold.last_result().map(|result| result.text.clone()).unwrap_or_default();
        effects.push(self.emit(Body::AttemptEnded(AttemptEnded {
            end: Some(end),
            spool_end_offset: 0, // the actor fills in what the spool holds
            resumable: false,    // and whether a conversation exists
            attempt_usage: Some(*self.fold.usage()),
            result_text: text,
        })));
        effects.push(Effect::Over);
        effects
    }
}

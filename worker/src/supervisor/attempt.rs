//! One attempt, decided: what arrives becomes effects. Sync, without I/O; the session actor gathers and performs.
//!
//! Invariants: a message is given only between turns, in order; an answer only to an open question; nothing is given
//! twice; stdin is closed only when nothing waits. Everything here is found again by replaying spool and journal.

mod clock;
mod inputs;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use muster_proto::v1::{
    AttemptEnded, AttentionCleared, AttentionRaised, End, EndReason, Input, StartSession, TurnEnded,
    TurnStarted, Usage, Workspace, WorkspaceReady, input, session_event::Body,
};
use uuid::Uuid;

use super::{
    ending,
    phase::{Phase, Step, Trigger, Why},
};
use crate::{
    agent::{
        AgentEvent, Located,
        claude::fold::{Fold, is_no_conversation},
    },
    config::Timing,
    shim::{files::Exit, protocol::ToShim},
};

/// What the actor is to do, in order.
#[derive(Debug, PartialEq)]
pub(super) enum Effect {
    /// Tell the controller, reliably. The cursor is an output offset or 0.
    Emit(u64, Body),
    /// Tell it if there is time.
    Activity(String),
    /// Make the workspace, once it is this session's turn.
    Begin,
    Launch,
    Order(ToShim),
    /// The shim itself does not answer any more.
    KillShim,
    /// A fetch or a set-up command that runs is not waited for.
    EndSetup,
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
    /// It has not begun, and nothing of it is under way: it waits for its turn or for room on the disk.
    waits: bool,
    /// What the first message begins with: the prompt, for a conversation that is begun again without it being among
    /// the inputs.
    opening: Option<String>,
}

impl Attempt {
    /// `deadline` is the order's, on this process's clock.
    pub(super) fn new(
        start: StartSession,
        session: Uuid,
        output_start: u64,
        earlier: Usage,
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
            fold: Fold::new(output_start, earlier),
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
            waits: false,
            opening: None,
        }
    }

    /// claude has no conversation to go on with, so it is given the prompt again, with the first message.
    pub(super) fn open_anew(&mut self) {
        if self.start.inputs.iter().all(|input| input.seq > 1) {
            self.opening = self.start.spec.as_ref().map(|spec| spec.prompt.clone());
        }
    }

    /// Whether it ended only because there was nothing to resume, and nobody wanted it to end.
    pub(super) fn is_to_begin_anew(&self) -> bool {
        let unwanted = match self.phase {
            Phase::Ending(why, _) => why != Why::Finish,
            Phase::Ended => true,
            // Found on disk, it is in none of its phases yet.
            Phase::Preparing | Phase::Launching | Phase::Working => false,
        };
        !unwanted && self.end_early.is_none() && self.fold.found_no_conversation()
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

    /// It waits before it begins: for its turn, or for room. Whatever ends it ends it at once then.
    pub(super) fn on_wait(&mut self, now: Instant) -> Vec<Effect> {
        self.waits = true;
        self.end_early.map_or_else(Vec::new, |why| self.over(self.early_end(why), now))
    }

    /// It waits no more.
    pub(super) const fn on_turn(&mut self) {
        self.waits = false;
    }

    /// Whether its workspace is still to be made.
    pub(super) fn is_preparing(&self) -> bool {
        self.phase == Phase::Preparing
    }

    /// The workspace stands, or cannot be made and why.
    pub(super) fn on_workspace(
        &mut self,
        made: Result<Workspace, (EndReason, String)>,
        now: Instant,
    ) -> Vec<Effect> {
        if self.phase != Phase::Preparing {
            return Vec::new();
        }
        let workspace = match made {
            Ok(workspace) => workspace,
            Err((reason, text)) => {
                let end = match self.end_early {
                    Some(why) => self.early_end(why),
                    None => ending::without_process(reason, text),
                };
                return self.over(end, now);
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

    pub(super) fn early_end(&self, why: Why) -> End {
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

    /// The project's set-up command did not succeed.
    pub(super) fn on_setup_failed(&mut self, reason: &str, now: Instant) -> Vec<Effect> {
        let end = match self.end_early {
            Some(why) => self.early_end(why),
            None => {
                let text = format!("the set-up command of the project failed: {reason}");
                ending::without_process(EndReason::SetupFailed, text)
            }
        };
        self.over(end, now)
    }

    /// Its lease was over before claude began.
    pub(super) fn on_lapsed(&mut self, now: Instant) -> Vec<Effect> {
        let end = match self.end_early {
            Some(why) => self.early_end(why),
            None => ending::without_process(EndReason::LeaseLapsed, ending::LEASE_LAPSED),
        };
        self.over(end, now)
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
            // No turn: the session begins anew.
            AgentEvent::TurnEnded(turn) if is_no_conversation(&turn) => None,
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

    pub(super) fn over(&mut self, end: End, now: Instant) -> Vec<Effect> {
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

#[cfg(test)]
mod tests;

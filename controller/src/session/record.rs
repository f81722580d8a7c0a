//! What is kept of a session: the durable record, and the little that may be forgotten.
//!
//! Owns the stored messages (fields are added, numbers never reused) and the in-memory [`Session`] the engine
//! works on. Invariant: the phase changes through [`Session::happens`] only.

use std::{collections::BTreeMap, sync::Arc};

use muster_proto::{
    ids::{Attempt, SessionId, WorkerId},
    v1::{self, Attention, End, Input, ProjectPolicy, SessionSpec, Usage, Workspace, input},
};
use prost_types::Timestamp;

use super::phase::{Event, Illegal, Phase};

/// Answers remembered, so that a late one can be told what was answered. Older ones are told that it is gone.
const ANSWERED: usize = 64;

/// The caller that everybody on the controller's own machine is who does not say otherwise.
pub const LOCAL: &str = "local";

/// What never changes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Fixed {
    /// Readable name.
    #[prost(string, tag = "1")]
    pub handle: String,
    /// As checked; the project is filled in. The prompt is input 1.
    #[prost(message, optional, tag = "2")]
    pub spec: Option<SessionSpec>,
    /// When it was accepted.
    #[prost(message, optional, tag = "3")]
    pub created_at: Option<Timestamp>,
    /// Of the spawn; empty when it had none.
    #[prost(string, tag = "4")]
    pub request_id: String,
    /// The project as the caller wrote it: what a repeated request is compared with.
    #[prost(string, tag = "5")]
    pub asked_project: String,
    /// Trace context of the spawn.
    #[prost(string, tag = "6")]
    pub traceparent: String,
    /// Who spawned it; empty in records of the first builds.
    #[prost(string, tag = "7")]
    pub caller: String,
    /// The spec as the caller wrote it, without its prompt, where what was accepted differs in more than the project.
    #[prost(message, optional, tag = "8")]
    pub asked: Option<SessionSpec>,
    /// Ids of the sessions above it, the root first.
    #[prost(string, repeated, tag = "9")]
    pub ancestors: Vec<String>,
    /// The policy of the declared project when it was accepted; none: the project was the workers' own.
    #[prost(message, optional, tag = "10")]
    pub policy: Option<ProjectPolicy>,
}

/// An attention that was answered.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Answered {
    /// Which.
    #[prost(string, tag = "1")]
    pub attention_id: String,
    /// What was answered, in a few words.
    #[prost(string, tag = "2")]
    pub what: String,
}

/// All that changes and is small.
#[derive(Clone, PartialEq, prost::Message)]
pub struct State {
    #[prost(enumeration = "Phase", tag = "1")]
    phase: i32,
    /// Placement number.
    #[prost(uint32, tag = "2")]
    pub attempt: u32,
    #[prost(string, tag = "3")]
    worker: String,
    /// Where it works, once there is one.
    #[prost(message, optional, tag = "4")]
    pub workspace: Option<Workspace>,
    /// Questions without an answer, oldest first.
    #[prost(message, repeated, tag = "5")]
    pub open: Vec<Attention>,
    /// The last questions that were answered.
    #[prost(message, repeated, tag = "6")]
    pub answered: Vec<Answered>,
    /// Number of the last input.
    #[prost(uint64, tag = "7")]
    pub last_input: u64,
    /// Whether input 1, the prompt, waits to be given.
    #[prost(bool, tag = "8")]
    pub prompt_pending: bool,
    /// Usage of the attempts before this one.
    #[prost(message, optional, tag = "9")]
    pub usage_before: Option<Usage>,
    /// Usage of this attempt.
    #[prost(message, optional, tag = "10")]
    pub usage_now: Option<Usage>,
    /// How it ended, while it has.
    #[prost(message, optional, tag = "11")]
    pub end: Option<End>,
    /// What the caller who stopped it said.
    #[prost(string, tag = "12")]
    pub stop_reason: String,
    /// Hidden from lists; takes no more input.
    #[prost(bool, tag = "13")]
    pub archived: bool,
    /// Last change of phase.
    #[prost(message, optional, tag = "14")]
    pub changed_at: Option<Timestamp>,
    /// When it ended, while it has.
    #[prost(message, optional, tag = "15")]
    pub ended_at: Option<Timestamp>,
    /// Place in the queue, while it is queued: grows over all sessions.
    #[prost(uint64, tag = "16")]
    pub queue_ticket: u64,
    /// Attempt of the last event applied.
    #[prost(uint32, tag = "17")]
    pub event_attempt: u32,
    /// Number of the last event applied.
    #[prost(uint64, tag = "18")]
    pub event_seq: u64,
    /// The worker reported that this attempt exists.
    #[prost(bool, tag = "19")]
    pub seen: bool,
    /// There is a conversation that can be resumed.
    #[prost(bool, tag = "20")]
    pub conversation: bool,
    /// An input was given to claude in this attempt.
    #[prost(bool, tag = "21")]
    pub progressed: bool,
    /// When it times out; fixed at the first placement.
    #[prost(message, optional, tag = "22")]
    pub deadline: Option<Timestamp>,
    /// Where the output of the ended attempt ends.
    #[prost(uint64, tag = "23")]
    pub output_complete_at: u64,
    /// As the worker reported it.
    #[prost(string, tag = "24")]
    pub claude_version: String,
    /// As the worker reported it.
    #[prost(string, tag = "25")]
    pub permission_mode: String,
    /// When claude last did something that was recorded.
    #[prost(message, optional, tag = "26")]
    pub activity_at: Option<Timestamp>,
    /// How often it was interrupted and queued again by itself.
    #[prost(uint32, tag = "27")]
    pub interruptions: u32,
    /// Of these, how often it was lost since a turn ended or a caller asked for more.
    #[prost(uint32, tag = "28")]
    pub lost_in_a_row: u32,
    /// Of these, how often it stalled since then.
    #[prost(uint32, tag = "29")]
    pub hung_in_a_row: u32,
    /// Number of the input that last told claude of an interruption; 0: none.
    #[prost(uint64, tag = "30")]
    pub note: u64,
    /// When it was archived; none in records of the first build.
    #[prost(message, optional, tag = "31")]
    pub archived_at: Option<Timestamp>,
    /// Boot of its machine when it was last placed or the machine came back; empty: not known.
    #[prost(string, tag = "32")]
    pub boot: String,
    /// How often its machine went down while it ran, since a turn ended or a caller asked for more.
    #[prost(uint32, tag = "33")]
    pub crashes_in_a_row: u32,
}

/// A request id that was used for an input of this session.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Request {
    /// Of the input, see [`super::input::digest`].
    #[prost(uint64, tag = "1")]
    pub digest: u64,
    /// `muster.v1.Delivery` that was answered.
    #[prost(enumeration = "v1::Delivery", tag = "2")]
    pub delivery: i32,
}

/// A session in memory. Cloned to be changed, installed once the change is durable: the large parts are
/// shared.
#[derive(Debug, Clone)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// What never changes.
    pub fixed: Arc<Fixed>,
    /// What does.
    pub state: State,
    /// Inputs that are not applied, by number.
    pub inputs: BTreeMap<u64, Arc<Input>>,
    /// Request ids used for inputs.
    pub requests: Arc<BTreeMap<String, Request>>,
    /// Text of the last result.
    pub result: Arc<str>,
    /// What claude does, in a line, and when. Not kept over a restart.
    pub activity: Option<(Timestamp, Arc<str>)>,
    /// What keeps it from going on, as the worker says. Not kept over a restart.
    pub blocked: Arc<str>,
    /// Grows with every change.
    pub revision: u64,
}

impl State {
    /// Whether the stored phase is one this build knows.
    pub(super) fn phase_is_known(&self) -> bool {
        Phase::try_from(self.phase).is_ok()
    }
}

impl Session {
    /// A new one, queued with its prompt as input 1.
    #[must_use]
    pub fn new(id: SessionId, fixed: Fixed, queue_ticket: u64) -> Self {
        let state = State {
            phase: Phase::Queued.into(),
            last_input: 1,
            prompt_pending: true,
            queue_ticket,
            changed_at: fixed.created_at,
            ..State::default()
        };
        let mut session = Self {
            id,
            fixed: Arc::new(fixed),
            state,
            inputs: BTreeMap::new(),
            requests: Arc::default(),
            result: Arc::from(""),
            activity: None,
            blocked: Arc::from(""),
            revision: 0,
        };
        session.inputs.insert(1, session.prompt());
        session
    }

    /// Input 1.
    pub(super) fn prompt(&self) -> Arc<Input> {
        let body = input::Body::Message(self.spec().prompt.clone());
        Arc::new(Input { seq: 1, body: Some(body) })
    }

    /// What was asked for.
    ///
    /// # Panics
    /// Never: a session is made and loaded with a spec only.
    #[must_use]
    pub fn spec(&self) -> &SessionSpec {
        self.fixed.spec.as_ref().expect("a session is made and loaded with a spec only")
    }

    /// Where in its life it is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.state.phase()
    }

    /// The current placement.
    #[must_use]
    pub const fn attempt(&self) -> Attempt {
        Attempt(self.state.attempt)
    }

    /// Worker of the current or last attempt.
    #[must_use]
    pub fn worker(&self) -> Option<WorkerId> {
        self.state.worker.parse().ok()
    }

    /// Who spawned it. The first builds knew one caller only.
    #[must_use]
    pub fn caller(&self) -> &str {
        if self.fixed.caller.is_empty() { LOCAL } else { &self.fixed.caller }
    }

    /// The sessions above it, the root first.
    #[must_use]
    pub fn ancestors(&self) -> Vec<SessionId> {
        self.fixed.ancestors.iter().filter_map(|id| id.parse().ok()).collect()
    }

    /// Whether `root` spawned it, or something that did.
    #[must_use]
    pub fn is_below(&self, root: SessionId) -> bool {
        !self.fixed.ancestors.is_empty() && self.ancestors().contains(&root)
    }

    /// What its spawn is known by: request ids are the caller's own.
    #[must_use]
    pub fn request(&self) -> (String, String) {
        (self.caller().to_owned(), self.fixed.request_id.clone())
    }

    /// Whether `worker` holds or held its last attempt.
    #[must_use]
    pub fn is_on(&self, worker: &WorkerId) -> bool {
        self.state.worker == worker.as_str()
    }

    /// Moves it through its life.
    ///
    /// # Errors
    /// [`Illegal`]; nothing is changed then.
    pub fn happens(&mut self, event: Event, at: Timestamp) -> Result<(), Illegal> {
        let before = self.phase();
        let after = before.transition(event)?;
        if before == after {
            return Ok(());
        }
        self.state.phase = after.into();
        self.state.changed_at = Some(at);
        self.state.ended_at = after.has_ended().then_some(at);
        if !after.has_ended() {
            self.state.end = None;
        }
        Ok(())
    }

    /// Begins the next attempt on `worker`.
    ///
    /// # Errors
    /// [`Illegal`] when it is not queued.
    pub fn place(&mut self, worker: &WorkerId, at: Timestamp) -> Result<(), Illegal> {
        self.happens(Event::Place, at)?;
        let minutes = i64::from(self.spec().timeout_minutes);
        let usage = self.usage();
        let state = &mut self.state;
        state.attempt += 1;
        state.worker = worker.as_str().to_owned();
        state.usage_before = Some(usage);
        state.usage_now = None;
        state.seen = false;
        state.progressed = false;
        state.queue_ticket = 0;
        if minutes > 0 && state.deadline.is_none() {
            state.deadline = Some(Timestamp { seconds: at.seconds + minutes * 60, nanos: at.nanos });
        }
        Ok(())
    }

    /// Sums over all attempts.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let before = self.state.usage_before.unwrap_or_default();
        let now = self.state.usage_now.unwrap_or_default();
        Usage {
            turns: before.turns + now.turns,
            input_tokens: before.input_tokens + now.input_tokens,
            output_tokens: before.output_tokens + now.output_tokens,
            cache_read_tokens: before.cache_read_tokens + now.cache_read_tokens,
            cache_creation_tokens: before.cache_creation_tokens + now.cache_creation_tokens,
            cost_usd: before.cost_usd + now.cost_usd,
        }
    }

    /// Numbers `body` and keeps it until it is applied.
    pub fn add_input(&mut self, body: input::Body) -> Arc<Input> {
        self.state.last_input += 1;
        let input = Arc::new(Input { seq: self.state.last_input, body: Some(body) });
        self.inputs.insert(input.seq, Arc::clone(&input));
        input
    }

    /// Forgets an input: it was applied, or it is void.
    pub fn drop_input(&mut self, seq: u64) {
        self.inputs.remove(&seq);
        if seq == 1 {
            self.state.prompt_pending = false;
        }
    }

    /// Inputs that are messages.
    pub fn messages(&self) -> impl Iterator<Item = &Arc<Input>> {
        self.inputs.values().filter(|input| matches!(input.body, Some(input::Body::Message(_))))
    }

    /// Remembers that an attention was answered, and closes it.
    pub fn answer(&mut self, attention_id: &str, what: String) {
        self.state.open.retain(|attention| attention.attention_id != attention_id);
        if self.state.answered.len() >= ANSWERED {
            self.state.answered.remove(0);
        }
        self.state.answered.push(Answered { attention_id: attention_id.to_owned(), what });
    }

    /// Whether claude can go on with it, and if not, why.
    ///
    /// # Errors
    /// The reason, in words.
    pub fn can_go_on(&self, now: Timestamp) -> Result<(), &'static str> {
        let past = |deadline: Timestamp| (deadline.seconds, deadline.nanos) <= (now.seconds, now.nanos);
        if self.state.archived {
            Err("it is archived")
        } else if matches!(self.phase(), Phase::Stopping | Phase::Stopped) {
            Err("it was stopped")
        } else if self.state.deadline.is_some_and(past) {
            Err("its timeout has passed")
        } else {
            Ok(())
        }
    }
}

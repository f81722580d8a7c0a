//! claude's output, folded: which turn runs, what it waits on, what it cost.
//!
//! Pure and total: the same bytes give the same events, however they are cut. The session actor feeds it as the spool
//! grows and again from the attempt's first byte after a restart of the worker.
//!
//! A turn is over at `session_state_changed: idle`, not at `result`: background tasks and queued messages start more
//! turns by themselves. A claude without that event is idle at its result.

use std::collections::{BTreeMap, BTreeSet};

use muster_proto::{
    limits::{ACTIVITY_CHARS, RESULT_TEXT_BYTES},
    v1::Usage,
};
use serde_json::Value;

use super::{
    answer::OpenRequest,
    attention,
    lines::{Line, Lines},
    protocol::{self, ApiRetry, Block, Incoming, ResultLine},
};
use crate::agent::{AgentEvent, Located, TurnResult};

/// State of one claude process, as its output tells it.
#[derive(Debug)]
pub struct Fold {
    lines: Lines,
    open: BTreeMap<String, OpenRequest>,
    tools: BTreeSet<String>,
    version: String,
    permission_mode: String,
    /// Between `running` and `idle`.
    running: bool,
    /// `TurnStarted` was said for this turn.
    announced: bool,
    interrupted: bool,
    tells_state: bool,
    spoke: bool,
    began: bool,
    /// What claude said at the end of the attempt before.
    earlier: Usage,
    /// What of claude's sums belongs to earlier attempts; known from the first result on.
    baseline: Option<Usage>,
    /// claude's sums as it says them.
    raw: Usage,
    usage: Usage,
    last_result: Option<TurnResult>,
}

/// What claude says about a `--resume` of nothing, right after its start and before it takes a message.
pub fn is_no_conversation(result: &TurnResult) -> bool {
    result.is_error && result.text.contains("No conversation found with session ID")
}

impl Fold {
    /// For a process whose first byte has this offset in the session's output. `earlier`: [`Self::raw_usage`] of the
    /// process before it in the same conversation.
    #[must_use]
    pub fn new(offset: u64, earlier: Usage) -> Self {
        Self {
            lines: Lines::new(offset),
            open: BTreeMap::new(),
            tools: BTreeSet::new(),
            version: String::new(),
            permission_mode: String::new(),
            running: false,
            announced: false,
            interrupted: false,
            tells_state: false,
            spoke: false,
            began: false,
            earlier,
            baseline: None,
            raw: Usage::default(),
            usage: Usage::default(),
            last_result: None,
        }
    }

    /// The question with this attention id, while it is open.
    #[must_use]
    pub fn open_request(&self, attention_id: &str) -> Option<&OpenRequest> {
        self.open.values().find(|open| open.attention_id == attention_id)
    }

    /// Whether any question is open.
    #[must_use]
    pub fn waits_for_answer(&self) -> bool {
        !self.open.is_empty()
    }

    /// Whether a turn runs.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        self.running
    }

    /// Whether a tool runs: then silence means nothing.
    #[must_use]
    pub fn runs_tool(&self) -> bool {
        !self.tools.is_empty()
    }

    /// Whether it has printed anything in its protocol.
    #[must_use]
    pub const fn has_spoken(&self) -> bool {
        self.spoke
    }

    /// Whether a conversation exists that can be resumed.
    #[must_use]
    pub const fn has_begun(&self) -> bool {
        self.began
    }

    /// Whether it was to go on with a conversation it knows nothing of: it never wrote one down.
    #[must_use]
    pub fn found_no_conversation(&self) -> bool {
        self.last_result.as_ref().is_some_and(is_no_conversation)
    }

    /// Sums so far.
    #[must_use]
    pub const fn usage(&self) -> &Usage {
        &self.usage
    }

    /// claude's own sums, for the next process of this conversation.
    #[must_use]
    pub const fn raw_usage(&self) -> &Usage {
        &self.raw
    }

    /// The last result, if there was one.
    #[must_use]
    pub const fn last_result(&self) -> Option<&TurnResult> {
        self.last_result.as_ref()
    }

    /// The mode claude is in; empty before its first turn.
    #[must_use]
    pub fn permission_mode(&self) -> &str {
        &self.permission_mode
    }

    /// An answer to this question is in claude's stdin.
    pub fn answered(&mut self, attention_id: &str) -> Option<AgentEvent> {
        let request_id = self.open_request(attention_id)?.request_id.clone();
        self.close(&request_id)
    }

    /// Every question still open; the process is gone.
    pub fn close_all(&mut self) -> Vec<AgentEvent> {
        let cleared = |open: OpenRequest| AgentEvent::AttentionCleared { attention_id: open.attention_id };
        std::mem::take(&mut self.open).into_values().map(cleared).collect()
    }

    /// Feeds output that follows what was fed before.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Located> {
        let mut located = Vec::new();
        for line in self.lines.push(bytes) {
            let line_end = line.end;
            located.extend(self.line(&line).into_iter().map(|event| Located { line_end, event }));
        }
        located
    }

    fn line(&mut self, line: &Line) -> Vec<AgentEvent> {
        let Some(bytes) = &line.bytes else { return vec![AgentEvent::Activity("a line past 64 MiB".into())] };
        let incoming = protocol::parse(bytes);
        if matches!(incoming, Incoming::NotJson) {
            return Vec::new();
        }
        self.spoke = true;
        let mut events = Vec::new();
        match incoming {
            Incoming::State(state) => self.on_state(&state, &mut events),
            Incoming::Init(init) => {
                self.began = true;
                self.version = init.claude_code_version;
                self.permission_mode = init.permission_mode;
                self.announce(&mut events);
            }
            Incoming::Status(status) => {
                if let Some(mode) = status.permission_mode {
                    self.permission_mode = mode;
                    events.push(AgentEvent::Activity(format!("permission mode {}", self.permission_mode)));
                } else if status.status.as_deref() == Some("compacting") {
                    events.push(AgentEvent::Activity("compacting the conversation".to_owned()));
                }
            }
            Incoming::ApiRetry(retry) => events.push(AgentEvent::Activity(retry_text(&retry))),
            Incoming::Assistant(blocks) => {
                self.announce(&mut events);
                self.on_blocks(blocks, &mut events);
            }
            Incoming::User(user) => {
                for id in &user.finished_tools {
                    self.tools.remove(id);
                }
                events.extend(user.replayed.map(|uuid| AgentEvent::MessageTaken { uuid }));
            }
            Incoming::Result(result) => {
                self.announce(&mut events);
                self.on_result(&result, &mut events);
            }
            Incoming::Request { request_id, request } => {
                self.announce(&mut events);
                events.push(self.on_request(line.start, request_id, request));
            }
            Incoming::Cancel { request_id } => events.extend(self.close(&request_id)),
            Incoming::Response { request_id } => {
                self.interrupted |= protocol::is_interrupt(&request_id);
                events.extend(self.close(&request_id));
            }
            Incoming::Other | Incoming::NotJson => {}
        }
        events
    }

    fn on_state(&mut self, state: &str, events: &mut Vec<AgentEvent>) {
        self.tells_state = true;
        match state {
            "running" if !self.running => self.begin_turn(),
            "idle" => self.on_idle(events),
            _ => {}
        }
    }

    fn begin_turn(&mut self) {
        self.running = true;
        self.announced = false;
        self.interrupted = false;
    }

    /// `running` comes before the version and the mode are known; the first line that knows them tells the turn.
    fn announce(&mut self, events: &mut Vec<AgentEvent>) {
        if !self.running {
            self.begin_turn();
        }
        if !std::mem::replace(&mut self.announced, true) {
            let (version, permission_mode) = (self.version.clone(), self.permission_mode.clone());
            events.push(AgentEvent::TurnStarted { version, permission_mode });
        }
    }

    fn on_idle(&mut self, events: &mut Vec<AgentEvent>) {
        self.running = false;
        self.tools.clear();
        events.extend(self.close_all());
        events.push(AgentEvent::Idle);
    }

    fn on_blocks(&mut self, blocks: Vec<Block>, events: &mut Vec<AgentEvent>) {
        for block in blocks {
            match block.kind.as_str() {
                "tool_use" => {
                    self.tools.extend(block.id);
                    let (name, input) = (block.name.unwrap_or_default(), block.input.unwrap_or(Value::Null));
                    let text = format!("{name}: {}", attention::summary(&input));
                    events.push(AgentEvent::Activity(activity(&text)));
                }
                "text" => {
                    let text = block.text.unwrap_or_default();
                    if let Some(first) = text.lines().find(|line| !line.trim().is_empty()) {
                        events.push(AgentEvent::Activity(activity(first.trim())));
                    }
                }
                _ => {}
            }
        }
    }

    fn on_result(&mut self, result: &ResultLine, events: &mut Vec<AgentEvent>) {
        self.raw = result.usage(self.usage.turns + 1);
        if self.baseline.is_none() && result.usage.input_tokens + result.usage.output_tokens > 0 {
            self.baseline = Some(baseline(&self.raw, &self.earlier, result));
        }
        self.usage = less(&self.raw, &self.baseline.unwrap_or_default());
        let turn = TurnResult {
            usage: self.usage,
            is_error: result.is_error,
            text: cut_bytes(result.text(), RESULT_TEXT_BYTES),
            api_error_status: result.api_error_status,
            interrupted: result.is_error && self.interrupted,
        };
        self.last_result = Some(turn.clone());
        events.push(AgentEvent::TurnEnded(turn));
        if !self.tells_state {
            self.on_idle(events);
        }
    }

    fn on_request(&mut self, offset: u64, request_id: String, request: Value) -> AgentEvent {
        let Some(attention) = attention::from_request(offset, &request) else {
            return AgentEvent::Decline(protocol::refusal(
                &request_id,
                "this host does not know that request",
            ));
        };
        let open = OpenRequest {
            request_id: request_id.clone(),
            attention_id: attention.attention_id.clone(),
            reason: attention.reason(),
            request,
        };
        self.open.insert(request_id, open);
        AgentEvent::AttentionRaised(attention)
    }

    fn close(&mut self, request_id: &str) -> Option<AgentEvent> {
        let open = self.open.remove(request_id)?;
        Some(AgentEvent::AttentionCleared { attention_id: open.attention_id })
    }
}

/// 2.1.197 counts from 0 after a resume, 2.1.330 goes on from where the conversation was. Told apart by the first result:
/// only sums that go on hold the earlier ones and this turn together.
fn baseline(raw: &Usage, earlier: &Usage, result: &ResultLine) -> Usage {
    let goes_on = raw.input_tokens >= earlier.input_tokens + result.usage.input_tokens
        && raw.output_tokens >= earlier.output_tokens + result.usage.output_tokens
        && raw.cache_read_tokens >= earlier.cache_read_tokens
        && raw.cache_creation_tokens >= earlier.cache_creation_tokens
        && raw.cost_usd >= earlier.cost_usd;
    if goes_on { *earlier } else { Usage::default() }
}

fn less(raw: &Usage, baseline: &Usage) -> Usage {
    Usage {
        turns: raw.turns,
        input_tokens: raw.input_tokens.saturating_sub(baseline.input_tokens),
        output_tokens: raw.output_tokens.saturating_sub(baseline.output_tokens),
        cache_read_tokens: raw.cache_read_tokens.saturating_sub(baseline.cache_read_tokens),
        cache_creation_tokens: raw.cache_creation_tokens.saturating_sub(baseline.cache_creation_tokens),
        cost_usd: (raw.cost_usd - baseline.cost_usd).max(0.0),
    }
}

fn retry_text(retry: &ApiRetry) -> String {
    let what = protocol::plain(&retry.error);
    let status = retry.error_status.map(|status| format!(" ({status})")).unwrap_or_default();
    format!("API error {what}{status}, retry {} of {}", retry.attempt, retry.max_retries)
}

fn activity(text: &str) -> String {
    attention::one_line(text).chars().take(ACTIVITY_CHARS).collect()
}

/// At most `limit` bytes, cut between characters.
fn cut_bytes(mut text: String, limit: usize) -> String {
    if text.len() > limit {
        let end = (0..=limit).rev().find(|index| text.is_char_boundary(*index)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests;

//! One user message: requests to the scripted model and the tools it calls, up to the `result`.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use muster_harness::{
    scenario::{Act, ToolUse, Turn},
    seeded::Pieces,
};
use nix::sys::signal::{Signal, raise};
use serde_json::{Map, Value, json};

use super::{Interrupted, Session};
use crate::{
    ask::{self, Verdict},
    model::{Model, Spent},
    output::now,
    tools::{self, ToolEnd},
};

/// A foreground command is announced as a task when it takes this long.
const ANNOUNCE_AFTER: Duration = Duration::from_secs(3);
/// Bytes of one write of [`Act::Bytes`].
const PIECE: usize = 1 << 16;
/// First pause before a failed request is tried again; the real program starts at half a second.
const RETRY_DELAY: Duration = Duration::from_millis(20);

/// How a turn ended.
enum Ended {
    Said(String),
    ApiFailed { text: String, status: Option<u16>, stop_reason: &'static str },
    TooManyTurns(u32),
    TooExpensive(f64),
    Aborted { in_tool: bool },
}

/// What is counted over one user message.
struct Counts {
    began: Instant,
    num_turns: u32,
    spent: Spent,
    denials: Vec<Value>,
}

impl Session {
    pub(super) fn user_turn(&mut self, message: &Value) {
        self.out.state("running");
        self.out.event(self.init());
        if self.replay {
            let mut replayed = message.clone();
            replayed["isReplay"] = Value::from(true);
            replayed["timestamp"] = Value::from(now());
            self.out.event(replayed);
        }
        self.transcript.add("user", &message["message"]["content"]);
        let mut counts =
            Counts { began: Instant::now(), num_turns: 0, spent: Spent::default(), denials: Vec::new() };
        let ended =
            match Model::for_message(&text_of(&message["message"]["content"]), &self.transcript.plan_file) {
                Ok(mut model) => self.requests(&mut model, &mut counts),
                Err(problem) => Ok(bad_script(&problem)),
            };
        let ended = ended.unwrap_or(Ended::Aborted { in_tool: false });
        self.result(ended, &counts);
        self.out.state("idle");
    }

    fn init(&self) -> Value {
        json!({ "type": "system", "subtype": "init", "cwd": std::env::current_dir().unwrap_or_default(),
            "tools": ["AskUserQuestion", "Bash", "EnterPlanMode", "ExitPlanMode", "Read", "Write"],
            "mcp_servers": [], "model": self.model, "permissionMode": self.rules.mode, "slash_commands": [],
            "apiKeySource": "none", "claude_code_version": crate::VERSION, "output_style": "default",
            "agents": [],
            "skills": [], "plugins": [] })
    }

    fn requests(&mut self, model: &mut Model, counts: &mut Counts) -> Result<Ended, Interrupted> {
        loop {
            if let Some(limit) = self.max_turns.filter(|limit| counts.num_turns >= *limit) {
                return Ok(Ended::TooManyTurns(limit));
            }
            if let Some(limit) = self.max_budget.filter(|limit| self.spent.dollars() > *limit) {
                return Ok(Ended::TooExpensive(limit));
            }
            counts.num_turns += 1;
            let turn = match self.answered(model)? {
                Ok(turn) => turn,
                Err(failed) => return Ok(failed),
            };
            let usage = turn.usage();
            counts.spent.add(&usage);
            self.spent.add(&usage);
            if turn.stop() == "refusal" {
                let text = "API Error: Claude Code is unable to respond to this request, which appears to \
                            violate our Usage Policy.";
                self.out.event(json!({ "type": "system", "subtype": "model_refusal_no_fallback",
                    "original_model": self.model, "content": "" }));
                self.out.synthetic(text, "refusal", "unknown");
                return Ok(Ended::ApiFailed { text: text.to_owned(), status: None, stop_reason: "refusal" });
            }
            self.say(&turn, &usage);
            if turn.tool_use.is_empty() {
                return Ok(Ended::Said(turn.text.unwrap_or_default()));
            }
            for call in &turn.tool_use {
                if let Some(aborted) = self.tool(call, model, counts)? {
                    return Ok(aborted);
                }
            }
        }
    }

    /// The next turn that is a message, after retries; or how the request failed for good.
    fn answered(&mut self, model: &mut Model) -> Result<Result<Turn, Ended>, Interrupted> {
        let retries: u32 =
            std::env::var("CLAUDE_CODE_MAX_RETRIES").ok().and_then(|n| n.parse().ok()).unwrap_or(10);
        let mut attempt = 0;
        loop {
            let mut turn = match model.next() {
                Ok(turn) => turn,
                Err(problem) => return Ok(Err(bad_script(&problem))),
            };
            // Identified here, so that the assistant event and the result of the call agree.
            for call in &mut turn.tool_use {
                call.id.get_or_insert_with(|| format!("toolu_{}", uuid::Uuid::new_v4().simple()));
            }
            self.pause(Duration::from_millis(turn.delay_ms + turn.first_byte_delay_ms))?;
            if turn.hang || turn.hang_mid {
                self.hang()?;
            }
            if let Some(act) = turn.act.take() {
                self.act(act)?;
                if turn.text.is_none() && turn.tool_use.is_empty() {
                    continue;
                }
            }
            let broken = turn.drop || turn.drop_mid || turn.sse_error.is_some();
            if !broken && !turn.is_error() {
                return Ok(Ok(turn));
            }
            let status = turn.status.filter(|_| !broken);
            let retryable = status.is_none_or(|status| matches!(status, 401 | 408 | 409 | 429 | 500..));
            if !retryable || attempt >= retries {
                return Ok(Err(self.request_failed(&turn, status)));
            }
            attempt += 1;
            let delay = RETRY_DELAY * attempt;
            self.out.event(json!({ "type": "system", "subtype": "api_retry", "attempt": attempt,
                "max_retries": retries, "retry_delay_ms": delay.as_millis() as u64, "error_status": status,
                "error": error_name(status) }));
            self.pause(delay)?;
        }
    }

    fn request_failed(&mut self, turn: &Turn, status: Option<u16>) -> Ended {
        let said = turn.error.as_ref().map_or("Connection error.", |error| error.message.as_str());
        let text = match status {
            Some(401) => "Invalid API key · Fix external API key".to_owned(),
            Some(529) => "API Error: Repeated 529 Overloaded errors.".to_owned(),
            Some(status) => format!("API Error: {status} {said}"),
            None => "API Error: Unable to connect to API (ConnectionRefused)".to_owned(),
        };
        self.out.synthetic(&text, "stop_sequence", error_name(status));
        // The real program names no status for an overloaded API and for a broken connection.
        Ended::ApiFailed {
            text,
            status: status.filter(|status| *status != 529),
            stop_reason: "stop_sequence",
        }
    }

    fn say(&mut self, turn: &Turn, usage: &Map<String, Value>) {
        let message_id = format!("msg_{}", uuid::Uuid::new_v4().simple());
        let mut blocks = Vec::new();
        if let Some(thinking) = &turn.thinking {
            blocks.push(json!({ "type": "thinking", "thinking": thinking, "signature": "c2ln" }));
        }
        if let Some(text) = &turn.text {
            blocks.push(json!({ "type": "text", "text": text }));
        }
        for call in &turn.tool_use {
            blocks.push(json!({ "type": "tool_use", "id": call.id, "name": call.name, "input": call.input }));
        }
        for block in &blocks {
            self.out.assistant(&message_id, &self.model, block, usage);
        }
        self.transcript.add("assistant", &Value::Array(blocks));
    }

    /// Plays one tool call. `Some`: it ended the turn.
    fn tool(
        &mut self,
        call: &ToolUse,
        model: &mut Model,
        counts: &mut Counts,
    ) -> Result<Option<Ended>, Interrupted> {
        let id = call.id.clone().unwrap_or_default();
        counts.num_turns += 1;
        match self.permitted_tool(call, &id) {
            Ok(Ok(end)) => {
                if end.denied {
                    counts
                        .denials
                        .push(json!({ "tool_name": call.name, "tool_use_id": id, "tool_input": call.input }));
                }
                self.out.tool_result(&id, &end.text, end.is_error);
                model.tool_result(&id, &end.text);
                Ok(None)
            }
            Ok(Err(Interrupted)) | Err(Interrupted) => {
                self.rejected(&id);
                Ok(Some(Ended::Aborted { in_tool: true }))
            }
        }
    }

    /// Asks if it must and runs the tool. The inner error: the answer was a denial that ends the turn.
    fn permitted_tool(
        &mut self,
        call: &ToolUse,
        id: &str,
    ) -> Result<Result<ToolEnd, Interrupted>, Interrupted> {
        let mut input = call.input.clone();
        if call.name == "ExitPlanMode"
            && let Ok(plan) = std::fs::read_to_string(&self.transcript.plan_file)
        {
            input = json!({ "plan": plan, "planFilePath": self.transcript.plan_file });
        }
        let own_plan = call.name == "Write"
            && input["file_path"].as_str().map(Path::new) == Some(&self.transcript.plan_file);
        if !own_plan && self.rules.must_ask(&call.name, &input) {
            match self.ask(&call.name, &input, id)? {
                Verdict::Allow { input: given, updates } => {
                    input = given;
                    if let Some(mode) = self.rules.update(&updates) {
                        self.mode_changed(mode);
                    }
                }
                Verdict::Deny { interrupt: true, .. } => return Ok(Err(Interrupted)),
                Verdict::Deny { message, .. } => return Ok(Ok(ToolEnd::denied(message))),
            }
        }
        Ok(Ok(match call.name.as_str() {
            "Bash" => self.shell(&input, id)?,
            "AskUserQuestion" => ToolEnd::said(ask::answered(&input)),
            "EnterPlanMode" => {
                self.mode_changed("plan".to_owned());
                ToolEnd::said("Entered plan mode.")
            }
            "ExitPlanMode" => {
                if self.rules.mode == "plan" {
                    self.mode_changed("default".to_owned());
                }
                let plan = input["plan"].as_str().unwrap_or_default();
                ToolEnd::said(format!(
                    "User has approved your plan. You can now start coding.\n\n## Approved Plan:\n{plan}"
                ))
            }
            name => tools::at_once(name, &input),
        }))
    }

    fn shell(&mut self, input: &Value, id: &str) -> Result<ToolEnd, Interrupted> {
        let command = input["command"].as_str().unwrap_or_default();
        self.tool_end = None;
        let group = match tools::start_shell(command, self.inbox.sender()) {
            Ok(group) => group,
            Err(error) => return Ok(ToolEnd::failed(error.to_string())),
        };
        self.signals.tool_started(group);
        let ended = self.wait_for_shell(input, id);
        if ended.is_err() {
            self.signals.kill_tool();
        }
        self.signals.tool_ended();
        ended
    }

    fn wait_for_shell(&mut self, input: &Value, id: &str) -> Result<ToolEnd, Interrupted> {
        let began = Instant::now();
        let mut announced = false;
        loop {
            if let Some(end) = self.tool_end.take() {
                return Ok(end);
            }
            let limit = (!announced).then(|| ANNOUNCE_AFTER.saturating_sub(began.elapsed()));
            if !self.step(limit)? && !announced {
                announced = true;
                self.out.event(
                    json!({ "type": "system", "subtype": "task_started", "task_id": "b1", "tool_use_id": id,
                    "description": input["description"], "task_type": "local_bash" }),
                );
            }
        }
    }

    fn act(&mut self, act: Act) -> Result<(), Interrupted> {
        match act {
            Act::Bytes { seed, count } => {
                let whole = usize::try_from(count / PIECE as u64).unwrap_or(usize::MAX);
                let rest = usize::try_from(count % PIECE as u64).unwrap_or(0);
                self.bytes(seed, std::iter::repeat_n(PIECE, whole).chain((rest > 0).then_some(rest)));
            }
            Act::Pieces { seed, count } => self.bytes(seed, Pieces::new(seed, count)),
            Act::Lines { count, width, interval_ms } => {
                let padding = "x".repeat(width);
                let message_id = format!("msg_{}", uuid::Uuid::new_v4().simple());
                for number in 0..count {
                    let block = json!({ "type": "text", "text": format!("line {number} {padding}") });
                    self.out.assistant(&message_id, &self.model, &block, &Map::new());
                    if interval_ms > 0 {
                        self.pause(Duration::from_millis(interval_ms))?;
                    }
                }
            }
            Act::Raw(line) => self.out.raw(format!("{line}\n").as_bytes()),
            Act::Exit(code) => std::process::exit(code),
            Act::Signal(number) => {
                if let Ok(signal) = Signal::try_from(number) {
                    // Those we handle would come back as an orderly end: the default action is what was asked
                    // for.
                    let _ = signal_hook::low_level::emulate_default_handler(signal as i32);
                    let _ = raise(signal);
                }
            }
            Act::Daemon(seconds) => self.daemon(&format!("sleep {seconds}")),
            Act::Orphan(seconds) => self.daemon(&format!("setsid sleep {seconds} & exit 0")),
            Act::IgnoreSigterm => self.ignore_signals(),
            Act::Hang => self.hang()?,
        }
        Ok(())
    }

    fn daemon(&self, command: &str) {
        let started = std::process::Command::new("setsid").args(["bash", "-c", command]).spawn();
        if let Err(error) = started {
            self.out.raw(format!("daemon: {error}\n").as_bytes());
        }
    }

    fn bytes(&self, seed: u64, sizes: impl Iterator<Item = usize>) {
        self.out.seeded(seed, sizes);
        self.out.raw(b"\n");
    }

    fn result(&mut self, ended: Ended, counts: &Counts) {
        let mut result = json!({ "type": "result", "duration_ms": counts.began.elapsed().as_millis() as u64,
            "duration_api_ms": 0, "num_turns": counts.num_turns, "total_cost_usd": self.spent.dollars(),
            "usage": counts.spent.usage(), "modelUsage": self.spent.by_model(&self.model),
            "permission_denials": counts.denials, "fast_mode_state": "off" });
        let outcome = match ended {
            Ended::Said(text) => json!({ "subtype": "success", "is_error": false, "api_error_status": null,
                "result": text, "stop_reason": "end_turn", "terminal_reason": "completed" }),
            Ended::ApiFailed { text, status, stop_reason } => json!({ "subtype": "success", "is_error": true,
                "api_error_status": status, "result": text, "stop_reason": stop_reason,
                "terminal_reason": "completed" }),
            Ended::TooManyTurns(limit) => json!({ "subtype": "error_max_turns", "is_error": true,
                "stop_reason": "tool_use", "terminal_reason": "max_turns",
                "errors": [format!("Reached maximum number of turns ({limit})")] }),
            Ended::TooExpensive(limit) => json!({ "subtype": "error_max_budget_usd", "is_error": true,
                "stop_reason": "tool_use", "errors": [format!("Reached maximum budget (${limit})")] }),
            Ended::Aborted { in_tool } => json!({ "subtype": "error_during_execution", "is_error": true,
                "stop_reason": null, "errors": ["[ede_diagnostic] interrupted"],
                "terminal_reason": if in_tool { "aborted_tools" } else { "aborted_streaming" } }),
        };
        self.last_is_error = outcome["is_error"] == true;
        if let (Some(result), Some(outcome)) = (result.as_object_mut(), outcome.as_object()) {
            result.extend(outcome.clone());
        }
        self.out.event(result);
    }
}

fn bad_script(problem: &str) -> Ended {
    Ended::ApiFailed {
        text: format!("API Error: 400 {problem}"),
        status: Some(400),
        stop_reason: "stop_sequence",
    }
}

fn error_name(status: Option<u16>) -> &'static str {
    match status {
        Some(401 | 403) => "authentication_failed",
        Some(429) => "rate_limit",
        Some(529) => "overloaded",
        Some(500..) => "server_error",
        Some(400..) => "invalid_request",
        _ => "unknown",
    }
}

/// The text a script is looked for in: all text blocks.
fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => {
            let texts: Vec<&str> = blocks.iter().filter_map(|block| block["text"].as_str()).collect();
            texts.join("\n")
        }
        _ => String::new(),
    }
}

//! claude's stream-json as text a person or a model reads from top to bottom.
//!
//! Used by `get_session_output` and by the command line's `logs`. Incremental: a line is rendered when it is
//! whole. Invariant: whatever the bytes, it neither fails nor shows anything that acts on a terminal; types
//! it does not know are left out.

use std::{
    collections::HashMap,
    fmt::Write as _,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use serde_json::Value;

use super::{
    cut_end, cut_middle,
    lines::{Line, Lines},
    sanitise, tool_call,
};

/// Lines and characters shown of a tool's outcome.
const OUTCOME_LINES: usize = 12;
const OUTCOME_CHARS: usize = 1_500;
/// Longest line that is no JSON, in characters.
const STRAY_CHARS: usize = 2_000;
/// Stands for the name of a call whose outcome is known to the reader.
const SHOWN: &str = "";
/// Most calls and requests remembered; claude rarely has ten open.
const OPEN: usize = 256;

/// Turns output bytes into readable text, line by line.
#[derive(Debug)]
pub struct Transcript {
    lines: Lines,
    /// Open tool calls: id -> name.
    calls: HashMap<String, String>,
    /// Open requests of claude.
    requests: HashMap<String, Request>,
    /// Hash of what claude said last: a result repeats it, and it may be megabytes.
    said: Option<u64>,
}

/// What claude asks.
#[derive(Debug)]
struct Request {
    tool: String,
    /// The call it asks about.
    call: Option<String>,
}

impl Default for Transcript {
    fn default() -> Self {
        Self::new()
    }
}

impl Transcript {
    /// Begins at the first byte of a line.
    #[must_use]
    pub fn new() -> Self {
        Self { lines: Lines::starting_at(0), calls: HashMap::new(), requests: HashMap::new(), said: None }
    }

    /// The text of every line that is whole with `bytes`; the rest is kept for the next call.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        let mut text = String::new();
        // Taken out while it lends its buffer, so that `line` may have the rest of us.
        let mut lines = std::mem::replace(&mut self.lines, Lines::starting_at(0));
        lines.push(bytes, |line| {
            text.push_str(&self.line(line));
            true
        });
        self.lines = lines;
        text
    }

    /// The text of one line, ending in a newline; empty when it says nothing to a reader.
    pub(crate) fn line(&mut self, line: &Line<'_>) -> String {
        if line.dropped > 0 {
            let all = line.bytes.len() as u64 + line.dropped;
            return format!("[a line of {all} bytes is too long to show; format \"raw\" has it]\n");
        }
        let bytes = line.bytes.trim_ascii();
        if bytes.is_empty() {
            return String::new();
        }
        let mut text = String::new();
        match serde_json::from_slice::<Value>(bytes) {
            Ok(Value::Object(event)) => self.event(&Value::Object(event), &mut text),
            _ => stray(bytes, &mut text),
        }
        text
    }

    fn event(&mut self, event: &Value, out: &mut String) {
        let inner = str_at(event, "parent_tool_use_id").is_some();
        let mut text = String::new();
        match str_at(event, "type").unwrap_or_default() {
            "assistant" => self.assistant(event, &mut text),
            "user" => self.user(event, &mut text),
            "control_request" => self.request(event, &mut text),
            "control_response" => self.response(event, &mut text),
            "control_cancel_request" => {
                if let Some(request) = str_at(event, "request_id").and_then(|id| self.requests.remove(id)) {
                    let _ = writeln!(text, "[withdrawn] {}", sanitise(&request.tool));
                }
            }
            "result" => self.result(event, &mut text),
            "system" => system(event, &mut text),
            _ => {}
        }
        if inner {
            for line in text.lines() {
                let _ = writeln!(out, "  | {line}");
            }
        } else {
            out.push_str(&text);
        }
    }

    fn assistant(&mut self, event: &Value, out: &mut String) {
        let failed = str_at(event, "error");
        for block in blocks(event) {
            match str_at(block, "type").unwrap_or_default() {
                "text" => {
                    let said = sanitise(str_at(block, "text").unwrap_or_default());
                    self.said = Some(hash(said.trim()));
                    match failed {
                        Some(kind) => {
                            let _ = writeln!(out, "[error: {}] {}", sanitise(kind), said.trim());
                        }
                        None if said.trim().is_empty() => {}
                        None => {
                            let _ = writeln!(out, "claude: {}", said.trim_end());
                        }
                    }
                }
                "tool_use" => {
                    let name = str_at(block, "name").unwrap_or("tool");
                    if let Some(id) = str_at(block, "id") {
                        remember(&mut self.calls, id, name.to_owned());
                    }
                    // Their questions are shown when they are asked.
                    if !matches!(name, "AskUserQuestion" | "ExitPlanMode") {
                        let input = block.get("input").unwrap_or(&Value::Null);
                        let _ = writeln!(out, "[tool] {}", tool_call::describe(name, input));
                    }
                }
                _ => {}
            }
        }
    }

    fn user(&mut self, event: &Value, out: &mut String) {
        let replay = event.get("isReplay").and_then(Value::as_bool).unwrap_or(false);
        let who = if replay { "user: " } else { "[note] " };
        let content = event.get("message").and_then(|message| message.get("content"));
        if let Some(text) = content.and_then(Value::as_str) {
            let _ = writeln!(out, "{who}{}", sanitise(text).trim_end());
            return;
        }
        for block in blocks(event) {
            match str_at(block, "type").unwrap_or_default() {
                "text" => {
                    let _ = writeln!(
                        out,
                        "{who}{}",
                        sanitise(str_at(block, "text").unwrap_or_default()).trim_end()
                    );
                }
                "tool_result" => self.outcome(block, out),
                _ => {}
            }
        }
    }

    fn outcome(&mut self, block: &Value, out: &mut String) {
        let name = str_at(block, "tool_use_id").and_then(|id| self.calls.remove(id));
        let failed = block.get("is_error").and_then(Value::as_bool).unwrap_or(false);
        // The answer to a question or a plan was shown when it was given; claude repeats it in many words.
        if !failed && name.as_deref() == Some(SHOWN) {
            return;
        }
        let text = content_text(block.get("content").unwrap_or(&Value::Null));
        let word = if failed { "failed" } else { "ok" };
        let name = name.filter(|name| name != SHOWN).unwrap_or_else(|| "tool".to_owned());
        let name = sanitise(&name);
        let _ = writeln!(out, "[{name} {word}] {}", first_lines(&sanitise(&text)));
    }

    fn request(&mut self, event: &Value, out: &mut String) {
        let Some(request) = event.get("request") else { return };
        let null = Value::Null;
        let input = request.get("input").unwrap_or(&null);
        let name = match str_at(request, "subtype") {
            Some("can_use_tool") => str_at(request, "tool_name").unwrap_or("tool"),
            Some("elicitation") => {
                let server = sanitise(str_at(request, "mcp_server_name").unwrap_or("?"));
                let message = sanitise(str_at(request, "message").unwrap_or_default());
                let _ = writeln!(out, "[asks] MCP server {server}: {message}");
                "elicitation"
            }
            _ => return,
        };
        if let Some(id) = str_at(event, "request_id") {
            let call = str_at(request, "tool_use_id").map(ToOwned::to_owned);
            remember(&mut self.requests, id, Request { tool: name.to_owned(), call });
        }
        match name {
            "elicitation" => {}
            "AskUserQuestion" => questions(input, out),
            "ExitPlanMode" => {
                let plan = sanitise(str_at(input, "plan").unwrap_or_default());
                let _ = writeln!(out, "[asks] approval of its plan:\n{}", plan.trim_end());
            }
            name => {
                let _ = writeln!(out, "[asks] permission for {}", tool_call::describe(name, input));
            }
        }
    }

    fn response(&mut self, event: &Value, out: &mut String) {
        let Some(response) = event.get("response") else { return };
        let Some(Request { tool, call }) =
            str_at(response, "request_id").and_then(|id| self.requests.remove(id))
        else {
            return;
        };
        let null = Value::Null;
        let body = response.get("response").unwrap_or(&null);
        if let Some(call) = call.filter(|_| matches!(tool.as_str(), "AskUserQuestion" | "ExitPlanMode")) {
            remember(&mut self.calls, &call, SHOWN.to_owned());
        }
        let updated = body.get("updatedInput");
        match str_at(body, "behavior").or_else(|| str_at(body, "action")) {
            Some("allow") if tool == "AskUserQuestion" => {
                let answers = updated.and_then(|input| input.get("answers")).and_then(Value::as_object);
                for (question, answer) in answers.into_iter().flatten() {
                    let answer = answer.as_str().map_or_else(|| answer.to_string(), str::to_owned);
                    let _ = writeln!(out, "[answer] {} = {}", sanitise(question), sanitise(&answer));
                }
                if answers.is_none_or(serde_json::Map::is_empty) {
                    out.push_str("[answer] none\n");
                }
            }
            Some("allow") if tool == "ExitPlanMode" => out.push_str("[answer] plan approved\n"),
            Some("allow") => {
                let always = body.get("updatedPermissions").is_some_and(|rules| !rules.is_null());
                let for_session = if always { " for the rest of the session" } else { "" };
                let input = updated.unwrap_or(&null);
                let _ = writeln!(out, "[answer] allowed{for_session}: {}", tool_call::describe(&tool, input));
            }
            Some("deny") => {
                let why = sanitise(str_at(body, "message").unwrap_or_default());
                let _ = writeln!(out, "[answer] denied: {}", why.trim());
            }
            Some(action) => {
                let content = body.get("content").map(Value::to_string).unwrap_or_default();
                let _ = writeln!(
                    out,
                    "[answer] {} {}",
                    sanitise(action),
                    cut_end(&sanitise(&content), STRAY_CHARS)
                );
            }
            None => {}
        }
    }

    fn result(&mut self, event: &Value, out: &mut String) {
        let failed = event.get("is_error").and_then(Value::as_bool).unwrap_or(false);
        let turns = event.get("num_turns").and_then(Value::as_u64).unwrap_or(0);
        let cost = event.get("total_cost_usd").and_then(Value::as_f64).unwrap_or(0.0);
        let word = if failed { "turn failed" } else { "turn ended" };
        let status = event.get("api_error_status").and_then(Value::as_u64);
        let status = status.map(|code| format!(", API status {code}")).unwrap_or_default();
        let s = if turns == 1 { "" } else { "s" };
        let _ = write!(out, "[{word}] {turns} model turn{s}, {cost:.4} USD so far{status}");
        let text = match str_at(event, "result") {
            Some(text) => text.to_owned(),
            None => event
                .get("errors")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .filter(|text| !text.starts_with("[ede_diagnostic]"))
                .collect::<Vec<_>>()
                .join("; "),
        };
        let text = sanitise(&text);
        if !text.trim().is_empty() && self.said != Some(hash(text.trim())) {
            let _ = write!(out, ": {}", text.trim());
        } else if failed && let Some(why) = str_at(event, "terminal_reason").filter(|why| *why != "completed")
        {
            let _ = write!(out, " ({})", sanitise(why));
        }
        out.push('\n');
    }
}

fn system(event: &Value, out: &mut String) {
    let text = |key: &str| sanitise(str_at(event, key).unwrap_or_default()).into_owned();
    let _ = match str_at(event, "subtype").unwrap_or_default() {
        "api_retry" => {
            let number = |key: &str| event.get(key).and_then(Value::as_f64).unwrap_or(0.0);
            let status = event.get("error_status").and_then(Value::as_u64);
            let status = status.map(|code| format!(" {code}")).unwrap_or_default();
            writeln!(
                out,
                "[API{status} {}] try {} of {} in {:.1} s",
                text("error"),
                number("attempt") as u64,
                number("max_retries") as u64,
                number("retry_delay_ms") / 1000.0
            )
        }
        "permission_denied" => {
            let why = Some(text("message"))
                .filter(|why| !why.is_empty())
                .unwrap_or_else(|| text("decision_reason"));
            writeln!(out, "[denied by rule] {}: {why}", text("tool_name"))
        }
        "task_notification" => writeln!(out, "[background task {}] {}", text("status"), text("summary")),
        "status" if text("status") == "compacting" => writeln!(out, "[compacting the conversation]"),
        "status" if !text("permissionMode").is_empty() => {
            writeln!(out, "[permission mode is now {}]", text("permissionMode"))
        }
        "model_refusal_no_fallback" => writeln!(out, "[the model refused to answer]"),
        _ => Ok(()),
    };
}

fn questions(input: &Value, out: &mut String) {
    for question in input.get("questions").and_then(Value::as_array).into_iter().flatten() {
        let text = sanitise(str_at(question, "question").unwrap_or_default());
        let options: Vec<_> = question
            .get("options")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|option| str_at(option, "label"))
            .map(sanitise)
            .collect();
        let several = question.get("multiSelect").and_then(Value::as_bool).unwrap_or(false);
        let choose = if several { "any of" } else { "one of" };
        let _ = writeln!(out, "[asks] {text} ({choose}: {})", options.join(" | "));
    }
}

/// A line that is no event: shown when there is something to read in it (a crash message), dropped when there
/// is not (the escape sequences claude leaves at its exit).
fn stray(bytes: &[u8], out: &mut String) {
    let text = String::from_utf8_lossy(bytes);
    let text = sanitise(&text);
    let text = text.trim();
    // A fragment of a line of JSON: a reader that begins in its middle has nothing to show.
    let fragment = text.ends_with('}') && text.contains("\":");
    if !text.is_empty() && !fragment {
        let _ = writeln!(out, "{}", cut_middle(text, STRAY_CHARS));
    }
}

fn first_lines(text: &str) -> String {
    let text = text.trim_end();
    let all = text.lines().count();
    let mut short: String = text.lines().take(OUTCOME_LINES).collect::<Vec<_>>().join("\n");
    short = cut_end(&short, OUTCOME_CHARS).into_owned();
    if all > OUTCOME_LINES {
        let _ = write!(short, "\n… [cut: {OUTCOME_LINES} of {all} lines]");
    }
    short
}

fn content_text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => blocks
            .iter()
            .map(|block| match str_at(block, "type") {
                Some("text") => str_at(block, "text").unwrap_or_default().to_owned(),
                Some(other) => format!("[{other}]"),
                None => String::new(),
            })
            .collect::<Vec<_>>()
            .join("\n"),
        _ => String::new(),
    }
}

fn blocks(event: &Value) -> impl Iterator<Item = &Value> {
    event
        .get("message")
        .and_then(|message| message.get("content"))
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn str_at<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}

fn remember<T>(open: &mut HashMap<String, T>, id: &str, what: T) {
    if open.len() >= OPEN {
        open.clear();
    }
    open.insert(id.to_owned(), what);
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;

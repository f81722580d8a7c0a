//! The language scripts are written in: what the model says, request by request.
//!
//! One script runs on both claudes: the offline Messages API plays it to the real program, the scripted
//! claude plays it itself. It stands in a scenario file, or in the prompt itself after the mark `[[script]]`
//! as one JSON array. Owns the choice of the turn and the templates; it does no I/O.

mod choose;
mod template;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub(crate) use choose::Counters;
pub use choose::{Chosen, Conversation, ToolResult, inline_script};
pub use template::fill;

/// What precedes a script inside a prompt.
pub const INLINE_MARK: &str = "[[script]]";

/// All that an offline Messages API answers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scenario {
    /// One a request, counted for each session.
    pub turns: Vec<Turn>,
    /// Used instead of `turns` when the newest user text that holds `[[name]]` names one of these.
    pub by_marker: BTreeMap<String, Vec<Turn>>,
    /// When a list is used up. Absent: the text "done".
    pub default: Option<Turn>,
    /// For requests without tools (titles, classifiers). Absent: a short JSON text.
    pub side: Option<Turn>,
}

/// The answer to one request.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Turn {
    /// One text block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// A thinking block before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking: Option<String>,
    /// Tool calls after it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_use: Vec<ToolUse>,
    /// Derived from the blocks when absent. `refusal` and `max_tokens` are worth trying.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<String>,
    /// Merged over 10 input and 5 output tokens.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub usage: Map<String, Value>,
    /// Wait before the response head.
    #[serde(skip_serializing_if = "is_zero")]
    pub delay_ms: u64,
    /// Wait after the head and `message_start`.
    #[serde(skip_serializing_if = "is_zero")]
    pub first_byte_delay_ms: u64,
    /// Characters of text in one delta; 0: 40.
    #[serde(skip_serializing_if = "is_zero_usize")]
    pub chunk: usize,
    /// Wait after each delta.
    #[serde(skip_serializing_if = "is_zero")]
    pub chunk_delay_ms: u64,
    /// Another status than 200: an error body, no stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Extra response headers, such as `retry-after`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Body of an error status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ApiError>,
    /// Take the request and never answer.
    #[serde(skip_serializing_if = "is_false")]
    pub hang: bool,
    /// Stop for ever in the middle of the text.
    #[serde(skip_serializing_if = "is_false")]
    pub hang_mid: bool,
    /// Close the connection without an answer.
    #[serde(skip_serializing_if = "is_false")]
    pub drop: bool,
    /// Close the connection in the middle of the text.
    #[serde(skip_serializing_if = "is_false")]
    pub drop_mid: bool,
    /// An `event: error` in the middle of the text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sse_error: Option<ApiError>,
    /// Counts for so many requests; -1: all that follow. 0 is 1.
    #[serde(skip_serializing_if = "is_zero_i64")]
    pub repeat: i64,
    /// Passed over unless the newest tool result contains this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub only_if_tool_result: Option<String>,
    /// What only a scripted claude can do. The Messages API passes over it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub act: Option<Act>,
}

/// A tool call. Strings inside `input` may hold templates, see [`fill`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolUse {
    /// As claude names it: `Bash`, `AskUserQuestion`, `mcp__muster__spawn_session`.
    pub name: String,
    /// The tool's arguments.
    #[serde(default)]
    pub input: Value,
    /// Made up when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// An error as the Messages API words it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ApiError {
    /// `overloaded_error`, `rate_limit_error`, ...
    #[serde(rename = "type")]
    pub kind: String,
    /// For people.
    pub message: String,
}

/// Faults and volume, for the scripted claude alone. Done before the turn's blocks.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// Seeded random bytes on stdout, raw (see [`crate::seeded`]), then a newline.
    Bytes {
        /// Of the stream.
        seed: u64,
        /// How many.
        count: u64,
    },
    /// The same number of seeded bytes in writes of 1 byte to 1 MiB, see [`crate::seeded::Pieces`].
    Pieces {
        /// Of the stream.
        seed: u64,
        /// How many.
        count: u64,
    },
    /// So many `assistant` text events, numbered, `width` characters each.
    Lines {
        /// How many.
        count: u64,
        /// Padding of the text.
        #[serde(default)]
        width: usize,
        /// Pause after each.
        #[serde(default)]
        interval_ms: u64,
    },
    /// This very line on stdout, JSON or not.
    Raw(String),
    /// Leave at once with this code and no result.
    Exit(i32),
    /// Kill itself with this signal.
    Signal(i32),
    /// Leave a child behind in a session of its own that sleeps so many seconds and holds stdout open.
    Daemon(u32),
    /// The same, but forked twice: its parent is gone, and it is in a session of its own.
    Orphan(u32),
    /// Take no notice of SIGTERM and SIGHUP from here on.
    IgnoreSigterm,
    /// Never say anything again; only a signal ends it.
    Hang,
}

impl Turn {
    /// A turn that says this.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: Some(text.into()), ..Self::default() }
    }

    /// A turn that calls one tool.
    #[must_use]
    pub fn tool(name: impl Into<String>, input: Value) -> Self {
        Self { tool_use: vec![ToolUse { name: name.into(), input, id: None }], ..Self::default() }
    }

    /// A turn that runs a shell command.
    #[must_use]
    pub fn bash(command: impl Into<String>) -> Self {
        let command = command.into();
        Self::tool("Bash", serde_json::json!({ "command": command, "description": "scripted" }))
    }

    /// A turn only a scripted claude plays.
    #[must_use]
    pub fn act(act: Act) -> Self {
        Self { act: Some(act), ..Self::default() }
    }

    /// Every request from here on fails with this status.
    #[must_use]
    pub fn failing(status: u16, kind: &str) -> Self {
        let error = ApiError { kind: kind.to_owned(), message: format!("scripted {status}") };
        Self { status: Some(status), error: Some(error), repeat: -1, ..Self::default() }
    }

    /// Whether it answers with something other than a message.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.status.is_some_and(|status| status != 200)
    }

    /// `stop_reason`, given or derived.
    #[must_use]
    pub fn stop(&self) -> &str {
        match &self.stop_reason {
            Some(reason) => reason,
            None if self.tool_use.is_empty() => "end_turn",
            None => "tool_use",
        }
    }

    /// Token counts of this turn.
    #[must_use]
    pub fn usage(&self) -> Map<String, Value> {
        let mut usage = Map::new();
        for (name, count) in [
            ("input_tokens", 10),
            ("cache_creation_input_tokens", 0),
            ("cache_read_input_tokens", 0),
            ("output_tokens", 5),
        ] {
            usage.insert(name.to_owned(), Value::from(count));
        }
        usage.insert("service_tier".to_owned(), Value::from("standard"));
        usage.extend(self.usage.clone());
        usage
    }
}

/// A prompt that carries its own script: `words`, then the mark and the turns.
///
/// # Panics
/// Never for turns made by this module: they all serialise.
#[must_use]
pub fn scripted_prompt(words: &str, turns: &[Turn]) -> String {
    let script = serde_json::to_string(turns).expect("a script holds strings, numbers and JSON values only");
    format!("{words}\n{INLINE_MARK}{script}")
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

fn is_zero_usize(value: &usize) -> bool {
    *value == 0
}

fn is_zero_i64(value: &i64) -> bool {
    *value == 0
}

fn is_false(value: &bool) -> bool {
    !value
}

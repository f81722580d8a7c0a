//! stdout: one JSON object a line, written at once and synchronously.

use std::{
    io::{Stdout, Write as _},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::{Map, Value, json};
use uuid::Uuid;

/// Cheap to clone; all clones write to the same place.
#[derive(Debug, Clone)]
pub struct Output {
    stdout: Arc<Mutex<Stdout>>,
    session_id: Arc<str>,
    /// Whether `session_state_changed` was asked for.
    states: bool,
}

impl Output {
    pub fn new(session_id: &str) -> Self {
        let states = std::env::var("CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS").is_ok_and(|value| value == "1");
        Self { stdout: Arc::new(Mutex::new(std::io::stdout())), session_id: session_id.into(), states }
    }

    /// An event: `session_id` and `uuid` are added.
    pub fn event(&self, event: Value) {
        let mut event = event;
        if let Some(fields) = event.as_object_mut() {
            fields.insert("session_id".to_owned(), Value::from(&*self.session_id));
            fields.entry("uuid").or_insert_with(new_id);
        }
        self.bare(&event);
    }

    /// A line as it is: control messages carry neither.
    pub fn bare(&self, value: &Value) {
        self.raw(format!("{value}\n").as_bytes());
    }

    /// Bytes as they are. A reader that is gone ends the program.
    pub fn raw(&self, bytes: &[u8]) {
        let mut stdout = self.stdout();
        if stdout.write_all(bytes).and_then(|()| stdout.flush()).is_err() {
            std::process::exit(1);
        }
    }

    pub fn state(&self, state: &str) {
        if self.states {
            self.event(json!({ "type": "system", "subtype": "session_state_changed", "state": state }));
        }
    }

    /// A block of the assistant's message.
    pub fn assistant(&self, message_id: &str, model: &str, block: &Value, usage: &Map<String, Value>) {
        self.event(json!({ "type": "assistant", "message": { "id": message_id, "type": "message",
            "role": "assistant", "model": model, "content": [block], "stop_reason": null,
            "stop_sequence": null,
            "usage": usage, "context_management": null }, "parent_tool_use_id": null }));
    }

    /// Text that stands for a failed API call.
    pub fn synthetic(&self, text: &str, stop_reason: &str, error: &str) {
        self.event(json!({ "type": "assistant", "message": { "id": new_id(), "container": null,
            "model": "<synthetic>", "role": "assistant", "stop_reason": stop_reason, "stop_sequence": "",
            "type": "message", "usage": { "input_tokens": 0, "output_tokens": 0 },
            "content": [{ "type": "text", "text": text }], "context_management": null },
            "parent_tool_use_id": null, "error": error }));
    }

    pub fn tool_result(&self, tool_use_id: &str, text: &str, is_error: bool) {
        self.event(
            json!({ "type": "user", "message": { "role": "user", "content": [{ "tool_use_id": tool_use_id,
            "type": "tool_result", "content": text, "is_error": is_error }] }, "parent_tool_use_id": null,
            "timestamp": now() }),
        );
    }

    /// Returns once no write is under way.
    pub fn wait_until_written(&self) {
        drop(self.stdout());
    }

    fn stdout(&self) -> MutexGuard<'_, Stdout> {
        self.stdout.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub fn new_id() -> Value {
    Value::from(Uuid::new_v4().to_string())
}

pub fn now() -> String {
    muster_proto::time::now().to_string()
}

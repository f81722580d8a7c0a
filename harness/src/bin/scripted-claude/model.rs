//! The model's part: the script, which request comes next, what it cost.

use std::path::Path;

use muster_harness::scenario::{Conversation, ToolResult, Turn, inline_script};
use serde_json::{Map, Value, json};

/// Dollars for a token in and out, so that costs look like the real ones.
const PRICE: (f64, f64) = (0.000_005, 0.000_025);

/// What the script says to the next request.
#[derive(Debug)]
pub struct Model {
    turns: Vec<Turn>,
    requests: usize,
    conversation: Conversation,
}

/// Sums, of a turn or of the process.
#[derive(Debug, Default, Clone, Copy)]
pub struct Spent {
    pub input: u64,
    pub output: u64,
}

impl Model {
    /// For a user message with this text.
    pub fn for_message(text: &str, plan_file: &Path) -> Result<Self, String> {
        let turns = match inline_script(text) {
            Some(turns) => turns?,
            None => match std::env::var("SCRIPTED_CLAUDE") {
                Ok(script) => {
                    serde_json::from_str(&script).map_err(|error| format!("SCRIPTED_CLAUDE: {error}"))?
                }
                Err(_) => Vec::new(),
            },
        };
        let plan_file = Some(plan_file.to_string_lossy().into_owned());
        let conversation = Conversation { plan_file, ..Conversation::default() };
        Ok(Self { turns, requests: 0, conversation })
    }

    /// The answer to the next request; "done" past the end.
    pub fn next(&mut self) -> Result<Turn, String> {
        let played = self.conversation.play(&self.turns, self.requests);
        let Some((index, turn)) = played? else { return Ok(Turn::text("done")) };
        self.requests = index.saturating_add(1);
        Ok(turn)
    }

    pub fn tool_result(&mut self, tool_use_id: &str, text: &str) {
        let result = ToolResult { tool_use_id: tool_use_id.to_owned(), text: text.to_owned() };
        self.conversation.tool_results.push(result);
    }
}

impl Spent {
    pub fn add(&mut self, usage: &Map<String, Value>) {
        let count = |name: &str| usage.get(name).and_then(Value::as_u64).unwrap_or(0);
        self.input += count("input_tokens");
        self.output += count("output_tokens");
    }

    #[allow(clippy::cast_precision_loss, reason = "token counts stay far below 2^52")]
    pub fn dollars(self) -> f64 {
        self.input as f64 * PRICE.0 + self.output as f64 * PRICE.1
    }

    pub fn usage(self) -> Value {
        json!({ "input_tokens": self.input, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
            "output_tokens": self.output, "service_tier": "standard" })
    }

    pub fn by_model(self, model: &str) -> Value {
        let mut models = Map::new();
        if self.input + self.output > 0 {
            let spent = json!({ "inputTokens": self.input, "outputTokens": self.output,
                "cacheReadInputTokens": 0,
                "cacheCreationInputTokens": 0, "webSearchRequests": 0, "costUSD": self.dollars(),
                "contextWindow": 200_000 });
            models.insert(model.to_owned(), spent);
        }
        Value::Object(models)
    }
}

//! Control requests of the worker, and our own questions to it.

use serde_json::{Value, json};

use super::{Interrupted, Session};
use crate::{
    ask::{self, Verdict},
    output::new_id,
};

const REJECTED: &str = "The user doesn't want to proceed with this tool use. The tool use was rejected (eg. \
     if it was a file edit, the new_string was NOT written to the file). STOP what you are doing and wait for the \
     user to tell you how to proceed.";

impl Session {
    /// Answers a control request. An interrupt inside a turn is the error that ends it.
    pub(super) fn control(&mut self, request: &Value) -> Result<(), Interrupted> {
        let id = &request["request_id"];
        let wish = &request["request"];
        match wish["subtype"].as_str().unwrap_or_default() {
            "interrupt" => {
                if let Some(open) = self.open_ask.take() {
                    self.out.bare(&json!({ "type": "control_cancel_request", "request_id": open }));
                }
                self.respond(id, Value::Null);
                if self.in_turn {
                    return Err(Interrupted);
                }
            }
            "initialize" => {
                self.respond(id, json!({ "commands": [], "agents": [], "pid": std::process::id() }));
            }
            "set_permission_mode" => {
                let mode = wish["mode"].as_str().unwrap_or("default").to_owned();
                self.respond(id, json!({ "mode": mode }));
                self.mode_changed(mode);
            }
            "set_model" => {
                self.model = wish["model"].as_str().unwrap_or(&self.model).to_owned();
                self.respond(id, Value::Null);
            }
            "get_binary_version" => self.respond(id, json!({ "version": crate::VERSION })),
            "mcp_status" => self.respond(id, json!({ "mcpServers": [] })),
            other => {
                let error = format!("Unsupported control request subtype: {other}");
                let response = json!({ "subtype": "error", "request_id": id, "error": error });
                self.out.bare(&json!({ "type": "control_response", "response": response }));
            }
        }
        Ok(())
    }

    fn respond(&self, id: &Value, response: Value) {
        let mut outer = json!({ "subtype": "success", "request_id": id });
        if !response.is_null() {
            outer["response"] = response;
        }
        self.out.bare(&json!({ "type": "control_response", "response": outer }));
    }

    pub(super) fn mode_changed(&mut self, mode: String) {
        self.out
            .event(json!({ "type": "system", "subtype": "status", "status": null, "permissionMode": mode }));
        self.rules.mode = mode;
    }

    /// Asks whether a tool may run, and waits for the answer however long it takes.
    pub(super) fn ask(
        &mut self,
        tool: &str,
        input: &Value,
        tool_use_id: &str,
    ) -> Result<Verdict, Interrupted> {
        if !self.asks {
            return Ok(ask::deny(&format!(
                "Claude requested permissions to use {tool}, but you haven't granted it yet."
            )));
        }
        if self.end_of_input {
            return Ok(ask::deny("Tool permission request failed: Error: Stream closed"));
        }
        let request_id = new_id();
        let mut request =
            json!({ "subtype": "can_use_tool", "tool_name": tool, "display_name": tool, "input": input });
        if let Some(description) = input.get("description") {
            request["description"] = description.clone();
        }
        let suggestions = ask::suggestions(tool, input);
        if !suggestions.is_null() {
            request["permission_suggestions"] = suggestions;
        }
        request["tool_use_id"] = Value::from(tool_use_id);
        self.out.state("requires_action");
        self.witness.moment("ask");
        self.out.bare(&json!({ "type": "control_request", "request_id": request_id, "request": request }));
        // What was answered before it was asked does not count.
        self.answers.clear();
        self.open_ask = request_id.as_str().map(str::to_owned);
        let answer = self.wait_for_answer(&request_id);
        self.open_ask = None;
        self.out.state("running");
        let Some(answer) = answer? else {
            return Ok(ask::deny("Tool permission stream closed before response received"));
        };
        if self.replay {
            self.out.bare(&answer);
        }
        Ok(ask::verdict(&answer, tool, input))
    }

    /// `None`: stdin ended first.
    fn wait_for_answer(&mut self, request_id: &Value) -> Result<Option<Value>, Interrupted> {
        loop {
            let answered =
                self.answers.iter().position(|answer| answer["response"]["request_id"] == *request_id);
            if let Some(position) = answered {
                return Ok(Some(self.answers.swap_remove(position)));
            }
            if self.end_of_input {
                return Ok(None);
            }
            self.step(None)?;
        }
    }

    /// What the model is told of a tool that an interrupt cut off.
    pub(super) fn rejected(&mut self, tool_use_id: &str) {
        self.out.tool_result(tool_use_id, REJECTED, true);
        let text = "[Request interrupted by user for tool use]";
        self.out.event(json!({ "type": "user", "message": { "role": "user",
            "content": [{ "type": "text", "text": text }] }, "parent_tool_use_id": null }));
    }
}

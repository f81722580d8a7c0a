//! When a tool must be asked for, and what an answer means.

use serde_json::{Value, json};

/// What the worker said to `can_use_tool`.
#[derive(Debug)]
pub enum Verdict {
    Allow { input: Value, updates: Vec<Value> },
    Deny { message: String, interrupt: bool },
}

/// Rules of the session: what runs without being asked.
#[derive(Debug, Default)]
pub struct Rules {
    pub mode: String,
    pub bypass: bool,
    allowed: Vec<String>,
}

impl Rules {
    pub fn new(mode: String, bypass: bool, allowed: Vec<String>) -> Self {
        Self { mode, bypass, allowed }
    }

    /// Questions and plans are always asked, reading never.
    pub fn must_ask(&self, tool: &str, input: &Value) -> bool {
        match tool {
            "AskUserQuestion" | "ExitPlanMode" => true,
            "Read" | "EnterPlanMode" => false,
            _ if self.bypass => false,
            "Write" | "Edit" if self.mode == "acceptEdits" => false,
            _ => !self.allowed.iter().any(|rule| matches(rule, tool, input)),
        }
    }

    /// Takes over what an answer changed. Returns the new mode when it changed that.
    pub fn update(&mut self, updates: &[Value]) -> Option<String> {
        let mut changed = None;
        for update in updates {
            match update["type"].as_str() {
                Some("setMode") => {
                    self.mode = update["mode"].as_str().unwrap_or("default").to_owned();
                    changed = Some(self.mode.clone());
                }
                Some("addRules") => {
                    for rule in update["rules"].as_array().into_iter().flatten() {
                        let tool = rule["toolName"].as_str().unwrap_or_default();
                        let content = rule["ruleContent"].as_str();
                        self.allowed
                            .push(content.map_or(tool.to_owned(), |content| format!("{tool}({content})")));
                    }
                }
                _ => {}
            }
        }
        changed
    }
}

fn matches(rule: &str, tool: &str, input: &Value) -> bool {
    let Some((name, content)) = rule.split_once('(') else { return rule == tool };
    let content = content.trim_end_matches(')');
    let command = input["command"].as_str().unwrap_or_default();
    let prefix = content.strip_suffix(":*").or_else(|| content.strip_suffix('*'));
    name == tool && prefix.map_or(content == command, |prefix| command.starts_with(prefix.trim_end()))
}

/// What the real program offers to remember.
pub fn suggestions(tool: &str, input: &Value) -> Value {
    match tool {
        "AskUserQuestion" | "ExitPlanMode" => Value::Null,
        "Bash" => {
            let command = input["command"].as_str().unwrap_or_default();
            let words: Vec<&str> = command.split_whitespace().take(2).collect();
            let rule = json!({ "toolName": "Bash", "ruleContent": format!("{} *", words.join(" ")) });
            json!([{ "type": "addRules", "rules": [rule], "behavior": "allow",
                "destination": "localSettings" },
                { "type": "setMode", "mode": "acceptEdits", "destination": "session" }])
        }
        _ => json!([{ "type": "setMode", "mode": "acceptEdits", "destination": "session" }]),
    }
}

/// Reads a `control_response` to `can_use_tool`.
pub fn verdict(answer: &Value, tool: &str, asked: &Value) -> Verdict {
    let outer = &answer["response"];
    if outer["subtype"] == "error" {
        return deny(outer["error"].as_str().unwrap_or("permission request failed"));
    }
    let inner = &outer["response"];
    match inner["behavior"].as_str() {
        Some("allow") if inner["updatedInput"].is_object() => {
            let as_asked =
                tool == "ExitPlanMode" && inner["updatedInput"].as_object().is_some_and(|o| o.is_empty());
            let input = if as_asked { asked.clone() } else { inner["updatedInput"].clone() };
            let updates = inner["updatedPermissions"].as_array().cloned().unwrap_or_default();
            Verdict::Allow { input, updates }
        }
        Some("deny") => Verdict::Deny {
            message: inner["message"].as_str().unwrap_or("denied").to_owned(),
            interrupt: inner["interrupt"].as_bool().unwrap_or(false),
        },
        _ => deny("Tool permission request failed: ZodError: updatedInput is required"),
    }
}

pub fn deny(message: &str) -> Verdict {
    Verdict::Deny { message: message.to_owned(), interrupt: false }
}

/// What the model reads after AskUserQuestion.
pub fn answered(input: &Value) -> String {
    let Some(answers) = input["answers"].as_object().filter(|answers| !answers.is_empty()) else {
        return "The user did not answer the questions.".to_owned();
    };
    let pair = |(question, answer): (&String, &Value)| format!("{question:?}={answer}");
    let pairs: Vec<String> = answers.iter().map(pair).collect();
    let pairs = pairs.join(", ");
    format!("Your questions have been answered: {pairs}. You can now continue with these answers in mind.")
}

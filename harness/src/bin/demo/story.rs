//! The three sessions of the demo. The words are what a real model is asked; the script makes the offline one
//! do it.

use muster_harness::scenario::{Turn, scripted_prompt};
use serde_json::{Value, json};

/// One session's part.
#[derive(Debug)]
pub struct Story {
    /// Shown in lists, and the start of the session's name.
    pub title: &'static str,
    /// What it will ask for: an attention's reason.
    pub asks: &'static str,
    words: &'static str,
    arguments: Value,
    script: Vec<Turn>,
}

impl Story {
    /// Arguments of `spawn_session`.
    pub fn spawn(&self, offline: bool) -> Value {
        let mut arguments = self.arguments.clone();
        let prompt = if offline { scripted_prompt(self.words, &self.script) } else { self.words.to_owned() };
        arguments["prompt"] = Value::from(prompt);
        arguments["title"] = Value::from(self.title);
        arguments["worktree"] = Value::from(true);
        arguments
    }
}

/// Permission, question, plan.
pub fn stories() -> [Story; 3] {
    [permission(), question(), plan()]
}

fn permission() -> Story {
    let commit = "mkdir -p notes && echo 'watered the farm' > notes/today.txt && git add notes && \
                  git -c user.name=demo -c user.email=demo@localhost commit -q -m 'a note for today'";
    Story {
        title: "take a note",
        asks: "permission",
        words: "Use the Bash tool to write the line `watered the farm` to notes/today.txt and to commit that \
                file with git (git -c user.name=demo -c user.email=demo@localhost commit). Then say in one \
                sentence what you did.",
        arguments: json!({}),
        script: vec![
            Turn { text: Some("I will write the note and commit it.".to_owned()), ..Turn::bash(commit) },
            Turn::text("The note is in notes/today.txt, committed."),
        ],
    }
}

fn question() -> Story {
    let option = |label: &str, description: &str| json!({ "label": label, "description": description });
    let ask = json!({ "questions": [{ "question": "Which language shall the greeting have?",
        "header": "Language",
        "multiSelect": false, "options": [option("English", "hello"), option("French", "bonjour")] }] });
    let write = json!({ "file_path": "greeting.txt", "content": "bonjour, la ferme\n" });
    Story {
        title: "greet the farm",
        asks: "input",
        words: "Write a greeting for the farm to greeting.txt in the current directory, one line. First ask \
                me with the AskUserQuestion tool whether it shall be in English or in French. Do not commit.",
        arguments: json!({ "permissionMode": "accept_edits" }),
        script: vec![
            Turn::tool("AskUserQuestion", ask),
            Turn::tool("Write", write),
            Turn::text("greeting.txt greets the farm in French."),
        ],
    }
}

fn plan() -> Story {
    let write = "printf '\\n\\ndef part(name):\\n    return \"goodbye \" + name\\n' >> src/greet.py";
    let plan = "# Say goodbye too\n\n1. Add `part(name)` to src/greet.py, beside `greet`.\n\
                2. Leave `greet` as it is.";
    Story {
        title: "say goodbye too",
        asks: "plan_approval",
        words: "Add a function part(name) to src/greet.py that returns \"goodbye \" and the name. It is a \
                tiny change: plan it without exploring further and present the plan with ExitPlanMode; once \
                approved, do it. Do not commit.",
        arguments: json!({ "permissionMode": "plan" }),
        script: vec![
            Turn::tool("Write", json!({ "file_path": "{{plan_file}}", "content": plan })),
            Turn::tool("ExitPlanMode", json!({})),
            Turn::bash(write),
            Turn::text("`part` stands beside `greet`."),
        ],
    }
}

/// The message that follows to the first session once it has ended.
pub fn follow_up(offline: bool) -> String {
    let words = "Thank you. Tell me in one short sentence where the note is. Change nothing.";
    if offline {
        scripted_prompt(words, &[Turn::text("It is in notes/today.txt.")])
    } else {
        words.to_owned()
    }
}

/// The answer somebody in charge would give to what a session asks.
pub fn answer(attention: &Value) -> (Value, String) {
    match attention["reason"].as_str() {
        Some("input") => {
            let mut answers = serde_json::Map::new();
            for question in attention["questions"].as_array().into_iter().flatten() {
                let text = question["question"].as_str().unwrap_or_default();
                answers.insert(text.to_owned(), preferred(question));
            }
            let shown = format!("{}", Value::Object(answers.clone()));
            (json!({ "answers": answers }), shown)
        }
        Some("plan_approval") => (json!({ "decision": "allow" }), "approved".to_owned()),
        _ => (json!({ "decision": "allow" }), "allowed".to_owned()),
    }
}

/// French where it is offered, else the first option.
fn preferred(question: &Value) -> Value {
    let options = question["options"].as_array().map(Vec::as_slice).unwrap_or_default();
    let french =
        options.iter().find(|option| option["label"].as_str().is_some_and(|label| label.contains("French")));
    french.or(options.first()).map_or_else(|| Value::from("you choose"), |option| option["label"].clone())
}

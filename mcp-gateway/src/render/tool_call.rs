//! A tool call in a line: what exactly it does, not how it is encoded.

use serde_json::Value;

use super::{cut_middle, sanitise};

/// Longest command or argument shown, in characters. Past it the cut is named: a command must never look
/// shorter than it is.
const ARGUMENT_CHARS: usize = 2_000;
/// Longest input of a tool we have no special form for.
const OTHER_CHARS: usize = 300;

/// Which argument says what a tool does.
const TELLING: [(&str, &str); 14] = [
    ("Bash", "command"),
    ("BashOutput", "bash_id"),
    ("Read", "file_path"),
    ("Write", "file_path"),
    ("Edit", "file_path"),
    ("MultiEdit", "file_path"),
    ("NotebookEdit", "notebook_path"),
    ("Glob", "pattern"),
    ("Grep", "pattern"),
    ("WebFetch", "url"),
    ("WebSearch", "query"),
    ("Task", "description"),
    ("Agent", "description"),
    ("Skill", "skill"),
];

/// `Bash: cargo test`.
pub(super) fn describe(tool: &str, input: &Value) -> String {
    let tool = sanitise(tool);
    let telling =
        TELLING.iter().find(|(name, _)| *name == tool).and_then(|(_, key)| input.get(*key)?.as_str());
    let argument = match telling {
        Some(text) => cut_middle(&sanitise(text), ARGUMENT_CHARS).into_owned(),
        None if input.as_object().is_none_or(serde_json::Map::is_empty) => return tool.into_owned(),
        None => cut_middle(&sanitise(&input.to_string()), OTHER_CHARS).into_owned(),
    };
    let place = match tool.as_ref() {
        "Grep" | "Glob" => {
            input.get("path").and_then(Value::as_str).map(|path| format!(" in {}", sanitise(path)))
        }
        _ => None,
    };
    format!("{tool}: {argument}{}", place.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_telling_argument_is_shown_exactly() {
        for (tool, input, line) in [
            ("Bash", json!({"command": "a && b\nc", "description": "x"}), "Bash: a && b\nc"),
            ("Write", json!({"file_path": "/a", "content": "long"}), "Write: /a"),
            ("Grep", json!({"pattern": "x", "path": "src"}), "Grep: x in src"),
            ("mcp__t__do", json!({"a": 1}), "mcp__t__do: {\"a\":1}"),
            ("ExitWorktree", json!({}), "ExitWorktree"),
            ("Bash", json!({"command": 7}), "Bash: {\"command\":7}"),
        ] {
            assert_eq!(describe(tool, &input), line);
        }
        let long = describe("Bash", &json!({"command": "x".repeat(5000)}));
        assert!(long.contains("[cut: 3000 of 5000 characters left out here]"), "{long}");
    }
}

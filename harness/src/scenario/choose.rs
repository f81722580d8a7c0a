//! Which turn answers a request. Pure but for the counters it is handed.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use serde_json::Value;

use super::{INLINE_MARK, Scenario, Turn, template};

/// What a tool answered, as the model is told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolResult {
    /// Of the call.
    pub tool_use_id: String,
    /// Text blocks joined by newlines.
    pub text: String,
}

/// The parts of a request's `messages` that decide the answer.
#[derive(Debug, Clone, Default)]
pub struct Conversation {
    /// User texts (not tool results), oldest first.
    pub user_texts: Vec<String>,
    /// All tool results, oldest first.
    pub tool_results: Vec<ToolResult>,
    /// Where claude told the model to write its plan, in plan mode.
    pub plan_file: Option<String>,
}

/// A turn and why it was taken.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// With its templates filled in.
    pub turn: Turn,
    /// Name of the marker, `script` for one in the prompt, empty for the session's list.
    pub marker: String,
    /// Position in the list, from 0. `None` for side requests.
    pub index: Option<usize>,
}

/// How many requests each list has answered: by session, and the text its mark stands in. Not by the text's
/// position: claude merges messages when a turn has failed between them.
pub(crate) type Counters = HashMap<(String, Option<MarkedText>), usize>;

/// A text that carries a mark, and how many equal ones came before it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct MarkedText {
    digest: u64,
    earlier: usize,
}

impl Conversation {
    /// Reads the `messages` of a Messages API request; what has another shape is passed over.
    #[must_use]
    pub fn read(body: &Value) -> Self {
        let mut conversation = Self { plan_file: plan_file(&body["messages"]), ..Self::default() };
        let messages = body["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
        for message in messages.iter().filter(|message| message["role"] == "user") {
            match &message["content"] {
                Value::String(text) => conversation.user_texts.push(text.clone()),
                Value::Array(blocks) => blocks.iter().for_each(|block| conversation.read_block(block)),
                _ => {}
            }
        }
        conversation
    }

    fn read_block(&mut self, block: &Value) {
        match block["type"].as_str() {
            Some("text") => {
                self.user_texts.push(block["text"].as_str().unwrap_or_default().to_owned());
            }
            Some("tool_result") => self.tool_results.push(ToolResult {
                tool_use_id: block["tool_use_id"].as_str().unwrap_or_default().to_owned(),
                text: block_text(&block["content"]),
            }),
            _ => {}
        }
    }

    fn last_tool_result(&self) -> &str {
        self.tool_results.last().map_or("", |result| result.text.as_str())
    }
}

impl Scenario {
    /// The answer to a request of `session`. Counts it.
    ///
    /// # Errors
    /// When a script in the prompt is no list of turns, or a template finds no value: in words for the test's
    /// author.
    pub(crate) fn choose(
        &self,
        counters: &mut Counters,
        session: &str,
        conversation: &Conversation,
    ) -> Result<Chosen, String> {
        let (marker, text, turns) = self.list_for(conversation)?;
        let counter = counters.entry((session.to_owned(), text)).or_insert(0);
        let answers = |turn: &Turn| turn.act.is_none() && applies(turn, conversation);
        let (index, turn) = match turn_from(&turns, *counter, answers) {
            Some((index, turn)) => (index, turn.clone()),
            None => (*counter, self.default.clone().unwrap_or_else(|| Turn::text("done"))),
        };
        *counter = index.saturating_add(1);
        let turn = template::fill_turn(turn, conversation)?;
        Ok(Chosen { turn, marker, index: Some(index) })
    }

    /// The list that counts: that of the newest mark, with the text it stands in.
    fn list_for(
        &self,
        conversation: &Conversation,
    ) -> Result<(String, Option<MarkedText>, Vec<Turn>), String> {
        let texts = &conversation.user_texts;
        for (index, text) in texts.iter().enumerate().rev() {
            let found = match (inline_script(text), self.marked(text)) {
                (Some(script), _) => ("script".to_owned(), script?),
                (None, Some((name, turns))) => (name.to_owned(), turns.to_vec()),
                (None, None) => continue,
            };
            let mut hasher = DefaultHasher::new();
            text.hash(&mut hasher);
            let earlier = texts[..index].iter().filter(|earlier| *earlier == text).count();
            let text = MarkedText { digest: hasher.finish(), earlier };
            return Ok((found.0, Some(text), found.1));
        }
        Ok((String::new(), None, self.turns.clone()))
    }

    fn marked(&self, text: &str) -> Option<(&str, &[Turn])> {
        let mut ends = text.rmatch_indices("[[");
        ends.find_map(|(start, _)| {
            let (name, _) = text[start + 2..].split_once("]]")?;
            let (name, turns) = self.by_marker.get_key_value(name)?;
            Some((name.as_str(), turns.as_slice()))
        })
    }
}

/// The script a prompt carries, if it carries one. What follows the JSON array is ignored.
#[must_use]
pub fn inline_script(text: &str) -> Option<Result<Vec<Turn>, String>> {
    let (_, script) = text.split_once(INLINE_MARK)?;
    let mut values = serde_json::Deserializer::from_str(script).into_iter::<Vec<Turn>>();
    Some(match values.next() {
        Some(Ok(turns)) => Ok(turns),
        Some(Err(error)) => Err(format!("the script in the prompt is no list of turns: {error}")),
        None => Err("nothing follows the script mark in the prompt".to_owned()),
    })
}

/// The first turn from request `index` on that `accept` takes, and the index it counts as.
fn turn_from(turns: &[Turn], index: usize, accept: impl Fn(&Turn) -> bool) -> Option<(usize, &Turn)> {
    let (mut index, mut start) = (index, 0_usize);
    for turn in turns {
        let times = match turn.repeat {
            0 => 1,
            times => usize::try_from(times).unwrap_or(usize::MAX),
        };
        let end = start.saturating_add(times);
        if index < end {
            if accept(turn) {
                return Some((index, turn));
            }
            index = end;
        }
        start = end;
    }
    None
}

fn applies(turn: &Turn, conversation: &Conversation) -> bool {
    match &turn.only_if_tool_result {
        Some(text) => conversation.last_tool_result().contains(text.as_str()),
        None => true,
    }
}

/// The newest path of a plan file that is spoken of: `.../.claude/plans/<words>.md`.
fn plan_file(messages: &Value) -> Option<String> {
    const FOLDER: &str = "/plans/";
    let text = messages.to_string();
    text.rmatch_indices(FOLDER).find_map(|(folder, _)| {
        let breaks = |letter: char| letter.is_whitespace() || matches!(letter, '"' | '\'' | '`' | '\\' | '(');
        let start = text[..folder].rfind(breaks).map_or(0, |at| at + 1);
        let end = folder + text[folder..].find(".md")? + ".md".len();
        let path = &text[start..end];
        (path.starts_with('/') && !path.contains(breaks)).then(|| path.to_owned())
    })
}

fn block_text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => {
            let texts: Vec<&str> = blocks.iter().filter_map(|block| block["text"].as_str()).collect();
            texts.join("\n")
        }
        _ => String::new(),
    }
}

impl Conversation {
    /// Turn `index` of a script as this conversation has it: templates filled; the index of the turn it
    /// really was.
    ///
    /// # Errors
    /// When a template finds no value.
    pub fn play(&self, turns: &[Turn], index: usize) -> Result<Option<(usize, Turn)>, String> {
        let Some((index, turn)) = turn_from(turns, index, |turn| applies(turn, self)) else {
            return Ok(None);
        };
        Ok(Some((index, template::fill_turn(turn.clone(), self)?)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request(messages: &Value) -> Conversation {
        Conversation::read(&json!({ "messages": messages }))
    }

    #[test]
    fn the_newest_mark_wins_and_each_message_counts_for_itself() {
        let scenario = Scenario {
            by_marker: [("a".to_owned(), vec![Turn::text("a1"), Turn::text("a2")])].into(),
            turns: vec![Turn::text("plain")],
            ..Scenario::default()
        };
        let mut counters = Counters::new();
        let mut say = |messages: Value| {
            let chosen = scenario.choose(&mut counters, "s", &request(&messages)).expect("no templates");
            chosen.turn.text.expect("a text turn")
        };
        assert_eq!(say(json!([{ "role": "user", "content": "hello" }])), "plain");
        let first = json!({ "role": "user", "content": "do [[a]]" });
        assert_eq!(say(json!([first])), "a1");
        assert_eq!(say(json!([first])), "a2");
        assert_eq!(say(json!([first])), "done");
        let again = json!({ "role": "user", "content": [{ "type": "text", "text": "[[a]] again" }] });
        assert_eq!(say(json!([first, { "role": "assistant", "content": "x" }, again])), "a1");
        // The same words once more, in one message with the first: claude does so after a failed turn.
        let twice = json!([{ "type": "text", "text": "do [[a]]" }, { "type": "text", "text": "do [[a]]" }]);
        assert_eq!(say(json!([{ "role": "user", "content": twice }])), "a1");
    }

    #[test]
    fn the_plan_file_is_found_where_claude_names_it() {
        let told = "create your plan at /home/u/.claude/plans/go-pure-reef.md using the Write tool.\nYou";
        let conversation =
            request(&json!([{ "role": "user", "content": [{ "type": "text", "text": told }] }]));
        assert_eq!(conversation.plan_file.as_deref(), Some("/home/u/.claude/plans/go-pure-reef.md"));
    }

    #[test]
    fn a_script_in_the_prompt_is_played_with_repeats_and_conditions() {
        let turns = [
            Turn { repeat: 2, ..Turn::bash("true") },
            Turn { only_if_tool_result: Some("never".to_owned()), ..Turn::text("skipped") },
            Turn::text("end"),
        ];
        let prompt = super::super::scripted_prompt("-- go\"", &turns);
        let scenario = Scenario::default();
        let mut counters = Counters::new();
        let conversation = request(&json!([{ "role": "user", "content": prompt }]));
        let mut next = || scenario.choose(&mut counters, "s", &conversation).expect("a good script").turn;
        assert_eq!(next().tool_use.len(), 1);
        assert_eq!(next().tool_use.len(), 1);
        assert_eq!(next().text.as_deref(), Some("end"));
    }
}

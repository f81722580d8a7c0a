//! What really happened to a session, by the witness of the program it ran: no word of muster is believed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use serde_json::Value;

use crate::{
    plan::Message,
    report::{Report, Violation},
    run::Run,
};

/// A start that was ordered before a stop was acknowledged may show this much later: making a worktree takes
/// a while, and a worker that is cut off cannot know.
const IN_FLIGHT_MICROS: u64 = 10_000_000;

/// What the load was promised.
#[derive(Debug, Default)]
pub struct Promised {
    /// Messages that were acknowledged, the prompt first.
    pub messages: Vec<Message>,
    /// Attentions whose answer was acknowledged.
    pub answers: BTreeSet<String>,
    /// When the stop was acknowledged, by the wall clock in microseconds.
    pub stopped: Option<u64>,
}

/// The witness of one session, read.
#[derive(Debug, Default)]
pub struct Witnessed {
    starts: Vec<Value>,
    /// Lines of stdin.
    lines: Vec<Value>,
    /// Records of what each process said, oldest first.
    pub said: Vec<PathBuf>,
}

impl Witnessed {
    /// Reads what there is.
    pub fn of(run: &Run, session: &str) -> Self {
        let folder = run.folder.join("witness");
        let text = fs::read_to_string(folder.join(format!("{session}.jsonl"))).unwrap_or_default();
        let mut witnessed = Self::default();
        for note in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            if note["start"].is_object() {
                witnessed.starts.push(note["start"].clone());
            } else if let Some(line) = note["line"].as_str() {
                witnessed.lines.extend(serde_json::from_str::<Value>(line));
            }
        }
        let names = fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let own = |path: &PathBuf| {
            path.extension().is_some_and(|kind| kind == "said")
                && path
                    .file_name()
                    .and_then(|name| name.to_str())
                    .is_some_and(|name| name.starts_with(session))
        };
        witnessed.said = names.filter(own).collect();
        witnessed.said.sort();
        witnessed
    }

    /// How often a message holds this word.
    pub fn received(&self, word: &str) -> usize {
        let messages = self.lines.iter().filter(|line| line["type"] == "user");
        messages.map(|line| line["message"]["content"].to_string().matches(word).count()).sum()
    }

    /// Answers by the request they answer.
    fn answers(&self) -> BTreeMap<String, usize> {
        let mut answers = BTreeMap::new();
        for line in self.lines.iter().filter(|line| line["type"] == "control_response") {
            let request = line["response"]["request_id"].as_str().unwrap_or_default().to_owned();
            *answers.entry(request).or_default() += 1;
        }
        answers
    }

    /// Checks all but the output. `cut`: a process may have died with what it was given.
    pub fn check(&self, report: &Report, who: &str, promised: &Promised, output: &[u8], cut: bool) {
        self.check_starts(report, who, promised, cut);
        for (place, message) in promised.messages.iter().enumerate() {
            let received = self.received(&message.word);
            // One that was killed after it was given the prompt and before it wrote any of it down has no conversation: the
            // next one begins it, with the prompt.
            let may = if place == 0 && cut { self.fresh_starts().max(1) } else { 1 };
            if received > may {
                let what = format_args!("{who}: {} was received {received} times", message.word);
                report.violation(Violation::DoubleMessage, what);
            } else if received == 0 && !cut {
                report.violation(
                    Violation::LostMessage,
                    format_args!("{who}: {} was not received", message.word),
                );
            }
        }
        let answers = self.answers();
        for (request, count) in &answers {
            if *count > 1 {
                let what = format_args!("{who}: {request} was answered {count} times");
                report.violation(Violation::DoubleAnswer, what);
            }
        }
        for attention in &promised.answers {
            let request = request_at(output, attention);
            if !cut && request.as_ref().is_none_or(|request| !answers.contains_key(request)) {
                let what = format_args!("{who}: the answer to {attention} ({request:?}) was not received");
                report.violation(Violation::LostAnswer, what);
            }
        }
        report.count("messages", promised.messages.len() as u64);
        report.count("answers", promised.answers.len() as u64);
        report.count("processes started", self.starts.len() as u64);
    }

    /// Processes that began a conversation, and did not go on with one.
    fn fresh_starts(&self) -> usize {
        self.starts.iter().filter(|start| !is_resumed(start)).count()
    }

    fn check_starts(&self, report: &Report, who: &str, promised: &Promised, cut: bool) {
        let mut seen = BTreeSet::new();
        for start in &self.starts {
            let parent = start["parent"].as_str().unwrap_or_default().to_owned();
            if !seen.insert(parent.clone()) {
                report.violation(Violation::DoubleStart, format_args!("{who}: twice by {parent}"));
            }
            if start["alone"] == false {
                let what = format_args!("{who}: {} began while another lived", start["pid"]);
                report.violation(Violation::TwoAlive, what);
            }
            let began = start["unixMicros"].as_u64().unwrap_or_default();
            if promised.stopped.is_some_and(|stopped| began > stopped + IN_FLIGHT_MICROS) {
                let what = format_args!("{who}: {} began after the stop", start["pid"]);
                report.violation(Violation::StartAfterStop, what);
            }
        }
        // One whose process died before it was given anything has no conversation to resume.
        let fresh = self.fresh_starts();
        if fresh > 1 && !cut {
            report.violation(Violation::DoubleStart, format_args!("{who}: {fresh} fresh starts"));
        }
    }
}

fn is_resumed(start: &Value) -> bool {
    let words = start["argv"].as_array().into_iter().flatten();
    words.filter_map(Value::as_str).any(|word| word.starts_with("--resume"))
}

/// The request that the line at an attention's offset made.
fn request_at(output: &[u8], attention: &str) -> Option<String> {
    let offset: usize = attention.strip_prefix('a')?.parse().ok()?;
    let line = output.get(offset..)?.split(|byte| *byte == b'\n').next()?;
    let line: Value = serde_json::from_slice(line).ok()?;
    line["request_id"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn witnessed(starts: &[&[&str]], lines: &[&str]) -> Witnessed {
        let starts = starts.iter().enumerate();
        let start = |(number, argv): (usize, &&[&str])| json!({ "argv": argv, "parent": number.to_string(), "alone": true });
        let line = |text: &&str| json!({ "type": "user", "message": { "content": text } });
        Witnessed {
            starts: starts.map(start).collect(),
            lines: lines.iter().map(line).collect(),
            said: Vec::new(),
        }
    }

    fn is_clean(witnessed: &Witnessed, cut: bool) -> bool {
        let message = |word: &str| Message { word: word.to_owned(), text: String::new() };
        let promised = Promised { messages: vec![message("prompt"), message("more")], ..Promised::default() };
        let report = Report::default();
        witnessed.check(&report, "it", &promised, b"", cut);
        report.is_clean()
    }

    #[test]
    fn a_prompt_counts_once_for_each_conversation_that_was_begun_and_a_later_message_once() {
        let (fresh, resumed): (&[&str], &[&str]) = (&["--session-id"], &["--resume=x"]);
        assert!(is_clean(&witnessed(&[fresh, resumed], &["prompt", "more"]), true));
        let again = ["prompt", "prompt", "more"];
        assert!(is_clean(&witnessed(&[fresh, fresh], &again), true), "killed before it wrote anything down");
        assert!(!is_clean(&witnessed(&[fresh, fresh], &again), false), "nobody killed it");
        assert!(
            !is_clean(&witnessed(&[fresh, resumed], &again), true),
            "it went on, and was given the prompt again"
        );
        assert!(!is_clean(&witnessed(&[fresh, fresh], &["prompt", "more", "more"]), true));
    }
}

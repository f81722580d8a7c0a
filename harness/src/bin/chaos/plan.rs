//! What a session will do: chosen by the seed, so that the same seed asks the same of the system.

use std::time::Duration;

use muster_harness::{
    scenario::{Act, Turn, scripted_prompt},
    seeded::Dice,
};
use serde_json::json;

/// One session to be.
#[derive(Debug)]
pub struct Plan {
    pub title: String,
    /// The prompt, then each message; every one holds a word of its own.
    pub messages: Vec<Message>,
    /// The first message is sent while the session works.
    pub early_message: bool,
    /// It is stopped so long after it was spawned.
    pub stop_after: Option<Duration>,
    /// The spawn is sent twice at once.
    pub spawned_twice: bool,
    /// Its output is followed while it runs.
    pub followed: bool,
    /// Two answers are sent at once to each question.
    pub racing_answers: bool,
}

/// A message that can be found again.
#[derive(Debug, Clone)]
pub struct Message {
    pub word: String,
    pub text: String,
}

impl Plan {
    /// The session of this number, about `bytes` long.
    pub fn new(seed: u64, number: u64, bytes: u64) -> Self {
        let mut dice = Dice::new(seed.wrapping_mul(1_000_003).wrapping_add(number));
        let count = 1 + dice.below(3);
        let stop_after = dice.chance(12).then(|| Duration::from_millis(dice.below(2_500)));
        let ignores_sigterm = dice.chance(if stop_after.is_some() { 70 } else { 15 });
        let messages = (0..count).map(|index| {
            let word = format!("word-{number}-{index}-end");
            let mut turns = Vec::new();
            if ignores_sigterm {
                turns.push(Turn::act(Act::IgnoreSigterm));
            }
            turns.extend(turns_of(&mut dice, bytes / count, stop_after.is_some()));
            turns.push(Turn::text(format!("said all of {index}")));
            Message { text: scripted_prompt(&word, &turns), word }
        });
        let messages = messages.collect();
        Self {
            title: format!("chaos {number}"),
            messages,
            early_message: dice.chance(40),
            stop_after,
            spawned_twice: dice.chance(20),
            followed: dice.chance(35),
            racing_answers: dice.chance(25),
        }
    }
}

fn turns_of(dice: &mut Dice, bytes: u64, slow: bool) -> Vec<Turn> {
    let mut turns = Vec::new();
    let parts = 1 + dice.below(3);
    for _ in 0..parts {
        turns
            .push(Turn::act(Act::Pieces { seed: dice.any() >> 1, count: dice.below(2 * bytes / parts + 2) }));
        match dice.below(10) {
            0..3 => turns.push(Turn::bash("true")),
            3..5 => turns.push(question()),
            5 => turns.push(Turn::act(Act::Orphan(600))),
            6 => turns.push(Turn::act(Act::Daemon(600))),
            7 => {
                turns.push(Turn::act(Act::Lines { count: 30 + dice.below(40), width: 30, interval_ms: 20 }));
            }
            _ => {}
        }
    }
    if slow {
        turns.push(Turn::act(Act::Lines { count: 200, width: 10, interval_ms: 20 }));
    }
    turns
}

fn question() -> Turn {
    let option = |label: &str| json!({ "label": label, "description": label });
    Turn::tool(
        "AskUserQuestion",
        json!({ "questions": [{ "question": "Which one?", "header": "One", "multiSelect": false,
            "options": [option("this"), option("that")] }] }),
    )
}

//! A session: message in, events out, until stdin ends.
//!
//! Owns everything but stdin, the signals and the tools' processes. One thread; whatever happens comes out of
//! the inbox.

mod control;
mod turn;

use std::{collections::VecDeque, process::ExitCode, sync::atomic::Ordering, time::Duration};

use serde_json::{Value, json};

use crate::{
    args::Args,
    ask::Rules,
    inbox::{Inbox, Incoming},
    model::Spent,
    output::Output,
    signals::OnSignal,
    transcript::Transcript,
    witness::Witness,
};

/// Ends the current turn.
#[derive(Debug)]
struct Interrupted;

struct Session {
    out: Output,
    inbox: Inbox,
    signals: OnSignal,
    transcript: Transcript,
    witness: Witness,
    rules: Rules,
    model: String,
    asks: bool,
    replay: bool,
    max_turns: Option<u32>,
    max_budget: Option<f64>,
    /// User messages not taken up yet.
    queue: VecDeque<Value>,
    /// Answers that came, oldest first.
    answers: Vec<Value>,
    /// `request_id` of the question that is open.
    open_ask: Option<String>,
    tool_end: Option<crate::tools::ToolEnd>,
    in_turn: bool,
    end_of_input: bool,
    spent: Spent,
    last_is_error: bool,
}

/// Runs to the end of stdin. The exit code is 1 when the last result was an error.
pub fn run(args: Args) -> ExitCode {
    let folder = std::env::current_dir().unwrap_or_default();
    let resumed = args.resume.clone();
    let session_id = resumed.clone().or(args.session_id.clone());
    let session_id = session_id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let transcript = Transcript::of(&session_id, &folder);
    if resumed.is_none() && transcript.exists() {
        return crate::fail(&format!("Error: Session ID {session_id} is already in use."));
    }
    let said = match Witness::said(&session_id) {
        Ok(said) => said,
        Err(error) => return crate::fail(&format!("Error: {error}")),
    };
    let out = Output::new(&session_id, said);
    let signals = OnSignal::default();
    if resumed.is_some() && !transcript.exists() {
        let problem = format!("No conversation found with session ID: {session_id}");
        out.event(json!({ "type": "result", "subtype": "error_during_execution", "is_error": true,
            "duration_ms": 0, "duration_api_ms": 0, "num_turns": 0, "total_cost_usd": 0,
            "usage": Spent::default().usage(), "modelUsage": {}, "permission_denials": [],
            "errors": [problem] }));
        return crate::fail(&problem);
    }
    let witness = Witness::open(&session_id);
    let inbox = signals.watch(&out).and_then(|()| Inbox::open(witness.clone()));
    let inbox = match inbox {
        Ok(inbox) => inbox,
        Err(error) => return crate::fail(&format!("Error: {error}")),
    };
    let session = Session {
        out,
        inbox,
        signals,
        transcript,
        witness,
        rules: Rules::new(args.permission_mode, args.skip_permissions, args.allowed),
        model: args.model,
        asks: args.asks,
        replay: args.replay,
        max_turns: args.max_turns,
        max_budget: args.max_budget,
        queue: VecDeque::new(),
        answers: Vec::new(),
        open_ask: None,
        tool_end: None,
        in_turn: false,
        end_of_input: false,
        spent: Spent::default(),
        last_is_error: false,
    };
    session.serve()
}

impl Session {
    fn serve(mut self) -> ExitCode {
        loop {
            if let Some(message) = self.queue.pop_front() {
                self.in_turn = true;
                self.user_turn(&message);
                self.in_turn = false;
            } else if self.end_of_input {
                self.witness.moment("exit");
                return ExitCode::from(u8::from(self.last_is_error));
            } else if self.step(None).is_err() {
                // An interrupt outside a turn has nothing to end.
            }
        }
    }

    /// Takes the next thing that happens, if it happens within `limit`. False: nothing did.
    fn step(&mut self, limit: Option<Duration>) -> Result<bool, Interrupted> {
        let Some(incoming) = self.inbox.next(limit) else { return Ok(false) };
        match incoming {
            Incoming::User(message) => self.queue.push_back(message),
            Incoming::Answer(answer) => self.answers.push(answer),
            Incoming::Request(request) => self.control(&request)?,
            Incoming::ToolEnded(end) => self.tool_end = Some(end),
            Incoming::EndOfInput => self.end_of_input = true,
        }
        Ok(true)
    }

    /// Lets `duration` pass, attentive to what comes in.
    fn pause(&mut self, duration: Duration) -> Result<(), Interrupted> {
        let end = std::time::Instant::now() + duration;
        loop {
            let left = end.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() || !self.step(Some(left))? {
                return Ok(());
            }
        }
    }

    fn hang(&mut self) -> Result<(), Interrupted> {
        loop {
            self.step(Some(Duration::from_secs(3600)))?;
        }
    }

    fn ignore_signals(&self) {
        self.signals.ignore.store(true, Ordering::SeqCst);
    }
}

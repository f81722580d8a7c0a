//! stdin, read by a thread of its own, and the ends of tools: all that happens to a session comes out of one
//! channel.

use std::{
    io::BufRead as _,
    sync::mpsc::{self, Receiver, Sender},
    time::Duration,
};

use serde_json::Value;

use crate::witness::Witness;

#[derive(Debug)]
pub enum Incoming {
    User(Value),
    Answer(Value),
    Request(Value),
    ToolEnded(crate::tools::ToolEnd),
    EndOfInput,
}

#[derive(Debug)]
pub struct Inbox {
    received: Receiver<Incoming>,
    sender: Sender<Incoming>,
}

impl Inbox {
    /// Starts reading.
    pub fn open(witness: Witness) -> std::io::Result<Self> {
        let (sender, received) = mpsc::channel();
        let lines = sender.clone();
        std::thread::Builder::new().name("stdin".to_owned()).spawn(move || read(&lines, &witness))?;
        Ok(Self { received, sender })
    }

    /// For what runs beside the session.
    pub fn sender(&self) -> Sender<Incoming> {
        self.sender.clone()
    }

    /// The next thing that happens, or nothing within `limit`. `None`: no limit.
    pub fn next(&self, limit: Option<Duration>) -> Option<Incoming> {
        match limit {
            Some(limit) => self.received.recv_timeout(limit).ok(),
            None => self.received.recv().ok(),
        }
    }
}

fn read(lines: &Sender<Incoming>, witness: &Witness) {
    let mut stdin = std::io::BufReader::with_capacity(1 << 16, std::io::stdin());
    let mut line = Vec::new();
    while stdin.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
        if !line.trim_ascii().is_empty() {
            witness.line(&line);
            let Some(incoming) = understand(&line) else { reject(&line) };
            if let Some(incoming) = incoming {
                let _ = lines.send(incoming);
            }
        }
        line.clear();
    }
    let _ = lines.send(Incoming::EndOfInput);
}

/// `None`: a line that ends the program. `Some(None)`: one that is passed over.
fn understand(line: &[u8]) -> Option<Option<Incoming>> {
    let value: Value = serde_json::from_slice(line).ok()?;
    match value["type"].as_str()? {
        "user" => {
            let content = &value["message"]["content"];
            (content.is_string() || content.is_array()).then_some(Some(Incoming::User(value)))
        }
        "control_response" => Some(Some(Incoming::Answer(value))),
        "control_request" => Some(Some(Incoming::Request(value))),
        _ => Some(None),
    }
}

/// One bad line ends the real program.
fn reject(line: &[u8]) -> ! {
    use std::io::Write as _;
    let shown = String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned();
    let _ = writeln!(std::io::stderr(), "Error parsing streaming input line: {shown}");
    std::process::exit(1)
}

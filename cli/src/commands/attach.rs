//! `muster attach`: a session as it goes, with a line to type in. Detaching leaves it running.
//!
//! What is typed is a message, an answer when a question is open, or a command that begins with `/`. Invariant: what was
//! typed for one question never answers another: the question shown last is named in the answer.

mod typed;

use std::io::{BufRead as _, IsTerminal as _};

use clap::Args;
use futures::StreamExt as _;
use muster_proto::v1::{Answer, Attention, Delivery, SendInputRequest, Session, send_input_request::Input};
use muster_runtime::task::{self, Task};
use tokio::sync::mpsc;

use self::typed::{Typed, understand};
use super::{
    logs::{Reader, last_lines, text_form},
    status,
};
use crate::{
    args::Remote,
    client::Client,
    failure::{Exit, Failure},
    output::Output,
    show,
    watch::Watch,
};

/// Lines typed ahead, and pieces of output on their way to the screen.
const AHEAD: usize = 16;

/// Arguments of `attach`.
#[derive(Debug, Args)]
pub struct Options {
    /// Handle, id or the beginning of either
    #[arg(add = super::completion::sessions())]
    session: String,
    /// Begin with the last lines, this many
    #[arg(long, value_name = "N", default_value_t = 20)]
    tail: usize,
    /// Only look: nothing that is typed is sent
    #[arg(long)]
    read_only: bool,
    #[command(flatten)]
    remote: Remote,
}

/// Stays until it is detached.
pub async fn run(options: Options) -> Result<Exit, Failure> {
    if options.remote.json {
        return Err(Failure::usage("attach is for people").hint("`muster logs -f --json` is for programs"));
    }
    let mut client = Client::new(&options.remote)?;
    let output = Output::new(false);
    let session = client.session(&options.session).await?;
    let mut desk = Desk {
        output,
        handle: session.handle.clone(),
        id: session.session_id.clone(),
        client: client.clone(),
        shown: None,
        ended: String::new(),
        revision: 0,
        offset: session.output_end_offset,
        following: None,
    };
    desk.output.note(if options.read_only {
        "read only; Ctrl-C detaches, the session goes on"
    } else {
        "type a message, or /help; Ctrl-D or Ctrl-C detaches, the session goes on"
    });
    let new_form = |_| text_form();
    let (mut form, tail) =
        last_lines(&client, &new_form, &session.session_id, session.output_end_offset, options.tail).await?;
    output.bytes(&tail.into_bytes())?;
    let mut updates = std::pin::pin!(Watch::new(client, vec![session.session_id]).updates());
    let mut lines = lines(!options.read_only);
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    let (pieces, mut output_pieces) = mpsc::channel::<Result<Vec<u8>, Failure>>(AHEAD);
    loop {
        tokio::select! {
            _ = &mut interrupted => return desk.detached(),
            Some(piece) = output_pieces.recv() => {
                let piece = piece?;
                desk.offset += piece.len() as u64;
                if piece.is_empty() {
                    desk.following = None;
                } else {
                    output.bytes(&form.shown(&piece))?;
                }
            }
            Some(update) = updates.next() => {
                let Some(session) = update?.sessions.into_iter().find(|session| session.session_id == desk.id) else {
                    continue;
                };
                desk.follow(&session, &pieces);
                desk.tell(&session)?;
            }
            line = lines.recv(), if !options.read_only => match line {
                None => return desk.detached(),
                Some(line) => {
                    if !desk.take(&line).await? {
                        return desk.detached();
                    }
                }
            },
        }
    }
}

/// Lines of stdin. A thread of its own reads: nothing else can wait for a terminal and for the farm.
fn lines(wanted: bool) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    if wanted {
        task::spawn_blocking("stdin", move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                if sender.blocking_send(line).is_err() {
                    return;
                }
            }
        })
        .detach();
    }
    receiver
}

/// What is on the screen, and how it came there.
struct Desk {
    output: Output,
    handle: String,
    id: String,
    client: Client,
    /// The question shown last.
    shown: Option<Attention>,
    /// The end told last.
    ended: String,
    /// Of the session when that was.
    revision: u64,
    /// Of the next byte of output.
    offset: u64,
    following: Option<Task<()>>,
}

impl Desk {
    /// Reads output for as long as there is some; a session that goes on after its end has more.
    fn follow(&mut self, session: &Session, pieces: &mpsc::Sender<Result<Vec<u8>, Failure>>) {
        let more = session.end.is_none() || session.output_end_offset > self.offset;
        if self.following.is_some() || !more {
            return;
        }
        let mut reader = Reader::new(self.client.clone(), &self.id, self.offset, true);
        let pieces = pieces.clone();
        self.following = Some(task::spawn("attached output", async move {
            loop {
                let piece = reader.next().await;
                // Nothing more for now: an empty piece.
                let (piece, last) = match piece {
                    Ok(Some(data)) if data.is_empty() => continue,
                    Ok(Some(data)) => (Ok(data), false),
                    Ok(None) => (Ok(Vec::new()), true),
                    Err(failure) => (Err(failure), true),
                };
                if pieces.send(piece).await.is_err() || last {
                    return;
                }
            }
        }));
    }

    /// Shows what changed and cannot be seen in the output: a question, an end. News older than what is shown is none.
    fn tell(&mut self, session: &Session) -> Result<(), Failure> {
        if session.revision < self.revision {
            return Ok(());
        }
        self.revision = session.revision;
        let asked = session.attention.as_ref();
        let known = self.shown.as_ref().map(|attention| &attention.attention_id);
        if asked.map(|attention| &attention.attention_id) != known {
            if let Some(attention) = asked {
                let text = status::asked(session, attention);
                // How to answer from elsewhere is of no use here.
                let text: Vec<&str> = text.lines().filter(|line| !line.starts_with("answer with:")).collect();
                self.output.line(&format!(
                    "\n{} {}\n{}",
                    self.handle,
                    text.join("\n"),
                    typed::how(attention)
                ))?;
            }
            self.shown = asked.cloned();
        }
        let ended = match &session.end {
            Some(end) => format!("{}: {}", show::status(session.status()), show::line(&end.message)),
            None => String::new(),
        };
        if ended != self.ended {
            if !ended.is_empty() {
                let next = if session.status() == muster_proto::v1::SessionStatus::Stopped {
                    ""
                } else {
                    "; a message starts its next turn"
                };
                self.output.line(&format!("\n{} {ended}{next}", self.handle))?;
            }
            self.ended = ended;
        }
        Ok(())
    }

    /// Does what was typed. False: it was the wish to leave.
    async fn take(&mut self, line: &str) -> Result<bool, Failure> {
        let input = match understand(line, self.shown.as_ref()) {
            Ok(Typed::Nothing) => return Ok(true),
            Ok(Typed::Detach) => return Ok(false),
            Ok(Typed::Help) => {
                self.output.line(typed::HELP)?;
                return Ok(true);
            }
            Ok(Typed::Message(text)) => Input::Message(text),
            Ok(Typed::Interrupt) => Input::Interrupt(true),
            Ok(Typed::Answer(answer)) => Input::Answer(Answer {
                attention_id: self.shown.as_ref().map(|it| it.attention_id.clone()).unwrap_or_default(),
                ..answer
            }),
            Err(what) => {
                self.output.line(&what)?;
                return Ok(true);
            }
        };
        let request =
            SendInputRequest { session: self.id.clone(), request_id: String::new(), input: Some(input) };
        match self.client.sessions.send_input(Client::call(request)).await {
            Ok(response) => {
                let response = response.into_inner();
                let told = match response.delivery() {
                    Delivery::AfterTurn => "kept until the current turn ends",
                    Delivery::NextAttempt => "queued for its next turn",
                    Delivery::Nothing => "nothing to do: no turn is running",
                    Delivery::Now | Delivery::Unspecified => "sent",
                };
                self.output.line(&format!("({told})"))?;
                // What is typed next must not answer the question that was answered just now.
                if let Some(session) = &response.session {
                    self.tell(session)?;
                }
            }
            // Answered elsewhere meanwhile, say: no reason to leave.
            Err(status) => {
                let what = show::line(&self.client.failed(&status).what);
                self.output.line(&format!("not sent: {what}"))?;
            }
        }
        Ok(true)
    }

    fn detached(&self) -> Result<Exit, Failure> {
        if std::io::stdin().is_terminal() {
            self.output.line(&format!("\ndetached; `muster attach {}` comes back", self.handle))?;
        }
        Ok(Exit::Ok)
    }
}

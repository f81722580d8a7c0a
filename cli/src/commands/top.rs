//! `muster top`: the farm on a whole screen. Sessions that need somebody come first; Enter attaches, `a` and `d` answer.
//!
//! Owns the terminal while it runs and gives it back as it was, also when it fails. The picture is in [`picture`], what is
//! known and chosen in [`board`].

mod board;
mod picture;

use std::{
    io::IsTerminal as _,
    pin::pin,
    process::Command,
    time::{Duration, SystemTime},
};

use clap::Args;
use crossterm::event::{Event, EventStream, KeyEventKind};
use futures::StreamExt as _;
use muster_proto::v1::{ListWorkersRequest, SendInputRequest, Session, send_input_request::Input};
use tokio::time::MissedTickBehavior;

use self::board::{Board, Wish};
use crate::{
    args::Remote,
    client::Client,
    failure::{Exit, Failure},
    show,
    watch::Watch,
};

/// How often workers are asked for, and ages go on.
const TICK: Duration = Duration::from_secs(1);

/// Arguments of `top`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    remote: Remote,
}

/// Shows until it is left.
pub async fn run(options: Options) -> Result<Exit, Failure> {
    if options.remote.json || !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(Failure::usage("top needs a terminal")
            .hint("`muster ps --watch` and `muster workers` are for pipes, with --json for programs"));
    }
    let client = Client::new(&options.remote)?;
    // Before the screen is taken: a farm that is not there says so on a line.
    client.clone().session_count().await?;
    let mut board = Board::default();
    // Ctrl-C while a session is attached is for `attach`, which leaves by it: caught once, it no longer ends this process.
    let _deaf = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())
        .map_err(|error| Failure::new(Exit::Failed, "signals cannot be caught").caused_by(&error))?;
    loop {
        let handle = {
            let mut screen = ratatui::try_init().map_err(|error| {
                Failure::new(Exit::Failed, "the terminal cannot be used").caused_by(&error)
            })?;
            let left = show_board(&mut screen, &client, &mut board).await;
            ratatui::restore();
            match left? {
                Some(handle) => handle,
                None => return Ok(Exit::Ok),
            }
        };
        attach(&options.remote, &handle)?;
    }
}

/// Until it is left, or a session is to be attached to.
async fn show_board(
    screen: &mut ratatui::DefaultTerminal,
    client: &Client,
    board: &mut Board,
) -> Result<Option<String>, Failure> {
    let lost = |error: &std::io::Error| Failure::new(Exit::Failed, "the terminal is lost").caused_by(error);
    let mut updates = pin!(Watch::new(client.clone(), Vec::new()).updates());
    let mut keys = EventStream::new();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        screen.draw(|frame| picture::draw(frame, board, SystemTime::now())).map_err(|error| lost(&error))?;
        tokio::select! {
            Some(update) = updates.next() => board.apply(update?),
            _ = ticks.tick() => {
                let asked = client.clone().admin.list_workers(Client::call(ListWorkersRequest {})).await;
                board.workers = asked.ok().map(|response| response.into_inner().workers);
            }
            key = keys.next() => match key {
                Some(Ok(Event::Key(key))) if key.kind == KeyEventKind::Press => match board.press(key) {
                    Wish::Nothing => {}
                    Wish::Leave => return Ok(None),
                    Wish::Attach(handle) => return Ok(Some(handle)),
                    Wish::Answer(session, input) => board.said = answer(client, &session, input).await,
                },
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(lost(&error)),
                None => return Ok(None),
            },
        }
    }
}

/// Sends an answer; gives what became of it in a line.
async fn answer(client: &Client, session: &Session, input: Input) -> String {
    let mut client = client.clone();
    let request = SendInputRequest {
        session: session.session_id.clone(),
        request_id: String::new(),
        input: Some(input),
    };
    match client.sessions.send_input(Client::call(request)).await {
        Ok(_) => format!("{}: answered", session.handle),
        Err(status) => format!("{}: {}", session.handle, show::line(&client.failed(&status).what)),
    }
}

/// `muster attach` as a process of its own: it reads the terminal by lines, and that reading ends with it.
fn attach(remote: &Remote, handle: &str) -> Result<(), Failure> {
    let failed = |error: &std::io::Error| Failure::new(Exit::Failed, "cannot attach").caused_by(error);
    let program = std::env::current_exe().map_err(|error| failed(&error))?;
    let mut command = Command::new(program);
    command.args(["attach", handle]);
    if let Some(controller) = &remote.controller {
        command.arg("--controller").arg(controller);
    }
    command.args(remote.credentials.as_flags());
    let mut child = command.spawn().map_err(|error| failed(&error))?;
    child.wait().map_err(|error| failed(&error))?;
    Ok(())
}

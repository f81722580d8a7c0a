//! The operator's verbs: each is one call or one stream to the controller, and a table or JSON.

mod answer;
mod archive;
mod attach;
mod attention;
mod audit;
pub mod completion;
pub mod diff;
mod doctor;
mod fetch;
mod logs;
pub mod maintain;
mod project;
mod ps;
mod push;
mod send;
mod spawn;
mod status;
mod stop;
mod token;
mod top;
pub mod validate;
mod wait;
mod why;
mod workers;

use std::future::Future;

use clap::Subcommand;

use crate::failure::{Exit, Failure};

/// What operators do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List sessions, those that need attention first
    #[command(visible_alias = "ls")]
    Ps(ps::Options),
    /// Watch the farm on a whole screen: look, attach, answer
    Top(top::Options),
    /// Show everything about a session but its log
    Status(status::Options),
    /// Show what a session said and did
    Logs(logs::Options),
    /// Watch a session as it goes, and answer it, message it, interrupt it; leaving leaves it running
    Attach(attach::Options),
    /// Show what a session changed, committed or not
    Diff(diff::Options),
    /// Bring a session's branch, and what it has not committed, into a clone of yours
    Fetch(fetch::Options),
    /// Have the worker push a session's branch, where its project allows that
    Push(push::Options),
    /// Queue a new session
    Spawn(Box<spawn::Options>),
    /// Give a session its next message, or interrupt its turn
    Send(send::Options),
    /// Answer what a session waits on
    Answer(answer::Options),
    /// List every question that waits for somebody, and how to answer it
    Attention(attention::Options),
    /// Wait until sessions end or need attention
    Wait(wait::Options),
    /// Say why a session is not placed yet
    Why(why::Options),
    /// Stop a session for good; its output and its work stay
    Stop(stop::Options),
    /// Put an ended session away: its work is kept in a ref, its worktree removed
    Archive(archive::Options),
    /// List workers
    Workers(workers::Options),
    /// Declare projects and what their sessions may do
    Project(project::Options),
    /// Make, list and take back tokens, of machines that join and of whoever calls
    Token(token::Options),
    /// Say whom the controller takes you for
    Whoami(token::WhoAmI),
    /// Look at what this machine and its farm need, and say how to mend what is missing
    Doctor(doctor::Options),
    /// Show who did what, and whether it was allowed
    Audit(audit::Options),
}

/// Runs a verb to its end.
pub fn run(verb: Verb) -> Result<Exit, Failure> {
    block_on(async {
        match verb {
            Verb::Ps(options) => Box::pin(ps::run(options)).await,
            Verb::Top(options) => Box::pin(top::run(options)).await,
            Verb::Status(options) => status::run(options).await,
            Verb::Logs(options) => Box::pin(logs::run(options)).await,
            Verb::Attach(options) => Box::pin(attach::run(options)).await,
            Verb::Diff(options) => Box::pin(diff::run(options)).await,
            Verb::Fetch(options) => Box::pin(fetch::run(options)).await,
            Verb::Push(options) => push::run(options).await,
            Verb::Spawn(options) => Box::pin(spawn::run(*options)).await,
            Verb::Send(options) => Box::pin(send::run(options)).await,
            Verb::Answer(options) => Box::pin(answer::run(options)).await,
            Verb::Attention(options) => Box::pin(attention::run(options)).await,
            Verb::Wait(options) => Box::pin(wait::run(options)).await,
            Verb::Why(options) => why::run(options).await,
            Verb::Stop(options) => stop::run(options).await,
            Verb::Archive(options) => archive::run(options).await,
            Verb::Workers(options) => workers::run(options).await,
            Verb::Project(options) => Box::pin(project::run(options)).await,
            Verb::Doctor(options) => Box::pin(doctor::run(options)).await,
            Verb::Audit(options) => Box::pin(audit::run(options)).await,
            Verb::Token(options) => token::run(options).await,
            Verb::Whoami(options) => token::whoami(options).await,
        }
    })
}

/// Does something to a worker.
pub fn maintain(action: maintain::Action) -> Result<Exit, Failure> {
    block_on(maintain::run(action))
}

/// One thread is enough for one call, and starts sooner than several.
fn block_on(verb: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        Failure::new(Exit::Failed, "the process cannot start its runtime").caused_by(&error)
    })?;
    let result = runtime.block_on(verb);
    // A read of stdin that will not end must not keep the process.
    runtime.shutdown_background();
    result
}

/// Text of an argument, or all of stdin when it is `-`.
fn text_or_stdin(text: &str) -> Result<String, Failure> {
    if text != "-" {
        return Ok(text.to_owned());
    }
    std::io::read_to_string(std::io::stdin())
        .map_err(|error| Failure::new(Exit::Failed, "stdin cannot be read as UTF-8 text").caused_by(&error))
}

//! The binary `muster`: every role of the farm and the operator's verbs.
//!
//! `muster shim` is taken before anything else: one such process lives beside every session, so it must start
//! at once and stay tiny. Everything else goes through clap, then a runtime made for the command.

#![recursion_limit = "256"] // the JSON of a session has many keys

mod address;
mod args;
mod client;
mod clone;
mod commands;
mod config;
mod failure;
mod json;
mod live;
mod output;
mod roles;
mod session_table;
mod show;
mod size;
mod span;
mod trust;
mod watch;

use std::{path::Path, process::ExitCode};

use clap::Parser as _;

use crate::{
    args::{Cli, Command, WorkerAction},
    failure::{Exit, Failure},
};

fn main() -> ExitCode {
    let mut argv = std::env::args_os().skip(1);
    if argv.next().is_some_and(|verb| verb == "shim") {
        if let (Some(dir), None) = (argv.next(), argv.next()) {
            return muster_worker::shim::main(Path::new(&dir));
        }
        return finish(Err(Failure::usage(
            "`muster shim` takes one folder; the worker starts it, nobody else",
        )));
    }
    commands::completion::answer_shell();
    let cli = Cli::parse();
    finish(run(cli.command))
}

fn run(command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Up(options) => roles::up::run(*options),
        Command::Controller(options) => roles::controller::run(options),
        Command::Worker(worker) => match worker.action {
            Some(WorkerAction::Join(join)) => roles::worker::enrol(*join),
            Some(WorkerAction::Maintain(action)) => commands::maintain(action),
            None => roles::worker::run(worker.role),
        },
        Command::Mcp(options) => roles::mcp::run(options),
        Command::Config(verb) => commands::validate::run(&verb),
        Command::Completion(verb) => commands::completion::run(&verb),
        Command::Man(verb) => commands::completion::man(&verb),
        Command::Verb(verb) => commands::run(verb),
    }
}

/// The one place where a result becomes text on stderr and an exit code.
fn finish(result: Result<Exit, Failure>) -> ExitCode {
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            output::report(&failure);
            failure.exit.into()
        }
    }
}

//! `muster config validate`: says whether a role would take a configuration file, and starts nothing.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use crate::{
    commands::project,
    failure::{Exit, Failure},
    output::Output,
    roles,
};

/// Arguments of `config`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Check a file as a role would; unknown keys are named with the nearest known one
    Validate(Validate),
}

#[derive(Debug, Args)]
struct Validate {
    /// Whose file it is
    role: Role,
    /// The file
    file: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Role {
    /// Of `muster up`
    Up,
    /// Of `muster controller`
    Controller,
    /// Of `muster worker` and `muster worker join`
    Worker,
    /// Of `muster mcp`
    Mcp,
    /// Of `muster project add` and `set`
    Project,
}

/// Checks.
pub fn run(options: &Options) -> Result<Exit, Failure> {
    let Action::Validate(options) = &options.action;
    let file = &options.file;
    match options.role {
        Role::Up => roles::up::validate(file)?,
        Role::Controller => roles::controller::validate(file)?,
        Role::Worker => roles::worker::validate(file)?,
        Role::Mcp => roles::mcp::validate(file)?,
        Role::Project => project::validate(file)?,
    }
    let output = Output::new(options.json);
    if output.json {
        output.document(&json!({ "file": file, "valid": true }))?;
    } else {
        output.line(&format!("{}  can be taken", crate::show::line(&file.to_string_lossy())))?;
    }
    Ok(Exit::Ok)
}

//! `muster worker join`: this machine becomes a worker of a farm on another one, and then is it.

use std::path::PathBuf;

use clap::Args;
use muster_proto::ids::WorkerId;
use muster_worker::{
    Controller,
    join::{self, JoinError, JoinOptions},
};
use serde_json::json;

use super::{Machine, Options, joined_dir, start};
use crate::{
    failure::{Exit, Failure},
    output::Output,
    roles::{machine::host_name, make_state_dir, resolve},
    show,
};

/// Options of `worker join`.
#[derive(Debug, Args)]
pub struct Join {
    /// The line `muster token create` printed at the controller; `-` reads stdin
    #[arg(env = "MUSTER_JOIN_TOKEN", hide_env_values = true, required_unless_present = "token_file")]
    token: Option<String>,
    /// Read the line from this file
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    token_file: Option<PathBuf>,
    /// Only join; `muster worker` runs it later
    #[arg(long)]
    enrol_only: bool,
    /// With --enrol-only: print the result as JSON
    #[arg(long, requires = "enrol_only")]
    json: bool,
    #[command(flatten)]
    machine: Machine,
}

/// Joins, and runs until a signal unless told otherwise. Again with the same token is fine.
pub fn enrol(flags: Join) -> Result<Exit, Failure> {
    let Join { token, token_file, enrol_only, json, machine } = flags;
    let token = match (token.as_deref(), token_file) {
        (Some("-"), _) => read(std::io::stdin(), "stdin")?,
        (Some(token), _) => token.to_owned(),
        (None, Some(path)) => {
            let file = std::fs::File::open(&path).map_err(|error| {
                Failure::usage(format!("token file {} cannot be read", path.display())).caused_by(&error)
            })?;
            read(file, &path.display().to_string())?
        }
        (None, None) => return Err(Failure::usage("a machine joins with a token")),
    };
    let machine = resolve(Options { controller: None, machine })?.machine;
    let state_dir = joined_dir(machine.state_dir.as_deref())?;
    let state_dir = make_state_dir(&state_dir)?;
    let name = machine.name.clone().unwrap_or_else(|| WorkerId::from_host_name(&host_name()));
    let options = JoinOptions { state_dir: state_dir.clone(), name };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        Failure::new(Exit::Failed, "the process cannot start its runtime").caused_by(&error)
    })?;
    let membership = runtime.block_on(join::join(&token, &options)).map_err(|error| failed(&error))?;
    drop(runtime);
    let output = Output::new(json);
    if enrol_only && json {
        output.document(&json!({
            "worker": membership.worker.as_str(),
            "controller": membership.address,
            "stateDir": state_dir,
        }))?;
    } else if enrol_only {
        let address = show::line(&membership.address);
        output
            .line(&format!("{}  joined the farm at {address}; `muster worker` runs it", membership.worker))?;
    }
    if enrol_only {
        return Ok(Exit::Ok);
    }
    start(machine, Controller::Joined, membership.worker, &state_dir)
}

/// The line, which may be the only secret ever read from there.
fn read(source: impl std::io::Read, name: &str) -> Result<String, Failure> {
    use std::io::Read as _;
    let mut text = String::new();
    source
        .take(4096)
        .read_to_string(&mut text)
        .map_err(|error| Failure::usage(format!("{name} cannot be read as a token")).caused_by(&error))?;
    Ok(text.trim().to_owned())
}

/// A machine that could not join: what the command line got wrong, nobody there, or no.
fn failed(error: &JoinError) -> Failure {
    let exit = match error {
        JoinError::Token(_) => Exit::Usage,
        JoinError::Unreachable(..) | JoinError::OtherFarm(_) => Exit::Unreachable,
        _ => Exit::Failed,
    };
    // The library's words say what to do next after the last semicolon.
    let text = error.to_string();
    match text.rsplit_once("; ") {
        Some((what, hint)) => Failure::new(exit, format!("this machine did not join: {what}")).hint(hint),
        None => Failure::new(exit, format!("this machine did not join: {text}")),
    }
}

//! `muster worker` and `muster worker join`: a machine that runs sessions.
//!
//! A machine that has joined a farm finds its identity in its state folder: `muster worker` alone goes on being that
//! worker. Everything a worker is told about its machine is in [`Machine`].

mod joining;
mod machine_options;

use std::path::{Path, PathBuf};

use clap::Args;
use muster_proto::ids::WorkerId;
use muster_worker::{Controller, Worker, join};
use serde::Deserialize;

pub use self::{
    joining::{Join, enrol},
    machine_options::{Machine, SLOTS, check_slots},
};
use super::{
    Layer,
    machine::{Projects, find_claude, host_name},
    make_state_dir, resolve,
};
use crate::{
    address, config,
    failure::{Exit, Failure},
};

/// Folder of the worker that has joined, beside those that have not.
const JOINED: &str = "joined";

/// Options of `worker`.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Options {
    /// Address of a controller on this machine [default: the farm this machine joined, else the running `muster up`,
    /// else http://127.0.0.1:7420]
    #[arg(long, env = "MUSTER_CONTROLLER", hide_env_values = true, value_name = "URL")]
    controller: Option<String>,
    #[command(flatten)]
    #[serde(flatten)]
    machine: Machine,
}

impl Layer for Options {
    fn config(&self) -> Option<&Path> {
        self.machine.config.as_deref()
    }

    fn or(self, lower: Self) -> Self {
        Self { controller: self.controller.or(lower.controller), machine: self.machine.or(lower.machine) }
    }
}

/// Runs until a signal. Sessions go on without it.
pub fn run(flags: Options) -> Result<Exit, Failure> {
    let options = resolve(flags)?;
    let (controller, name, state_dir) = who(&options)?;
    start(options.machine, controller, name, &state_dir)
}

/// Whose worker this machine is, under which name, and where that is kept.
fn who(options: &Options) -> Result<(Controller, WorkerId, PathBuf), Failure> {
    let machine = &options.machine;
    if options.controller.as_deref().is_none_or(str::is_empty) {
        let state_dir = joined_dir(machine.state_dir.as_deref())?;
        if join::has_joined(&state_dir) {
            let failed = |error: &dyn std::error::Error| {
                Failure::new(Exit::Failed, "the identity of this worker cannot be used").caused_by(error)
            };
            let stored = join::Membership::load(&state_dir).map_err(|error| failed(&error))?;
            if let Some(membership) = stored {
                let name = machine.name.clone().unwrap_or(membership.worker);
                return Ok((Controller::Joined, name, state_dir));
            }
        }
    }
    let uri = address::find_controller(options.controller.as_deref())?.uri;
    if uri.starts_with("https://") {
        return Err(Failure::usage(format!("a worker gets to {uri} by joining, not by an address"))
            .hint("`muster token create` at the controller prints what `muster worker join` takes here"));
    }
    let name = machine.name.clone().unwrap_or_else(|| WorkerId::from_host_name(&host_name()));
    let state_dir = match &machine.state_dir {
        Some(dir) => dir.clone(),
        None => address::state_root()?.join(format!("worker-{name}")),
    };
    Ok((Controller::Local(uri), name, state_dir))
}

/// Where a worker that joins keeps what it is.
fn joined_dir(named: Option<&Path>) -> Result<PathBuf, Failure> {
    match named {
        Some(dir) => Ok(dir.to_owned()),
        None => Ok(address::state_root()?.join(JOINED)),
    }
}

/// Checks what the machine brings and runs the worker.
fn start(
    machine: Machine,
    controller: Controller,
    name: WorkerId,
    state_dir: &Path,
) -> Result<Exit, Failure> {
    let slots = check_slots(machine.slots)?;
    let joined = controller == Controller::Joined;
    let declared = machine.declared.config(joined);
    let projects = projects(&machine);
    if projects.named.is_empty() && !declared.serve {
        return Err(Failure::usage("a worker without a project can run nothing").hint(
            "name one with --project NAME=PATH, for example --project web=/srv/web, or serve those declared at the \
             controller with --serve-declared yes",
        ));
    }
    let projects = projects.check()?;
    let program = find_claude(machine.claude.claude.as_deref())?;
    let mut claude = machine.claude.settings(program);
    let mut timing = muster_worker::Timing::default();
    machine.keep.set(&mut timing, &mut claude);
    let config = muster_worker::Config {
        controller,
        name,
        state_dir: make_state_dir(state_dir)?,
        slots,
        labels: machine.label.into_iter().map(|label| (label.key, label.value)).collect(),
        projects,
        declared,
        needs: machine.needs.config(),
        claude,
        shim_program: super::machine::this_program()?,
        timing,
    };
    super::run("muster-worker", &machine.logs, async |shutdown| {
        tracing::info!(worker = %config.name, controller = %config.controller, slots, "worker starts");
        let worker = Worker::start(config, shutdown).await.map_err(|error| start_failed(&error))?;
        worker.finished().await;
        Ok(Exit::Ok)
    })
}

/// Says whether a file could be taken on this machine.
pub fn validate(file: &Path) -> Result<(), Failure> {
    let Options { machine, .. } = config::read(file)?;
    check_slots(machine.slots)?;
    projects(&machine).check().map(drop)
}

fn projects(machine: &Machine) -> Projects {
    Projects {
        named: machine.project.clone(),
        trusted: machine.trust_project.clone(),
        trust_mode: machine.allow_trust_mode.clone(),
        push: machine.allow_push.clone(),
    }
}

/// A worker that did not start.
pub fn start_failed(error: &muster_worker::StartError) -> Failure {
    Failure::new(Exit::Failed, "the worker cannot start").caused_by(error)
}

//! `muster worker`.

use std::path::{Path, PathBuf};

use clap::Args;
use muster_proto::ids::WorkerId;
use muster_worker::Worker;
use serde::Deserialize;

use super::{
    Layer, list,
    machine::{Claude, Projects, find_claude, host_name},
    make_state_dir, resolve,
};
use crate::{
    address,
    args::{KeyValue, Logs, Project},
    failure::{Exit, Failure},
};

/// Sessions that may run side by side on one worker.
pub const SLOTS: std::ops::RangeInclusive<i64> = 1..=1000;

/// Options of `worker`.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Options {
    /// Address of the controller [default: the running `muster up`, else http://127.0.0.1:7420]
    #[arg(long, env = "MUSTER_CONTROLLER", hide_env_values = true, value_name = "URL")]
    controller: Option<String>,
    /// Name of this worker, the same at every start [default: the host's name]
    #[arg(long, env = "MUSTER_NAME", hide_env_values = true)]
    name: Option<WorkerId>,
    /// Folder for the sessions that run here [default: ~/.local/state/muster/worker-NAME]
    #[arg(long, env = "MUSTER_STATE_DIR", hide_env_values = true, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// How many sessions may run side by side, 1 to 1000 [default: 2 a core, at most 8]
    #[arg(long, env = "MUSTER_SLOTS", hide_env_values = true, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(SLOTS))]
    slots: Option<u32>,
    /// A label by which sessions choose workers; repeat for several
    #[arg(
        long,
        env = "MUSTER_LABEL",
        hide_env_values = true,
        value_name = "KEY=VALUE",
        value_delimiter = ','
    )]
    label: Vec<KeyValue>,
    /// A directory or repository that sessions may work in; repeat for several
    #[arg(long, env = "MUSTER_PROJECT", hide_env_values = true, value_name = "NAME=PATH")]
    project: Vec<Project>,
    /// Use the settings, hooks and MCP servers that this project's repository brings along
    #[arg(long, value_name = "NAME")]
    trust_project: Vec<String>,
    /// Let sessions of this project ask for trust mode
    #[arg(long, value_name = "NAME")]
    allow_trust_mode: Vec<String>,
    /// Let branches of this project's sessions be pushed to its remotes (`muster push`)
    #[arg(long, value_name = "NAME")]
    allow_push: Vec<String>,
    #[command(flatten)]
    #[serde(flatten)]
    claude: Claude,
    /// Read options from this TOML file; its keys are the flags
    #[arg(long, env = "MUSTER_CONFIG", hide_env_values = true, value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
    #[command(flatten)]
    #[serde(flatten)]
    logs: Logs,
}

impl Layer for Options {
    fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    fn or(self, lower: Self) -> Self {
        Self {
            controller: self.controller.or(lower.controller),
            name: self.name.or(lower.name),
            state_dir: self.state_dir.or(lower.state_dir),
            slots: self.slots.or(lower.slots),
            label: list(self.label, lower.label),
            project: list(self.project, lower.project),
            trust_project: list(self.trust_project, lower.trust_project),
            allow_trust_mode: list(self.allow_trust_mode, lower.allow_trust_mode),
            allow_push: list(self.allow_push, lower.allow_push),
            claude: self.claude.or(lower.claude),
            config: self.config,
            logs: self.logs.or(lower.logs),
        }
    }
}

/// How many sessions run side by side by default: claude mostly waits for its API, its tools do not.
pub fn default_slots() -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(cores * 2).unwrap_or(u32::MAX).min(8)
}

/// Refuses what a file can say and a flag cannot.
pub fn check_slots(slots: Option<u32>) -> Result<u32, Failure> {
    match slots {
        None => Ok(default_slots()),
        Some(slots @ 1..=1000) => Ok(slots),
        Some(slots) => Err(Failure::usage(format!("slots is {slots}, and must be 1 to 1000"))),
    }
}

/// Runs until a signal. Sessions go on without it.
pub fn run(flags: Options) -> Result<Exit, Failure> {
    let options = resolve(flags)?;
    let slots = check_slots(options.slots)?;
    let controller = address::find_controller(options.controller.as_deref())?.uri;
    let name = options.name.unwrap_or_else(|| WorkerId::from_host_name(&host_name()));
    let projects = Projects {
        named: options.project,
        trusted: options.trust_project,
        trust_mode: options.allow_trust_mode,
        push: options.allow_push,
    };
    if projects.named.is_empty() {
        return Err(Failure::usage("a worker without a project can run nothing")
            .hint("name one with --project NAME=PATH, for example --project web=/srv/web"));
    }
    let projects = projects.check()?;
    let program = find_claude(options.claude.claude.as_deref())?;
    let state_dir = match options.state_dir {
        Some(dir) => dir,
        None => address::state_root()?.join(format!("worker-{name}")),
    };
    let config = muster_worker::Config {
        controller: controller.into(),
        declared: muster_worker::DeclaredConfig::default(),
        needs: muster_worker::Needs::default(),
        name,
        state_dir: make_state_dir(&state_dir)?,
        slots,
        labels: options.label.into_iter().map(|label| (label.key, label.value)).collect(),
        projects,
        claude: options.claude.settings(program),
        shim_program: super::machine::this_program()?,
        timing: muster_worker::Timing::default(),
    };
    super::run("muster-worker", &options.logs, async |shutdown| {
        tracing::info!(worker = %config.name, controller = %config.controller, slots, "worker starts");
        let worker = Worker::start(config, shutdown).await.map_err(|error| start_failed(&error))?;
        worker.finished().await;
        Ok(Exit::Ok)
    })
}

/// A worker that did not start.
pub fn start_failed(error: &muster_worker::StartError) -> Failure {
    Failure::new(Exit::Failed, "the worker cannot start").caused_by(error)
}

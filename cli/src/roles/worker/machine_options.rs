//! What a worker is told about its machine: flags and keys shared by `worker` and `worker join`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use muster_proto::ids::WorkerId;
use muster_worker::{ClaudeConfig, DeclaredConfig, Needs as NeedsConfig, Timing};
use serde::Deserialize;

use crate::{
    args::{KeyValue, Logs, Project, YesNo},
    failure::Failure,
    roles::{list, machine::Claude},
    size::Size,
};

/// Sessions that may run side by side on one worker.
pub const SLOTS: std::ops::RangeInclusive<i64> = 1..=1000;

const DECLARED: &str = "Projects declared at the controller";
const NEEDS: &str = "What a session takes";
const KEEP: &str = "What is kept";

/// What this machine brings into a farm.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Machine {
    /// Name of this worker, the same at every start [default: the one it joined with, else the host's name]
    #[arg(long, env = "MUSTER_NAME", hide_env_values = true)]
    pub name: Option<WorkerId>,
    /// Folder for its identity and the sessions that run here [default: ~/.local/state/muster/joined, or worker-NAME
    /// for a controller on this machine]
    #[arg(long, env = "MUSTER_STATE_DIR", hide_env_values = true, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// How many sessions may run side by side, 1 to 1000 [default: 2 a core, at most 8]
    #[arg(long, env = "MUSTER_SLOTS", hide_env_values = true, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(SLOTS))]
    pub slots: Option<u32>,
    /// A label by which sessions choose workers; repeat for several
    #[arg(
        long,
        env = "MUSTER_LABEL",
        hide_env_values = true,
        value_name = "KEY=VALUE",
        value_delimiter = ','
    )]
    pub label: Vec<KeyValue>,
    /// A directory or repository that sessions may work in; repeat for several
    #[arg(long, env = "MUSTER_PROJECT", hide_env_values = true, value_name = "NAME=PATH")]
    pub project: Vec<Project>,
    /// Use the settings, hooks and MCP servers that this project's repository brings along
    #[arg(long, value_name = "NAME")]
    pub trust_project: Vec<String>,
    /// Let sessions of this project ask for trust mode
    #[arg(long, value_name = "NAME")]
    pub allow_trust_mode: Vec<String>,
    /// Let branches of this project's sessions be pushed to its remotes (`muster push`)
    #[arg(long, value_name = "NAME")]
    pub allow_push: Vec<String>,
    #[command(flatten)]
    #[serde(flatten)]
    pub declared: Declared,
    #[command(flatten)]
    #[serde(flatten)]
    pub needs: Needs,
    #[command(flatten)]
    #[serde(flatten)]
    pub keep: Keep,
    #[command(flatten)]
    #[serde(flatten)]
    pub claude: Claude,
    /// Read options from this TOML file; its keys are the flags
    #[arg(long, env = "MUSTER_CONFIG", hide_env_values = true, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    #[serde(flatten)]
    pub logs: Logs,
}

impl Machine {
    /// Fills what is not set from `lower`.
    pub fn or(self, lower: Self) -> Self {
        Self {
            name: self.name.or(lower.name),
            state_dir: self.state_dir.or(lower.state_dir),
            slots: self.slots.or(lower.slots),
            label: list(self.label, lower.label),
            project: list(self.project, lower.project),
            trust_project: list(self.trust_project, lower.trust_project),
            allow_trust_mode: list(self.allow_trust_mode, lower.allow_trust_mode),
            allow_push: list(self.allow_push, lower.allow_push),
            declared: self.declared.or(lower.declared),
            needs: self.needs.or(lower.needs),
            keep: self.keep.or(lower.keep),
            claude: self.claude.or(lower.claude),
            config: self.config,
            logs: self.logs.or(lower.logs),
        }
    }
}

/// What a declared project's policy may make of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Grant {
    /// Sessions that ask for no permissions
    TrustMode,
    /// The repository's own settings, hooks and MCP servers
    Settings,
    /// Branches pushed to its remotes
    Push,
}

/// Projects declared at the controller, which this worker clones by itself.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Declared {
    /// Take their sessions [default: yes where this machine joined, no for a controller on this machine]
    #[arg(long, env = "MUSTER_SERVE_DECLARED", hide_env_values = true, help_heading = DECLARED)]
    serve_declared: Option<YesNo>,
    /// What their policies may allow here; repeat for several [default: nothing of it]
    #[arg(long, value_name = "WHAT", value_delimiter = ',', help_heading = DECLARED)]
    declared_allow: Vec<Grant>,
    /// Most that one clone of theirs may take, e.g. 20GiB [default: 20GiB]
    #[arg(long, value_name = "SIZE", help_heading = DECLARED)]
    mirror_limit: Option<Size>,
}

impl Declared {
    fn or(self, lower: Self) -> Self {
        Self {
            serve_declared: self.serve_declared.or(lower.serve_declared),
            declared_allow: list(self.declared_allow, lower.declared_allow),
            mirror_limit: self.mirror_limit.or(lower.mirror_limit),
        }
    }

    /// As the worker wants it.
    pub fn config(&self, joined: bool) -> DeclaredConfig {
        let default = DeclaredConfig::default();
        let allows = |grant| self.declared_allow.contains(&grant);
        DeclaredConfig {
            serve: self.serve_declared.map_or(joined, |said| said == YesNo::Yes),
            allow_trust_mode: allows(Grant::TrustMode),
            trusted: allows(Grant::Settings),
            allow_push: allows(Grant::Push),
            mirror_limit_bytes: self.mirror_limit.map_or(default.mirror_limit_bytes, |Size(bytes)| bytes),
            ..default
        }
    }
}

/// What a session is expected to take: the controller places by it.
#[derive(Debug, Clone, Copy, Default, Args, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Needs {
    /// Memory one is expected to take, e.g. 1GiB; with less free it gets none [default: no limit]
    #[arg(long, value_name = "SIZE", help_heading = NEEDS)]
    session_memory: Option<Size>,
    /// Disk that stays free, e.g. 10GiB; with less it gets no session [default: no limit]
    #[arg(long, value_name = "SIZE", help_heading = NEEDS)]
    disk_reserve: Option<Size>,
    /// Sessions that may be starting at the same time [default: no limit]
    #[arg(long, value_name = "N", help_heading = NEEDS)]
    starts_at_once: Option<u32>,
}

impl Needs {
    fn or(self, lower: Self) -> Self {
        Self {
            session_memory: self.session_memory.or(lower.session_memory),
            disk_reserve: self.disk_reserve.or(lower.disk_reserve),
            starts_at_once: self.starts_at_once.or(lower.starts_at_once),
        }
    }

    /// As the worker wants it.
    pub fn config(self) -> NeedsConfig {
        let bytes = |size: Option<Size>| size.map_or(0, |Size(bytes)| bytes);
        NeedsConfig {
            memory_bytes: bytes(self.session_memory),
            disk_reserve_bytes: bytes(self.disk_reserve),
            starts_at_once: self.starts_at_once.unwrap_or(0),
        }
    }
}

/// How much and for how long.
#[derive(Debug, Clone, Copy, Default, Args, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Keep {
    /// Output of one session kept here, e.g. 512MiB; one that reaches it ends [default: 1GiB]
    #[arg(long, env = "MUSTER_OUTPUT_LIMIT", hide_env_values = true, value_name = "SIZE", help_heading = KEEP)]
    output_limit: Option<Size>,
    /// How long the records of an archived session stay here [default: 30]
    #[arg(long, env = "MUSTER_KEEP_ENDED", hide_env_values = true, value_name = "DAYS", help_heading = KEEP)]
    keep_ended: Option<u32>,
    /// How long an ended session that nobody archived keeps its workspace; 0: for ever [default: 0]
    #[arg(long, env = "MUSTER_KEEP_WORKSPACE", hide_env_values = true, value_name = "DAYS", help_heading = KEEP)]
    keep_workspace: Option<u32>,
}

impl Keep {
    fn or(self, lower: Self) -> Self {
        Self {
            output_limit: self.output_limit.or(lower.output_limit),
            keep_ended: self.keep_ended.or(lower.keep_ended),
            keep_workspace: self.keep_workspace.or(lower.keep_workspace),
        }
    }

    /// Sets what was given.
    pub fn set(self, timing: &mut Timing, claude: &mut ClaudeConfig) {
        let days = |days: u32| Duration::from_secs(24 * 3600 * u64::from(days));
        if let Some(Size(bytes)) = self.output_limit {
            claude.output_limit_bytes = bytes;
        }
        if let Some(given) = self.keep_ended {
            timing.keep_ended = days(given);
        }
        if let Some(given) = self.keep_workspace {
            timing.keep_workspace = (given > 0).then(|| days(given));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declared_projects_are_served_where_the_machine_joined_unless_told() {
        let declared = Declared::default();
        assert!(declared.config(true).serve && !declared.config(false).serve);
        assert!(!declared.config(true).allow_push && !declared.config(true).allow_trust_mode);
        let told = Declared {
            serve_declared: Some(YesNo::No),
            declared_allow: vec![Grant::Push, Grant::Settings],
            mirror_limit: Some(Size(5)),
        };
        let config = told.config(true);
        assert!(!config.serve && config.allow_push && config.trusted && !config.allow_trust_mode);
        assert_eq!(config.mirror_limit_bytes, 5);
    }

    #[test]
    fn days_are_days_and_none_is_for_ever() {
        let (mut timing, mut claude) = (Timing::default(), ClaudeConfig::default());
        let keep = Keep { output_limit: Some(Size(7)), keep_ended: Some(0), keep_workspace: Some(2) };
        keep.set(&mut timing, &mut claude);
        assert_eq!((claude.output_limit_bytes, timing.keep_ended), (7, Duration::ZERO));
        assert_eq!(timing.keep_workspace, Some(Duration::from_secs(172_800)));
        Keep { keep_workspace: Some(0), ..Keep::default() }.set(&mut timing, &mut claude);
        assert_eq!(timing.keep_workspace, None);
    }
}

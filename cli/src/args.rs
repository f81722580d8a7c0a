//! The command line. One struct a verb, in the verb's own file; here the list of them and what they share.

use std::{net::SocketAddr, str::FromStr};

use clap::{Args, Parser, Subcommand};
use serde::Deserialize;

use crate::{
    commands::{self, completion, maintain, validate},
    roles::{controller, mcp, up, worker},
    trust::Credentials,
};

const EXIT_CODES: &str = "\
Exit codes:
  0    it did what it says
  1    it failed
  2    the command line or the configuration cannot be taken
  3    no such session, project or worker
  4    wait: a session failed or was stopped
  5    wait: a session waits for an answer
  6    no controller answers
  124  wait: the time passed

A session is named by its handle, its id, or the first characters of either (at least 4).
Verbs find the farm of `muster up` by themselves; --controller names another one.
On a terminal they print tables; elsewhere tab-separated columns without headings; with --json JSON.";

/// Runs many Claude Code sessions on many machines at once.
#[derive(Debug, Parser)]
#[command(name = "muster", version, max_term_width = 110, after_help = EXIT_CODES)]
#[command(propagate_version = false, disable_help_subcommand = true, subcommand_required = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Every command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a whole farm on this machine: controller, worker and gateway in one process
    Up(Box<up::Options>),
    /// Run a controller: it keeps the sessions and places them
    Controller(controller::Options),
    /// Run a worker: it runs claude on this machine
    Worker(Box<WorkerCommand>),
    /// Run an MCP gateway, over stdio by default: what Claude Code connects to
    Mcp(mcp::Options),
    /// What operators do.
    #[command(flatten)]
    Verb(commands::Verb),
    /// Check configuration files
    Config(validate::Options),
    /// Print a completion script for a shell
    Completion(completion::Options),
    /// Write manual pages
    Man(completion::Man),
}

/// `worker` as a role, or what is done to one.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct WorkerCommand {
    /// What to do as one, or to one that runs.
    #[command(subcommand)]
    pub action: Option<WorkerAction>,
    /// As the role.
    #[command(flatten)]
    pub role: worker::Options,
}

/// What is done as a worker but running, and what is done to one.
#[derive(Debug, Subcommand)]
pub enum WorkerAction {
    /// Make this machine a worker of a farm on another one, and run it
    Join(Box<worker::Join>),
    /// From anywhere.
    #[command(flatten)]
    Maintain(maintain::Action),
}

/// What every verb that talks to a controller takes.
#[derive(Debug, Clone, Args)]
pub struct Remote {
    /// Address of the controller [default: the running `muster up`, else http://127.0.0.1:7420]
    #[arg(long, env = "MUSTER_CONTROLLER", value_name = "URL", hide_env_values = true)]
    #[arg(help_heading = "Controller")]
    pub controller: Option<String>,
    #[command(flatten)]
    pub credentials: Credentials,
    /// Print the result as JSON (see docs/cli.md for its shape)
    #[arg(long)]
    pub json: bool,
}

/// Logs and spans of a role; verbs log nothing.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Logs {
    /// Which log lines, e.g. `info` or `muster_worker=debug` [default: info]
    #[arg(long, env = "MUSTER_LOG", hide_env_values = true, value_name = "FILTER", help_heading = "Logs")]
    pub log: Option<String>,
    /// How log lines look [default: text]
    #[arg(
        long,
        env = "MUSTER_LOG_FORMAT",
        hide_env_values = true,
        value_name = "FORMAT",
        help_heading = "Logs"
    )]
    pub log_format: Option<LogFormat>,
    /// Send spans by OTLP over gRPC to this address, e.g. http://127.0.0.1:4317 [default: none are sent]
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_ENDPOINT",
        hide_env_values = true,
        value_name = "URL",
        help_heading = "Logs"
    )]
    pub otlp_endpoint: Option<String>,
    /// Serve metrics for Prometheus at /metrics of this address; a port alone means loopback [default: not served]
    #[arg(
        long,
        env = "MUSTER_METRICS_LISTEN",
        hide_env_values = true,
        value_name = "ADDR",
        help_heading = "Logs"
    )]
    pub metrics_listen: Option<String>,
}

impl Logs {
    /// Fills what is not set from `lower`.
    pub fn or(self, lower: Self) -> Self {
        Self {
            log: self.log.or(lower.log),
            log_format: self.log_format.or(lower.log_format),
            otlp_endpoint: self.otlp_endpoint.or(lower.otlp_endpoint),
            metrics_listen: self.metrics_listen.or(lower.metrics_listen),
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

/// `yes` or `no`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum YesNo {
    /// It is so
    Yes,
    /// It is not
    No,
}

/// `key=value`. The key is not empty.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct KeyValue {
    /// Before the first `=`.
    pub key: String,
    /// After it; may be empty.
    pub value: String,
}

impl FromStr for KeyValue {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => {
                Ok(Self { key: key.to_owned(), value: value.to_owned() })
            }
            _ => Err(format!("{text:?} is not key=value")),
        }
    }
}

impl TryFrom<String> for KeyValue {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// A loopback address to listen on. Anything other machines could reach is refused: there is no TLS yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Listen(pub SocketAddr);

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numeric = match text.strip_prefix("localhost:") {
            Some(port) => format!("127.0.0.1:{port}"),
            None => text.to_owned(),
        };
        let addr: SocketAddr =
            numeric.parse().map_err(|_| format!("{text:?} is not an address like 127.0.0.1:7420"))?;
        muster_runtime::grpc::loopback_only(addr).map_err(|error| error.to_string())?;
        Ok(Self(addr))
    }
}

impl TryFrom<String> for Listen {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// A project: `name=path`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Project {
    /// What sessions call it: 1 to 64 characters of letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// As given; made absolute when the role starts.
    pub path: std::path::PathBuf,
}

impl FromStr for Project {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, path) = text.split_once('=').ok_or_else(|| format!("{text:?} is not name=path"))?;
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty() || name.len() > 64 || !name.chars().all(fits) {
            return Err(format!("project name {name:?} is not 1 to 64 letters, digits, `.`, `_` or `-`"));
        }
        if path.is_empty() {
            return Err(format!("project {name} has no path"));
        }
        Ok(Self { name: name.to_owned(), path: path.into() })
    }
}

impl TryFrom<String> for Project {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn only_loopback_addresses_are_taken() {
        assert!("127.0.0.1:0".parse::<Listen>().is_ok());
        assert_eq!("localhost:7420".parse::<Listen>(), "127.0.0.1:7420".parse());
        assert!("[::1]:7420".parse::<Listen>().is_ok());
        let refused = "0.0.0.0:7420".parse::<Listen>().expect_err("refused");
        assert!(refused.contains("loopback"), "{refused}");
        assert!("nonsense".parse::<Listen>().is_err());
    }

    #[test]
    fn projects_and_pairs_are_checked() {
        assert_eq!("web=/srv/a=b".parse::<Project>().expect("taken").path, std::path::Path::new("/srv/a=b"));
        for bad in ["", "web", "=path", "web=", "a b=/x", "a/b=/x"] {
            assert!(bad.parse::<Project>().is_err(), "{bad}");
        }
        assert_eq!("K=a=b".parse::<KeyValue>().expect("taken").value, "a=b");
        assert!("=v".parse::<KeyValue>().is_err());
    }
}

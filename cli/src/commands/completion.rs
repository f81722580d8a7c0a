//! `muster completion` and `muster man`: the command line taught to shells, and as manual pages.
//!
//! A shell asks the binary itself at each TAB, so that sessions, workers and projects complete by name. Invariant: a
//! completion never fails and never waits long: a farm that is away has no names.

use std::{ffi::OsStr, path::PathBuf, time::Duration};

use clap::{Args, CommandFactory as _};
use clap_complete::{
    Shell,
    engine::{ArgValueCompleter, CompletionCandidate},
    env::{CompleteEnv, Shells},
};
use muster_proto::v1::{ListProjectsRequest, ListSessionsRequest, ListWorkersRequest, SessionStatus};

use crate::{
    address,
    args::Cli,
    client::Client,
    failure::{Exit, Failure},
    output::Output,
    show,
    trust::Credentials,
};

/// The variable by which a shell asks.
const VARIABLE: &str = "MUSTER_COMPLETE";
/// Longer, and a person at a prompt would type the rest.
const PATIENCE: Duration = Duration::from_secs(1);
/// Names at most.
const NAMES: u32 = 200;

/// Arguments of `completion`.
#[derive(Debug, Args)]
pub struct Options {
    /// The shell
    shell: Shell,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub struct Man {
    /// Write a page for every command into this folder [default: print the first]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Answers a shell that asks, and ends the process then.
pub fn answer_shell() {
    if std::env::var_os(VARIABLE).is_some() {
        CompleteEnv::with_factory(Cli::command).var(VARIABLE).bin("muster").completer("muster").complete();
    }
}

/// Prints the script.
pub fn run(options: &Options) -> Result<Exit, Failure> {
    let name = options.shell.to_string();
    let shells = Shells::builtins();
    let shell = shells
        .completer(&name)
        .ok_or_else(|| Failure::usage(format!("there is no completion for {name}")))?;
    let mut script = Vec::new();
    shell
        .write_registration(VARIABLE, "muster", "muster", "muster", &mut script)
        .map_err(|error| Failure::new(Exit::Failed, "the script cannot be made").caused_by(&error))?;
    Output::new(false).bytes(&script)?;
    Ok(Exit::Ok)
}

/// Writes or prints manual pages.
pub fn man(options: &Man) -> Result<Exit, Failure> {
    let failed = |error: &std::io::Error| {
        Failure::new(Exit::Failed, "the manual pages cannot be written").caused_by(error)
    };
    match &options.out {
        Some(folder) => {
            std::fs::create_dir_all(folder).map_err(|error| failed(&error))?;
            clap_mangen::generate_to(Cli::command(), folder).map_err(|error| failed(&error))?;
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page).map_err(|error| failed(&error))?;
            Output::new(false).bytes(&page)?;
        }
    }
    Ok(Exit::Ok)
}

/// Handles of sessions, those that need attention first.
pub fn sessions() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        names(current, async |client| {
            let request = ListSessionsRequest { limit: NAMES, ..ListSessionsRequest::default() };
            let found = client.sessions.list_sessions(request).await.ok()?.into_inner().sessions;
            let of = |session: muster_proto::v1::Session| {
                let headline: String = show::line(&show::headline(&session)).chars().take(60).collect();
                let asks = if session.status() == SessionStatus::NeedsAttention { "asks: " } else { "" };
                (session.handle, format!("{asks}{headline}"))
            };
            Some(found.into_iter().map(of).collect())
        })
    })
}

/// Names of workers.
pub fn workers() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        names(current, async |client| {
            let found = client.admin.list_workers(ListWorkersRequest {}).await.ok()?.into_inner().workers;
            Some(
                found
                    .into_iter()
                    .map(|worker| (worker.worker.clone(), show::worker_health(worker.health())))
                    .collect(),
            )
        })
    })
}

/// Names of declared projects.
pub fn projects() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        names(current, async |client| {
            let found =
                client.projects.list_projects(ListProjectsRequest {}).await.ok()?.into_inner().projects;
            let of = |project: muster_proto::v1::DeclaredProject| {
                let policy = project.policy.unwrap_or_default();
                (policy.name, show::line(&policy.git_url))
            };
            Some(found.into_iter().map(of).collect())
        })
    })
}

/// What the farm named by the environment, or running here, says; nothing when it says nothing in time.
fn names(
    current: &OsStr,
    ask: impl AsyncFnOnce(&mut Client) -> Option<Vec<(String, String)>>,
) -> Vec<CompletionCandidate> {
    let asked = || {
        let named = std::env::var("MUSTER_CONTROLLER").ok();
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let credentials = Credentials {
            controller_root: set("MUSTER_CONTROLLER_ROOT").and_then(|root| root.parse().ok()),
            token_file: set("MUSTER_TOKEN_FILE").map(PathBuf::from),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        let names = runtime.block_on(async {
            let found = address::find_controller(named.as_deref()).ok()?;
            let mut client = Client::to(found, &credentials).ok()?;
            tokio::time::timeout(PATIENCE, ask(&mut client)).await.ok()?
        });
        runtime.shutdown_background();
        names
    };
    let current = current.to_string_lossy().into_owned();
    asked()
        .unwrap_or_default()
        .into_iter()
        .filter(|(name, _)| name.starts_with(&current))
        .map(|(name, help)| CompletionCandidate::new(name).help((!help.is_empty()).then(|| help.into())))
        .collect()
}

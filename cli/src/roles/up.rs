//! `muster up`: controller, worker and MCP gateway in one process, for one machine and one user.
//!
//! Owns the lock that makes it one farm per state folder, the address file, and the terminal while it runs.
//! Sessions live in their shims: they outlive this process, and the next `muster up` finds them again.

mod banner;
mod stderr_log;

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    pin::pin,
    time::{Duration, Instant},
};

use clap::Args;
use muster_controller::Controller;
use muster_mcp_gateway::HttpGateway;
use muster_proto::{
    ids::WorkerId,
    v1::{ListWorkersRequest, WorkerHealth},
};
use muster_runtime::shutdown::Shutdown;
use muster_worker::{ProjectConfig, Worker};
use serde::Deserialize;
use serde_json::json;

use stderr_log::Redirected;

use super::{
    Layer,
    controller::{self, Door, Pace, Shares},
    list,
    machine::{self, Claude, Projects, find_claude, host_name},
    make_state_dir, mcp, resolve,
    worker::{self, SLOTS},
};
use crate::{
    address::{self, Address, Found, FoundBy},
    args::{Listen, Logs, Project},
    client::Client,
    config,
    failure::{Exit, Failure},
    live,
    output::Output,
    trust::Credentials,
};

/// How many ports after a taken one are tried.
const PORTS_TRIED: u16 = 50;
/// How long the worker may take to join its own controller before `up` says that something is wrong.
const JOIN_TIMEOUT: Duration = Duration::from_secs(15);
const JOIN_POLL: Duration = Duration::from_millis(20);
/// How long a terminal may take to show the last line.
const FAREWELL_TIMEOUT: Duration = Duration::from_millis(500);
/// How long the parts may take to leave: what matters is on disk before it is acknowledged.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Options of `up`.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Options {
    /// Where the controller listens, loopback only; a taken port: the next free one; 0: any [default:
    /// 127.0.0.1:7420]
    #[arg(long, env = "MUSTER_LISTEN", hide_env_values = true, value_name = "ADDR")]
    listen: Option<Listen>,
    /// Where MCP over HTTP listens, likewise [default: 127.0.0.1:7421]
    #[arg(long, env = "MUSTER_HTTP", hide_env_values = true, value_name = "ADDR")]
    http: Option<Listen>,
    /// Folder for everything the farm keeps [default: ~/.local/state/muster]
    #[arg(long, env = "MUSTER_STATE_DIR", hide_env_values = true, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// How many sessions may run side by side, 1 to 1000 [default: 2 a core, at most 8]
    #[arg(long, env = "MUSTER_SLOTS", hide_env_values = true, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(SLOTS))]
    slots: Option<u32>,
    /// A project beside the current repository; repeat for several
    #[arg(long, env = "MUSTER_PROJECT", hide_env_values = true, value_name = "NAME=PATH")]
    project: Vec<Project>,
    /// Use the settings, hooks and MCP servers of this project's repository too; those of the current one are
    /// used
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
    #[command(flatten)]
    #[serde(flatten)]
    door: Door,
    #[command(flatten)]
    #[serde(flatten)]
    pace: Pace,
    #[command(flatten)]
    #[serde(flatten)]
    shares: Shares,
    /// Print the addresses, then every change of a session, as one JSON document a line
    #[arg(long)]
    #[serde(skip)]
    json: bool,
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
            listen: self.listen.or(lower.listen),
            http: self.http.or(lower.http),
            state_dir: self.state_dir.or(lower.state_dir),
            slots: self.slots.or(lower.slots),
            project: list(self.project, lower.project),
            trust_project: list(self.trust_project, lower.trust_project),
            allow_trust_mode: list(self.allow_trust_mode, lower.allow_trust_mode),
            allow_push: list(self.allow_push, lower.allow_push),
            claude: self.claude.or(lower.claude),
            door: self.door.or(lower.door),
            pace: self.pace.or(lower.pace),
            shares: self.shares.or(lower.shares),
            json: self.json,
            config: self.config,
            logs: self.logs.or(lower.logs),
        }
    }
}

/// Runs the farm until a signal.
pub fn run(flags: Options) -> Result<Exit, Failure> {
    let mut options = resolve(flags)?;
    let plan = Plan::new(&options)?;
    let output = Output::new(options.json);
    let _lock = lock(&plan.root)?;
    // The screen belongs to the live view; what the parts log would tear it.
    let log = plan.root.join("up.log");
    let on_screen = output.terminal && std::io::IsTerminal::is_terminal(&std::io::stderr());
    let _redirected = if on_screen { Some(Redirected::to(&log)?) } else { None };
    if !on_screen {
        options.logs.log.get_or_insert_with(|| "warn".to_owned());
    }
    super::run("muster-up", &options.logs, async |shutdown| {
        let farm = Farm::start(&plan, &shutdown).await?;
        let result = farm.serve(&plan, output, &shutdown, on_screen.then_some(log.as_path())).await;
        Address::remove(&plan.root);
        result
    })
}

/// Says whether a file could be taken here.
pub fn validate(file: &Path) -> Result<(), Failure> {
    let options: Options = config::read(file)?;
    worker::check_slots(options.slots)?;
    projects(&options)?;
    let mut controller = muster_controller::Config::new(controller::default_listen(), PathBuf::new());
    options.pace.set(&mut controller)?;
    options.shares.check()?;
    options.door.check().map(drop)
}

/// Everything the farm is started with, checked.
struct Plan {
    root: PathBuf,
    /// Its port gives way to a free one.
    controller: muster_controller::Config,
    http: SocketAddr,
    worker: WorkerId,
    slots: u32,
    projects: Vec<ProjectConfig>,
    claude: muster_worker::ClaudeConfig,
    program: PathBuf,
}

impl Plan {
    fn new(options: &Options) -> Result<Self, Failure> {
        let slots = worker::check_slots(options.slots)?;
        let projects = projects(options)?;
        let listen = options.listen.map_or_else(controller::default_listen, |listen| listen.0);
        let mut controller = muster_controller::Config::new(listen, PathBuf::new());
        options.pace.set(&mut controller)?;
        controller.policy = options.shares.check()?;
        controller.remote = options.door.check()?;
        let claude = options.claude.settings(find_claude(options.claude.claude.as_deref())?);
        let root = match &options.state_dir {
            Some(dir) => dir.clone(),
            None => address::state_root()?,
        };
        let root = make_state_dir(&root)?;
        controller.state_dir = root.join("controller");
        Ok(Self {
            root,
            controller,
            http: options.http.map_or_else(|| SocketAddr::from(([127, 0, 0, 1], 7421)), |listen| listen.0),
            worker: WorkerId::from_host_name(&host_name()),
            slots,
            projects,
            claude,
            program: machine::this_program()?,
        })
    }
}

/// The current repository, trusted, and those named. One named like it takes its place.
fn projects(options: &Options) -> Result<Vec<ProjectConfig>, Failure> {
    let here = std::env::current_dir().map_err(|error| {
        Failure::new(Exit::Failed, "the current directory cannot be used").caused_by(&error)
    })?;
    let path = machine::repository_of(&here).to_owned();
    let current = Project { name: machine::project_name(&path), path };
    let mut projects = Projects {
        named: options.project.clone(),
        trusted: options.trust_project.clone(),
        trust_mode: options.allow_trust_mode.clone(),
        push: options.allow_push.clone(),
    };
    if projects.named.iter().all(|project| project.name != current.name) {
        projects.trusted.push(current.name.clone());
        projects.named.insert(0, current);
    }
    projects.check()
}

/// Makes this the only farm of the state folder, for as long as the file is open.
fn lock(root: &Path) -> Result<fs::File, Failure> {
    let path = root.join("up.lock");
    let failed = |error: &std::io::Error| {
        Failure::new(Exit::Failed, format!("lock {} cannot be taken", path.display())).caused_by(error)
    };
    let file =
        fs::OpenOptions::new().create(true).append(true).open(&path).map_err(|error| failed(&error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::Error(error)) => Err(failed(&error)),
        Err(fs::TryLockError::WouldBlock) => Err(match Address::read(root) {
            Some(farm) => {
                Failure::new(Exit::Failed, format!("a farm already runs here (process {})", farm.pid)).hint(
                    format!(
                        "its controller is {}, its MCP endpoint {}; `muster ps` shows its sessions",
                        farm.controller, farm.mcp
                    ),
                )
            }
            None => Failure::new(
                Exit::Failed,
                format!("a farm is just starting or leaving in {}", root.display()),
            )
            .hint("try again in a moment, or use another --state-dir"),
        }),
    }
}

/// `wished`, or the next free port after it. Somebody may take it before we do: then the start fails and says
/// so.
fn free_port(wished: SocketAddr, not: Option<u16>) -> SocketAddr {
    if wished.port() == 0 {
        return wished;
    }
    (0..PORTS_TRIED)
        .filter_map(|step| wished.port().checked_add(step))
        .filter(|port| Some(*port) != not)
        .map(|port| SocketAddr::new(wished.ip(), port))
        .find(|addr| TcpListener::bind(addr).is_ok())
        .unwrap_or(wished)
}

/// The parts, running.
struct Farm {
    controller: Controller,
    worker: Worker,
    gateway: HttpGateway,
    address: Address,
}

impl Farm {
    async fn start(plan: &Plan, shutdown: &Shutdown) -> Result<Self, Failure> {
        let listen = free_port(plan.controller.listen, None);
        let config = muster_controller::Config { listen, ..plan.controller.clone() };
        let controller = Controller::start(config, shutdown.clone())
            .await
            .map_err(|error| controller::start_failed(&error))?;
        let uri = format!("http://{}", controller.local_addr());
        let http = free_port(plan.http, Some(controller.local_addr().port()));
        let gateway =
            HttpGateway::start(muster_mcp_gateway::Config::new(uri.clone()), http, shutdown.clone())
                .await
                .map_err(|error| mcp::start_failed(&error))?;
        let config = muster_worker::Config {
            controller: uri.clone().into(),
            declared: muster_worker::DeclaredConfig::default(),
            needs: muster_worker::Needs::default(),
            name: plan.worker.clone(),
            state_dir: plan.root.join("worker"),
            slots: plan.slots,
            labels: std::collections::BTreeMap::new(),
            projects: plan.projects.clone(),
            claude: plan.claude.clone(),
            shim_program: plan.program.clone(),
            timing: muster_worker::Timing::default(),
        };
        let worker =
            Worker::start(config, shutdown.clone()).await.map_err(|error| worker::start_failed(&error))?;
        let mcp = format!("http://{}/mcp", gateway.local_addr());
        Ok(Self {
            controller,
            worker,
            gateway,
            address: Address { controller: uri, mcp, pid: std::process::id() },
        })
    }

    /// Tells how to connect, shows what happens, and leaves when asked to.
    async fn serve(
        self,
        plan: &Plan,
        output: Output,
        shutdown: &Shutdown,
        log: Option<&Path>,
    ) -> Result<Exit, Failure> {
        let found = Found { uri: self.address.controller.clone(), by: FoundBy::Named };
        let client = Client::to(found, &Credentials::default())?;
        let claude_version = joined(client.clone(), plan, shutdown).await;
        if let Err(error) = self.address.write(&plan.root) {
            tracing::warn!(error = %error, "the address file cannot be written; verbs need --controller");
        }
        let Address { controller, mcp, pid } = &self.address;
        let banner = if output.json {
            format!("{}\n", json!({ "controller": controller, "mcp": mcp, "pid": pid }))
        } else {
            self.banner(plan, claude_version.as_deref(), log)
        };
        let view = async {
            output.write(banner).await?;
            live::watch(client, output, |_| true).await
        };
        let mut controller = pin!(self.controller.finished());
        let mut controller_left = false;
        let result = tokio::select! {
            biased;
            () = shutdown.requested() => Ok(Exit::Ok),
            _ = &mut controller => {
                controller_left = true;
                Err(Failure::new(Exit::Failed, "the controller ended by itself").hint("its log says why"))
            }
            shown = view => shown,
        };
        if !output.json && result.is_ok() {
            // Whoever reads this may be gone or held; that changes nothing about leaving.
            let farewell = "leaving: sessions go on by themselves, the next `muster up` finds them again\n";
            let _ = tokio::time::timeout(FAREWELL_TIMEOUT, output.write(farewell.to_owned())).await;
        }
        shutdown.request();
        let leave = async {
            if !controller_left {
                let _ = controller.await;
            }
            let _ = self.worker.finished().await;
            self.gateway.finished().await;
        };
        if tokio::time::timeout(LEAVE_TIMEOUT, leave).await.is_err() {
            tracing::warn!("a part did not leave in time; the process ends without it");
        }
        result
    }
}

/// Waits until the worker has joined; gives the version of claude it found. None: it did not join in time.
async fn joined(mut client: Client, plan: &Plan, shutdown: &Shutdown) -> Option<String> {
    let deadline = Instant::now() + JOIN_TIMEOUT;
    while Instant::now() < deadline && !shutdown.is_requested() {
        let request = Client::call(ListWorkersRequest {});
        let workers = client.admin.list_workers(request).await.map(|response| response.into_inner().workers);
        let worker =
            workers.unwrap_or_default().into_iter().find(|worker| worker.worker == plan.worker.as_str());
        if let Some(worker) = worker.filter(|worker| worker.health() == WorkerHealth::Connected) {
            return Some(worker.claude_version);
        }
        tokio::time::sleep(JOIN_POLL).await;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_gives_way_to_the_next_and_zero_stays() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = taken.local_addr().expect("its address");
        let free = free_port(addr, None);
        assert_ne!(free.port(), addr.port());
        assert_eq!(free_port(SocketAddr::new(addr.ip(), 0), None).port(), 0);
        assert_ne!(free_port(free, Some(free.port())).port(), free.port());
    }

    #[test]
    fn a_second_farm_in_a_folder_is_told_where_the_first_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let held = lock(folder.path()).expect("the first");
        assert!(lock(folder.path()).expect_err("refused").what.contains("just starting"));
        let address =
            Address { controller: "http://127.0.0.1:5".into(), mcp: "http://127.0.0.1:6/mcp".into(), pid: 7 };
        address.write(folder.path()).expect("written");
        let failure = lock(folder.path()).expect_err("refused");
        assert!(failure.what.contains("process 7") && failure.hint.contains("127.0.0.1:5"), "{failure:?}");
        drop(held);
        lock(folder.path()).expect("free again");
    }
}

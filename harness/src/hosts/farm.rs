//! A farm on [`Network`]'s hosts: a controller on the host `c`, a worker on each other one, joined by token.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;
use uuid::Uuid;

use super::{Host, Network, skip_loudly};
use crate::{
    fleet::{Claude, Gateway, GatewayStarter, Process, START_LIMIT, clean, muster},
    processes::{self, Survivor},
    scratch_repo::ScratchRepo,
};

/// Every worker serves a repository of its own under this name.
pub const PROJECT: &str = "scratch";
/// The same, for sessions that start once more elsewhere when their machine is lost.
pub const RESTARTING: &str = "restarting";

/// Of the controller, where it only listens to its own host.
const LOCAL: &str = "127.0.0.1:7420";
const REMOTE_PORT: u16 = 7430;
const END_LIMIT: Duration = Duration::from_secs(60);
/// Lines of each log shown when a test fails.
const LOG_TAIL: usize = 80;

/// How fast the controller's clocks run.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Of workers' certificates.
    pub certificate_life: Duration,
    /// How long a worker may run what may start elsewhere without being heard.
    pub lease: Duration,
}

/// Between a heartbeat and the next.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Silence after which a worker's sessions are unreachable.
pub const UNREACHABLE_AFTER: Duration = Duration::from_secs(5);

impl Default for Pace {
    fn default() -> Self {
        Self { certificate_life: Duration::from_secs(3600), lease: Duration::from_secs(10) }
    }
}

/// A running farm. Dropping it ends everything and removes the hosts.
#[derive(Debug)]
pub struct HostFarm {
    id: String,
    muster: PathBuf,
    folder_guard: TempDir,
    folder: PathBuf,
    environment: Vec<(String, String)>,
    pace: Pace,
    controller: Option<Process>,
    workers: Vec<Worker>,
    /// After the processes: a host outlives what runs on it.
    pub network: Network,
}

#[derive(Debug)]
struct Worker {
    /// Of the worker and its host.
    name: String,
    process: Option<Process>,
}

impl HostFarm {
    /// Makes hosts, starts a controller and lets a worker of each name join. None: this machine does not allow it; why is
    /// said.
    ///
    /// # Errors
    /// When something does not come up.
    pub async fn start(names: &[&str], pace: Pace) -> anyhow::Result<Option<Self>> {
        let Some(mut farm) = Self::alone(names, pace).await? else { return Ok(None) };
        let token = farm.token(&["--uses", &names.len().to_string()]).await?;
        for name in names {
            farm.join(name, &token)?;
        }
        farm.connected(names).await?;
        Ok(Some(farm))
    }

    /// A controller alone, and hosts on which workers may join. None as in [`Self::start`].
    ///
    /// # Errors
    /// When something does not come up.
    pub async fn alone(names: &[&str], pace: Pace) -> anyhow::Result<Option<Self>> {
        let network = match Network::make(&[&["c"], names].concat())? {
            Ok(network) => network,
            Err(why) => {
                skip_loudly(&why);
                return Ok(None);
            }
        };
        let folder_guard = TempDir::with_prefix("mh-").context("making a temporary folder")?;
        let folder = folder_guard.path().canonicalize()?;
        for name in ["home", "logs", "tmp", "witness"] {
            fs::create_dir_all(folder.join(name))?;
        }
        for name in names {
            ScratchRepo::create(&folder.join("repos").join(name))?;
        }
        let environment = crate::fleet::environment(&folder.join("home"), false);
        let mut farm = Self {
            id: Uuid::new_v4().simple().to_string(),
            muster: muster()?,
            folder_guard,
            folder,
            environment,
            pace,
            controller: None,
            workers: Vec::new(),
            network,
        };
        farm.start_controller().await?;
        let policy = ["project", "add", RESTARTING, "--on-lost", "restart"];
        farm.muster(&policy).await?;
        Ok(Some(farm))
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The worker's own folder.
    #[must_use]
    pub fn state_dir(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn on(&self, host: &Host, program: &Path) -> Command {
        let mut words = host.before().into_iter();
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).arg(program);
        clean(&mut command, &self.id, &self.folder, &self.environment);
        command
    }

    /// Starts the controller, after the first time on what it had.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start_controller(&mut self) -> anyhow::Result<()> {
        let host = self.network.host("c").clone();
        let port_file = self.folder.join("controller-port");
        let _ = fs::remove_file(&port_file);
        let seconds = |time: Duration| format!("{}s", time.as_secs());
        let mut command = self.on(&host, &self.muster);
        command
            .args(["controller", "--listen", LOCAL, "--state-dir"])
            .arg(self.folder.join("controller"))
            .arg("--port-file")
            .arg(&port_file)
            .args(["--remote-listen", &format!("0.0.0.0:{REMOTE_PORT}")])
            .args(["--remote-name", &host.address().to_string()])
            .args(["--certificate-life", &seconds(self.pace.certificate_life)])
            .args(["--lease", &seconds(self.pace.lease)])
            .args(["--heartbeat", &seconds(HEARTBEAT)])
            .args(["--unreachable-after", &seconds(UNREACHABLE_AFTER)]);
        let mut process = Process::start("controller", command, &self.folder.join("logs"))?;
        process.listening(&port_file).await?;
        self.controller = Some(process);
        Ok(())
    }

    /// Kills the controller with SIGKILL.
    pub fn kill_controller(&mut self) {
        drop(self.controller.take());
    }

    /// A new join token.
    ///
    /// # Errors
    /// When none is made.
    pub async fn token(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let said = self.muster(&[&["token", "create"], arguments].concat()).await?;
        let token = said.split_whitespace().find(|word| word.starts_with("mustjoin_"));
        Ok(token.with_context(|| format!("`muster token create` printed {said:?}"))?.to_owned())
    }

    /// Lets the worker of this name join from its host.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn join(&mut self, name: &str, token: &str) -> anyhow::Result<()> {
        self.run_worker(name, name, &self.state_dir(name), &["join", token, "--name", name])
    }

    /// Starts a worker that has joined, on the state it had.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_worker(&mut self, name: &str) -> anyhow::Result<()> {
        self.run_worker(name, name, &self.state_dir(name), &[])
    }

    /// Runs a worker on a host with a folder that may be another's.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run_worker(
        &mut self,
        name: &str,
        host: &str,
        state_dir: &Path,
        first: &[&str],
    ) -> anyhow::Result<()> {
        let command = self.worker_command(name, host, state_dir, first)?;
        let process = Process::start(name, command, &self.folder.join("logs"))?;
        self.workers.retain(|worker| worker.name != name);
        self.workers.push(Worker { name: name.to_owned(), process: Some(process) });
        Ok(())
    }

    /// The command of a worker; `first` stands behind the word `worker`.
    ///
    /// # Errors
    /// When its program or repository is missing.
    pub fn worker_command(
        &self,
        name: &str,
        host: &str,
        state_dir: &Path,
        first: &[&str],
    ) -> anyhow::Result<Command> {
        let mut command = self.on(self.network.host(host), &self.muster);
        let repo = self.folder.join("repos").join(name);
        fs::create_dir_all(&repo)?;
        command.arg("worker").args(first).args(["--slots", "16", "--label", &format!("host={name}")]);
        command.arg("--state-dir").arg(state_dir);
        for project in [PROJECT, RESTARTING] {
            command.arg("--project").arg(format!("{project}={}", repo.display()));
        }
        command.arg("--claude").arg(Claude::Scripted.program()?);
        let witness = self.folder.join("witness").display().to_string();
        let temporary = self.folder.join("tmp").display().to_string();
        for (name, value) in [
            (processes::TEST_ID, self.id.as_str()),
            ("TMPDIR", temporary.as_str()),
            ("MUSTER_WITNESS", witness.as_str()),
        ] {
            command.arg("--claude-env").arg(format!("{name}={value}"));
        }
        Ok(command)
    }

    /// The process of a worker, while it runs.
    pub fn worker(&mut self, name: &str) -> Option<&mut Process> {
        self.workers.iter_mut().find(|worker| worker.name == name)?.process.as_mut()
    }

    /// Kills a worker with SIGKILL; its shims go on.
    pub fn kill_worker(&mut self, name: &str) {
        self.workers.retain(|worker| worker.name != name);
    }

    /// Runs a verb of the command line on the controller's host. Gives stdout.
    ///
    /// # Errors
    /// When it fails: with its stderr and exit code.
    pub async fn muster(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = self.on(self.network.host("c"), &self.muster);
        command.args(arguments).env("MUSTER_CONTROLLER", format!("http://{LOCAL}")).stdin(Stdio::null());
        let output = command.output().await?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("muster {} ended with {}: {stderr}", arguments.join(" "), output.status);
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Workers as `muster workers --json` shows them.
    ///
    /// # Errors
    /// When the controller does not answer.
    pub async fn worker_list(&self) -> anyhow::Result<Vec<Value>> {
        let text = self.muster(&["workers", "--json"]).await?;
        serde_json::from_str(&text).with_context(|| format!("`muster workers --json` printed {text:?}"))
    }

    /// Health of a worker; empty when there is none of the name.
    ///
    /// # Errors
    /// When the controller does not answer.
    pub async fn health(&self, name: &str) -> anyhow::Result<String> {
        let workers = self.worker_list().await?;
        let worker = workers.iter().find(|worker| worker["worker"] == name);
        Ok(worker.and_then(|worker| worker["health"].as_str()).unwrap_or_default().to_owned())
    }

    /// Waits until all of these are connected.
    ///
    /// # Errors
    /// When one is not in time, or has ended.
    pub async fn connected(&mut self, names: &[&str]) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + START_LIMIT;
        loop {
            let workers = self.worker_list().await.unwrap_or_default();
            let connected = |name: &str| {
                workers.iter().any(|worker| worker["worker"] == name && worker["health"] == "connected")
            };
            if names.iter().all(|name| connected(name)) {
                return Ok(());
            }
            for worker in &mut self.workers {
                let left = worker.process.as_mut().is_some_and(Process::has_left);
                ensure!(!left, "the worker {} has left: {}", worker.name, tail(&self.folder, &worker.name));
            }
            if tokio::time::Instant::now() > deadline {
                bail!("after {START_LIMIT:?} the workers are {workers:?}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A gateway on the controller's host.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn gateway(&self) -> anyhow::Result<Gateway> {
        let starter = GatewayStarter {
            id: self.id.clone(),
            before: self.network.host("c").before(),
            muster: self.muster.clone(),
            folder: self.folder.clone(),
            environment: self.environment.clone(),
            controller_url: format!("http://{LOCAL}"),
        };
        starter.start().await
    }

    /// What a process has logged.
    #[must_use]
    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.folder.join("logs").join(format!("{name}.log"))).unwrap_or_default()
    }

    /// Ends the farm.
    ///
    /// # Errors
    /// Processes it left behind; they are killed all the same.
    pub fn end(mut self) -> Result<(), Vec<Survivor>> {
        self.end_processes();
        processes::gone(&self.id, &self.folder, END_LIMIT)
    }

    fn end_processes(&mut self) {
        self.workers.clear();
        drop(self.controller.take());
    }
}

impl Drop for HostFarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            use std::io::Write as _;
            let mut stderr = std::io::stderr().lock();
            let _ = writeln!(stderr, "logs of the farm in {}:", self.folder.display());
            for log in fs::read_dir(self.folder.join("logs")).into_iter().flatten().flatten() {
                let name = log.file_name().to_string_lossy().trim_end_matches(".log").to_owned();
                let _ = writeln!(stderr, "--- {name}\n{}", tail(&self.folder, &name));
            }
            self.folder_guard.disable_cleanup(true);
        }
        self.end_processes();
        processes::kill_all(&self.id, &self.folder);
    }
}

fn tail(folder: &Path, name: &str) -> String {
    let text = fs::read_to_string(folder.join("logs").join(format!("{name}.log"))).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
}

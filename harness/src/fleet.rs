//! The whole system on this machine, as real processes: controller, workers, gateways, and a Messages API
//! beside them.
//!
//! Owns a folder and every process below it. Nothing outside is used: HOME, state, repositories and logs lie
//! in the folder, the environment is clean, ports come from the kernel. Dropping it ends everything by pid; a
//! fleet that is dropped by a panic prints its logs and keeps its folder.

mod builder;
mod claude;
mod gateway;
mod process;

use std::{
    ffi::OsStr,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::{
    fault_proxy::FaultProxy,
    messages_api::MessagesApi,
    processes::{self, Survivor, TEST_ID},
    scratch_repo::ScratchRepo,
};

pub(crate) use builder::environment;
pub use builder::{FleetBuilder, WorkerSpec};
pub(crate) use claude::muster;
pub use claude::{Claude, programs_folder};
pub use gateway::{Gateway, GatewayStarter, HttpGateway};
pub use process::Process;

/// Name of the project every worker serves unless told otherwise.
pub const PROJECT: &str = "scratch";
/// A process that has not come up by then never will.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(90);
/// What an orderly end of everything may take; survivors past it are a defect.
const END_LIMIT: Duration = Duration::from_secs(60);
/// Lines of each log shown when a test fails.
const LOG_TAIL: usize = 60;

/// A running fleet.
#[derive(Debug)]
pub struct TestFleet {
    id: String,
    muster: PathBuf,
    /// Kept alive for its folder; `None` when the caller named one.
    folder_guard: Option<TempDir>,
    folder: PathBuf,
    api: Option<MessagesApi>,
    repo: ScratchRepo,
    controller: Option<Process>,
    controller_address: String,
    /// Between the workers and the controller, when asked for.
    proxy: Option<FaultProxy>,
    workers: Vec<(WorkerSpec, Option<Process>)>,
    /// Environment of every process, beside that of claude.
    environment: Vec<(String, String)>,
}

impl TestFleet {
    /// A fleet of one worker with the scripted claude, to be altered.
    #[must_use]
    pub fn builder() -> FleetBuilder {
        FleetBuilder::default()
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Marks its processes, see [`crate::processes`].
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The repository behind [`PROJECT`].
    #[must_use]
    pub fn repo(&self) -> &ScratchRepo {
        &self.repo
    }

    /// The Messages API of a fleet with an offline model.
    ///
    /// # Panics
    /// When the fleet was built for the real model.
    #[must_use]
    pub fn api(&self) -> &MessagesApi {
        self.api.as_ref().expect("this fleet was built without an offline Messages API")
    }

    /// `http://host:port` of the controller, for gateways and the command line.
    #[must_use]
    pub fn controller_url(&self) -> String {
        format!("http://{}", self.controller_address)
    }

    /// What stands between the workers and the controller, see [`FleetBuilder::behind_proxy`].
    #[must_use]
    pub fn proxy(&self) -> Option<&FaultProxy> {
        self.proxy.as_ref()
    }

    /// The process of the controller, while it runs.
    #[must_use]
    pub fn controller(&self) -> Option<&Process> {
        self.controller.as_ref()
    }

    /// The process of a worker, by position, while it runs.
    #[must_use]
    pub fn worker(&self, index: usize) -> Option<&Process> {
        self.workers.get(index).and_then(|(_, process)| process.as_ref())
    }

    /// Records of what the scripted claudes were given: `<session id>.jsonl`.
    #[must_use]
    pub fn witness_folder(&self) -> PathBuf {
        self.folder.join("witness")
    }

    /// Runs a verb of the command line against this fleet. Gives stdout.
    ///
    /// # Errors
    /// When it fails: with its stderr and exit code.
    pub async fn muster(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.command_for(arguments).stdin(Stdio::null()).output().await?;
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

    /// A gateway over stdio with a client connected to it.
    ///
    /// # Errors
    /// When the gateway does not come up.
    pub async fn gateway(&self) -> anyhow::Result<Gateway> {
        self.gateway_starter().start().await
    }

    /// Starts gateways without holding the fleet.
    #[must_use]
    pub fn gateway_starter(&self) -> GatewayStarter {
        GatewayStarter::of(self)
    }

    /// A gateway over HTTP on a port of its own.
    ///
    /// # Errors
    /// When the gateway does not come up.
    pub async fn http_gateway(&self) -> anyhow::Result<HttpGateway> {
        HttpGateway::start(self, "127.0.0.1:0").await
    }

    /// Whether the controller has ended by itself.
    pub fn controller_has_left(&mut self) -> bool {
        self.controller.as_mut().is_some_and(Process::has_left)
    }

    /// Whether a worker has ended by itself.
    pub fn worker_has_left(&mut self, index: usize) -> bool {
        self.workers.get_mut(index).and_then(|(_, process)| process.as_mut()).is_some_and(Process::has_left)
    }

    /// Kills the controller with SIGKILL.
    pub fn kill_controller(&mut self) {
        drop(self.controller.take());
    }

    /// Kills a worker with SIGKILL; its shims go on.
    pub fn kill_worker(&mut self, index: usize) {
        if let Some((_, process)) = self.workers.get_mut(index) {
            drop(process.take());
        }
    }

    /// A verb of the command line against this fleet, for a caller that wants its streams.
    #[must_use]
    pub fn command_for(&self, arguments: &[&str]) -> Command {
        let mut command = self.command();
        command.args(arguments).env("MUSTER_CONTROLLER", self.controller_url());
        command
    }

    /// `muster`, with the clean environment of this fleet.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.muster);
        self.clean(&mut command);
        command
    }

    /// Gives a command the environment of this fleet and nothing of ours.
    pub fn clean(&self, command: &mut Command) {
        clean(command, &self.id, &self.folder, &self.environment);
    }

    /// Ends the fleet.
    ///
    /// # Errors
    /// Processes it left behind; they are killed all the same.
    pub fn end(mut self) -> Result<(), Vec<Survivor>> {
        self.end_processes();
        processes::gone(&self.id, &self.folder, END_LIMIT)
    }

    /// Ends the fleet and checks that it left no process behind.
    ///
    /// # Panics
    /// When something of it still lives.
    pub fn assert_no_survivors(self) {
        if let Err(survivors) = self.end() {
            panic!("the fleet left processes behind: {survivors:#?}");
        }
    }

    /// Kills what the fleet started itself. A session that has not ended goes on: that is what shims are for.
    fn end_processes(&mut self) {
        for (_, process) in &mut self.workers {
            drop(process.take());
        }
        drop(self.controller.take());
    }

    fn show_logs(&self) {
        let mut stderr = std::io::stderr().lock();
        let _ = writeln!(stderr, "logs of the fleet in {}:", self.folder.display());
        let logs = fs::read_dir(self.folder.join("logs")).into_iter().flatten().flatten();
        for log in logs {
            let text = fs::read(log.path()).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<&str> = text.lines().collect();
            let _ = writeln!(stderr, "--- {} ({} lines)", log.file_name().to_string_lossy(), lines.len());
            for line in &lines[lines.len().saturating_sub(LOG_TAIL)..] {
                let _ = writeln!(stderr, "{line}");
            }
        }
    }
}

/// The environment of the fleet with this id and folder, and nothing of ours.
pub(crate) fn clean(command: &mut Command, id: &str, folder: &Path, environment: &[(String, String)]) {
    command
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (OsStr::new(name), OsStr::new(value))))
        .env(TEST_ID, id)
        .current_dir(folder)
        .kill_on_drop(true);
}

impl Drop for TestFleet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
            if let Some(folder) = &mut self.folder_guard {
                folder.disable_cleanup(true);
            }
        }
        self.end_processes();
        // Sessions outlive their worker by design: here they must not outlive the test.
        processes::kill_all(&self.id, &self.folder);
    }
}

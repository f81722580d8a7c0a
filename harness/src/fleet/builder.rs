//! What a fleet consists of, and how it comes up.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use tempfile::TempDir;
use tokio::process::Command;
use uuid::Uuid;

use super::{Claude, PROJECT, Process, START_LIMIT, TestFleet, muster};
use crate::{
    fault_proxy::FaultProxy, messages_api::MessagesApi, processes::TEST_ID, scenario::Scenario,
    scratch_repo::ScratchRepo,
};

/// A worker to be.
#[derive(Debug, Clone)]
pub struct WorkerSpec {
    /// Unique in the fleet.
    pub name: String,
    /// Sessions side by side.
    pub slots: u32,
    /// What it runs.
    pub claude: Claude,
    /// Name and folder, below the fleet's when relative. At first [`PROJECT`] in the fleet's repository.
    pub projects: Vec<(String, PathBuf)>,
    /// Added to claude's clean environment, over the fleet's own.
    pub claude_env: Vec<(String, String)>,
    /// Any other arguments of `muster worker`.
    pub arguments: Vec<String>,
}

impl WorkerSpec {
    /// A worker with the scripted claude.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            slots: 8,
            claude: Claude::Scripted,
            projects: vec![(PROJECT.to_owned(), PathBuf::from("repo"))],
            claude_env: Vec::new(),
            arguments: Vec::new(),
        }
    }
}

/// See [`TestFleet::builder`].
#[derive(Debug)]
pub struct FleetBuilder {
    workers: Vec<WorkerSpec>,
    scenario: Scenario,
    folder: Option<PathBuf>,
    muster: Option<PathBuf>,
    real_model: bool,
    home: Option<PathBuf>,
    proxied: bool,
}

impl Default for FleetBuilder {
    fn default() -> Self {
        Self {
            workers: vec![WorkerSpec::new("w1")],
            scenario: Scenario::default(),
            folder: None,
            muster: None,
            real_model: false,
            home: None,
            proxied: false,
        }
    }
}

impl FleetBuilder {
    /// Claude of the first worker.
    #[must_use]
    pub fn claude(mut self, claude: Claude) -> Self {
        self.workers[0].claude = claude;
        self
    }

    /// Slots of the first worker.
    #[must_use]
    pub fn slots(mut self, slots: u32) -> Self {
        self.workers[0].slots = slots;
        self
    }

    /// A variable for the claudes of the first worker.
    #[must_use]
    pub fn claude_env(mut self, name: &str, value: &str) -> Self {
        self.workers[0].claude_env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Arguments for the first worker.
    #[must_use]
    pub fn worker_arguments(mut self, arguments: &[&str]) -> Self {
        self.workers[0].arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// A project of the first worker beside [`PROJECT`]; made below the fleet's folder when the path is
    /// relative.
    #[must_use]
    pub fn project(mut self, name: &str, path: impl Into<PathBuf>) -> Self {
        self.workers[0].projects.push((name.to_owned(), path.into()));
        self
    }

    /// One more worker.
    #[must_use]
    pub fn worker(mut self, worker: WorkerSpec) -> Self {
        self.workers.push(worker);
        self
    }

    /// What the model says, beside scripts in prompts.
    #[must_use]
    pub fn scenario(mut self, scenario: Scenario) -> Self {
        self.scenario = scenario;
        self
    }

    /// A folder of the caller's, which stays. Default: a temporary one.
    #[must_use]
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Another `muster` than the one built beside this program.
    #[must_use]
    pub fn muster(mut self, program: impl Into<PathBuf>) -> Self {
        self.muster = Some(program.into());
        self
    }

    /// Asks the real model with the login of this HOME, or the API key of our own environment.
    #[must_use]
    pub fn real_model(mut self, home: impl Into<PathBuf>) -> Self {
        self.real_model = true;
        self.home = Some(home.into());
        self
    }

    /// Puts a proxy that can fail between the workers and the controller.
    #[must_use]
    pub fn behind_proxy(mut self) -> Self {
        self.proxied = true;
        self
    }

    /// Starts everything and waits until every worker is connected.
    ///
    /// # Errors
    /// When a process does not come up: with what it logged.
    pub async fn start(self) -> anyhow::Result<TestFleet> {
        let folder_guard = match &self.folder {
            Some(_) => None,
            None => Some(TempDir::with_prefix("mf-").context("making a temporary folder")?),
        };
        let folder = match (&self.folder, &folder_guard) {
            (Some(folder), _) => folder.clone(),
            (None, Some(guard)) => guard.path().to_owned(),
            (None, None) => bail!("no folder"),
        };
        for name in ["home", "logs", "ports", "tmp", "witness"] {
            fs::create_dir_all(folder.join(name))
                .with_context(|| format!("making {name} in {}", folder.display()))?;
        }
        let folder = folder.canonicalize()?;
        let home = self.home.clone().unwrap_or_else(|| folder.join("home"));
        let repo = ScratchRepo::create(&folder.join("repo"))?;
        let api = if self.real_model { None } else { Some(MessagesApi::start(self.scenario).await?) };
        let mut fleet = TestFleet {
            id: Uuid::new_v4().simple().to_string(),
            muster: match self.muster {
                Some(program) => program.canonicalize().with_context(|| format!("{}", program.display()))?,
                None => muster()?,
            },
            folder_guard,
            folder,
            api,
            repo,
            controller: None,
            controller_address: "127.0.0.1:0".to_owned(),
            proxy: None,
            workers: self.workers.into_iter().map(|worker| (worker, None)).collect(),
            environment: environment(&home, self.real_model),
        };
        fleet.start_controller().await?;
        if self.proxied {
            fleet.proxy = Some(FaultProxy::start(fleet.controller_address.parse()?).await?);
        }
        for index in 0..fleet.workers.len() {
            fleet.start_worker(index)?;
        }
        fleet.workers_connected().await?;
        Ok(fleet)
    }
}

impl TestFleet {
    /// Starts the controller, after the first time on the port and the state it had.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start_controller(&mut self) -> anyhow::Result<()> {
        let port_file = self.folder.join("ports/controller");
        let _ = fs::remove_file(&port_file);
        let mut command = self.command();
        command
            .args(["controller", "--listen", &self.controller_address, "--state-dir"])
            .arg(self.folder.join("controller"))
            .arg("--port-file")
            .arg(&port_file);
        let mut process = Process::start("controller", command, &self.folder.join("logs"))?;
        self.controller_address = process.listening(&port_file).await?.to_string();
        self.controller = Some(process);
        Ok(())
    }

    /// Starts a worker, after the first time on the state it had.
    ///
    /// # Errors
    /// When its program or claude cannot be found.
    pub fn start_worker(&mut self, index: usize) -> anyhow::Result<()> {
        let spec = self.workers[index].0.clone();
        let proxy = self.proxy.as_ref().map(|proxy| format!("http://{}", proxy.address()));
        let controller = proxy.unwrap_or_else(|| self.controller_url());
        let mut command = self.command();
        command
            .args(["worker", "--controller", &controller, "--name", &spec.name])
            .args(["--slots", &spec.slots.to_string(), "--state-dir"])
            .arg(self.folder.join(&spec.name))
            .arg("--claude")
            .arg(spec.claude.program()?);
        self.name_projects(&mut command, &spec)?;
        for (name, value) in self.claude_environment(&spec) {
            command.arg("--claude-env").arg(format!("{name}={value}"));
        }
        command.args(&spec.arguments);
        let process = Process::start(&spec.name, command, &self.folder.join("logs"))?;
        self.workers[index].1 = Some(process);
        Ok(())
    }

    fn name_projects(&self, command: &mut Command, spec: &WorkerSpec) -> anyhow::Result<()> {
        for (name, path) in &spec.projects {
            let path = self.folder.join(path);
            fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
            command
                .args(["--allow-trust-mode", name])
                .arg("--project")
                .arg(format!("{name}={}", path.display()));
        }
        Ok(())
    }

    /// What the claudes of a worker get beside what the worker gives all of them.
    fn claude_environment(&self, spec: &WorkerSpec) -> Vec<(String, String)> {
        // claude takes the system's temporary folder where the path of its own is too long for it.
        let temporary = self.folder.join("tmp").display().to_string();
        let mut variables = vec![(TEST_ID, self.id.clone()), ("TMPDIR", temporary)];
        if let Some(api) = &self.api {
            variables.push(("ANTHROPIC_BASE_URL", api.url()));
            variables.push(("ANTHROPIC_API_KEY", "sk-offline".to_owned()));
            variables.push(("CLAUDE_CODE_MAX_RETRIES", "1".to_owned()));
        }
        if spec.claude == Claude::Scripted {
            variables.push(("MUSTER_WITNESS", self.witness_folder().display().to_string()));
        }
        let mut variables: Vec<_> =
            variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        variables.extend(spec.claude_env.iter().cloned());
        variables
    }

    /// Waits until every worker that was started is connected.
    ///
    /// # Errors
    /// When one is not within half a minute.
    pub async fn workers_connected(&mut self) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + START_LIMIT;
        loop {
            let connected = self
                .worker_list()
                .await
                .map(|workers| workers.iter().filter(|worker| worker["health"] == "connected").count());
            let started = self.workers.iter().filter(|(_, process)| process.is_some()).count();
            if connected.as_ref().is_ok_and(|connected| *connected >= started) {
                return Ok(());
            }
            if tokio::time::Instant::now() > deadline {
                self.show_logs();
                bail!("{connected:?} of {started} workers are connected after {START_LIMIT:?}");
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

/// A clean environment: of ours only PATH, and for the real model what it logs in with.
pub(crate) fn environment(home: &Path, real_model: bool) -> Vec<(String, String)> {
    let mut variables = vec![
        ("HOME".to_owned(), home.display().to_string()),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
        ("GIT_CONFIG_NOSYSTEM".to_owned(), "1".to_owned()),
        ("MUSTER_LOG".to_owned(), std::env::var("MUSTER_LOG").unwrap_or_else(|_| "info".to_owned())),
    ];
    let login: &[&str] = if real_model {
        &[
            "ANTHROPIC_API_KEY",
            "ANTHROPIC_AUTH_TOKEN",
            "ANTHROPIC_BASE_URL",
            "CLAUDE_CODE_OAUTH_TOKEN",
            "CLAUDE_CONFIG_DIR",
        ]
    } else {
        &[]
    };
    for name in ["PATH", "TMPDIR", "RUST_BACKTRACE"].iter().chain(login) {
        if let Ok(value) = std::env::var(name) {
            variables.push(((*name).to_owned(), value));
        }
    }
    variables
}

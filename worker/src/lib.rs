//! The worker of muster: runs sessions on one machine.
//!
//! ```text
//! uplink ──orders──► supervisor ──► session actor ──► shim (a process of its own) ──► claude
//!    ▲                                │   ▲
//!    └── board: events, output ◄──────┘   └── spool, read by offset and folded
//! ```
//! A worker may be killed at any moment: shims go on, and the next start finds its sessions again from
//! [`local_state`]'s files alone.

pub mod agent;
pub mod clock;
pub mod config;
pub mod join;
pub mod local_state;
pub mod metrics;
pub mod room;
pub mod shim;
pub mod spool;
mod supervisor;
mod uplink;
pub mod workspace;

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use muster_proto::ids::WorkerId;
use muster_runtime::{grpc, shutdown::Shutdown, task, task::Task};

pub use crate::config::{
    ClaudeConfig, Config, ConfigError, Controller, DeclaredConfig, Needs, ProjectConfig, Timing,
};
use crate::{
    agent::claude::version::{self, FindError},
    join::Member,
    supervisor::{Supervisor, orphans, reaper},
    uplink::{Uplink, Way},
};

/// How long to wait for the state folder of a worker that is just leaving.
const LOCK_FOR: Duration = Duration::from_secs(2);

/// A worker that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// claude.
    #[error(transparent)]
    Claude(#[from] FindError),
    /// The shim program.
    #[error("shim program {0:?} is not a file")]
    Shim(PathBuf),
    /// The controller's address.
    #[error(transparent)]
    Controller(#[from] grpc::ConnectError),
    /// What it keeps of having joined.
    #[error(transparent)]
    Member(#[from] join::LoadError),
    /// It is to dial as a machine that joined, and has not.
    #[error(
        "this machine has not joined a farm with the state folder {0:?}; run `muster worker join TOKEN` first"
    )]
    NotJoined(PathBuf),
    /// It joined under another name.
    #[error(
        "this machine joined as worker {joined}, and is started as {named}; leave the name out, or join again"
    )]
    OtherName {
        /// In its certificate.
        joined: WorkerId,
        /// In the configuration.
        named: WorkerId,
    },
    /// The state folder.
    #[error("state folder {0:?}: {1}")]
    State(PathBuf, io::Error),
    /// The state folder belongs to a worker that runs.
    #[error("state folder {0:?} is in use by another worker")]
    InUse(PathBuf),
}

/// A worker that runs. Dropping it ends the worker but not its sessions.
pub struct Worker {
    uplink: Task<()>,
    _supervisor: Arc<Supervisor>,
    _orphans: Option<Task<()>>,
    _reaper: Task<()>,
    _sampler: Option<Task<()>>,
    _lock: File,
}

impl Worker {
    /// Starts a worker: checks the configuration, finds claude, takes sessions up again that an earlier worker left, and
    /// connects to the controller in the background, for ever.
    ///
    /// # Errors
    /// [`StartError`]. A controller that is away is none.
    pub async fn start(mut config: Config, shutdown: Shutdown) -> Result<Self, StartError> {
        config.check()?;
        if !config.shim_program.is_file() {
            return Err(StartError::Shim(config.shim_program));
        }
        let claude = version::ask(&config.claude).await?;
        tracing::info!(claude.version = %claude.version, program = %claude.program.display(), "claude found");
        let state = |error| StartError::State(config.state_dir.clone(), error);
        let real = local_state::prepare(&config.state_dir).map_err(state)?;
        let lock = lock(&real).await?;
        config.state_dir = real;
        let orphans = orphans::adopt();
        if let Err(error) = &orphans {
            tracing::warn!(error = %error, "shims that leave may stay as defunct processes");
        }
        if let Err(error) = local_state::empty_temporary(&config.state_dir) {
            tracing::warn!(error = %error, "temporary files of an earlier worker stay");
        }
        let way = way(&config)?;
        let state_dir = config.state_dir.clone();
        let supervisor =
            Supervisor::restore(config, claude).map_err(|error| StartError::State(state_dir, error))?;
        let supervisor = Arc::new(supervisor);
        let reaper = reaper::spawn(&supervisor);
        muster_runtime::metrics::watch_disk("worker", &supervisor.context().config.state_dir);
        let sampler = metrics::sample(supervisor.board().clone());
        let uplink = Uplink::new(Arc::clone(&supervisor), way);
        let task = task::spawn("uplink", async move {
            if let Err(error) = uplink.run(shutdown.clone()).await {
                tracing::error!(error = %error, "worker leaves");
            }
        });
        Ok(Self {
            uplink: task,
            _supervisor: supervisor,
            _orphans: orphans.ok(),
            _reaper: reaper,
            _sampler: sampler,
            _lock: lock,
        })
    }

    /// Returns once the worker has left: after the shutdown, or because another of its name took over. Sessions go on.
    pub async fn finished(self) {
        let _ = self.uplink.await; // a panic was logged by the task itself
    }
}

/// How the controller is reached.
fn way(config: &Config) -> Result<Way, StartError> {
    let state_dir = &config.state_dir;
    match &config.controller {
        Controller::Local(url) => Ok(Way::Local(grpc::connect(url)?)),
        Controller::Joined => {
            let member = Member::load(state_dir)?.ok_or_else(|| StartError::NotJoined(state_dir.clone()))?;
            let (joined, named) = (member.worker(), config.name.clone());
            if joined != named {
                return Err(StartError::OtherName { joined, named });
            }
            Ok(Way::Joined(Arc::new(member)))
        }
    }
}

async fn lock(state_dir: &Path) -> Result<File, StartError> {
    let failed = |error| StartError::State(state_dir.to_owned(), error);
    let path = state_dir.join("worker.lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path).map_err(failed)?;
    let until = Instant::now() + LOCK_FOR;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(TryLockError::WouldBlock) => return Err(StartError::InUse(state_dir.to_owned())),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
}

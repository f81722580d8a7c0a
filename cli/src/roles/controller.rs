//! `muster controller`.

mod door;
mod pace;
mod shares;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, ValueEnum};
use muster_controller::{Controller, StoreKind};
use serde::Deserialize;

pub use self::{door::Door, pace::Pace, shares::Shares};
use super::{Layer, make_state_dir, resolve};
use crate::{
    address,
    args::{Listen, Logs},
    config,
    failure::{Exit, Failure},
};

/// Options of `controller`.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Options {
    /// Where to listen, loopback only; port 0: any free one [default: 127.0.0.1:7420]
    #[arg(long, env = "MUSTER_LISTEN", hide_env_values = true, value_name = "ADDR")]
    listen: Option<Listen>,
    /// Folder for the sessions' records and output [default: ~/.local/state/muster/controller]
    #[arg(long, env = "MUSTER_STATE_DIR", hide_env_values = true, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Write host:port to this file once it listens
    #[arg(long, env = "MUSTER_PORT_FILE", hide_env_values = true, value_name = "FILE")]
    port_file: Option<PathBuf>,
    /// What keeps the records; `memory` forgets them at the end [default: sled]
    #[arg(long, env = "MUSTER_STORE", hide_env_values = true, value_name = "KIND")]
    store: Option<Store>,
    /// Forget archived sessions, with their output, after so many days; 0 keeps them for ever [default: 30]
    #[arg(long, env = "MUSTER_KEEP_ARCHIVED", hide_env_values = true, value_name = "DAYS")]
    keep_archived: Option<u32>,
    #[command(flatten)]
    #[serde(flatten)]
    door: Door,
    #[command(flatten)]
    #[serde(flatten)]
    pace: Pace,
    #[command(flatten)]
    #[serde(flatten)]
    shares: Shares,
    /// Read options from this TOML file; its keys are the flags
    #[arg(long, env = "MUSTER_CONFIG", hide_env_values = true, value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
    #[command(flatten)]
    #[serde(flatten)]
    logs: Logs,
}

/// What keeps the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Store {
    /// Embedded, durable
    Sled,
    /// Gone with the process
    Memory,
}

impl Layer for Options {
    fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    fn or(self, lower: Self) -> Self {
        Self {
            listen: self.listen.or(lower.listen),
            state_dir: self.state_dir.or(lower.state_dir),
            port_file: self.port_file.or(lower.port_file),
            store: self.store.or(lower.store),
            keep_archived: self.keep_archived.or(lower.keep_archived),
            door: self.door.or(lower.door),
            pace: self.pace.or(lower.pace),
            shares: self.shares.or(lower.shares),
            config: self.config,
            logs: self.logs.or(lower.logs),
        }
    }
}

/// Where a controller listens by default.
pub fn default_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7420))
}

/// Runs until a signal.
pub fn run(flags: Options) -> Result<Exit, Failure> {
    let options = resolve(flags)?;
    let listen = options.listen.map_or_else(default_listen, |listen| listen.0);
    let mut config = muster_controller::Config::new(listen, PathBuf::new());
    options.pace.set(&mut config)?;
    config.policy = options.shares.check()?;
    config.remote = options.door.check()?;
    let state_dir = match options.state_dir {
        Some(dir) => dir,
        None => address::state_root()?.join("controller"),
    };
    config.state_dir = make_state_dir(&state_dir)?;
    if options.store == Some(Store::Memory) {
        config.store = StoreKind::Memory;
    }
    if let Some(days) = options.keep_archived {
        config.keep_ended = keep_archived(days);
    }
    super::run("muster-controller", &options.logs, async |shutdown| {
        let controller = Controller::start(config, shutdown).await.map_err(|error| start_failed(&error))?;
        address::write_port_file(options.port_file.as_deref(), controller.local_addr())?;
        controller.finished().await;
        Ok(Exit::Ok)
    })
}

/// Says whether a file could be taken.
pub fn validate(file: &Path) -> Result<(), Failure> {
    let options: Options = config::read(file)?;
    let mut config = muster_controller::Config::new(default_listen(), PathBuf::new());
    options.pace.set(&mut config)?;
    options.shares.check()?;
    options.door.check().map(drop)
}

/// How long; none is for ever.
fn keep_archived(days: u32) -> Option<Duration> {
    (days > 0).then(|| Duration::from_secs(24 * 3600 * u64::from(days)))
}

/// A controller that did not start.
pub fn start_failed(error: &muster_controller::StartError) -> Failure {
    Failure::new(Exit::Failed, "the controller cannot start").caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_days_is_for_ever() {
        assert_eq!(keep_archived(0), None);
        assert_eq!(keep_archived(2), Some(Duration::from_secs(172_800)));
    }
}

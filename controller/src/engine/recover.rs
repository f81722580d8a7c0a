//! Starting the engine from what the store holds.

use std::time::{Duration, Instant};

use bytes::Bytes;
use muster_proto::v1::{DeclaredProject, Project};
use muster_runtime::{
    shutdown::Shutdown,
    task::{self, Task},
};
use tokio::sync::mpsc;
use tracing::{error, info};

use super::{Config, Handle, MAILBOX, Scope, book::Book, run::Engine, watch::Watchers};
use crate::{
    fleet::{Registry, liveness::Liveness, maintenance::Maintenance},
    output::Replicas,
    session::stored::{self, LoadError},
    store::{
        self, Shared, Txn, keys,
        value::{self, Kind},
    },
};

/// Why the engine could not start.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A record cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// Loads every session and starts the engine. It runs until `stop`; at `leaving` the workers are sent away.
///
/// # Errors
/// When the store cannot be read or written.
pub async fn start(
    config: Config,
    store: Shared,
    outputs: Replicas,
    leaving: Shutdown,
    stop: Shutdown,
) -> Result<(Handle, Task<()>), RecoverError> {
    let (handle, engine) = load(config, store, outputs, Duration::ZERO).await?;
    Ok((handle, task::spawn("engine", engine.run(leaving, stop))))
}

/// An engine that holds what the store does, and the way to ask it. Its clock is `ahead` of the machine's.
pub(super) async fn load(
    config: Config,
    store: Shared,
    outputs: Replicas,
    ahead: Duration,
) -> Result<(Handle, Engine), RecoverError> {
    let (boot, boot_owed) = count_start(&store).await?;
    let mut book = Book::default();
    for (key, entry) in store.scan(keys::PROJECTS).await? {
        match (keys::parse_project(&key), stored::opened::<Project>(Kind::Project, &entry.value)) {
            (Some((_, worker)), Ok(project)) => book.set_project(worker, project),
            // Workers announce it again.
            _ => tracing::warn!(key, "a stored project cannot be read and is left out"),
        }
    }
    for (key, entry) in store.scan(keys::DECLARED).await? {
        match stored::opened::<DeclaredProject>(Kind::Declared, &entry.value) {
            Ok(declared) => {
                let name = key.strip_prefix(keys::DECLARED).unwrap_or(&key).to_owned();
                book.set_declared(name, Some(declared));
            }
            // Without it sessions would do what it forbids.
            Err(source) => return Err(LoadError { key, source }.into()),
        }
    }
    for (key, entry) in store.scan(keys::WORKERS).await? {
        let name = key.strip_prefix(keys::WORKERS).and_then(|name| name.parse().ok());
        match (name, stored::opened::<Maintenance>(Kind::Worker, &entry.value)) {
            (Some(worker), Ok(maintenance)) => book.set_maintenance(worker, Some(maintenance)),
            _ => tracing::error!(key, "a stored worker cannot be read; cordon it again if it was"),
        }
    }
    let revision = Engine::first_revision(boot);
    let sessions = stored::load(store.scan(keys::SESSIONS).await?)?;
    info!(sessions = sessions.len(), start = boot, "loaded");
    for mut session in sessions {
        session.revision = revision;
        book.install(session);
    }
    let (sender, mailbox) = mpsc::channel(MAILBOX);
    let started = Instant::now() + ahead;
    let liveness = Liveness { unreachable_after: config.unreachable_after };
    let fleet = Registry::new(liveness, config.heartbeat_interval, started);
    let engine = Engine {
        config,
        store,
        book,
        fleet,
        watchers: Watchers::default(),
        outputs,
        mailbox,
        revision,
        plan_due: false,
        started,
        boot_owed,
        absent_told: false,
        expire_at: started,
        sample_at: started,
        waiting_for_empty: Vec::new(),
        ahead,
    };
    Ok((Handle { mailbox: sender, scope: Scope::all() }, engine))
}

/// Counts this start: revisions of an earlier life are below every one of this. Returns the number, and again
/// when the store could not write it down: the first change does then.
async fn count_start(store: &Shared) -> Result<(u64, Option<u64>), store::Error> {
    let before = store.get(keys::BOOT).await?;
    let payload = before.as_ref().and_then(|entry| value::open(Kind::Boot, &entry.value).ok());
    let boot = payload.and_then(|payload| payload.try_into().ok()).map_or(0, u64::from_le_bytes) + 1;
    let mut txn = Txn::new();
    txn.expect(keys::BOOT, before.map_or(0, |entry| entry.revision));
    txn.put(keys::BOOT, boot_value(boot));
    match store.commit(txn).await {
        Ok(_) => Ok((boot, None)),
        Err(store::Error::Unavailable(reason)) => {
            error!(
                reason,
                "the store cannot write: sessions are served as they are, and no new work is taken"
            );
            Ok((boot, Some(boot)))
        }
        Err(error) => Err(error),
    }
}

/// As stored.
pub(super) fn boot_value(boot: u64) -> Bytes {
    value::seal(Kind::Boot, &boot.to_le_bytes())
}

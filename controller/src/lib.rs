//! The controller of muster: decides which session runs where, remembers it, and serves what sessions say.
//!
//! service -> engine -> {session, scheduler, fleet, output, store}, never back. What must not be forgotten is
//! in the store before anyone hears of it; output is in files; who lives is in memory.

pub mod audit;
pub mod disk;
pub mod engine;
pub mod fleet;
pub mod identity;
pub mod metrics;
pub mod output;
pub mod projects;
pub mod scheduler;
pub mod service;
pub mod session;
pub mod state_dir;
pub mod store;
pub mod tasks;

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use muster_runtime::{
    grpc,
    shutdown::Shutdown,
    task::{self, Task},
    tls,
};
use tokio::{
    net::TcpListener,
    time::{sleep, timeout},
};
use tonic::transport::server::TcpIncoming;
use tracing::{error, info, warn};

use crate::{
    audit::Audit,
    fleet::queries::{self, Queries},
    identity::{Identities, ca::server_config},
    output::Replicas,
    scheduler::Policy,
    state_dir::{StateDir, StateDirError},
    store::{memory::Memory, sled::Sled},
    tasks::Tasks,
};

/// Life of a worker's certificate where nobody can ask for one.
const CERTIFICATE_LIFE: Duration = Duration::from_secs(24 * 3600);
/// How long open calls may take to end once the process leaves.
const DRAIN: Duration = Duration::from_secs(3);

/// Which store keeps the sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StoreKind {
    /// On disk, durable before it is acknowledged.
    #[default]
    Sled,
    /// Forgets with the process: for tests.
    Memory,
}

/// How a controller runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it listens; loopback only. Port 0: one from the kernel.
    pub listen: SocketAddr,
    /// Its folder, made when missing; one controller at a time.
    pub state_dir: PathBuf,
    /// Which store keeps the sessions.
    pub store: StoreKind,
    /// How often workers send a heartbeat. Smaller finds a lost worker sooner and costs a message per worker.
    pub heartbeat_interval: Duration,
    /// After how long a silent worker's sessions are shown as unreachable. Several heartbeats, or jitter
    /// looks like loss.
    pub unreachable_after: Duration,
    /// How long a session is kept once it is archived; then its record and its output are removed. None: for
    /// ever. Sessions that are not archived, or whose worktree is still there, are always kept.
    pub keep_ended: Option<Duration>,
    /// How the farm is shared between callers and projects.
    pub policy: Policy,
    /// How far sessions may spawn sessions.
    pub tree: engine::TreeLimits,
    /// How long a worker that hears nothing of the controller may run attempts of projects whose sessions are
    /// started elsewhere then (`on_lost: restart`). Zero: such sessions wait for their worker as all others do.
    /// Many heartbeats, or a hiccup ends sessions.
    pub lease: Duration,
    /// What passes beyond the lease before they are started elsewhere: the longest a worker takes to stop a
    /// session, and a margin for clocks that run at different speeds. Must not be less than what workers take.
    pub lease_margin: Duration,
    /// How many calls one caller may make, those from its own machine without a token excepted.
    pub rate: service::Rate,
    /// Where other machines reach it, over TLS; none: not at all.
    pub remote: Option<Remote>,
}

/// An address for other machines. Everything there is TLS with the farm's own authority, and everybody has to
/// be known: workers by the certificate they enrolled for, others by an access token.
#[derive(Debug, Clone)]
pub struct Remote {
    /// Where it listens. Port 0: one from the kernel.
    pub listen: SocketAddr,
    /// Host names and addresses others call it by; the first is the one in join tokens. Never empty.
    pub names: Vec<String>,
    /// How long a worker's certificate lives; workers renew at two thirds.
    pub certificate_life: Duration,
}

impl Remote {
    /// With certificates of a day.
    #[must_use]
    pub const fn new(listen: SocketAddr, names: Vec<String>) -> Self {
        Self { listen, names, certificate_life: Duration::from_secs(24 * 3600) }
    }
}

impl Config {
    /// The defaults: sled, a heartbeat every 2 s, unreachable after 10 s, archived sessions kept for 30 days,
    /// everybody alike, leases of 60 s and 45 s beyond.
    #[must_use]
    pub fn new(listen: SocketAddr, state_dir: PathBuf) -> Self {
        Self {
            listen,
            state_dir,
            store: StoreKind::Sled,
            heartbeat_interval: Duration::from_secs(2),
            unreachable_after: Duration::from_secs(10),
            keep_ended: Some(Duration::from_secs(30 * 24 * 3600)),
            policy: Policy::default(),
            tree: engine::TreeLimits::default(),
            lease: Duration::from_secs(60),
            lease_margin: Duration::from_secs(45),
            rate: service::Rate::default(),
            remote: None,
        }
    }
}

/// Why a controller could not start. Nothing runs then.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is reachable from other machines.
    #[error(transparent)]
    NotLoopback(#[from] grpc::NotLoopback),
    /// The folder cannot be used.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// The store cannot be opened.
    #[error("the store cannot be opened: {0}")]
    Store(#[from] store::OpenError),
    /// The sessions cannot be loaded.
    #[error("the sessions cannot be loaded: {0}")]
    Recover(#[from] engine::RecoverError),
    /// Identities cannot be kept.
    #[error("identities cannot be kept: {0}")]
    Identity(#[from] identity::OpenError),
    /// The audit log cannot be used.
    #[error("the audit log {path} cannot be used: {source}")]
    Audit {
        /// Its folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The output folder cannot be used.
    #[error("the output folder {path} cannot be used: {source}")]
    Output {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The address for other machines cannot be served.
    #[error("{listen} cannot be served over TLS: {reason}")]
    Remote {
        /// The address.
        listen: SocketAddr,
        /// Why.
        reason: String,
    },
    /// The port cannot be had.
    #[error("cannot listen on {addr}: {source}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A defect of the build.
    #[error(transparent)]
    Build(#[from] service::BuildError),
}

/// A running controller.
#[derive(Debug)]
pub struct Controller {
    local_addr: SocketAddr,
    remote_addr: Option<SocketAddr>,
    main: Task<()>,
}

impl Controller {
    /// Starts one; it runs until `shutdown`. Listening when this returns.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(config: Config, shutdown: Shutdown) -> Result<Self, StartError> {
        grpc::loopback_only(config.listen)?;
        let state_dir = StateDir::open(&config.state_dir)?;
        let output = state_dir.join("output");
        let replicas =
            Replicas::open(&output).map_err(|source| StartError::Output { path: output, source })?;
        let folder = state_dir.join("audit");
        let audit = Audit::open(&folder).map_err(|source| StartError::Audit { path: folder, source })?;
        let store: store::Shared = match config.store {
            StoreKind::Memory => Arc::new(Memory::default()),
            StoreKind::Sled => {
                Arc::new(Sled::open(&state_dir.join("store"), store::sled::Options::default())?)
            }
        };
        let listen_error = |source| StartError::Listen { addr: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen_error)?;
        let local_addr = listener.local_addr().map_err(listen_error)?;
        let engine_config = engine::Config {
            tick: (config.heartbeat_interval / 2).max(Duration::from_millis(10)),
            unreachable_after: config.unreachable_after,
            keep_ended: config.keep_ended,
            policy: config.policy,
            tree: config.tree,
            lease: config.lease,
            lease_margin: config.lease_margin,
            heartbeat_interval: config.heartbeat_interval,
            audit: Some(audit.clone()),
        };
        let life = config.remote.as_ref().map_or(CERTIFICATE_LIFE, |remote| remote.certificate_life);
        let identities = Identities::open(&config.state_dir, Arc::clone(&store), life).await?;
        let remote = match &config.remote {
            Some(remote) => Some(Door::open(remote, &identities).await?),
            None => None,
        };
        let tasks = Tasks::open(Arc::clone(&store)).await.map_err(identity::OpenError::from)?;
        let stop_engine = Shutdown::new();
        let (handle, mut engine) =
            engine::start(engine_config, store, replicas.clone(), shutdown.clone(), stop_engine.clone())
                .await?;
        let context = service::Context {
            engine: handle,
            replicas,
            identities,
            rate: config.rate,
            tasks: tasks.clone(),
            audit,
            remote_address: remote.as_ref().map(|door| door.address.clone()),
            queries: Queries::new(queries::PATIENCE),
            leaving: shutdown.clone(),
            heartbeat_interval: config.heartbeat_interval,
            unreachable_after: config.unreachable_after,
            lease: config.lease,
            links: Arc::new(AtomicU64::new(1)),
        };
        let remote_addr = remote.as_ref().map(|door| door.addr);
        let remote = match remote {
            Some(door) => Some(door.serve(service::router(context.clone()).await?, shutdown.clone())),
            None => None,
        };
        let router = service::router(context).await?;
        muster_runtime::metrics::watch_disk("controller", &config.state_dir);
        info!(addr = %local_addr, state = %config.state_dir.display(), "the controller listens");
        let sweep = task::spawn("sweep tasks", async move {
            loop {
                sleep(tasks::SWEEP_EVERY).await;
                tasks.sweep().await;
            }
        });
        let main = task::spawn("controller", async move {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            let leaving = shutdown.clone();
            let serving =
                router.serve_with_incoming_shutdown(incoming, async move { leaving.requested().await });
            let both = async {
                serve(serving, &shutdown).await;
                if let Some(remote) = remote {
                    // It leaves with the same signal; one that ended badly has said so.
                    let _ = remote.await;
                }
            };
            let ended = tokio::select! {
                () = both => None,
                ended = &mut engine => Some(ended),
            };
            if ended.is_some() {
                error!("the engine is gone, the controller leaves; what was acknowledged is in the store");
                shutdown.request();
            } else {
                stop_engine.request();
                if let Err(error) = engine.await {
                    error!(error = %error, "the engine ended badly; what was acknowledged is in the store");
                }
            }
            drop(sweep);
            drop(state_dir);
            info!("the controller has left");
        });
        Ok(Self { local_addr, remote_addr, main })
    }

    /// Where it listens for other machines.
    #[must_use]
    pub const fn remote_addr(&self) -> Option<SocketAddr> {
        self.remote_addr
    }

    /// Where it listens.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Returns once it has left: everything acknowledged is durable and its folder is free.
    pub async fn finished(self) {
        if let Err(error) = self.main.await {
            error!(error = %error, "the controller ended badly");
        }
    }
}

/// The address for other machines, before anything is served there.
struct Door {
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    addr: SocketAddr,
    /// What others call it by.
    address: String,
}

impl Door {
    async fn open(remote: &Remote, identities: &Identities) -> Result<Self, StartError> {
        let listen = remote.listen;
        let failed = |reason| StartError::Remote { listen, reason };
        let name = remote.names.first().ok_or_else(|| failed("it has no name to be called by".to_owned()))?;
        let tls = server_config(Arc::clone(identities.ca()), remote.names.clone()).map_err(failed)?;
        let bound = async {
            let listener = TcpListener::bind(listen).await?;
            let addr = listener.local_addr()?;
            Ok::<_, io::Error>((listener, addr))
        };
        let (listener, addr) = bound.await.map_err(|source| StartError::Listen { addr: listen, source })?;
        let host = if name.contains(':') { format!("[{name}]") } else { name.clone() };
        Ok(Self { listener, tls, addr, address: format!("{host}:{}", addr.port()) })
    }

    fn serve(self, router: service::Gated, shutdown: Shutdown) -> Task<()> {
        info!(addr = %self.addr, "the controller listens for other machines");
        let incoming = tls::accept(self.listener, self.tls);
        task::spawn("remote door", async move {
            let leaving = shutdown.clone();
            let serving =
                router.serve_with_incoming_shutdown(incoming, async move { leaving.requested().await });
            serve(serving, &shutdown).await;
        })
    }
}

/// Serves until shutdown, then gives open calls a little time.
async fn serve(serving: impl Future<Output = Result<(), tonic::transport::Error>>, shutdown: &Shutdown) {
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = &mut serving => Some(ended),
        () = shutdown.requested() => None,
    };
    let ended = match ended {
        Some(ended) => Ok(ended),
        None => timeout(DRAIN, &mut serving).await,
    };
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => error!(error = %error, "serving ended"),
        Err(_) => warn!("calls that did not end in time are cut off"),
    }
}

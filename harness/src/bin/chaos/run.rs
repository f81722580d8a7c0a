//! What the load and the faults share: where the system is, who speaks to it, and what was done to whom.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::bail;
use muster_harness::fleet::{Gateway, GatewayStarter, TestFleet};
use serde_json::Value;
use tokio::sync::RwLock;

use crate::report::Report;

/// A call that has not come back by then is asked again.
const CALL_LIMIT: Duration = Duration::from_secs(40);
/// Pause before a call is tried again.
const RETRY: Duration = Duration::from_millis(50);
/// Errors that say "later".
const LATER: [&str; 4] =
    ["controller_unavailable", "store_unavailable", "worker_unreachable", "limit_reached"];

/// The answer "no", for good.
#[derive(Debug)]
pub struct Refused {
    /// Such as `attention_stale`.
    pub code: String,
    /// The whole text.
    pub text: String,
}

/// One fleet under load.
#[derive(Debug)]
pub struct Run {
    pub seed: u64,
    /// Of the fleet.
    pub id: String,
    pub folder: PathBuf,
    pub controller_url: String,
    pub report: Arc<Report>,
    gateways: GatewayStarter,
    gateway: RwLock<Option<Arc<Gateway>>>,
    /// Sessions whose shim was killed: their attempt ended there.
    tainted: Mutex<BTreeSet<String>>,
    /// Acknowledged sessions by id, with their handles.
    spawned: Mutex<BTreeMap<String, String>>,
    faults_done: AtomicBool,
    /// Something did not come up again: nobody needs to wait for anything.
    broken: AtomicBool,
}

impl Run {
    pub async fn new(seed: u64, fleet: &TestFleet, report: Arc<Report>) -> anyhow::Result<Self> {
        let run = Self {
            seed,
            id: fleet.id().to_owned(),
            folder: fleet.folder().to_owned(),
            controller_url: fleet.controller_url(),
            report,
            gateways: fleet.gateway_starter(),
            gateway: RwLock::new(None),
            tainted: Mutex::default(),
            spawned: Mutex::default(),
            faults_done: AtomicBool::new(false),
            broken: AtomicBool::new(false),
        };
        run.start_gateway().await?;
        Ok(run)
    }

    /// A gateway in the place of the one before.
    pub async fn start_gateway(&self) -> anyhow::Result<()> {
        let gateway = self.gateways.start().await?;
        *self.gateway.write().await = Some(Arc::new(gateway));
        Ok(())
    }

    /// Process id of the gateway.
    pub async fn gateway_pid(&self) -> Option<u32> {
        self.gateway.read().await.as_ref().and_then(|gateway| gateway.pid())
    }

    /// Closes the connection; the gateway ends with the last call.
    pub async fn close_gateway(&self) {
        drop(self.gateway.write().await.take());
    }

    /// Calls a tool, again and again while it cannot be done now.
    ///
    /// # Errors
    /// When it cannot be done within `limit`.
    pub async fn call(
        &self,
        tool: &str,
        arguments: &Value,
        limit: Duration,
    ) -> anyhow::Result<Result<Value, Refused>> {
        let deadline = Instant::now() + limit;
        loop {
            let gateway = self.gateway.read().await.clone();
            let problem = match gateway {
                None => "no gateway".to_owned(),
                Some(gateway) => {
                    match tokio::time::timeout(CALL_LIMIT, gateway.call(tool, arguments.clone())).await {
                        Err(_) => format!("no answer within {CALL_LIMIT:?}"),
                        Ok(Err(error)) => format!("{error:#}"),
                        Ok(Ok(result)) if !result.is_error => return Ok(Ok(result.structured)),
                        Ok(Ok(result)) => {
                            let code = result.text.split(':').next().unwrap_or_default().to_owned();
                            if !LATER.contains(&code.as_str()) {
                                return Ok(Err(Refused { code, text: result.text }));
                            }
                            result.text
                        }
                    }
                }
            };
            if Instant::now() > deadline || self.is_broken() {
                bail!("{tool} could not be done within {limit:?}: {problem}");
            }
            self.report.count("calls repeated", 1);
            tokio::time::sleep(RETRY).await;
        }
    }

    /// A call that has no reason to be refused.
    pub async fn ok(&self, tool: &str, arguments: &Value, limit: Duration) -> anyhow::Result<Value> {
        match self.call(tool, arguments, limit).await? {
            Ok(value) => Ok(value),
            Err(refused) => bail!("{tool} {arguments} was refused: {}", refused.text),
        }
    }

    /// From here on the attempt of this session may have ended at any byte.
    pub fn taint(&self, session: &str) {
        self.tainted.lock().unwrap_or_else(PoisonError::into_inner).insert(session.to_owned());
    }

    pub fn is_tainted(&self, session: &str) -> bool {
        self.tainted.lock().unwrap_or_else(PoisonError::into_inner).contains(session)
    }

    pub fn acknowledged(&self, session: &str, handle: &str) {
        let mut spawned = self.spawned.lock().unwrap_or_else(PoisonError::into_inner);
        spawned.insert(session.to_owned(), handle.to_owned());
    }

    /// Acknowledged sessions by id, with their handles.
    pub fn spawned(&self) -> BTreeMap<String, String> {
        self.spawned.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn faults_are_done(&self) {
        self.faults_done.store(true, Ordering::SeqCst);
    }

    pub fn has_faults_to_come(&self) -> bool {
        !self.faults_done.load(Ordering::SeqCst)
    }

    /// Gives the run up.
    pub fn break_off(&self) {
        self.broken.store(true, Ordering::SeqCst);
        self.faults_are_done();
    }

    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::SeqCst)
    }
}

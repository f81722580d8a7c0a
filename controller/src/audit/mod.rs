//! Who did what, for whom, and whether it was allowed.
//!
//! Owns `<state>/audit/` (`file.rs`): append-only, every record chained to the one before by its SHA-256. Called by
//! the gate for each call that changes something and each that is denied, and by the engine for what the controller
//! does by itself. Records of calls that come together are made durable with one sync before the calls are
//! answered. Invariant: when a record could not be written, nothing is changed any more until it is: calls that
//! would are refused with STORE_UNAVAILABLE, reads go on. What was done and not yet recorded is kept in memory and
//! written first; a crash on a full disk may lose those few. Never holds a prompt, an answer or a secret.

pub mod file;

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use muster_proto::{
    error::{Error, ErrorCode},
    v1::{AuditEntry, AuditRecord},
};
use muster_runtime::task;
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::timeout,
};
use tracing::error;

use self::file::Log;

/// Records that wait to be written. When full, calls wait.
const WAITING: usize = 1024;
/// Records written with one sync.
const BATCH: usize = 256;
/// Wait before a disk that refused is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How long a call waits for that.
const PATIENCE: Duration = Duration::from_secs(5);
/// Records of callers nobody knows, a second, and in one go: they must not push out the others.
const STRANGERS_EACH_SECOND: u64 = 5;
const STRANGERS_AT_ONCE: u64 = 50;

struct Waiting {
    record: AuditRecord,
    done: Option<oneshot::Sender<()>>,
}

/// The log. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Audit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: std::path::PathBuf,
    waiting: mpsc::Sender<Waiting>,
    /// How often it was tried to write, and whether everything so far is on disk.
    health: watch::Receiver<(u64, bool)>,
    /// Asks for another try.
    again: Arc<Notify>,
    last: watch::Receiver<u64>,
    /// Records of strangers that may still be written, and in which second that was counted.
    strangers: AtomicU64,
    second: AtomicU64,
    left_out: AtomicU64,
}

impl Audit {
    /// Opens the log in `folder` and starts to write.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let log = Log::open(folder, file::Limits::default())?;
        let (sender, receiver) = mpsc::channel(WAITING);
        let (told, last) = watch::channel(log.last_seq());
        let (health_told, health) = watch::channel((0, true));
        let again = Arc::new(Notify::new());
        task::spawn("audit", write(log, receiver, told, health_told, Arc::clone(&again))).detach();
        Ok(Self(Arc::new(Inner {
            folder: folder.to_owned(),
            waiting: sender,
            health,
            again,
            last,
            strangers: AtomicU64::new(STRANGERS_AT_ONCE),
            second: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
        })))
    }

    /// Whether something may be changed. A disk that refused is tried once more first: there may be room again.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE while records cannot be written.
    pub async fn check(&self) -> Result<(), Error> {
        if self.0.health.borrow().1 {
            return Ok(());
        }
        let mut health = self.0.health.clone();
        let tried = health.borrow_and_update().0;
        self.0.again.notify_one();
        let told = timeout(PATIENCE, health.wait_for(|(tries, _)| *tries > tried)).await;
        if matches!(told, Ok(Ok(health)) if health.1) {
            return Ok(());
        }
        let message = "the audit log cannot be written, and nothing is changed that is not recorded";
        Err(Error::new(ErrorCode::StoreUnavailable, message)
            .hint("Nothing was changed. Free space in the state folder or look at the controller's log."))
    }

    /// Writes a record; returns once it is durable, or once it is known that it is not for now.
    pub async fn record(&self, record: AuditRecord) {
        let (done, written) = oneshot::channel();
        if self.0.waiting.send(Waiting { record, done: Some(done) }).await.is_ok() {
            // Dropped when the disk refuses: it is written later.
            let _ = written.await;
        }
    }

    /// Writes a record of a call that was refused to somebody nobody knows: not more than a few a second.
    pub async fn record_stranger(&self, mut record: AuditRecord) {
        let second = muster_proto::time::now().seconds.unsigned_abs();
        let before = self.0.second.swap(second, Ordering::Relaxed);
        let more = second.saturating_sub(before).saturating_mul(STRANGERS_EACH_SECOND);
        let take = |left: u64| left.saturating_add(more).min(STRANGERS_AT_ONCE).checked_sub(1);
        if self.0.strangers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
            self.0.left_out.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let left_out = self.0.left_out.swap(0, Ordering::Relaxed);
        if left_out > 0 {
            record.detail = format!("{left_out} refused calls of unknown callers before it are not recorded");
        }
        self.record(record).await;
    }

    /// Writes a record of what the controller did by itself, when there is room.
    pub fn note(&self, action: &str, subject: String, detail: &str) {
        let record = AuditRecord {
            action: action.to_owned(),
            subject,
            verdict: muster_proto::v1::AuditVerdict::Allowed.into(),
            detail: detail.to_owned(),
            ..AuditRecord::default()
        };
        if self.0.waiting.try_send(Waiting { record, done: None }).is_err() {
            error!(action, "the audit log takes no more; this is not recorded");
        }
    }

    /// Number of the last record, and of those to come.
    #[must_use]
    pub fn last(&self) -> watch::Receiver<u64> {
        self.0.last.clone()
    }

    /// Up to `most` records from number `from` on; 0: the oldest kept. Blocking.
    ///
    /// # Errors
    /// When a file cannot be read or is damaged.
    pub fn read(&self, from: u64, most: usize) -> io::Result<Vec<AuditEntry>> {
        file::read(&self.0.folder, from, most)
    }

    /// Number of the oldest record kept; 1 when there is none.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn oldest(&self) -> io::Result<u64> {
        Ok(file::files(&self.0.folder)?.first().map_or(1, |(seq, _)| *seq))
    }
}

/// Writes what waits, in batches. What the disk refuses is tried again until it takes it.
async fn write(
    mut log: Log,
    mut receiver: mpsc::Receiver<Waiting>,
    told: watch::Sender<u64>,
    health: watch::Sender<(u64, bool)>,
    again: Arc<Notify>,
) {
    let tried = |good: bool| health.send_modify(|(tries, healthy)| (*tries, *healthy) = (*tries + 1, good));
    let mut batch = Vec::with_capacity(BATCH);
    while receiver.recv_many(&mut batch, BATCH).await > 0 {
        let (records, mut done): (Vec<_>, Vec<_>) =
            batch.drain(..).map(|waiting| (waiting.record, waiting.done)).unzip();
        let records = Arc::new(records);
        loop {
            let these = Arc::clone(&records);
            let written = task::spawn_blocking("write audit", move || {
                let written = log.append(&these);
                (log, written)
            });
            let Ok((back, written)) = written.await else {
                error!("the audit log is lost; nothing is changed any more");
                tried(false);
                return;
            };
            log = back;
            match written {
                Ok(last) => {
                    tried(true);
                    told.send_replace(last);
                    break;
                }
                Err(error) => {
                    if health.borrow().1 {
                        error!(error = %error, "the audit log cannot be written; nothing is changed until it can");
                    }
                    tried(false);
                    // Whoever waits is answered: what was done was done.
                    done.clear();
                    // It takes no more for now: callers are refused before they change anything.
                    let _ = timeout(RETRY, again.notified()).await;
                }
            }
        }
        for done in done.into_iter().flatten() {
            // Whoever waited may have gone away.
            let _ = done.send(());
        }
    }
}

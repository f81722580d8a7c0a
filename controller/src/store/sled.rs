//! The embedded store: a journal of our own makes a batch durable, sled is the index over it.
//!
//! Owns the folder given to [`Sled::open`]: `snapshot-<revision>`, `journal-<revision>`, `index/` (sled).
//! sled alone is no system of record (its flush is no fdatasync, and a damaged file can make it panic at
//! open), so what it holds is checked against snapshot and journal at every open and made anew from them when
//! it is unusable. Invariant: a commit is acknowledged after one fdatasync of the journal, and many share
//! that one.

mod index;

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use self::index::Index;
use super::{
    Entry, Error, OpenError, Revision, Store, Txn, Watch,
    changes::Changes,
    journal::{self, Journal},
    memory::{changes_of, compare},
    snapshot,
};
use crate::disk::RealDisk;

/// Commits that wait for the committer. When full, callers wait: nothing is dropped.
const QUEUE: usize = 1024;
/// Transactions of one batch at most: bounds how long the first one waits.
const BATCH: usize = 512;
/// Bytes of one batch, about.
const BATCH_BYTES: usize = 8 << 20;

/// Least time between two tries to make a lost index again: each reads all there is.
const REBUILD_AFTER: Duration = Duration::from_secs(10);

/// When a journal is replaced by a snapshot.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Bytes of journal before the next checkpoint; also at least twice the last snapshot, so that what is
    /// written again stays in proportion.
    pub checkpoint_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { checkpoint_bytes: 16 << 20 }
    }
}

/// See the module.
pub struct Sled {
    requests: Mutex<Option<mpsc::Sender<Request>>>,
    index: Arc<Index>,
    changes: Arc<Changes>,
    committer: Mutex<Option<thread::JoinHandle<()>>>,
}

enum Request {
    Commit { txn: Txn, reply: oneshot::Sender<Result<Revision, Error>> },
    Close { reply: oneshot::Sender<()> },
}

impl Sled {
    /// Opens or makes the store in `folder`. The caller makes sure that no other process has it open.
    ///
    /// # Errors
    /// See [`OpenError`]. A damaged index is no error: it is moved aside and made again. Neither is one that
    /// finds no room: memory takes its place until there is some.
    pub fn open(folder: &Path, options: Options) -> Result<Self, OpenError> {
        fs::create_dir_all(folder).map_err(|error| OpenError::io("cannot make", folder, error))?;
        let truth = Truth::load(folder)?;
        let index = Arc::new(Index::open(folder, &truth.entries, truth.revision));
        let opened = match truth.append_to {
            Some((path, whole)) => Journal::append_to(&RealDisk, &path, whole).map_err(|error| (path, error)),
            None => {
                let path = journal::path(folder, truth.revision);
                Journal::create(&RealDisk, &path, truth.revision).map_err(|error| (path, error))
            }
        };
        let rebuild_at = (!index.is_on_disk()).then(|| Instant::now() + REBUILD_AFTER);
        let journal = opened.map_err(|(path, error)| OpenError::io("cannot write to", path, error))?;
        let changes = Arc::new(Changes::new(truth.revision));
        let (requests, queue) = mpsc::channel(QUEUE);
        let committer = Committer {
            folder: folder.to_owned(),
            journal,
            index: Arc::clone(&index),
            changes: Arc::clone(&changes),
            revision: truth.revision,
            options,
            rebuild_at,
            checkpoint_at: options.checkpoint_bytes.max(truth.snapshot_len * 2),
        };
        let thread = thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || committer.run(queue))
            .map_err(|error| OpenError::io("cannot start a thread for", folder, error))?;
        Ok(Self { requests: Mutex::new(Some(requests)), index, changes, committer: Mutex::new(Some(thread)) })
    }

    fn sender(&self) -> Result<mpsc::Sender<Request>, Error> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.clone().ok_or_else(closed)
    }
}

#[async_trait]
impl Store for Sled {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.index.get(key)
    }

    async fn scan(&self, prefix: &str) -> Result<Vec<(String, Entry)>, Error> {
        self.index.scan(prefix)
    }

    async fn commit(&self, txn: Txn) -> Result<Revision, Error> {
        let (reply, answer) = oneshot::channel();
        self.sender()?.send(Request::Commit { txn, reply }).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    async fn watch(&self, from: Revision) -> Result<Watch, Error> {
        self.changes.watch(from)
    }

    async fn close(&self) {
        let sender = self.requests.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(sender) = sender else { return };
        let (reply, answer) = oneshot::channel();
        if sender.send(Request::Close { reply }).await.is_ok() {
            // An error means that the committer is gone: then there is nothing to wait for.
            let _ = answer.await;
        }
    }
}

impl Drop for Sled {
    fn drop(&mut self) {
        // The committer ends when nobody can ask it; it must be gone before the folder is opened again.
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = self.committer.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }
}

fn closed() -> Error {
    Error::Unavailable("it is closed".to_owned())
}

/// The one thread that writes.
struct Committer {
    folder: PathBuf,
    journal: Journal,
    index: Arc<Index>,
    changes: Arc<Changes>,
    revision: Revision,
    options: Options,
    /// The index is in memory only; it is made again with the first change after this.
    rebuild_at: Option<Instant>,
    /// Length of the journal at which the next checkpoint is due.
    checkpoint_at: u64,
}

struct Pending {
    revision: Revision,
    txn: Txn,
    reply: oneshot::Sender<Result<Revision, Error>>,
}

impl Committer {
    fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        while let Some(first) = queue.blocking_recv() {
            let mut close = None;
            let mut next = Some(first);
            let mut batch = Batch::new(self.revision);
            while let Some(request) = next {
                match request {
                    Request::Commit { txn, reply } => batch.add(txn, reply, &self.index),
                    Request::Close { reply } => close = Some(reply),
                }
                next = if batch.is_full() || close.is_some() { None } else { queue.try_recv().ok() };
            }
            self.commit(batch);
            if self.journal.len() >= self.checkpoint_at {
                self.checkpoint();
            }
            if let Some(reply) = close {
                self.index.flush();
                // Whoever closes may have gone away.
                let _ = reply.send(());
                return;
            }
        }
    }

    fn commit(&mut self, batch: Batch) {
        if batch.pending.is_empty() {
            return;
        }
        if let Err(error) = self.journal.append(&batch.payload) {
            warn!(error = %error, store = %self.folder.display(), "a change cannot be made durable");
            for pending in batch.pending {
                let _ = pending.reply.send(Err(Error::Unavailable(error.to_string())));
            }
            return;
        }
        self.revision = batch.revision;
        self.index(&batch);
        for Pending { revision, txn, reply } in batch.pending {
            self.changes.push(revision, changes_of(txn, revision));
            // Whoever asked may have gone away; the change stands.
            let _ = reply.send(Ok(revision));
        }
    }

    /// Brings the index up to what is durable. One that cannot be is made again, now or, on a disk that is
    /// full, later; until then it is in memory.
    fn index(&mut self, batch: &Batch) {
        let txns = batch.pending.iter().map(|pending| (pending.revision, &pending.txn));
        if let Err(error) = self.index.apply(txns, self.revision) {
            warn!(error, "the index failed, it is made again from snapshot and journal");
            self.rebuild();
        } else if self.rebuild_at.is_some_and(|at| Instant::now() >= at) {
            self.rebuild();
        }
    }

    fn rebuild(&mut self) {
        let rebuilt = Truth::load(&self.folder)
            .and_then(|truth| self.index.rebuild(&self.folder, &truth.entries, truth.revision));
        self.rebuild_at = None;
        if let Err(error) = rebuilt {
            self.rebuild_at = Some(Instant::now() + REBUILD_AFTER);
            tracing::error!(error = %error, "the index cannot be made again yet; changes are durable without it");
        }
    }

    /// Replaces snapshot and journal by a new snapshot and an empty journal. The old ones go last: a crash
    /// anywhere leaves enough to start from.
    fn checkpoint(&mut self) {
        match self.try_checkpoint() {
            Ok(snapshot_len) => {
                self.checkpoint_at = self.options.checkpoint_bytes.max(snapshot_len * 2);
                info!(revision = self.revision, bytes = snapshot_len, "checkpoint written");
            }
            Err(error) => {
                self.checkpoint_at = self.journal.len() + self.options.checkpoint_bytes;
                warn!(error = %error, "no checkpoint could be written; the journal grows on");
            }
        }
    }

    fn try_checkpoint(&mut self) -> io::Result<u64> {
        // From the files and not from the index: what was never durable must not become the truth.
        let truth = Truth::load(&self.folder).map_err(io::Error::other)?;
        let count = truth.entries.len() as u64;
        let len = snapshot::write(&self.folder, truth.revision, count, truth.entries.into_iter().map(Ok))?;
        self.journal =
            Journal::create(&RealDisk, &journal::path(&self.folder, truth.revision), truth.revision)?;
        for (prefix, keep) in [("snapshot-", truth.revision), ("journal-", truth.revision)] {
            for (revision, path) in numbered(&self.folder, prefix)? {
                if revision < keep {
                    fs::remove_file(path)?;
                }
            }
        }
        Ok(len)
    }
}

/// Transactions that become durable together.
struct Batch {
    payload: Vec<u8>,
    pending: Vec<Pending>,
    /// What the keys written by this batch will be at.
    staged: HashMap<String, Revision>,
    revision: Revision,
}

impl Batch {
    fn new(revision: Revision) -> Self {
        Self { payload: Vec::new(), pending: Vec::new(), staged: HashMap::new(), revision }
    }

    fn is_full(&self) -> bool {
        self.pending.len() >= BATCH || self.payload.len() >= BATCH_BYTES
    }

    fn add(&mut self, txn: Txn, reply: oneshot::Sender<Result<Revision, Error>>, index: &Index) {
        let current = |key: &str| Ok(index.get(key)?.map_or(0, |entry| entry.revision));
        if let Err(error) = compare(&txn, &self.staged, current) {
            let _ = reply.send(Err(error));
            return;
        }
        self.revision += 1;
        self.staged.extend(txn.puts.iter().map(|(key, _)| (key.clone(), self.revision)));
        self.staged.extend(txn.deletes.iter().map(|key| (key.clone(), 0)));
        journal::encode(&mut self.payload, self.revision, &txn);
        self.pending.push(Pending { revision: self.revision, txn, reply });
    }
}

/// What snapshot and journals say.
struct Truth {
    entries: BTreeMap<String, Entry>,
    revision: Revision,
    snapshot_len: u64,
    /// The journal to go on with and how much of it is whole; none: a new one is needed.
    append_to: Option<(PathBuf, u64)>,
}

impl Truth {
    fn load(folder: &Path) -> Result<Self, OpenError> {
        let list =
            |prefix| numbered(folder, prefix).map_err(|error| OpenError::io("cannot list", folder, error));
        let mut truth = Self { entries: BTreeMap::new(), revision: 0, snapshot_len: 0, append_to: None };
        if let Some((_, path)) = list("snapshot-")?.pop() {
            let (revision, entries) = snapshot::read(&path)?;
            truth.snapshot_len = fs::metadata(&path).map_or(0, |metadata| metadata.len());
            truth.revision = revision;
            truth.entries = entries.into_iter().collect();
        }
        for (_, path) in list("journal-")? {
            truth.replay(path)?;
        }
        Ok(truth)
    }

    fn replay(&mut self, path: PathBuf) -> Result<(), OpenError> {
        let Some(contents) = journal::read(&path)? else { return Ok(()) };
        if contents.base > self.revision {
            // The snapshot it begins at is missing.
            return Err(OpenError::Damaged { path, offset: 0 });
        }
        if contents.torn > 0 {
            warn!(path = %path.display(), bytes = contents.torn,
                "the journal ends in a batch that was never acknowledged; it is cut");
        }
        for (revision, txn) in contents.txns {
            if revision <= self.revision {
                continue;
            }
            self.revision = revision;
            index::apply(&mut self.entries, revision, &txn);
        }
        self.append_to = Some((path, contents.whole));
        Ok(())
    }
}

/// Files called `prefix` and a revision, oldest first.
fn numbered(folder: &Path, prefix: &str) -> io::Result<Vec<(Revision, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let number =
            name.to_str().and_then(|name| name.strip_prefix(prefix)).and_then(|rest| rest.parse().ok());
        if let Some(number) = number {
            found.push((number, entry.path()));
        }
    }
    found.sort_unstable();
    Ok(found)
}

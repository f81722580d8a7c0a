//! sled, used as an index that may be lost.
//!
//! Owns `<folder>/index`. Everything sled does runs inside `catch_unwind`: it panics on damaged files.

use std::{
    collections::BTreeMap,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use tracing::{error, info};

use crate::store::{Entry, Error, OpenError, Revision, Txn};

/// Bytes of sled's cache: the records are small, and the controller holds what it uses in memory.
const CACHE: u64 = 32 << 20;
/// sled gives space back slowly: past this, and eight times what is live, the index is made again at open.
const GROWN: u64 = 1 << 30;
/// Not a text key, so never in a scan: the revision sled was last brought to.
const APPLIED: &[u8] = b"\0applied";

pub(super) struct Index {
    /// None while it cannot be made: reads fail, commits still become durable.
    db: RwLock<Option<sled::Db>>,
    /// What was there was moved aside and the new one could not be made yet.
    tried: AtomicBool,
}

impl Index {
    /// Opens the index and makes it equal to `truth`, anew when it has to be.
    pub(super) fn open(
        folder: &Path,
        truth: &BTreeMap<String, Entry>,
        revision: Revision,
    ) -> Result<Self, OpenError> {
        let path = folder.join("index");
        let existed = path.exists();
        let tidy = |db: sled::Db| {
            let fixed = guard(|| reconcile(&db, truth, revision))?;
            let size = guard(|| db.size_on_disk())?;
            let live: u64 = truth.iter().map(|(key, entry)| (key.len() + entry.value.len()) as u64).sum();
            if size > GROWN.max(live * 8) { Err(format!("it grew to {size} bytes")) } else { Ok((db, fixed)) }
        };
        match opened(&path).and_then(tidy) {
            Ok((db, fixed)) => {
                if existed && fixed > 0 {
                    info!(records = fixed, "the index was behind the journal and was brought up to it");
                }
                Ok(Self { db: RwLock::new(Some(db)), tried: AtomicBool::new(false) })
            }
            Err(reason) => {
                error!(path = %path.display(), reason, "the index is unusable; it is made again");
                let index = Self { db: RwLock::new(None), tried: AtomicBool::new(false) };
                index.rebuild(folder, truth, revision)?;
                Ok(index)
            }
        }
    }

    /// Moves what is there aside and makes a new one from `truth`.
    pub(super) fn rebuild(
        &self,
        folder: &Path,
        truth: &BTreeMap<String, Entry>,
        revision: Revision,
    ) -> Result<(), OpenError> {
        let path = folder.join("index");
        let mut slot = self.db.write().unwrap_or_else(PoisonError::into_inner);
        let failed = |reason: String| OpenError::Index { path: path.clone(), reason };
        let old = slot.take();
        let had_one = old.is_some();
        guard(|| {
            drop(old);
            Ok(())
        })
        .map_err(failed)?;
        let tried_before = self.tried.swap(true, Ordering::Relaxed);
        if path.exists() && !had_one && tried_before {
            // What an earlier try left: nobody will want to look at it.
            fs::remove_dir_all(&path).map_err(|error| failed(error.to_string()))?;
        } else if path.exists() {
            fs::rename(&path, aside(&path)).map_err(|error| failed(error.to_string()))?;
        }
        let db = opened(&path).map_err(failed)?;
        guard(|| reconcile(&db, truth, revision)).map_err(failed)?;
        *slot = Some(db);
        self.tried.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Brings durable transactions into the index.
    pub(super) fn apply<'a>(
        &self,
        txns: impl Iterator<Item = (Revision, &'a Txn)>,
        revision: Revision,
    ) -> Result<(), String> {
        let mut batch = sled::Batch::default();
        for (revision, txn) in txns {
            for (key, value) in &txn.puts {
                batch.insert(key.as_bytes(), pack(revision, value));
            }
            for key in &txn.deletes {
                batch.remove(key.as_bytes());
            }
        }
        batch.insert(APPLIED, &revision.to_le_bytes());
        self.with(|db| db.apply_batch(batch))
    }

    pub(super) fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        let packed = self.with(|db| db.get(key.as_bytes())).map_err(Error::Unavailable)?;
        packed.map(|packed| unpack(&packed)).transpose()
    }

    pub(super) fn scan(&self, prefix: &str) -> Result<Vec<(String, Entry)>, Error> {
        let found = self
            .with(|db| db.scan_prefix(prefix.as_bytes()).collect::<Result<Vec<_>, _>>())
            .map_err(Error::Unavailable)?;
        let texts = found.iter().filter(|(key, _)| key.as_ref() != APPLIED);
        texts.map(|(key, packed)| Ok((text(key)?, unpack(packed)?))).collect()
    }

    /// Lets the next open find little to do.
    pub(super) fn flush(&self) {
        if let Err(reason) = self.with(|db| db.flush()) {
            info!(reason, "the index was not flushed; the next start makes up for it");
        }
    }

    fn with<T>(&self, work: impl FnOnce(&sled::Db) -> sled::Result<T>) -> Result<T, String> {
        let slot = self.db.read().unwrap_or_else(PoisonError::into_inner);
        let db = slot.as_ref().ok_or("the index could not be made")?;
        guard(|| work(db))
    }
}

fn opened(path: &Path) -> Result<sled::Db, String> {
    guard(|| sled::Config::new().path(path).cache_capacity(CACHE).open())
}

/// Runs sled code; a panic of it becomes an error.
fn guard<T>(work: impl FnOnce() -> sled::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("sled panicked".to_owned()),
    }
}

/// Makes the index equal to `truth`; returns how many records differed.
fn reconcile(db: &sled::Db, truth: &BTreeMap<String, Entry>, revision: Revision) -> sled::Result<usize> {
    let mut batch = sled::Batch::default();
    let mut fixed = 0;
    let mut expected = truth.iter().peekable();
    for found in db.iter() {
        let (key, packed) = found?;
        if key.as_ref() == APPLIED {
            continue;
        }
        while let Some((missing, entry)) = expected.next_if(|(text, _)| text.as_bytes() < key.as_ref()) {
            batch.insert(missing.as_bytes(), pack(entry.revision, &entry.value));
            fixed += 1;
        }
        match expected.next_if(|(text, _)| text.as_bytes() == key.as_ref()) {
            Some((_, entry)) => {
                let right = pack(entry.revision, &entry.value);
                if packed.as_ref() != right.as_slice() {
                    batch.insert(key, right);
                    fixed += 1;
                }
            }
            None => {
                batch.remove(key);
                fixed += 1;
            }
        }
    }
    for (missing, entry) in expected {
        batch.insert(missing.as_bytes(), pack(entry.revision, &entry.value));
        fixed += 1;
    }
    if fixed > 0 {
        batch.insert(APPLIED, &revision.to_le_bytes());
        db.apply_batch(batch)?;
    }
    Ok(fixed)
}

fn pack(revision: Revision, value: &Bytes) -> Vec<u8> {
    let mut packed = BytesMut::with_capacity(8 + value.len());
    packed.put_u64_le(revision);
    packed.put_slice(value);
    packed.to_vec()
}

fn unpack(packed: &[u8]) -> Result<Entry, Error> {
    let damaged = || Error::Unavailable("the index holds a record without a revision".to_owned());
    let (revision, value) = packed.split_first_chunk::<8>().ok_or_else(damaged)?;
    Ok(Entry { revision: u64::from_le_bytes(*revision), value: Bytes::copy_from_slice(value) })
}

fn text(key: &[u8]) -> Result<String, Error> {
    String::from_utf8(key.to_vec())
        .map_err(|_| Error::Unavailable("the index holds a key that is no text".to_owned()))
}

/// A free name beside `path`; what is kept there is for people to look at.
fn aside(path: &Path) -> PathBuf {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let candidates = (0..).map(|n| path.with_file_name(format!("index.damaged-{seconds}-{n}")));
    candidates
        .into_iter()
        .find(|candidate| !candidate.exists())
        .unwrap_or_else(|| path.with_extension("damaged"))
}

//! sled, used as an index that may be lost.
//!
//! Owns `<folder>/index`. Everything sled does runs inside `catch_unwind`: it panics on damaged files.

use std::{
    collections::BTreeMap,
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock},
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
    backing: RwLock<Backing>,
}

/// Where the records are read from.
enum Backing {
    Sled(sled::Db),
    /// sled cannot be had, on a full disk for example: what is durable is read from here until it can.
    Memory(BTreeMap<String, Entry>),
}

/// What sled could not do.
struct Failure {
    reason: String,
    /// The disk is full: what is there is not damaged.
    full: bool,
}

impl Index {
    /// Opens the index and makes it equal to `truth`, anew when it has to be, in memory when sled cannot be
    /// had.
    pub(super) fn open(folder: &Path, truth: &BTreeMap<String, Entry>, revision: Revision) -> Self {
        let backing = match make(&folder.join("index"), truth, revision) {
            Ok(db) => Backing::Sled(db),
            Err(Failure { reason, .. }) => {
                error!(store = %folder.display(), reason,
                    "the index cannot be made; records are read from memory until it can");
                Backing::Memory(truth.clone())
            }
        };
        Self { backing: RwLock::new(backing) }
    }

    /// Whether sled holds the records.
    pub(super) fn is_on_disk(&self) -> bool {
        matches!(*self.backing.read().unwrap_or_else(PoisonError::into_inner), Backing::Sled(_))
    }

    /// Makes it anew from `truth`; in memory when that fails.
    pub(super) fn rebuild(
        &self,
        folder: &Path,
        truth: &BTreeMap<String, Entry>,
        revision: Revision,
    ) -> Result<(), OpenError> {
        let path = folder.join("index");
        let mut backing = self.backing.write().unwrap_or_else(PoisonError::into_inner);
        // Reads go on from here whatever becomes of sled, which must be closed before it is opened again.
        let old = std::mem::replace(&mut *backing, Backing::Memory(truth.clone()));
        let closed = guard(|| {
            drop(old);
            Ok(())
        });
        let made = closed.and_then(|()| make(&path, truth, revision));
        *backing = Backing::Sled(made.map_err(|Failure { reason, .. }| OpenError::Index { path, reason })?);
        Ok(())
    }

    /// Brings durable transactions into the index.
    pub(super) fn apply<'a>(
        &self,
        txns: impl Iterator<Item = (Revision, &'a Txn)>,
        revision: Revision,
    ) -> Result<(), String> {
        let mut backing = self.backing.write().unwrap_or_else(PoisonError::into_inner);
        match &mut *backing {
            Backing::Sled(db) => {
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
                guard(|| db.apply_batch(batch)).map_err(|failure| failure.reason)
            }
            Backing::Memory(entries) => {
                for (revision, txn) in txns {
                    apply(entries, revision, txn);
                }
                Ok(())
            }
        }
    }

    pub(super) fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        match &*self.backing.read().unwrap_or_else(PoisonError::into_inner) {
            Backing::Sled(db) => {
                let packed = guard(|| db.get(key.as_bytes())).map_err(unavailable)?;
                packed.map(|packed| unpack(&packed)).transpose()
            }
            Backing::Memory(entries) => Ok(entries.get(key).cloned()),
        }
    }

    pub(super) fn scan(&self, prefix: &str) -> Result<Vec<(String, Entry)>, Error> {
        match &*self.backing.read().unwrap_or_else(PoisonError::into_inner) {
            Backing::Sled(db) => {
                let found = guard(|| db.scan_prefix(prefix.as_bytes()).collect::<Result<Vec<_>, _>>())
                    .map_err(unavailable)?;
                let texts = found.iter().filter(|(key, _)| key.as_ref() != APPLIED);
                texts.map(|(key, packed)| Ok((text(key)?, unpack(packed)?))).collect()
            }
            Backing::Memory(entries) => {
                let from = entries.range(prefix.to_owned()..);
                let found = from.take_while(|(key, _)| key.starts_with(prefix));
                Ok(found.map(|(key, entry)| (key.clone(), entry.clone())).collect())
            }
        }
    }

    /// Lets the next open find little to do.
    pub(super) fn flush(&self) {
        let backing = self.backing.read().unwrap_or_else(PoisonError::into_inner);
        if let Backing::Sled(db) = &*backing
            && let Err(Failure { reason, .. }) = guard(|| db.flush())
        {
            info!(reason, "the index was not flushed; the next start makes up for it");
        }
    }
}

/// Opens what is at `path` and makes it equal to `truth`; what is unusable is moved aside and made anew.
fn make(path: &Path, truth: &BTreeMap<String, Entry>, revision: Revision) -> Result<sled::Db, Failure> {
    let existed = path.exists();
    let failure = match opened(path).and_then(|db| tidy(db, truth, revision)) {
        Ok((db, fixed)) => {
            if existed && fixed > 0 {
                info!(records = fixed, "the index was behind the journal and was brought up to it");
            }
            return Ok(db);
        }
        Err(failure) if failure.full => return Err(failure),
        Err(failure) => failure,
    };
    error!(path = %path.display(), reason = failure.reason,
        "the index is unusable; it is moved aside and made again");
    let failed = |error: io::Error| Failure { full: is_full(&error), reason: error.to_string() };
    if path.exists() {
        fs::rename(path, aside(path)).map_err(failed)?;
    }
    let made = opened(path).and_then(|db| tidy(db, truth, revision)).map(|(db, _)| db);
    if made.is_err() {
        // Half an index only takes the room that is missing; if it stays, the next try replaces it.
        let _ = fs::remove_dir_all(path);
    }
    made
}

/// Makes `db` equal to `truth`; returns how many records differed.
fn tidy(
    db: sled::Db,
    truth: &BTreeMap<String, Entry>,
    revision: Revision,
) -> Result<(sled::Db, usize), Failure> {
    let fixed = guard(|| reconcile(&db, truth, revision))?;
    let size = guard(|| db.size_on_disk())?;
    let live: u64 = truth.iter().map(|(key, entry)| (key.len() + entry.value.len()) as u64).sum();
    if size > GROWN.max(live * 8) {
        return Err(Failure { reason: format!("it grew to {size} bytes"), full: false });
    }
    Ok((db, fixed))
}

/// What one transaction makes of `entries`.
pub(super) fn apply(entries: &mut BTreeMap<String, Entry>, revision: Revision, txn: &Txn) {
    for (key, value) in &txn.puts {
        entries.insert(key.clone(), Entry { value: value.clone(), revision });
    }
    for key in &txn.deletes {
        entries.remove(key);
    }
}

fn unavailable(failure: Failure) -> Error {
    Error::Unavailable(failure.reason)
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn opened(path: &Path) -> Result<sled::Db, Failure> {
    guard(|| sled::Config::new().path(path).cache_capacity(CACHE).open())
}

/// Runs sled code; a panic of it becomes an error.
fn guard<T>(work: impl FnOnce() -> sled::Result<T>) -> Result<T, Failure> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| Failure {
            full: matches!(&error, sled::Error::Io(error) if is_full(error)),
            reason: error.to_string(),
        }),
        Err(_) => Err(Failure { reason: "sled panicked".to_owned(), full: false }),
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

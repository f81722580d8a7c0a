//! Where the controller keeps what it must not forget: small records under text keys, never output.
//!
//! Owns the [`Store`] seam and its backends. Called by the engine alone. Invariant: `commit` returns only
//! once the change survives a power cut (the memory backend excepted, which is for tests and for farms that
//! may forget).

mod changes;
pub mod failing;
mod journal;
pub mod keys;
pub mod memory;
pub mod sled;
mod snapshot;
pub mod value;

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;

pub use changes::{Change, Watch};

/// Grows by one with every transaction of a store.
pub type Revision = u64;

/// A value and the revision of the transaction that wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As given to [`Txn::put`].
    pub value: Bytes,
    /// When it was written.
    pub revision: Revision,
}

/// Changes that happen together or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    /// What must hold for the transaction to happen: the revision a key has now, 0 for a key that does not
    /// exist.
    pub compares: Vec<(String, Revision)>,
    /// Keys and their new values.
    pub puts: Vec<(String, Bytes)>,
    /// Keys to remove; one that does not exist is no error. Applied after the puts.
    pub deletes: Vec<String>,
}

impl Txn {
    /// A transaction without any change.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key`.
    pub fn put(&mut self, key: impl Into<String>, value: impl Into<Bytes>) -> &mut Self {
        self.puts.push((key.into(), value.into()));
        self
    }

    /// Removes `key`.
    pub fn delete(&mut self, key: impl Into<String>) -> &mut Self {
        self.deletes.push(key.into());
        self
    }

    /// Lets the transaction happen only while `key` is at `revision`.
    pub fn expect(&mut self, key: impl Into<String>, revision: Revision) -> &mut Self {
        self.compares.push((key.into(), revision));
        self
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.deletes.is_empty()
    }
}

/// Why a store did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Nothing was changed: another writer was first.
    #[error("{key} is at revision {found}, not {expected}")]
    Conflict {
        /// The key whose comparison failed.
        key: String,
        /// As in the transaction.
        expected: Revision,
        /// As in the store; 0 when the key does not exist.
        found: Revision,
    },
    /// Nothing was changed, and the same call may succeed later: a full disk, a store that closes.
    #[error("the store cannot write: {0}")]
    Unavailable(String),
    /// The changes asked for are no longer kept: scan, then watch from the revision of the scan.
    #[error("changes up to revision {0} are no longer kept")]
    Compacted(Revision),
}

/// Why a store could not be opened. Each names the path at fault.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder or a file in it cannot be made, read or written.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried, e.g. `cannot write to`.
        action: &'static str,
        /// What it was tried on.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Acknowledged records are unreadable. Never repaired silently.
    #[error("{path} is damaged at byte {offset} and whole records follow; restore the folder from a backup")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
    },
    /// Written by a newer muster.
    #[error("{path} has format {found}, and this build reads up to {known}")]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest this build knows.
        known: u32,
    },
    /// The index could be neither opened nor rebuilt.
    #[error("the index {path} cannot be rebuilt: {reason}")]
    Index {
        /// Its folder.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl OpenError {
    fn io(action: &'static str, path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { action, path: path.into(), source }
    }
}

/// A small transactional map that survives its process.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The value of `key` as of the last acknowledged transaction.
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error>;

    /// Every key that begins with `prefix`, in order.
    async fn scan(&self, prefix: &str) -> Result<Vec<(String, Entry)>, Error>;

    /// Makes `txn` durable, then returns its revision. After an error nothing of it is visible, now or later.
    async fn commit(&self, txn: Txn) -> Result<Revision, Error>;

    /// Every change after `from`, in order, without gaps.
    async fn watch(&self, from: Revision) -> Result<Watch, Error>;

    /// Makes the next open fast. The store takes no more commits. Never needed for safety.
    async fn close(&self);
}

/// A store of any backend.
pub type Shared = Arc<dyn Store>;

#[cfg(test)]
mod conformance;

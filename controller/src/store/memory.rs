//! A store that forgets with its process: for tests, and for farms that may.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;

use super::{Change, Entry, Error, Revision, Store, Txn, Watch, changes::Changes};

#[derive(Debug)]
struct Inner {
    entries: BTreeMap<String, Entry>,
    revision: Revision,
}

/// See the module.
#[derive(Debug)]
pub struct Memory {
    inner: Mutex<Inner>,
    changes: Changes,
}

impl Default for Memory {
    fn default() -> Self {
        Self { inner: Mutex::new(Inner { entries: BTreeMap::new(), revision: 0 }), changes: Changes::new(0) }
    }
}

#[async_trait]
impl Store for Memory {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(inner.entries.get(key).cloned())
    }

    async fn scan(&self, prefix: &str) -> Result<Vec<(String, Entry)>, Error> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let from = inner.entries.range(prefix.to_owned()..);
        let found = from.take_while(|(key, _)| key.starts_with(prefix));
        Ok(found.map(|(key, entry)| (key.clone(), entry.clone())).collect())
    }

    async fn commit(&self, txn: Txn) -> Result<Revision, Error> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        compare(&txn, &HashMap::new(), |key| Ok(inner.entries.get(key).map_or(0, |entry| entry.revision)))?;
        inner.revision += 1;
        let revision = inner.revision;
        for (key, value) in &txn.puts {
            inner.entries.insert(key.clone(), Entry { value: value.clone(), revision });
        }
        for key in &txn.deletes {
            inner.entries.remove(key);
        }
        // Within the lock, so that changes are in the order of revisions.
        self.changes.push(revision, changes_of(txn, revision));
        Ok(revision)
    }

    async fn watch(&self, from: Revision) -> Result<Watch, Error> {
        self.changes.watch(from)
    }

    async fn close(&self) {}
}

/// Checks the comparisons of `txn` against `staged` revisions (of the same batch), then against `current`.
pub(super) fn compare(
    txn: &Txn,
    staged: &HashMap<String, Revision>,
    current: impl Fn(&str) -> Result<Revision, Error>,
) -> Result<(), Error> {
    for (key, expected) in &txn.compares {
        let found = match staged.get(key) {
            Some(revision) => *revision,
            None => current(key)?,
        };
        if found != *expected {
            return Err(Error::Conflict { key: key.clone(), expected: *expected, found });
        }
    }
    Ok(())
}

/// The changes a committed transaction made, in order.
pub(super) fn changes_of(txn: Txn, revision: Revision) -> impl Iterator<Item = Change> {
    let puts = txn.puts.into_iter().map(move |(key, value)| Change { revision, key, value: Some(value) });
    let deletes = txn.deletes.into_iter().map(move |key| Change { revision, key, value: None });
    puts.chain(deletes)
}

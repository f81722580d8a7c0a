//! A store that fails on demand, around one that does not: for tests of what a full disk does.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;

use super::{Entry, Error, Revision, Shared, Store, Txn, Watch};

/// Fails every commit while [`Switch::fail`] is on.
pub struct Failing {
    inner: Shared,
    switch: Switch,
}

/// Turns the failing on and off.
#[derive(Debug, Clone, Default)]
pub struct Switch(Arc<AtomicBool>);

impl Switch {
    /// From now on commits fail, or succeed again.
    pub fn fail(&self, fail: bool) {
        self.0.store(fail, Ordering::SeqCst);
    }
}

impl Failing {
    /// Wraps `inner`.
    #[must_use]
    pub fn new(inner: Shared) -> (Self, Switch) {
        let switch = Switch::default();
        (Self { inner, switch: switch.clone() }, switch)
    }
}

#[async_trait]
impl Store for Failing {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.inner.get(key).await
    }

    async fn scan(&self, prefix: &str) -> Result<Vec<(String, Entry)>, Error> {
        self.inner.scan(prefix).await
    }

    async fn commit(&self, txn: Txn) -> Result<Revision, Error> {
        if self.switch.0.load(Ordering::SeqCst) {
            return Err(Error::Unavailable("no space left on device (on purpose)".to_owned()));
        }
        self.inner.commit(txn).await
    }

    async fn watch(&self, from: Revision) -> Result<Watch, Error> {
        self.inner.watch(from).await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

//! The last changes of a store, for those who watch it.
//!
//! Owns a ring of bounded length shared by all watchers: a slow one costs no memory and slows nobody, it is
//! told [`Error::Compacted`] and scans again.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use tokio::sync::watch;

use super::{Error, Revision};

/// Changes kept for watchers. Past it the oldest go, and watchers that far behind scan again.
const KEPT: usize = 8192;

/// One key that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Of the transaction.
    pub revision: Revision,
    /// Which key.
    pub key: String,
    /// Its new value; none when it was removed.
    pub value: Option<Bytes>,
}

#[derive(Debug)]
struct Ring {
    changes: VecDeque<Change>,
    /// Every change after this revision is in `changes`.
    floor: Revision,
}

/// The writing end.
#[derive(Debug)]
pub(super) struct Changes {
    ring: Arc<Mutex<Ring>>,
    latest: watch::Sender<Revision>,
}

impl Changes {
    pub(super) fn new(revision: Revision) -> Self {
        let ring = Ring { changes: VecDeque::new(), floor: revision };
        Self { ring: Arc::new(Mutex::new(ring)), latest: watch::Sender::new(revision) }
    }

    /// Adds the changes of one transaction.
    pub(super) fn push(&self, revision: Revision, changes: impl IntoIterator<Item = Change>) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.changes.extend(changes);
        // Whole transactions go, never half of one.
        while ring.changes.len() > KEPT {
            let Some(oldest) = ring.changes.front().map(|change| change.revision) else { break };
            while ring.changes.front().is_some_and(|change| change.revision == oldest) {
                ring.changes.pop_front();
            }
            ring.floor = oldest;
        }
        drop(ring);
        self.latest.send_replace(revision);
    }

    pub(super) fn watch(&self, from: Revision) -> Result<Watch, Error> {
        let watch = Watch { ring: Arc::clone(&self.ring), latest: self.latest.subscribe(), seen: from };
        watch.check()?;
        Ok(watch)
    }
}

/// Changes from a revision on. Ends with [`Error::Unavailable`] when the store is closed.
#[derive(Debug)]
pub struct Watch {
    ring: Arc<Mutex<Ring>>,
    latest: watch::Receiver<Revision>,
    seen: Revision,
}

impl Watch {
    /// The changes that came since the last call: never empty, whole transactions only. Waits for the next
    /// one.
    ///
    /// # Errors
    /// [`Error::Compacted`] when this watcher fell too far behind, [`Error::Unavailable`] when the store is
    /// closed.
    pub async fn next(&mut self) -> Result<Vec<Change>, Error> {
        loop {
            self.check()?;
            let latest = *self.latest.borrow_and_update();
            let changes: Vec<_> = {
                let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
                let news = ring.changes.iter().filter(|c| c.revision > self.seen && c.revision <= latest);
                news.cloned().collect()
            };
            self.seen = self.seen.max(latest);
            if !changes.is_empty() {
                return Ok(changes);
            }
            let closed = |_| Error::Unavailable("the store is closed".to_owned());
            self.latest.changed().await.map_err(closed)?;
        }
    }

    fn check(&self) -> Result<(), Error> {
        let floor = self.ring.lock().unwrap_or_else(PoisonError::into_inner).floor;
        if self.seen < floor { Err(Error::Compacted(floor)) } else { Ok(()) }
    }
}

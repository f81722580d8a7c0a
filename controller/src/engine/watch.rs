//! Who waits for changes.
//!
//! A watcher has a set of the sessions that changed since it last looked; marking one never waits and the set
//! is bounded by the number of sessions, so a slow watcher slows nobody. It then reads the newest state:
//! states between are skipped.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use muster_proto::ids::SessionId;
use tokio::sync::Notify;

/// Which sessions a watcher wants.
#[derive(Debug, Clone)]
pub enum Selection {
    /// Every one.
    All,
    /// These.
    These(HashSet<SessionId>),
}

#[derive(Debug, Default)]
struct Shared {
    changed: Mutex<BTreeSet<SessionId>>,
    notify: Notify,
}

/// The waiting end. Dropping it ends the watch.
#[derive(Debug)]
pub struct Watcher {
    shared: Arc<Shared>,
}

impl Watcher {
    /// The sessions that changed since the last call, never none; waits for the next one.
    pub async fn changed(&mut self) -> Vec<SessionId> {
        loop {
            let changed = {
                let mut changed = self.shared.changed.lock().unwrap_or_else(PoisonError::into_inner);
                std::mem::take(&mut *changed)
            };
            if !changed.is_empty() {
                return changed.into_iter().collect();
            }
            // A permit is kept when the mark came between: no change is missed.
            self.shared.notify.notified().await;
        }
    }
}

/// The marking end.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    all: Vec<Weak<Shared>>,
    these: HashMap<SessionId, Vec<Weak<Shared>>>,
    /// Watchers added since those that are gone were last cleared away.
    added: usize,
}

/// After this many new watchers, or as many as there are, the ones that are gone are cleared away.
const SWEEP: usize = 256;

impl Watchers {
    pub(super) fn add(&mut self, selection: &Selection) -> Watcher {
        self.added += 1;
        if self.added > SWEEP.max(self.these.len()) {
            self.sweep();
        }
        let shared = Arc::new(Shared::default());
        match selection {
            Selection::All => self.all.push(Arc::downgrade(&shared)),
            Selection::These(ids) => {
                for id in ids {
                    self.these.entry(*id).or_default().push(Arc::downgrade(&shared));
                }
            }
        }
        Watcher { shared }
    }

    /// Tells everyone who watches `id`.
    pub(super) fn mark(&mut self, id: SessionId) {
        mark_all(&mut self.all, id);
        if let Some(watchers) = self.these.get_mut(&id) {
            mark_all(watchers, id);
            if watchers.is_empty() {
                self.these.remove(&id);
            }
        }
    }

    fn sweep(&mut self) {
        self.added = 0;
        let lives = |watcher: &Weak<Shared>| watcher.strong_count() > 0;
        self.all.retain(lives);
        self.these.retain(|_, watchers| {
            watchers.retain(lives);
            !watchers.is_empty()
        });
    }
}

fn mark_all(watchers: &mut Vec<Weak<Shared>>, id: SessionId) {
    watchers.retain(|watcher| {
        let Some(shared) = watcher.upgrade() else { return false };
        shared.changed.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        shared.notify.notify_one();
        true
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_watcher_hears_of_its_own_once_and_one_that_left_is_forgotten() {
        let (mine, other) = (SessionId::generate(), SessionId::generate());
        let mut watchers = Watchers::default();
        let mut these = watchers.add(&Selection::These([mine].into()));
        let mut all = watchers.add(&Selection::All);
        for id in [other, mine, mine] {
            watchers.mark(id);
        }
        assert_eq!(these.changed().await, [mine]);
        assert_eq!(all.changed().await.len(), 2);
        drop(these);
        drop(all);
        watchers.mark(mine);
        assert!(watchers.all.is_empty() && watchers.these.is_empty());
        for _ in 0..=SWEEP + 1 {
            let _gone = watchers.add(&Selection::These([other].into()));
        }
        assert!(watchers.these.get(&other).is_none_or(|left| left.len() < SWEEP));
    }
}

//! Something of each caller's own, which lives for as long as anybody uses it: streams, limits.
//!
//! Invariant: what nobody uses is forgotten before the map has doubled.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

/// Values by key; see the module.
#[derive(Debug)]
pub(crate) struct ByKey<T> {
    kept: HashMap<Vec<u8>, Weak<T>>,
    /// How many there may be before those nobody uses are looked for.
    sweep_at: usize,
}

impl<T> Default for ByKey<T> {
    fn default() -> Self {
        Self { kept: HashMap::new(), sweep_at: 64 }
    }
}

impl<T> ByKey<T> {
    /// What `key` has, made by `make` if it has none.
    pub(crate) fn get(&mut self, key: &[u8], make: impl FnOnce() -> Arc<T>) -> Arc<T> {
        if let Some(kept) = self.kept.get(key).and_then(Weak::upgrade) {
            return kept;
        }
        if self.kept.len() >= self.sweep_at {
            self.kept.retain(|_, kept| kept.strong_count() > 0);
            self.sweep_at = (self.kept.len() * 2).max(64);
        }
        let made = make();
        self.kept.insert(key.to_vec(), Arc::downgrade(&made));
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_uses_is_forgotten() {
        let mut kept = ByKey::default();
        for number in 0..10_000_u32 {
            kept.get(&number.to_be_bytes(), || Arc::new(number));
        }
        assert!(kept.kept.len() < 200, "{}", kept.kept.len());
        let used = kept.get(b"a", || Arc::new(1));
        assert_eq!(*kept.get(b"a", || Arc::new(2)), *used);
    }
}

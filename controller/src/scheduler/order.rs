//! Whose turn it is.
//!
//! Invariant: of two sessions of one caller with the same priority the one that came first is asked first,
//! also when the clock was set back between them.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap, VecDeque},
};

use super::{
    Request,
    policy::{Policy, Usage},
};

/// Waiting that is worth one step of priority, in milliseconds. The whole range of priorities is a little
/// over three hours: nothing waits for ever behind what is more urgent.
const STEP: i64 = 10 * 60 * 1000;
/// Resolution of shares.
const SHARE: u64 = 1 << 20;

/// Priority with what waiting since `since` has added at `now`.
#[must_use]
pub fn level(priority: i32, since: i64, now: i64) -> i32 {
    let steps = now.saturating_sub(since).max(0) / STEP;
    priority.saturating_add(i32::try_from(steps).unwrap_or(i32::MAX))
}

/// The queue in the order of turns.
pub(super) struct Turns<'q, 'a> {
    queue: &'q [Request<'a>],
    /// Per level and caller, first come first. Highest level last.
    levels: BTreeMap<i32, HashMap<&'a str, VecDeque<usize>>>,
    /// Callers of the level whose turn it is, by share, then by the ticket of their next.
    heap: BinaryHeap<Reverse<(u64, u64, &'a str)>>,
    current: HashMap<&'a str, VecDeque<usize>>,
    /// Whose next was given out last: its share may have changed.
    last: Option<&'a str>,
}

impl<'q, 'a> Turns<'q, 'a> {
    pub(super) fn new(queue: &'q [Request<'a>], now: i64) -> Self {
        let mut order: Vec<usize> = (0..queue.len()).collect();
        order.sort_unstable_by_key(|at| queue[*at].ticket);
        // From the last to the first: nobody counts as waiting less than one who came later.
        let mut earliest: HashMap<(&str, i32), i64> = HashMap::new();
        let mut levels: BTreeMap<i32, HashMap<&'a str, VecDeque<usize>>> = BTreeMap::new();
        for at in order.into_iter().rev() {
            let Request { caller, priority, since, .. } = queue[at];
            let earliest = earliest.entry((caller, priority)).or_insert(since);
            *earliest = since.min(*earliest);
            let level = level(priority, *earliest, now);
            levels.entry(level).or_default().entry(caller).or_default().push_front(at);
        }
        Self { queue, levels, heap: BinaryHeap::new(), current: HashMap::new(), last: None }
    }

    /// The next to be asked; each once.
    pub(super) fn next(&mut self, usage: &Usage, policy: &Policy) -> Option<&'q Request<'a>> {
        if let Some(caller) = self.last.take() {
            self.enter(caller, usage, policy);
        }
        loop {
            if let Some(Reverse((_, _, caller))) = self.heap.pop() {
                self.last = Some(caller);
                let at = self.current.get_mut(caller).and_then(VecDeque::pop_front)?;
                return Some(&self.queue[at]);
            }
            let (_, callers) = self.levels.pop_last()?;
            let names: Vec<&str> = callers.keys().copied().collect();
            self.current = callers;
            for caller in names {
                self.enter(caller, usage, policy);
            }
        }
    }

    fn enter(&mut self, caller: &'a str, usage: &Usage, policy: &Policy) {
        let Some(next) = self.current.get(caller).and_then(VecDeque::front) else { return };
        let share = u64::from(usage.of_caller(caller)) * SHARE / u64::from(policy.weight(caller));
        self.heap.push(Reverse((share, self.queue[*next].ticket, caller)));
    }
}

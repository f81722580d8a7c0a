//! Bounds what a label may say when somebody else chooses its values.

use std::{collections::BTreeSet, sync::Mutex};

/// Lets the first values through and calls every later one `_OTHER`, so that no series is made at a stranger's will.
#[derive(Debug)]
pub struct Distinct {
    limit: usize,
    seen: Mutex<BTreeSet<String>>,
}

/// What a value beyond the limit is called, as the conventions of OpenTelemetry do.
pub const OTHER: &str = "_OTHER";
/// A longer value is no name.
const LONGEST: usize = 64;

impl Distinct {
    /// At most `limit` values, for as long as the process lives.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self { limit, seen: Mutex::new(BTreeSet::new()) }
    }

    /// `value`, or `_OTHER`. An empty one stays empty and takes no place.
    pub fn admit<'a>(&self, value: &'a str) -> &'a str {
        if value.is_empty() {
            return value;
        }
        if value.len() > LONGEST || value.chars().any(char::is_control) {
            return OTHER;
        }
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if seen.contains(value) {
            return value;
        }
        if seen.len() >= self.limit {
            return OTHER;
        }
        seen.insert(value.to_owned());
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_are_kept_and_the_rest_are_others() {
        let models = Distinct::new(2);
        assert_eq!([models.admit("a"), models.admit(""), models.admit("b")], ["a", "", "b"]);
        assert_eq!([models.admit("c"), models.admit("a")], [OTHER, "a"]);
        assert_eq!(Distinct::new(9).admit(&"x".repeat(65)), OTHER);
        assert_eq!(Distinct::new(9).admit("a\nb"), OTHER);
    }
}

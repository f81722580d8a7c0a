//! Identifiers as types, so that a worker name is never taken for a session id.
//!
//! Parsed once at the edge; printed in the form the wire documents.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// An identifier that does not have its documented form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not {expected}")]
pub struct ParseIdError {
    /// What was given, cut at 64 characters.
    pub value: String,
    /// The form that was expected.
    pub expected: &'static str,
}

impl ParseIdError {
    fn new(value: &str, expected: &'static str) -> Self {
        Self { value: value.chars().take(64).collect(), expected }
    }
}

/// A session for ever: a UUIDv7, so ids sort by creation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(Uuid);

impl SessionId {
    /// A new id; unique without coordination.
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// The UUID itself; claude is given it as its own session id.
    #[must_use]
    pub const fn as_uuid(&self) -> &Uuid {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SessionId {
    type Err = ParseIdError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        let canonical = value.len() == 36;
        match Uuid::try_parse(value) {
            Ok(uuid) if canonical => Ok(Self(uuid)),
            _ => Err(ParseIdError::new(value, "a session id (a hyphenated UUID)")),
        }
    }
}

/// Name of a worker, stable over restarts: 1 to 63 characters of `[a-z0-9-]`, beginning with a letter or digit.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkerId(String);

impl WorkerId {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The nearest valid name: for defaults taken from a host name.
    #[must_use]
    pub fn from_host_name(host: &str) -> Self {
        let cleaned: String = host
            .to_ascii_lowercase()
            .chars()
            .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
            .take(63)
            .collect();
        let trimmed = cleaned.trim_matches('-');
        Self(if trimmed.is_empty() { "worker".to_owned() } else { trimmed.to_owned() })
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for WorkerId {
    type Err = ParseIdError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        let valid = (1..=63).contains(&value.len())
            && !value.starts_with('-')
            && value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if valid {
            Ok(Self(value.to_owned()))
        } else {
            Err(ParseIdError::new(value, "a worker name (1 to 63 characters of a-z, 0-9 and -)"))
        }
    }
}

impl TryFrom<String> for WorkerId {
    type Error = ParseIdError;

    fn try_from(value: String) -> Result<Self, Self::Error> {
        value.parse()
    }
}

impl From<WorkerId> for String {
    fn from(id: WorkerId) -> Self {
        id.0
    }
}

/// One start of a worker process: random, so that a restarted worker is told from a silent one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Incarnation(String);

impl Incarnation {
    /// A new one.
    #[must_use]
    pub fn generate() -> Self {
        Self(format!("{:016x}", rand::random::<u64>()))
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Incarnation {
    type Err = ParseIdError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        let valid = (1..=64).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_alphanumeric());
        if valid {
            Ok(Self(value.to_owned()))
        } else {
            Err(ParseIdError::new(value, "an incarnation (1 to 64 letters and digits)"))
        }
    }
}

/// Which placement of a session: 1, 2, ... Grows in the store; everything a worker says carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Attempt(pub u32);

impl Attempt {
    /// The placement after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// The readable name of a session: `fix-login-7k2p9x`. Slug of the title or prompt, then 30 random bits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Handle(String);

/// Crockford's alphabet: no i, l, o, u, so a handle read aloud is typed right.
const BASE32: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

impl Handle {
    /// Longest slug before the random part.
    pub const SLUG_CHARS: usize = 24;

    /// A new handle for work described by `text`. Random: the caller checks that it is free.
    #[must_use]
    pub fn generate(text: &str) -> Self {
        let slug = slug(text);
        let mut bits = rand::random::<u32>();
        let mut suffix = String::with_capacity(6);
        for _ in 0..6 {
            suffix.push(char::from(BASE32[(bits & 31) as usize]));
            bits >>= 5;
        }
        Self(format!("{slug}-{suffix}"))
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The first words of `text` that fit, in `[a-z0-9-]`; "session" when nothing is left.
fn slug(text: &str) -> String {
    let mut slug = String::new();
    for word in text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()) {
        let room = Handle::SLUG_CHARS - slug.len();
        if slug.is_empty() {
            slug.extend(word.chars().take(room));
        } else if word.len() < room {
            slug.push('-');
            slug.push_str(word);
        } else {
            break;
        }
        if slug.matches('-').count() == 3 {
            break;
        }
    }
    slug.make_ascii_lowercase();
    if slug.is_empty() { "session".to_owned() } else { slug }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_id_reads_back_what_it_prints() {
        let id = SessionId::generate();
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "x", "0193", &id.as_uuid().simple().to_string()] {
            assert!(bad.parse::<SessionId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn worker_names_are_checked() {
        for good in ["a", "build-07", "0"] {
            assert!(good.parse::<WorkerId>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "A", "a_b", "ä", &"a".repeat(64)] {
            assert!(bad.parse::<WorkerId>().is_err(), "{bad}");
        }
        assert_eq!(WorkerId::from_host_name("Build.07_X").as_str(), "build-07-x");
        assert_eq!(WorkerId::from_host_name("...").as_str(), "worker");
    }

    #[test]
    fn handles_are_a_slug_and_six_unambiguous_characters() {
        for (text, slug) in [
            ("Fix the login bug, please, now", "fix-the-login-bug"),
            ("$(rm -rf /)", "rm-rf"),
            ("", "session"),
            ("日本語", "session"),
            ("supercalifragilisticexpialidocious", "supercalifragilisticexpi"),
        ] {
            let handle = Handle::generate(text).to_string();
            let (got, suffix) = handle.rsplit_once('-').expect("a handle has a suffix");
            assert_eq!(got, slug);
            assert_eq!(suffix.len(), 6);
            assert!(suffix.bytes().all(|b| BASE32.contains(&b)), "{suffix}");
        }
    }
}

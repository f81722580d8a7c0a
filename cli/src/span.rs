//! Lengths of time as people write them: `500ms`, `90s`, `30m`, `8h`, `2d`; a bare number is seconds.
//!
//! Used by flags and configuration files, so that both take the same. Pure.

use std::{str::FromStr, time::Duration};

use serde::Deserialize;

/// In whole seconds, at most 136 years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Span(u32);

impl Span {
    /// In whole seconds.
    pub const fn seconds(self) -> u32 {
        self.0
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        millis(text)
            .filter(|millis| millis % 1000 == 0)
            .and_then(|millis| u32::try_from(millis / 1000).ok())
            .map(Self)
            .ok_or_else(|| format!("{text:?} is not a time like 90s, 30m, 8h or 2d"))
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// In milliseconds: for what happens often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Period(pub Duration);

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        millis(text)
            .map(|millis| Self(Duration::from_millis(millis)))
            .ok_or_else(|| format!("{text:?} is not a time like 500ms, 2s or 1m"))
    }
}

impl TryFrom<String> for Period {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

fn millis(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    digits.parse::<u32>().ok().map(|number| u64::from(number) * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_a_unit_and_a_limit() {
        for (text, seconds) in [("0s", 0), ("90", 90), ("30m", 1800), ("8h", 28_800), ("366d", 31_622_400)] {
            assert_eq!(text.parse::<Span>().expect(text).seconds(), seconds);
        }
        for bad in ["", "h", "1.5h", "-1s", "1w", "99999d", "5 m", "500ms"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }

    #[test]
    fn periods_go_down_to_milliseconds() {
        for (text, millis) in [("250ms", 250), ("2", 2000), ("1m", 60_000)] {
            assert_eq!(text.parse::<Period>().expect(text).0, Duration::from_millis(millis));
        }
        assert!("1us".parse::<Period>().is_err());
    }
}

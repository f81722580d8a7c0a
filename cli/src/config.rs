//! Configuration files of the roles: TOML whose keys are the long flags. Flag > environment > file > default.
//!
//! The known keys are read off the command line's own definition, so that a flag and its key cannot drift
//! apart. Invariant: a file is taken whole or refused by name, line and key before anything is bound.

use std::{collections::BTreeSet, fs, path::Path};

use clap::Args;
use serde::de::DeserializeOwned;

use crate::failure::{Exit, Failure};

/// Keys a file cannot hold: they are about the command line itself.
const NOT_KEYS: [&str; 4] = ["config", "help", "json", "version"];

/// Reads the options of a role from a file.
pub fn read<T: Args + DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    let text = fs::read_to_string(path).map_err(|error| {
        Failure::new(Exit::Usage, format!("configuration {} cannot be read", path.display()))
            .caused_by(&error)
    })?;
    parse(&text).map_err(|mut failure| {
        failure.what = format!("configuration {}: {}", path.display(), failure.what);
        failure
    })
}

fn parse<T: Args + DeserializeOwned>(text: &str) -> Result<T, Failure> {
    let table = check_keys(text, &keys::<T>())?;
    toml::from_str(text).map_err(|error| culprit::<T>(table, text).unwrap_or_else(|| refused(&error)))
}

/// The table, if all its keys are known; the first that is not is named with the one that was meant.
pub fn check_keys(text: &str, known: &BTreeSet<String>) -> Result<toml::Table, Failure> {
    let table: toml::Table = toml::from_str(text).map_err(|error| refused(&error))?;
    if let Some(unknown) = table.keys().find(|key| !known.contains(key.as_str())) {
        let hint = match nearest(unknown, known) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("the keys are: {}", known.iter().cloned().collect::<Vec<_>>().join(", ")),
        };
        return Err(Failure::usage(format!("unknown key {unknown:?}")).hint(hint));
    }
    Ok(table)
}

/// The first key whose value cannot be taken, by name and line. Options that several roles share are read through a
/// layer that forgets where it is.
fn culprit<T: DeserializeOwned>(table: toml::Table, text: &str) -> Option<Failure> {
    table.into_iter().find_map(|(key, value)| {
        let alone = toml::Table::from_iter([(key.clone(), value)]);
        let error = alone.try_into::<T>().err()?;
        let is_of_key = |line: &&str| line.trim_start().trim_start_matches(['"', '\'']).starts_with(&key);
        let line = text.lines().zip(1..).find(|(line, _)| is_of_key(line));
        let line = line.map(|(_, number)| format!(" in line {number}")).unwrap_or_default();
        Some(Failure::usage(format!("{key}{line}: {}", error.message())))
    })
}

fn refused(error: &toml::de::Error) -> Failure {
    Failure::usage(error.to_string().trim_end().to_owned())
}

fn keys<T: Args>() -> BTreeSet<String> {
    let command = T::augment_args(clap::Command::new("role"));
    command
        .get_arguments()
        .filter_map(|argument| argument.get_long())
        .filter(|long| !NOT_KEYS.contains(long))
        .map(str::to_owned)
        .collect()
}

/// The known key that a slip of the finger would turn into `unknown`.
fn nearest<'a>(unknown: &str, known: &'a BTreeSet<String>) -> Option<&'a str> {
    let unknown = unknown.replace('_', "-");
    known
        .iter()
        .map(|key| (distance(&unknown, key), key))
        .filter(|(distance, key)| *distance <= key.len().div_ceil(3).max(2))
        .min()
        .map(|(_, key)| key.as_str())
}

/// Levenshtein distance in bytes: keys are ASCII.
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.bytes().enumerate() {
            let substituted = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roles::{controller, mcp, up, worker};

    #[test]
    fn a_misspelt_key_is_named_with_the_nearest_known_one() {
        let failure = parse::<controller::Options>("state_dir = \"/x\"").expect_err("refused");
        assert_eq!(failure.what, "unknown key \"state_dir\"");
        assert_eq!(failure.hint, "did you mean \"state-dir\"?");
        let failure = parse::<controller::Options>("colour = 1").expect_err("refused");
        assert!(failure.hint.contains("listen"), "{}", failure.hint);
    }

    #[test]
    fn every_flag_of_every_role_can_be_a_key() {
        fn taken<T: Args + DeserializeOwned>(values: &[(&str, &str)]) {
            for key in keys::<T>() {
                let found = values.iter().find(|(known, _)| *known == key);
                let value = found.map_or("\"x\"", |(_, value)| value);
                parse::<T>(&format!("{key} = {value}")).unwrap_or_else(|e| panic!("{key}: {}", e.what));
            }
        }
        let values = [
            ("listen", "\"127.0.0.1:0\""),
            ("http", "\"127.0.0.1:0\""),
            ("store", "\"memory\""),
            ("log-format", "\"json\""),
            ("slots", "3"),
            ("keep-archived", "7"),
            ("label", "[\"a=b\"]"),
            ("project", "[\"a=/b\"]"),
            ("trust-project", "[\"a\"]"),
            ("allow-trust-mode", "[\"a\"]"),
            ("allow-push", "[\"a\"]"),
            ("remote-listen", "\"0.0.0.0:0\""),
            ("remote-name", "[\"farm.example\"]"),
            ("certificate-life", "\"1h\""),
            ("heartbeat", "\"1s\""),
            ("unreachable-after", "\"5s\""),
            ("caller-weight", "[\"a=2\"]"),
            ("caller-cap", "[\"2\", \"a=3\"]"),
            ("project-cap", "[\"a=3\"]"),
            ("lease", "\"30s\""),
            ("lease-margin", "\"30s\""),
            ("require-token", "true"),
            ("allow-origin", "[\"https://tools.example\"]"),
            ("issuer-role", "\"viewer\""),
            ("issuer-project", "[\"a\"]"),
            ("serve-declared", "\"yes\""),
            ("declared-allow", "[\"push\"]"),
            ("mirror-limit", "\"1GiB\""),
            ("session-memory", "\"1GiB\""),
            ("disk-reserve", "\"1GiB\""),
            ("starts-at-once", "2"),
            ("output-limit", "\"1GiB\""),
            ("keep-ended", "7"),
            ("keep-workspace", "7"),
            ("claude-env", "[\"A=b\"]"),
            ("claude-pass-env", "[\"A\"]"),
        ];
        taken::<controller::Options>(&values);
        taken::<worker::Options>(&values);
        taken::<mcp::Options>(&values);
        taken::<up::Options>(&values);
    }

    #[test]
    fn a_wrong_type_and_a_broken_file_say_where() {
        for text in ["slots = \"many\"", "listen = "] {
            let failure = parse::<worker::Options>(&format!("name = \"a\"\n{text}"));
            let what = failure.err().map(|failure| failure.what).unwrap_or_default();
            assert!(
                what.contains("line 2") || what.contains("slots") || what.contains("listen"),
                "{text}: {what}"
            );
        }
    }
}

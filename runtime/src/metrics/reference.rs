//! Writes the reference page of metrics, one section a crate, from the definitions themselves; each crate's tests keep
//! its section true with [`check`].

use std::{fmt::Write as _, path::Path};

use super::{Definition, disk, process, rpc};

/// Set to anything: [`check`] writes the section instead of comparing it.
pub const UPDATE: &str = "MUSTER_UPDATE_GOLDEN";

/// The metrics this crate measures for every role.
#[must_use]
pub fn definitions() -> Vec<Definition> {
    let mut all = process::definitions();
    all.extend(disk::definitions());
    all.extend(rpc::definitions());
    all
}

/// A page that does not say what the code does.
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    /// Two metrics of one name, or two that `/metrics` would show under one name.
    #[error("metric {0} is defined twice")]
    Twice(String),
    /// A label that would have a value for each session.
    #[error("metric {metric} has the label {label}, which names one session, input or person")]
    Unbounded {
        /// The metric.
        metric: String,
        /// The label.
        label: String,
    },
    /// The page has no such section.
    #[error(
        "{page} has no section {section:?} (a line `<!-- {section}: begin -->` and one `<!-- {section}: end -->`)"
    )]
    NoSection {
        /// The page.
        page: String,
        /// The section.
        section: String,
    },
    /// The page is older than the code.
    #[error(
        "section {section:?} of {page} is stale: run the test again with {UPDATE}=1 and read the difference"
    )]
    Stale {
        /// The page.
        page: String,
        /// The section.
        section: String,
    },
    /// The page cannot be read or written.
    #[error("{page}: {source}")]
    Io {
        /// The page.
        page: String,
        /// Why.
        source: std::io::Error,
    },
}

/// The section of one crate, as Markdown.
#[must_use]
pub fn markdown(definitions: &[Definition]) -> String {
    let mut text = String::from(
        "| metric | in `/metrics` | kind | unit | labels | meaning |\n|---|---|---|---|---|---|\n",
    );
    let mut sorted: Vec<_> = definitions.iter().collect();
    sorted.sort_by_key(|definition| definition.name);
    for definition in &sorted {
        let labels =
            definition.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        let _ = writeln!(
            text,
            "| `{}` | `{}` | {} | `{}` | {} | {} |",
            definition.name,
            definition.prometheus_name(),
            definition.kind.name(),
            definition.unit,
            labels,
            definition.help
        );
    }
    let histograms: Vec<_> = sorted.iter().filter(|definition| !definition.buckets.is_empty()).collect();
    if !histograms.is_empty() {
        text.push_str("\nBuckets:\n\n");
        for definition in histograms {
            let buckets = definition.buckets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            let _ = writeln!(text, "- `{}`: {buckets}", definition.name);
        }
    }
    text
}

/// Whether the section of `page` called `section` says what `definitions` are, and whether they may be so at all.
///
/// # Errors
/// See [`ReferenceError`].
pub fn check(page: &Path, section: &str, definitions: &[Definition]) -> Result<(), ReferenceError> {
    let mut names = std::collections::BTreeSet::new();
    for definition in definitions {
        if !names.insert(definition.name.to_owned()) || !names.insert(definition.prometheus_name()) {
            return Err(ReferenceError::Twice(definition.name.to_owned()));
        }
        if let Some(label) = definition.labels.iter().find(|label| super::names_one(label)) {
            return Err(ReferenceError::Unbounded {
                metric: definition.name.to_owned(),
                label: (*label).to_owned(),
            });
        }
    }
    let shown = page.display().to_string();
    let io = |source| ReferenceError::Io { page: shown.clone(), source };
    let text = std::fs::read_to_string(page).map_err(io)?;
    let (begin, end) = (format!("<!-- {section}: begin -->\n"), format!("<!-- {section}: end -->"));
    let missing = || ReferenceError::NoSection { page: shown.clone(), section: section.to_owned() };
    let (before, rest) = text.split_once(&begin).ok_or_else(missing)?;
    let (now, after) = rest.split_once(&end).ok_or_else(missing)?;
    let wanted = markdown(definitions);
    if now == wanted {
        return Ok(());
    }
    if std::env::var_os(UPDATE).is_some() {
        return std::fs::write(page, format!("{before}{begin}{wanted}{end}{after}")).map_err(io);
    }
    Err(ReferenceError::Stale { page: shown, section: section.to_owned() })
}

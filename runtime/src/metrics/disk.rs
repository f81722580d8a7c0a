//! Room on the disk a role keeps its state on, read when somebody asks.

use std::path::Path;

use nix::sys::statvfs::statvfs;
use opentelemetry::{KeyValue, global};

use super::{Definition, Level, enabled, instrument::SCOPE};

static FREE: Level<1> = Level::new(
    "muster.disk.free",
    "By",
    &["muster.role"],
    "Bytes free to the process on the disk of its state folder",
);
static SIZE: Level<1> =
    Level::new("muster.disk.size", "By", &["muster.role"], "Size of the disk of the process's state folder");

/// All of this module.
pub(super) fn definitions() -> Vec<Definition> {
    vec![FREE.definition(), SIZE.definition()]
}

/// Shows the disk that holds `folder` for as long as the process lives; once for each role in it.
pub fn watch_disk(role: &'static str, folder: &Path) {
    if !enabled() {
        return;
    }
    for (definition, free) in [(FREE.definition(), true), (SIZE.definition(), false)] {
        let folder = folder.to_owned();
        let _ = global::meter(SCOPE)
            .i64_observable_up_down_counter(definition.name)
            .with_unit(definition.unit)
            .with_description(definition.help)
            .with_callback(move |observer| {
                let Ok(stat) = statvfs(&folder) else { return };
                let blocks = if free { stat.blocks_available() } else { stat.blocks() };
                let bytes = i64::try_from(blocks.saturating_mul(stat.fragment_size())).unwrap_or(i64::MAX);
                observer.observe(bytes, &[KeyValue::new("muster.role", role)]);
            })
            .build();
    }
}

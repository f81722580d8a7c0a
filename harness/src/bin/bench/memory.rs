//! Memory of processes: PSS, the share of each page that is theirs.

use std::fs;

/// Proportional set size of a process, in KiB; 0 when it is gone.
pub fn pss_kib(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// `12.3 MiB`.
#[allow(clippy::cast_precision_loss, reason = "memory sizes stay far below 2^52")]
pub fn mib(kib: u64) -> String {
    format!("{:.1} MiB", kib as f64 / 1024.0)
}

//! What the machine has left, for heartbeats.

use std::{fs, path::Path};

use muster_proto::v1::Heartbeat;

use crate::room;

/// The state now; 0 where the machine does not tell.
pub(super) fn heartbeat(running: u32, state_dir: &Path, seq: u64) -> Heartbeat {
    Heartbeat {
        running,
        memory_available_bytes: memory_available().unwrap_or_default(),
        disk_available_bytes: room::available(state_dir).unwrap_or_default(),
        load_percent: load_percent().unwrap_or_default(),
        seq,
    }
}

/// Which boot of the machine this is; empty: not known.
pub(super) fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

fn memory_available() -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

fn load_percent() -> Option<u32> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    let (whole, hundredths) = text.split_whitespace().next()?.split_once('.')?;
    Some(whole.parse::<u32>().ok()? * 100 + hundredths.parse::<u32>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linux_machine_tells_all_of_it() {
        let beat = heartbeat(3, Path::new("/"), 1);
        assert_eq!(beat.running, 3);
        assert!(beat.memory_available_bytes > 1 << 20 && beat.disk_available_bytes > 0);
    }
}

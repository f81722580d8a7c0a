//! Room on a disk: telling a full one from other failures, and waiting until there is some again.
//!
//! What meets a full disk is held and done later, never failed: by the session actor (starts, releases), by the shim
//! (output) and by everything that must be durable before it is told.

use std::{io, path::Path, time::Duration};

use nix::sys::statvfs::statvfs;

/// Below this a disk counts as full whatever the failing program said about it: git does not always name the reason.
const FULL_BYTES: u64 = 128 << 10;
/// Growth that is worth another try.
const WORTH_BYTES: u64 = 64 << 10;
/// Between looks at the disk. A look costs a system call.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A try is made after this all the same: a quota, or a disk other than the one looked at, may have room.
const TRY_AFTER: Duration = Duration::from_secs(15);

/// Whether this failure says that a disk or a quota is full.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether a failure told as text comes from a full disk, by what it says or by what is left at `path`.
#[must_use]
pub fn speaks_of_full(text: &str, path: &Path) -> bool {
    let says = ["No space left on device", "Disk quota exceeded"].iter().any(|sign| text.contains(sign));
    says || available(path).is_some_and(|bytes| bytes < FULL_BYTES)
}

/// Bytes this user may still write at `path`; `None` where that has no meaning.
#[must_use]
pub fn available(path: &Path) -> Option<u64> {
    let stat = statvfs(path).ok().filter(|stat| stat.blocks() > 0)?;
    Some(stat.blocks_available() as u64 * stat.fragment_size() as u64)
}

/// Waits until there is more room at `path` than when it was called, or long enough that a try is worth it anyway.
pub async fn wait(path: &Path) {
    let before = available(path).unwrap_or_default();
    let enough = before.saturating_add(WORTH_BYTES).max(FULL_BYTES);
    let grown = async {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if available(path).is_some_and(|bytes| bytes >= enough) {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(TRY_AFTER, grown).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_by_its_errors() {
        for (errno, full) in
            [(nix::libc::ENOSPC, true), (nix::libc::EDQUOT, true), (nix::libc::EACCES, false)]
        {
            assert_eq!(is_full(&io::Error::from_raw_os_error(errno)), full);
            let text = format!("git failed: {}", io::Error::from_raw_os_error(errno));
            assert_eq!(speaks_of_full(&text, Path::new("/proc")), full, "{text}");
        }
    }
}

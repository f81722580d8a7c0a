//! The writing end of the spool: every byte of the PTY, in order, on disk before anybody hears of it.
//!
//! When the disk does not take a byte, that byte is kept and the PTY is not read: the kernel then holds claude. Nothing
//! is dropped; the write is tried again each second.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
};

use super::files::Launch;

pub(super) struct Spool {
    file: File,
    end: u64,
    /// Offset at which the limit is reached.
    limit: u64,
    pending: Vec<u8>,
    errno: i32,
}

impl Spool {
    pub(super) fn open(launch: &Launch) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(&launch.spool)?;
        let end = launch.spool_base + file.metadata()?.len();
        let limit = match launch.spool_limit {
            0 => u64::MAX,
            bytes => launch.spool_base.saturating_add(bytes),
        };
        Ok(Self { file, end, limit, pending: Vec::new(), errno: 0 })
    }

    /// Offset, in the session, after the last byte on disk.
    pub(super) const fn end(&self) -> u64 {
        self.end
    }

    /// Whether there is more than it may hold. What has come is kept all the same.
    pub(super) const fn is_over_limit(&self) -> bool {
        self.end + self.pending.len() as u64 >= self.limit
    }

    /// 0, or why the disk takes nothing.
    pub(super) const fn errno(&self) -> i32 {
        self.errno
    }

    pub(super) const fn is_blocked(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Writes `bytes`, or keeps what the disk did not take.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        let taken = self.write(bytes);
        self.pending.extend_from_slice(&bytes[taken..]);
    }

    /// Tries what is pending again.
    pub(super) fn retry(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        self.append(&pending);
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while taken < bytes.len() {
            match self.file.write(&bytes[taken..]) {
                Ok(count) => {
                    taken += count;
                    self.end += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.errno = error.raw_os_error().unwrap_or(nix::libc::EIO);
                    return taken;
                }
            }
        }
        self.errno = 0;
        taken
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        match self.file.sync_data() {
            // Not a file that could be.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            synced => synced,
        }
    }
}

//! The reading end of a session's spool: bytes by offset. The file is the truth; a shim only says when to look again.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

/// A reader of one spool. Opens the file when it first exists.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    base: u64,
    file: Option<File>,
}

impl Reader {
    /// Reads the file at `path`, whose first byte has offset `base`.
    #[must_use]
    pub fn new(path: &Path, base: u64) -> Self {
        Self { path: path.to_owned(), base, file: None }
    }

    /// Bytes from `offset` on, at most as many as fit; 0 at the end or when there is no file yet. Reads what the shim has
    /// just written, so from memory; short enough to be done on an async thread.
    ///
    /// # Errors
    /// `offset` below the base, and any of the file system but "not found".
    pub fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let position = offset.checked_sub(self.base).ok_or(io::ErrorKind::InvalidInput)?;
        if self.file.is_none() {
            match File::open(&self.path) {
                Ok(file) => self.file = Some(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
                Err(error) => return Err(error),
            }
        }
        let Some(file) = &self.file else { return Ok(0) };
        loop {
            match file.read_at(buffer, position) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

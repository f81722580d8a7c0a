//! claude's stderr as a file of bounded size: the newest bytes are what explains a failure.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// Size at which the log becomes `stderr.log.1` and a new one begins.
pub const CAP_BYTES: u64 = 1 << 20;

pub(super) struct StderrLog {
    path: PathBuf,
    file: File,
    size: u64,
}

impl StderrLog {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, size })
    }

    /// Best effort: a full disk must not hold claude for the sake of its complaints.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        if self.size >= CAP_BYTES {
            let old = self.path.with_extension("log.1");
            if fs::rename(&self.path, old).is_ok()
                && let Ok(next) = Self::open(&self.path)
            {
                *self = next;
            }
        }
        if self.file.write_all(bytes).is_ok() {
            self.size += bytes.len() as u64;
        }
    }
}

/// The last lines of a log, at most `bytes` of them, as text; empty when there is none.
#[must_use]
pub fn tail(path: &Path, bytes: usize) -> String {
    let Ok(data) = fs::read(path) else { return String::new() };
    let start = data.len().saturating_sub(bytes);
    let text = String::from_utf8_lossy(&data[start..]);
    let text: String = text.chars().filter(|c| *c == '\n' || !c.is_control()).collect();
    text.trim().to_owned()
}

//! What a scripted claude said, recorded outside the system: the other half of every comparison of output.
//!
//! Each write is recorded before it is made, so a process that was killed said a prefix of its record. Seeded bytes
//! are recorded by their seed, which keeps the record of gigabytes small. A record is `r <length>` and the bytes,
//! or `n <seed> <size>` for the first piece of a stream and `s <seed> <size>` for each that follows.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::Path,
    sync::{Mutex, PoisonError},
};

use crate::seeded::SeededBytes;

/// A record being written.
#[derive(Debug)]
pub struct Record {
    file: Mutex<File>,
}

impl Record {
    /// A new one; it must not exist.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create_new(true).append(true).open(path)?;
        Ok(Self { file: Mutex::new(file) })
    }

    /// Bytes that are about to be said.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn raw(&self, bytes: &[u8]) -> io::Result<()> {
        let mut note = format!("r {}\n", bytes.len()).into_bytes();
        note.extend_from_slice(bytes);
        self.append(&note)
    }

    /// A write of the next `size` bytes of this seed's stream; `first`: it is the beginning of the stream.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn seeded(&self, seed: u64, first: bool, size: usize) -> io::Result<()> {
        self.append(format!("{} {seed} {size}\n", if first { "n" } else { "s" }).as_bytes())
    }

    fn append(&self, note: &[u8]) -> io::Result<()> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).write_all(note)
    }
}

/// All that was said according to a record, and perhaps not said to its end.
///
/// # Errors
/// When it cannot be read or is none.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let record = fs::read(path)?;
    let broken = || io::Error::new(io::ErrorKind::InvalidData, format!("{} is broken", path.display()));
    let mut said = Vec::new();
    let mut rest = record.as_slice();
    let mut stream = SeededBytes::new(0);
    while !rest.is_empty() {
        // A torn end belongs to a write that was never made.
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { break };
        let head = std::str::from_utf8(&rest[..end]).map_err(|_| broken())?;
        rest = &rest[end + 1..];
        let fields: Vec<&str> = head.split(' ').collect();
        match fields[..] {
            ["r", length] => {
                let length: usize = length.parse().map_err(|_| broken())?;
                let Some(bytes) = rest.get(..length) else { break };
                said.extend_from_slice(bytes);
                rest = &rest[length..];
            }
            [kind @ ("n" | "s"), seed, size] => {
                if kind == "n" {
                    stream = SeededBytes::new(seed.parse().map_err(|_| broken())?);
                }
                let size: usize = size.parse().map_err(|_| broken())?;
                let mut bytes = vec![0; size];
                stream.fill(&mut bytes);
                said.extend_from_slice(&bytes);
            }
            _ => return Err(broken()),
        }
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_gives_back_what_was_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("said");
        let record = Record::create(&path).unwrap();
        let mut expected = b"a line\n".to_vec();
        record.raw(b"a line\n").unwrap();
        let mut stream = SeededBytes::new(9);
        for (number, size) in [5, 1, 300].into_iter().enumerate() {
            record.seeded(9, number == 0, size).unwrap();
            let mut bytes = vec![0; size];
            stream.fill(&mut bytes);
            expected.extend(bytes);
        }
        record.raw(b"\n\0\xff").unwrap();
        expected.extend(b"\n\0\xff");
        assert_eq!(read(&path).unwrap(), expected);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, [&whole[..], b"r 10\ntorn"].concat()).unwrap();
        assert_eq!(read(&path).unwrap(), expected, "a torn end was not said");
    }
}

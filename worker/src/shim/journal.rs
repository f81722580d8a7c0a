//! The inputs given to claude: each on disk before claude can see it, so that none is ever given twice.
//!
//! Record: `length:u32le seq:u64le crc32c:u32le bytes`, the checksum over `seq` and the bytes. A torn last record (power
//! cut) counts as never written: its bytes never reached claude, because the write to claude comes after the sync.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::Path,
};

const HEAD: usize = 16;

/// One input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its number in the session.
    pub seq: u64,
    /// What was written to claude.
    pub bytes: Vec<u8>,
}

/// The journal, open for appending.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    end: u64,
    written: Vec<u64>,
}

fn checksum(seq: u64, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&seq.to_le_bytes()), bytes)
}

/// Whole records of `data`, and how many bytes they take.
fn parse(mut data: &[u8]) -> (Vec<Record>, u64) {
    let (mut records, mut end) = (Vec::new(), 0);
    while data.len() >= HEAD {
        let (head, rest) = data.split_at(HEAD);
        let number = |range: std::ops::Range<usize>| -> u32 {
            u32::from_le_bytes(head[range].try_into().expect("four bytes of the head"))
        };
        let length = number(0..4) as usize;
        let seq = u64::from_le_bytes(head[4..12].try_into().expect("eight bytes of the head"));
        if rest.len() < length || checksum(seq, &rest[..length]) != number(12..16) {
            break;
        }
        records.push(Record { seq, bytes: rest[..length].to_vec() });
        data = &rest[length..];
        end += (HEAD + length) as u64;
    }
    (records, end)
}

/// Reads the whole records of a journal; none when there is no file.
///
/// # Errors
/// Any of the file system but "not found".
pub fn read(path: &Path) -> io::Result<Vec<Record>> {
    match std::fs::read(path) {
        Ok(data) => Ok(parse(&data).0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

impl Journal {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut data = Vec::new();
        file.read_to_end(&mut data)?;
        let (records, end) = parse(&data);
        file.set_len(end)?;
        file.seek(SeekFrom::Start(end))?;
        Ok(Self { file, end, written: records.iter().map(|record| record.seq).collect() })
    }

    pub(super) fn written(&self) -> &[u64] {
        &self.written
    }

    pub(super) fn contains(&self, seq: u64) -> bool {
        self.written.contains(&seq)
    }

    /// Makes one input durable. After an error the file is as before, so the input may be sent again.
    pub(super) fn append(&mut self, seq: u64, bytes: &[u8]) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).map_err(|_| io::Error::other("input too long"))?;
        let mut record = Vec::with_capacity(HEAD + bytes.len());
        record.extend_from_slice(&length.to_le_bytes());
        record.extend_from_slice(&seq.to_le_bytes());
        record.extend_from_slice(&checksum(seq, bytes).to_le_bytes());
        record.extend_from_slice(bytes);
        if let Err(error) = self.file.write_all(&record).and_then(|()| self.file.sync_data()) {
            self.file.set_len(self.end)?;
            self.file.seek(SeekFrom::Start(self.end))?;
            return Err(error);
        }
        self.end += record.len() as u64;
        self.written.push(seq);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_tail_counts_as_never_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("journal");
        let mut journal = Journal::open(&path).expect("new");
        journal.append(1, b"one").expect("written");
        journal.append(3, b"three").expect("written");
        drop(journal);
        let whole = std::fs::read(&path).expect("there");
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).expect("written");
            let known = read(&path).expect("readable").len();
            let mut journal = Journal::open(&path).expect("opens");
            assert_eq!(journal.written().len(), known);
            journal.append(9, b"later").expect("written");
            let last = read(&path).expect("readable").pop().expect("one");
            assert_eq!(last, Record { seq: 9, bytes: b"later".to_vec() });
        }
    }
}

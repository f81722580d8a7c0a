//! The files of the audit log.
//!
//! ```text
//! <first seq, 20 digits>.log:
//!   bytes 0..8   "musterA1"
//!   then records: length (u32, little endian), CRC32C of the record (u32, little endian), the record
//! ```
//! A record is an encoded `AuditRecord`, which holds the SHA-256 of the one before, also of one in an older file that
//! was removed. A file that is full is closed, and the oldest goes when there are too many. What a crash left half
//! written at the end is cut at the next start, and a record says so; damage anywhere else is an error.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use muster_proto::v1::{AuditEntry, AuditRecord, AuditVerdict};
use prost::Message as _;

const MAGIC: &[u8; 8] = b"musterA1";
const FRAME: usize = 8;
/// Bytes of one record: its texts are bounded before.
const RECORD: usize = 16 << 10;
/// Bytes of a subject and of a detail.
const SUBJECT: usize = 256;
const DETAIL: usize = 1 << 10;

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes after which the next file begins.
    pub file_bytes: u64,
    /// Files kept.
    pub files: usize,
}

impl Default for Limits {
    /// 32 files of 16 MiB: some millions of records.
    fn default() -> Self {
        Self { file_bytes: 16 << 20, files: 32 }
    }
}

/// The writing end.
#[derive(Debug)]
pub struct Log {
    folder: PathBuf,
    limits: Limits,
    file: File,
    len: u64,
    last_seq: u64,
    last_hash: Vec<u8>,
}

impl Log {
    /// Opens the newest file, makes the first one when there is none.
    ///
    /// # Errors
    /// When the folder cannot be used or a file is damaged but at its end.
    pub fn open(folder: &Path, limits: Limits) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let Some((first, path)) = files(folder)?.pop() else {
            let file = make(folder, 1)?;
            let (len, folder) = (MAGIC.len() as u64, folder.to_owned());
            return Ok(Self { folder, limits, file, len, last_seq: 0, last_hash: Vec::new() });
        };
        let bytes = fs::read(&path)?;
        let file = OpenOptions::new().write(true).open(&path)?;
        let mut log = Self {
            folder: folder.to_owned(),
            limits,
            file,
            len: 0,
            last_seq: first - 1,
            last_hash: Vec::new(),
        };
        if bytes.len() < MAGIC.len() {
            // Made and not yet written when the machine went down.
            log.file.set_len(0)?;
            log.file.write_all_at(MAGIC, 0)?;
            log.file.sync_all()?;
            log.len = MAGIC.len() as u64;
            log.last_hash = last_hash_before(folder, first)?;
            return Ok(log);
        }
        let (entries, whole) = parse(&bytes, &path)?;
        log.len = whole;
        match entries.last() {
            Some(entry) => {
                log.last_seq = AuditRecord::decode(entry.record.as_slice()).map_err(io::Error::other)?.seq;
                log.last_hash.clone_from(&entry.hash);
            }
            None => log.last_hash = last_hash_before(folder, first)?,
        }
        let torn = bytes.len() as u64 - whole;
        if torn > 0 {
            log.file.set_len(whole)?;
            let record = AuditRecord {
                action: "audit.torn".to_owned(),
                verdict: AuditVerdict::Allowed.into(),
                detail: format!("{torn} bytes that a crash left half written were cut"),
                ..AuditRecord::default()
            };
            if let Err(error) = log.append(&[record]) {
                // A full disk is no reason to stay away.
                tracing::error!(error = %error, "the audit log cannot be written");
            }
        }
        Ok(log)
    }

    /// Number of the last record; 0: none.
    #[must_use]
    pub const fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Numbers, chains and writes `records`, durable when it returns. Returns the last number.
    ///
    /// # Errors
    /// When the disk refuses: nothing of them is there then.
    pub fn append(&mut self, records: &[AuditRecord]) -> io::Result<u64> {
        if self.len >= self.limits.file_bytes {
            self.rotate()?;
        }
        let (mut seq, mut hash) = (self.last_seq, self.last_hash.clone());
        let mut bytes = Vec::new();
        for record in records {
            seq += 1;
            let mut record = record.clone();
            cut(&mut record.subject, SUBJECT);
            cut(&mut record.detail, DETAIL);
            record.seq = seq;
            record.at = record.at.or_else(|| Some(muster_proto::time::now()));
            record.previous_hash = hash;
            let encoded = record.encode_to_vec();
            hash = digest(&encoded);
            bytes.extend_from_slice(&u32::try_from(encoded.len()).unwrap_or(u32::MAX).to_le_bytes());
            bytes.extend_from_slice(&crc32c::crc32c(&encoded).to_le_bytes());
            bytes.extend_from_slice(&encoded);
        }
        let written = self.file.write_all_at(&bytes, self.len).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // Cut again by the next append, which writes over it, and by the next start.
            let _ = self.file.set_len(self.len);
            return Err(error);
        }
        self.len += bytes.len() as u64;
        (self.last_seq, self.last_hash) = (seq, hash);
        Ok(seq)
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file = make(&self.folder, self.last_seq + 1)?;
        self.len = MAGIC.len() as u64;
        let files = files(&self.folder)?;
        let old = files.len().saturating_sub(self.limits.files);
        for (_, path) in &files[..old] {
            fs::remove_file(path)?;
        }
        Ok(())
    }
}

/// The files there are, by their first number.
///
/// # Errors
/// When the folder cannot be read.
pub fn files(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".log"));
        if let Some(seq) = name.and_then(|name| name.parse().ok()).filter(|seq| *seq > 0) {
            files.push((seq, path));
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// Up to `most` records from number `from` on; 0: the oldest. What is being written is left out.
///
/// # Errors
/// When a file cannot be read or is damaged.
pub fn read(folder: &Path, from: u64, most: usize) -> io::Result<Vec<AuditEntry>> {
    let files = files(folder)?;
    let start = files.partition_point(|(first, _)| *first <= from).saturating_sub(1);
    let mut found = Vec::new();
    for (first, path) in &files[start.min(files.len())..] {
        let mut bytes = Vec::new();
        File::open(path)?.read_to_end(&mut bytes)?;
        if bytes.len() < MAGIC.len() {
            break;
        }
        let (entries, _) = parse(&bytes, path)?;
        let skip = usize::try_from(from.saturating_sub(*first)).unwrap_or(usize::MAX);
        found.extend(entries.into_iter().skip(skip).take(most - found.len()));
        if found.len() >= most {
            break;
        }
    }
    Ok(found)
}

/// The whole records, and where they end. Something else may follow at the very end only.
fn parse(bytes: &[u8], path: &Path) -> io::Result<(Vec<AuditEntry>, u64)> {
    let damaged = |at: usize| io::Error::other(format!("{} is damaged at byte {at}", path.display()));
    if !bytes.starts_with(MAGIC) {
        return Err(damaged(0));
    }
    let mut at = MAGIC.len();
    let mut entries = Vec::new();
    while let Some(header) = bytes.get(at..at + FRAME) {
        let number = |part: &[u8]| part.try_into().map_or(0, u32::from_le_bytes);
        let (len, crc) = (number(&header[..4]) as usize, number(&header[4..]));
        let record = bytes.get(at + FRAME..at + FRAME + len).filter(|_| len > 0 && len <= RECORD);
        let Some(record) = record.filter(|record| crc32c::crc32c(record) == crc) else { break };
        entries.push(AuditEntry { record: record.to_vec(), hash: digest(record) });
        at += FRAME + len;
    }
    Ok((entries, at as u64))
}

fn last_hash_before(folder: &Path, first: u64) -> io::Result<Vec<u8>> {
    if first <= 1 {
        return Ok(Vec::new());
    }
    Ok(read(folder, first - 1, 1)?.pop().map(|entry| entry.hash).unwrap_or_default())
}

fn make(folder: &Path, first: u64) -> io::Result<File> {
    let path = folder.join(format!("{first:020}.log"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(MAGIC)?;
    file.sync_all()?;
    File::open(folder)?.sync_all()?;
    Ok(file)
}

fn cut(text: &mut String, most: usize) {
    text.truncate(text.floor_char_boundary(most));
}

fn digest(bytes: &[u8]) -> Vec<u8> {
    ring::digest::digest(&ring::digest::SHA256, bytes).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(action: &str) -> AuditRecord {
        AuditRecord { action: action.into(), detail: "x".repeat(100), ..AuditRecord::default() }
    }

    /// Every record holds the hash of the one before, and they are numbered without gaps.
    fn check(entries: &[AuditEntry]) -> Vec<AuditRecord> {
        let records: Vec<_> =
            entries.iter().map(|e| AuditRecord::decode(e.record.as_slice()).expect("a record")).collect();
        for (entry, next) in entries.iter().zip(&records[1..]) {
            assert_eq!(next.previous_hash, entry.hash);
            assert_eq!(entry.hash, digest(&entry.record));
        }
        assert!(records.windows(2).all(|pair| pair[1].seq == pair[0].seq + 1));
        records
    }

    #[test]
    fn the_chain_holds_over_restarts_and_files_and_the_oldest_go() {
        let dir = tempfile::tempdir().expect("a folder");
        let limits = Limits { file_bytes: 1000, files: 3 };
        for start in 0..10 {
            let mut log = Log::open(dir.path(), limits).expect("opened");
            for number in 0..5 {
                let last = log.append(&[done("a"), done("b")]).expect("written");
                assert_eq!(last, start * 10 + number * 2 + 2);
            }
        }
        let kept = read(dir.path(), 0, usize::MAX).expect("readable");
        let records = check(&kept);
        assert_eq!(records.last().expect("some").seq, 100);
        assert!(records[0].seq > 1 && !records[0].previous_hash.is_empty(), "the chain is carried over");
        assert!(files(dir.path()).expect("readable").len() <= 3);
        let some = read(dir.path(), 95, 3).expect("readable");
        assert_eq!(check(&some).iter().map(|record| record.seq).collect::<Vec<_>>(), [95, 96, 97]);
    }

    #[test]
    fn what_a_crash_left_is_cut_wherever_it_was_and_said() {
        let dir = tempfile::tempdir().expect("a folder");
        Log::open(dir.path(), Limits::default())
            .expect("made")
            .append(&[done("a"), done("b")])
            .expect("written");
        let (_, path) = files(dir.path()).expect("readable").remove(0);
        let whole = fs::read(&path).expect("there");
        for torn in [whole.len() - 1, whole.len() - 50, 0, 5] {
            fs::write(&path, &whole[..torn]).expect("cut");
            let mut log = Log::open(dir.path(), Limits::default()).expect("opened");
            log.append(&[done("c")]).expect("written");
            let records = check(&read(dir.path(), 0, 99).expect("readable"));
            let actions: Vec<_> = records.iter().map(|record| record.action.as_str()).collect();
            let expected: &[&str] = if torn > 8 { &["a", "audit.torn", "c"] } else { &["c"] };
            assert_eq!(actions, expected, "{torn}");
        }
    }

    #[test]
    fn a_changed_record_shows() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut log = Log::open(dir.path(), Limits::default()).expect("made");
        log.append(&[done("a"), done("b")]).expect("written");
        let entries = read(dir.path(), 0, 9).expect("readable");
        let mut forged = AuditRecord::decode(entries[0].record.as_slice()).expect("a record");
        forged.action = "z".into();
        let next = AuditRecord::decode(entries[1].record.as_slice()).expect("a record");
        assert_ne!(next.previous_hash, digest(&forged.encode_to_vec()));
    }
}

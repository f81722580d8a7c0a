//! The append-only file that makes a transaction durable.
//!
//! ```text
//! file    "mstrjrn\n", format u32 (1), revision before the first record u64
//! frame   "MJ1\n", payload length u32, CRC32C of payload u32, CRC32C of these 12 bytes u32, payload
//! payload transactions: revision u64, operations u32, then per operation: 1 put | 2 delete u8,
//!         key length u32, key [, value length u32, value]
//! ```
//! All numbers little endian. One frame is one batch: one write, one fdatasync. So only the last frame can be
//! torn, and only when nobody was told that it is durable; damage before a whole frame is never cut but
//! reported.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use bytes::{Buf as _, Bytes};

use super::{OpenError, Revision, Txn};
use crate::disk::{Disk, LogFile};

const MAGIC: &[u8; 8] = b"mstrjrn\n";
const FORMAT: u32 = 1;
const FILE_HEADER: usize = 20;
const FRAME_MAGIC: &[u8; 4] = b"MJ1\n";
const FRAME_HEADER: usize = 16;

/// A journal open for appending.
#[derive(Debug)]
pub(super) struct Journal {
    file: Box<dyn LogFile>,
    /// Bytes that are whole and durable.
    len: u64,
    /// What lies past `len` is unknown: it is cut before anything is written again.
    torn: bool,
}

impl Journal {
    /// Makes a new one at `path`, durable before it returns.
    pub(super) fn create(disk: &dyn Disk, path: &Path, base: Revision) -> io::Result<Self> {
        let file = disk.open(path)?;
        let mut header = Vec::with_capacity(FILE_HEADER);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&FORMAT.to_le_bytes());
        header.extend_from_slice(&base.to_le_bytes());
        file.set_len(0)?;
        file.write_all_at(&header, 0)?;
        file.sync_data()?;
        disk.sync_folder(path.parent().unwrap_or(path))?;
        Ok(Self { file, len: FILE_HEADER as u64, torn: false })
    }

    /// Opens the one at `path` after [`read`] said that `len` bytes of it are whole; cuts the rest.
    pub(super) fn append_to(disk: &dyn Disk, path: &Path, len: u64) -> io::Result<Self> {
        let file = disk.open(path)?;
        let mut journal = Self { file, len, torn: true };
        journal.cut()?;
        Ok(journal)
    }

    /// Appends one batch and returns once it is durable. After an error nothing of it counts, and the next
    /// one may succeed: a full disk needs no restart.
    pub(super) fn append(&mut self, payload: &[u8]) -> io::Result<()> {
        if self.torn {
            self.cut()?;
        }
        let frame = frame(payload)?;
        let written = self.file.write_all_at(&frame, self.len).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // A failed sync may have dropped the pages: nothing of the frame may stay.
            self.torn = true;
            if let Err(error) = self.cut() {
                tracing::warn!(error = %error, "a torn journal is cut before the next change");
            }
            return Err(error);
        }
        self.len += frame.len() as u64;
        Ok(())
    }

    /// Brings the file back to its last whole frame.
    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.len)?;
        self.file.sync_data()?;
        self.torn = false;
        Ok(())
    }

    pub(super) const fn len(&self) -> u64 {
        self.len
    }
}

/// What a journal holds.
#[derive(Debug)]
pub(super) struct Contents {
    /// Revision before its first transaction.
    pub(super) base: Revision,
    pub(super) txns: Vec<(Revision, Txn)>,
    /// Bytes that are whole; the file may be longer by a torn tail.
    pub(super) whole: u64,
    pub(super) torn: u64,
}

/// Reads the journal at `path`. None when it is so short that it was never finished: it holds nothing.
pub(super) fn read(path: &Path) -> Result<Option<Contents>, OpenError> {
    let bytes = std::fs::read(path).map_err(|error| OpenError::io("cannot read", path, error))?;
    if bytes.len() < FILE_HEADER {
        return Ok(None);
    }
    let damaged = |offset: usize| OpenError::Damaged { path: path.to_owned(), offset: offset as u64 };
    let mut header = &bytes[8..FILE_HEADER];
    if &bytes[..8] != MAGIC {
        return Err(damaged(0));
    }
    let format = header.get_u32_le();
    if format != FORMAT {
        return Err(OpenError::Format { path: path.to_owned(), found: format, known: FORMAT });
    }
    let base = header.get_u64_le();
    let bytes = Bytes::from(bytes);
    let (mut at, mut txns, mut last) = (FILE_HEADER, Vec::new(), base);
    while at < bytes.len() {
        let Some(batch) = frame_at(&bytes, at) else { break };
        let mut batch_txns = decode(batch.clone()).ok_or_else(|| damaged(at))?;
        if batch_txns.first().is_none_or(|(revision, _)| *revision <= last) {
            return Err(damaged(at));
        }
        last = batch_txns.last().map_or(last, |(revision, _)| *revision);
        txns.append(&mut batch_txns);
        at += FRAME_HEADER + batch.len();
    }
    if (at + 1..bytes.len()).any(|later| bytes[later] == FRAME_MAGIC[0] && frame_at(&bytes, later).is_some())
    {
        return Err(damaged(at));
    }
    Ok(Some(Contents { base, txns, whole: at as u64, torn: (bytes.len() - at) as u64 }))
}

/// The payload of the frame at `at`, when it is whole.
fn frame_at(bytes: &Bytes, at: usize) -> Option<Bytes> {
    let header = bytes.get(at..at + FRAME_HEADER)?;
    let (magic, mut numbers) = header.split_at(4);
    let (length, payload_crc, header_crc) =
        (numbers.get_u32_le(), numbers.get_u32_le(), numbers.get_u32_le());
    if magic != FRAME_MAGIC || crc32c::crc32c(&header[..12]) != header_crc {
        return None;
    }
    let start = at + FRAME_HEADER;
    let end = start.checked_add(length as usize)?;
    let payload = bytes.get(start..end)?;
    (crc32c::crc32c(payload) == payload_crc).then(|| bytes.slice(start..end))
}

fn frame(payload: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(payload.len()).map_err(|_| io::Error::other("a batch of 4 GiB or more"))?;
    let mut frame = Vec::with_capacity(FRAME_HEADER + payload.len());
    frame.extend_from_slice(FRAME_MAGIC);
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    let header_crc = crc32c::crc32c(&frame);
    frame.extend_from_slice(&header_crc.to_le_bytes());
    frame.extend_from_slice(payload);
    Ok(frame)
}

/// Adds a transaction to the payload of a batch.
pub(super) fn encode(payload: &mut Vec<u8>, revision: Revision, txn: &Txn) {
    let count = txn.puts.len() + txn.deletes.len();
    payload.extend_from_slice(&revision.to_le_bytes());
    payload.extend_from_slice(&length(count).to_le_bytes());
    for (key, value) in &txn.puts {
        payload.push(1);
        payload.extend_from_slice(&length(key.len()).to_le_bytes());
        payload.extend_from_slice(key.as_bytes());
        payload.extend_from_slice(&length(value.len()).to_le_bytes());
        payload.extend_from_slice(value);
    }
    for key in &txn.deletes {
        payload.push(2);
        payload.extend_from_slice(&length(key.len()).to_le_bytes());
        payload.extend_from_slice(key.as_bytes());
    }
}

/// Lengths past 4 GiB saturate; [`frame`] then refuses the batch, which is longer still.
fn length(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

fn decode(mut payload: Bytes) -> Option<Vec<(Revision, Txn)>> {
    let mut txns = Vec::new();
    while payload.has_remaining() {
        let revision = payload.try_get_u64_le().ok()?;
        let mut txn = Txn::new();
        for _ in 0..payload.try_get_u32_le().ok()? {
            let kind = payload.try_get_u8().ok()?;
            let key = String::from_utf8(take(&mut payload)?.to_vec()).ok()?;
            match kind {
                1 => txn.put(key, take(&mut payload)?),
                2 => txn.delete(key),
                _ => return None,
            };
        }
        txns.push((revision, txn));
    }
    Some(txns)
}

fn take(payload: &mut Bytes) -> Option<Bytes> {
    let length = payload.try_get_u32_le().ok()? as usize;
    (length <= payload.len()).then(|| payload.split_to(length))
}

/// The journal whose first transaction comes after `base`.
pub(super) fn path(folder: &Path, base: Revision) -> PathBuf {
    folder.join(format!("journal-{base:020}"))
}

/// A new name in a folder is durable only after this.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::disk::{
        RealDisk,
        faulty::{Faults, FaultyDisk},
    };

    fn txn(key: &str) -> Txn {
        let mut txn = Txn::new();
        txn.put(key, key.as_bytes().to_vec()).delete("gone");
        txn
    }

    fn journal_of(dir: &Path, revisions: std::ops::RangeInclusive<u64>) -> PathBuf {
        let path = path(dir, 0);
        let mut journal = Journal::create(&RealDisk, &path, 0).expect("a journal");
        for revision in revisions {
            let mut payload = Vec::new();
            encode(&mut payload, revision, &txn(&format!("key-{revision}")));
            journal.append(&payload).expect("appended");
        }
        path
    }

    #[test]
    fn what_was_appended_is_read_and_a_torn_tail_is_cut_wherever_it_tears() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = journal_of(dir.path(), 1..=3);
        let whole = std::fs::read(&path).expect("bytes");
        let two = read(&journal_of(dir.path(), 1..=2)).expect("readable").expect("whole").whole as usize;
        for cut in two + 1..whole.len() {
            std::fs::write(&path, &whole[..cut]).expect("written");
            let contents = read(&path).expect("readable").expect("not empty");
            assert_eq!(contents.txns.len(), 2, "cut at {cut}");
            assert_eq!((contents.whole, contents.torn), (two as u64, (cut - two) as u64));
        }
        let mut journal = Journal::append_to(&RealDisk, &path, two as u64).expect("opened");
        let mut payload = Vec::new();
        encode(&mut payload, 9, &txn("after"));
        journal.append(&payload).expect("appended");
        let contents = read(&path).expect("readable").expect("not empty");
        assert_eq!(contents.txns.iter().map(|(revision, _)| *revision).collect::<Vec<_>>(), [1, 2, 9]);
        assert_eq!(contents.txns[2].1, txn("after"));
    }

    #[test]
    fn half_a_frame_is_cut_before_the_next_one_is_written() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = path(dir.path(), 0);
        let mut journal = Journal::create(&RealDisk, &path, 0).expect("a journal");
        for revision in 1..=3 {
            // As a write that stopped half way, and could not be undone, leaves it.
            journal.file.write_all_at(b"MJ1\nhalf a frame", journal.len).expect("written");
            journal.torn = true;
            let mut payload = Vec::new();
            encode(&mut payload, revision, &txn("whole"));
            journal.append(&payload).expect("appended");
        }
        let contents = read(&path).expect("readable").expect("not empty");
        assert_eq!((contents.txns.len(), contents.torn), (3, 0));
    }

    #[test]
    fn damage_before_whole_frames_is_reported_and_never_cut() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = journal_of(dir.path(), 1..=3);
        let whole = std::fs::read(&path).expect("bytes");
        let second = FILE_HEADER + (whole.len() - FILE_HEADER) / 3;
        for at in [FILE_HEADER + 5, second + 2, second + 6, second + 13, second + 20] {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x40;
            std::fs::write(&path, &damaged).expect("written");
            let error = read(&path).expect_err("reported").to_string();
            assert!(error.contains("damaged at byte"), "byte {at}: {error}");
        }
    }

    #[derive(Debug, Clone, Copy)]
    enum Op {
        Append,
        /// Written, and then the power goes before anybody is told.
        AppendCutOff(u8),
        Kill,
        PowerCut(u8),
        Break(bool, bool),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            8 => Just(Op::Append),
            2 => any::<u8>().prop_map(Op::AppendCutOff),
            1 => Just(Op::Kill),
            2 => any::<u8>().prop_map(Op::PowerCut),
            2 => (any::<bool>(), any::<bool>()).prop_map(|(write, sync)| Op::Break(write, sync)),
            2 => Just(Op::Break(false, false)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

        #[test]
        fn a_power_cut_takes_nothing_that_was_acknowledged_and_brings_back_nothing_that_failed(
            ops in prop::collection::vec(op(), 1..60),
        ) {
            let dir = tempfile::tempdir().expect("a folder");
            let disk = FaultyDisk::default();
            let path = path(dir.path(), 0);
            let mut journal = Journal::create(&disk, &path, 0).expect("a journal");
            let mut acked: Vec<u64> = Vec::new();
            let mut revision = 0;
            for op in ops {
                let mut payload = Vec::new();
                encode(&mut payload, revision + 1, &txn("some"));
                let mut unknown = None;
                let power_cut = match op {
                    Op::Append => {
                        revision += 1;
                        if journal.append(&payload).is_ok() {
                            acked.push(revision);
                        }
                        None
                    }
                    Op::AppendCutOff(spared) => {
                        revision += 1;
                        unknown = Some(revision);
                        disk.fail(Faults::default());
                        let frame = frame(&payload).expect("small");
                        journal.file.write_all_at(&frame, journal.len).expect("written");
                        Some(spared)
                    }
                    Op::Kill => None,
                    Op::PowerCut(spared) => Some(spared),
                    Op::Break(write, sync) => {
                        disk.fail(Faults { write, sync, ..Faults::default() });
                        continue;
                    }
                };
                if let Some(spared) = power_cut {
                    disk.cut_power(dir.path(), usize::from(spared));
                }
                let contents = read(&path).expect("readable").expect("not empty");
                let found: Vec<_> = contents.txns.iter().map(|(revision, _)| *revision).collect();
                let known = found.len() - usize::from(unknown.is_some() && found.last().copied() == unknown);
                prop_assert_eq!(&found[..known], acked.as_slice());
                if power_cut.is_some() || matches!(op, Op::Kill) {
                    disk.fail(Faults::default());
                    acked = found;
                    journal = Journal::append_to(&disk, &path, contents.whole).expect("opened");
                }
            }
        }
    }
}

//! Events of one session, kept until the controller has them. Durable before anybody sees them.
//!
//! The file is a log of records, `kind:u8 length:u32le crc32c:u32le body`:
//! `1` event (`cursor:u64le` + SessionEvent), `2` acknowledged up to (`seq:u64le`), `3` base (`next_seq:u64le
//! cursor:u64le ended_attempt:u32le`), which begins a compacted file. A torn tail was never sent, so it is cut off.
//!
//! The cursor is the output offset up to which events were derived: a replay after a restart does not say them again.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use muster_proto::v1::{SessionEvent, session_event::Body};
use nix::fcntl::{FallocateFlags, fallocate};
use prost::Message as _;

use crate::room;

const HEAD: usize = 9;
/// Kept free for what a session has to say while the disk is full: some twenty events.
const RESERVE_BYTES: u64 = 16 << 10;
/// Size past which a file without unacknowledged events is begun anew.
const COMPACT_BYTES: u64 = 64 << 10;

/// The outbox of one session.
#[derive(Debug)]
pub(crate) struct Outbox {
    path: PathBuf,
    /// `None`: the disk had no room to make it.
    file: Option<File>,
    size: u64,
    /// Up to here the disk has set room aside.
    reserved: u64,
    next_seq: u64,
    cursor: u64,
    ended_attempt: u32,
    unacked: VecDeque<SessionEvent>,
}

/// An event that has no number yet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Draft {
    pub(crate) attempt: u32,
    /// Output offset it was derived from; 0: from none.
    pub(crate) cursor: u64,
    pub(crate) body: Body,
}

fn record(kind: u8, body: &[u8], out: &mut Vec<u8>) {
    out.push(kind);
    out.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(body).to_le_bytes());
    out.extend_from_slice(body);
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

impl Outbox {
    /// Opens or creates it; everything not known to be acknowledged is to be sent again.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut file = match open_file(path) {
            Ok(file) => Some(file),
            // Nothing could have been written without a file, so none is missed.
            Err(error) if room::is_full(&error) => None,
            Err(error) => return Err(error),
        };
        let mut data = Vec::new();
        if let Some(file) = &mut file {
            file.read_to_end(&mut data)?;
        }
        let mut outbox = Self {
            path: path.to_owned(),
            file,
            size: 0,
            reserved: 0,
            next_seq: 1,
            cursor: 0,
            ended_attempt: 0,
            unacked: VecDeque::new(),
        };
        let mut rest = data.as_slice();
        while let Some((kind, body, after)) = split(rest) {
            outbox.load(kind, body);
            outbox.size += (rest.len() - after.len()) as u64;
            rest = after;
        }
        if let Some(file) = &outbox.file {
            file.set_len(outbox.size)?;
        }
        outbox.reserve();
        Ok(outbox)
    }

    fn load(&mut self, kind: u8, body: &[u8]) {
        match kind {
            1 => {
                let Some(cursor) = number(body, 0) else { return };
                let Ok(event) = SessionEvent::decode(&body[8..]) else { return };
                self.next_seq = event.event_seq + 1;
                self.note(cursor, &event);
                self.unacked.push_back(event);
            }
            2 => drop(number(body, 0).map(|seq| self.forget(seq))),
            3 => {
                self.next_seq = number(body, 0).unwrap_or(1);
                self.cursor = number(body, 8).unwrap_or_default();
                let ended = body.get(16..20).and_then(|bytes| bytes.try_into().ok());
                self.ended_attempt = ended.map(u32::from_le_bytes).unwrap_or_default();
            }
            _ => {}
        }
    }

    fn note(&mut self, cursor: u64, event: &SessionEvent) {
        self.cursor = self.cursor.max(cursor);
        if matches!(event.body, Some(Body::AttemptEnded(_))) {
            self.ended_attempt = self.ended_attempt.max(event.attempt);
        }
    }

    fn forget(&mut self, seq: u64) -> bool {
        let before = self.unacked.len();
        self.unacked.retain(|event| event.event_seq > seq);
        self.unacked.len() != before
    }

    /// Highest attempt whose end was said.
    pub(crate) const fn ended_attempt(&self) -> u32 {
        self.ended_attempt
    }

    /// See the module.
    pub(crate) const fn cursor(&self) -> u64 {
        self.cursor
    }

    /// Sets room aside, so that a session can be stopped and its end be told while the disk is full. Best effort.
    fn reserve(&mut self) {
        let Some(file) = &self.file else { return };
        let wanted = self.size + RESERVE_BYTES;
        if self.reserved >= self.size + RESERVE_BYTES / 2 {
            return;
        }
        let length = nix::libc::off_t::try_from(wanted).unwrap_or_default();
        if fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, length).is_ok() {
            self.reserved = wanted;
        }
    }

    /// Numbers the drafts and lets them be seen without being durable: what is told of an attempt that never began, on
    /// a disk that takes nothing. Lost with this process, they are told again in other words: the attempt is not held.
    pub(crate) fn append_volatile(&mut self, session: &str, drafts: Vec<Draft>) {
        let (_, events) = self.number(session, drafts);
        self.take(events);
    }

    /// Numbers the drafts, in order, and makes them durable.
    pub(crate) fn append(&mut self, session: &str, drafts: Vec<Draft>) -> io::Result<()> {
        let (bytes, events) = self.number(session, drafts);
        if self.file.is_none() {
            self.file = Some(open_file(&self.path)?);
        }
        let Some(file) = &self.file else { return Err(io::ErrorKind::NotFound.into()) };
        // After a failure the next try writes over what this one left; cutting it off would give the reserve up.
        file.write_all_at(&bytes, self.size)?;
        file.sync_data()?;
        self.size += bytes.len() as u64;
        self.take(events);
        self.reserve();
        Ok(())
    }

    fn take(&mut self, events: Vec<(u64, SessionEvent)>) {
        self.next_seq += events.len() as u64;
        for (cursor, event) in events {
            self.note(cursor, &event);
            self.unacked.push_back(event);
        }
    }

    fn number(&self, session: &str, drafts: Vec<Draft>) -> (Vec<u8>, Vec<(u64, SessionEvent)>) {
        let (mut bytes, mut events) = (Vec::new(), Vec::with_capacity(drafts.len()));
        for (index, draft) in drafts.into_iter().enumerate() {
            let event = SessionEvent {
                session_id: session.to_owned(),
                attempt: draft.attempt,
                event_seq: self.next_seq + index as u64,
                at: Some(muster_proto::time::now()),
                body: Some(draft.body),
            };
            let mut body = draft.cursor.to_le_bytes().to_vec();
            body.extend_from_slice(&event.encode_to_vec());
            record(1, &body, &mut bytes);
            events.push((draft.cursor, event));
        }
        (bytes, events)
    }

    /// Events after `seq`, in order.
    pub(crate) fn after(&self, seq: u64) -> impl Iterator<Item = &SessionEvent> {
        self.unacked.iter().filter(move |event| event.event_seq > seq)
    }

    /// The controller has everything up to `seq`. Best effort on disk: an acknowledgement lost is given again.
    pub(crate) fn acked(&mut self, seq: u64) {
        if !self.forget(seq) {
            return;
        }
        let mut bytes = Vec::new();
        record(2, &seq.to_le_bytes(), &mut bytes);
        if self.file.as_ref().is_some_and(|file| file.write_all_at(&bytes, self.size).is_ok()) {
            self.size += bytes.len() as u64;
        }
        if self.unacked.is_empty() && self.size > COMPACT_BYTES {
            let _ = self.compact(); // the long file is as good
        }
    }

    /// Nobody is to hear of what was not told.
    pub(crate) fn void(&mut self) {
        self.acked(self.next_seq.saturating_sub(1));
    }

    fn compact(&mut self) -> io::Result<()> {
        let mut body = self.next_seq.to_le_bytes().to_vec();
        body.extend_from_slice(&self.cursor.to_le_bytes());
        body.extend_from_slice(&self.ended_attempt.to_le_bytes());
        let mut bytes = Vec::new();
        record(3, &body, &mut bytes);
        let temporary = self.path.with_extension("tmp");
        let mut file = File::create(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        self.file = Some(open_file(&self.path)?);
        self.size = bytes.len() as u64;
        self.reserved = 0;
        self.reserve();
        Ok(())
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// The first record of `data` and what follows it; `None` at the end or a torn tail.
fn split(data: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let head = data.get(..HEAD)?;
    let length = u32::from_le_bytes(head[1..5].try_into().ok()?) as usize;
    let body = data.get(HEAD..HEAD.checked_add(length)?)?;
    let sum = u32::from_le_bytes(head[5..9].try_into().ok()?);
    (crc32c::crc32c(body) == sum).then(|| (head[0], body, &data[HEAD + length..]))
}

#[cfg(test)]
mod tests {
    use muster_proto::v1::{AttemptEnded, InputApplied};

    use super::*;

    fn draft(seq: u64, cursor: u64) -> Draft {
        let body = Body::InputApplied(InputApplied { seq, delivered: true, reason: String::new() });
        Draft { attempt: 1, cursor, body }
    }

    fn seqs(outbox: &Outbox) -> Vec<u64> {
        outbox.after(0).map(|event| event.event_seq).collect()
    }

    #[test]
    fn events_survive_a_restart_until_they_are_acknowledged() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("events");
        let mut outbox = Outbox::open(&path).expect("new");
        outbox.append("s", vec![draft(1, 10), draft(2, 20), draft(3, 0)]).expect("written");
        outbox.acked(1);
        drop(outbox);
        let mut outbox = Outbox::open(&path).expect("opens");
        assert_eq!((seqs(&outbox), outbox.cursor()), (vec![2, 3], 20));
        let end = Draft { attempt: 4, cursor: 0, body: Body::AttemptEnded(AttemptEnded::default()) };
        outbox.append("s", vec![end]).expect("written");
        outbox.acked(4);
        outbox.compact().expect("compacted");
        drop(outbox);
        let mut outbox = Outbox::open(&path).expect("opens");
        assert!(seqs(&outbox).is_empty());
        assert_eq!((outbox.cursor(), outbox.ended_attempt()), (20, 4));
        outbox.append("s", vec![draft(5, 0)]).expect("written");
        assert_eq!(seqs(&outbox), [5]);
    }

    #[test]
    fn a_torn_tail_is_cut_off_and_its_number_used_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("events");
        let mut outbox = Outbox::open(&path).expect("new");
        outbox.append("s", vec![draft(1, 1)]).expect("written");
        let whole = outbox.size;
        outbox.append("s", vec![draft(2, 2)]).expect("written");
        let end = outbox.size;
        drop(outbox);
        let bytes = fs::read(&path).expect("there");
        for cut in whole..end {
            fs::write(&path, &bytes[..usize::try_from(cut).expect("small")]).expect("written");
            let mut outbox = Outbox::open(&path).expect("opens");
            assert_eq!(seqs(&outbox), [1]);
            outbox.append("s", vec![draft(9, 2)]).expect("written");
            assert_eq!(seqs(&Outbox::open(&path).expect("opens")), [1, 2]);
        }
    }
}

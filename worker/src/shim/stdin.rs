//! The one writer of claude's stdin: journal first, then the pipe, never blocking the loop that drains the PTY.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Write as _},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::journal::Journal;

/// Most bytes waiting for claude to read; more is refused. Workers hold messages until claude is idle, so this is
/// reached only by a worker gone wrong.
const QUEUE_BYTES: usize = 32 << 20;

pub(super) struct Stdin {
    pipe: Option<File>,
    journal: Journal,
    queue: VecDeque<Queued>,
    queued_bytes: usize,
    close_after: bool,
}

struct Queued {
    seq: u64,
    bytes: Vec<u8>,
    written: usize,
}

/// What became of an input offered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Accepted {
    /// Durable; `InputWritten` follows.
    Queued,
    /// In the pipe already.
    AlreadyWritten,
    /// Not taken.
    Refused(String),
}

pub(super) fn set_nonblocking(fd: &impl AsFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

impl Stdin {
    pub(super) fn new(pipe: OwnedFd, journal: Journal) -> io::Result<Self> {
        set_nonblocking(&pipe)?;
        let pipe = Some(File::from(pipe));
        Ok(Self { pipe, journal, queue: VecDeque::new(), queued_bytes: 0, close_after: false })
    }

    /// Inputs whose bytes are all in the pipe.
    pub(super) fn written(&self) -> Vec<u64> {
        let waits = |seq: &u64| self.queue.iter().any(|queued| queued.seq == *seq);
        self.journal.written().iter().copied().filter(|seq| !waits(seq)).collect()
    }

    /// Takes one input; durable when this returns.
    pub(super) fn accept(&mut self, seq: u64, bytes: Vec<u8>) -> Accepted {
        if seq != 0 && self.journal.contains(seq) {
            let waits = self.queue.iter().any(|queued| queued.seq == seq);
            return if waits { Accepted::Queued } else { Accepted::AlreadyWritten };
        }
        if self.pipe.is_none() || self.close_after {
            return Accepted::Refused("claude's stdin is closed".to_owned());
        }
        if self.queued_bytes + bytes.len() > QUEUE_BYTES {
            return Accepted::Refused("claude does not read its input".to_owned());
        }
        if seq != 0
            && let Err(error) = self.journal.append(seq, &bytes)
        {
            return Accepted::Refused(format!("the journal takes nothing: {error}"));
        }
        self.queued_bytes += bytes.len();
        self.queue.push_back(Queued { seq, bytes, written: 0 });
        Accepted::Queued
    }

    /// Closes the pipe once the queue is empty.
    pub(super) fn close(&mut self) {
        self.close_after = true;
        if self.queue.is_empty() {
            self.pipe = None;
        }
    }

    /// Nobody reads any more.
    pub(super) fn abandon(&mut self) {
        self.pipe = None;
        self.queue.clear();
        self.queued_bytes = 0;
    }

    /// What to poll for writability; `None` when there is nothing to write.
    pub(super) fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        if self.queue.is_empty() { None } else { self.pipe.as_ref().map(AsFd::as_fd) }
    }

    /// Writes what the pipe takes. Returns the inputs that are now wholly in it.
    pub(super) fn flush(&mut self) -> Vec<u64> {
        let mut done = Vec::new();
        while let (Some(pipe), Some(first)) = (self.pipe.as_mut(), self.queue.front_mut()) {
            match pipe.write(&first.bytes[first.written..]) {
                Ok(count) => {
                    first.written += count;
                    if first.written == first.bytes.len() {
                        self.queued_bytes -= first.bytes.len();
                        done.push(first.seq);
                        self.queue.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.abandon(), // EPIPE: claude closed it or left; its exit tells the rest
            }
        }
        if self.queue.is_empty() && self.close_after {
            self.pipe = None;
        }
        done.retain(|seq| *seq != 0);
        done
    }
}

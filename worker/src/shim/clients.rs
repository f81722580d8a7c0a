//! The workers connected to the shim: usually one, two for a moment around a restart.
//!
//! A client that does not read is dropped at [`OUT_BYTES`]: it finds everything in the files when it comes back.

use std::{
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::net::{UnixListener, UnixStream},
    },
};

use super::protocol::{FrameError, Frames, FromShim, ToShim};

const OUT_BYTES: usize = 1 << 20;
/// More connections than this are closed at once.
const MAX_CLIENTS: usize = 8;

pub(super) struct Client {
    stream: UnixStream,
    frames: Frames,
    out: Vec<u8>,
    sent: usize,
    /// The spool grew since the last `Grown`.
    grown: bool,
    pub(super) greeted: bool,
    pub(super) dead: bool,
}

impl Client {
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    pub(super) fn wants_write(&self) -> bool {
        self.sent < self.out.len() || (self.grown && self.greeted)
    }

    pub(super) fn note_growth(&mut self) {
        self.grown = true;
    }

    pub(super) fn send(&mut self, frame: &FromShim) {
        frame.encode(&mut self.out);
        if self.out.len() - self.sent > OUT_BYTES {
            self.dead = true;
        }
    }

    /// Reads what is there. The client is dead after an error or its end.
    pub(super) fn receive(&mut self) -> Vec<ToShim> {
        let mut buffer = [0; 16 << 10];
        let mut got = Vec::new();
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => self.dead = true,
                Ok(count) => {
                    self.frames.push(&buffer[..count]);
                    match self.parse(&mut got) {
                        Ok(()) => continue,
                        Err(_) => self.dead = true,
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => self.dead = true,
            }
            return got;
        }
    }

    fn parse(&mut self, got: &mut Vec<ToShim>) -> Result<(), FrameError> {
        while let Some((kind, body)) = self.frames.next_frame()? {
            got.extend(ToShim::decode(kind, body)?);
        }
        Ok(())
    }

    /// Writes what the socket takes; growth is told once, however often it happened.
    pub(super) fn flush(&mut self, spool_end: u64) {
        if self.grown && self.greeted && self.sent == self.out.len() {
            self.grown = false;
            self.send(&FromShim::Grown { spool_end });
        }
        while self.sent < self.out.len() {
            match self.stream.write(&self.out[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.dead = true;
                    return;
                }
            }
        }
        self.out.clear();
        self.sent = 0;
    }
}

/// Takes every connection that waits.
pub(super) fn accept(listener: &UnixListener, clients: &mut Vec<Client>) {
    while let Ok((stream, _)) = listener.accept() {
        if clients.len() < MAX_CLIENTS && stream.set_nonblocking(true).is_ok() {
            clients.push(Client {
                stream,
                frames: Frames::default(),
                out: Vec::new(),
                sent: 0,
                grown: false,
                greeted: false,
                dead: false,
            });
        }
    }
}

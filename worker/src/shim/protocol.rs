//! What a worker and a shim say to each other over the shim's unix socket.
//!
//! Shims outlive upgrades of the worker, so this is a published format: frames are only ever added, and either side
//! ignores a frame type it does not know. The client speaks first (`Hello`) and the shim answers `Welcome` or
//! `Refused`. No output travels here: the spool file is the truth, `Grown` only says that it is worth a look.
//!
//! ```text
//! frame   = length:u32le type:u8 body          length counts type and body, at most MAX_FRAME
//! client:   1 Hello      min:u16 max:u16
//!           2 Input      seq:u64 bytes          seq 0: not journaled, for what the worker says on its own account
//!           3 CloseStdin                        after all input before it
//!           4 Signal     number:u32             to claude and every descendant
//!           5 KillTree
//!           6 Lease      until:u64               since 2; milliseconds since boot (CLOCK_BOOTTIME)
//! shim:   129 Welcome    version:u16 child:u32 spool_end:u64 count:u32 seq:u64*   inputs written so far
//!         130 Grown      spool_end:u64          coalesced; offsets are the session's, not the file's
//!         131 InputWritten seq:u64              wholly in claude's stdin, or was before
//!         132 Exited     json                   the content of exit.json
//!         133 Refused    seq:u64 text           seq 0: the connection; else that input, which was not written
//!         134 SpoolState errno:u32              0: writing again; else claude is held until the disk takes bytes
//! ```

/// Newest version of this protocol. 1: the first. 2: leases.
pub const VERSION: u16 = 2;
/// Oldest version this build speaks.
pub const OLDEST: u16 = 1;
/// Longest frame either side accepts, in bytes: a prompt at its limit, JSON-escaped, with room.
pub const MAX_FRAME: usize = 16 << 20;

/// From a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToShim {
    /// Versions the worker speaks.
    Hello {
        /// Lowest.
        min: u16,
        /// Highest.
        max: u16,
    },
    /// Bytes for claude's stdin.
    Input {
        /// Number of the input, or 0.
        seq: u64,
        /// Whole lines.
        bytes: Vec<u8>,
    },
    /// Close claude's stdin once everything before is written.
    CloseStdin,
    /// A signal to claude and its descendants.
    Signal(u32),
    /// SIGKILL to claude and its descendants.
    KillTree,
    /// Until when claude may run. Only ever moved on; the tree is killed when it passes, whatever becomes of the worker.
    Lease {
        /// Milliseconds since boot.
        until: u64,
    },
}

/// From a shim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromShim {
    /// The connection stands.
    Welcome {
        /// Version both speak.
        version: u16,
        /// Process id of claude.
        child: u32,
        /// End of the spool.
        spool_end: u64,
        /// Numbers of the inputs in the journal.
        written: Vec<u64>,
    },
    /// The spool grew.
    Grown {
        /// Its end.
        spool_end: u64,
    },
    /// An input is in claude's stdin.
    InputWritten {
        /// Its number.
        seq: u64,
    },
    /// claude left and nothing of it runs; `exit.json` is on disk.
    Exited {
        /// Content of `exit.json`.
        json: Vec<u8>,
    },
    /// Something was not done.
    Refused {
        /// The input, or 0.
        seq: u64,
        /// Why, for people.
        text: String,
    },
    /// Whether the disk takes output.
    SpoolState {
        /// 0, or the errno of the last write.
        errno: u32,
    },
}

/// A frame that breaks the format; the connection is closed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FrameError {
    /// Longer than [`MAX_FRAME`].
    #[error("frame of {0} bytes is longer than the limit")]
    TooLong(usize),
    /// Cut short or empty.
    #[error("frame of type {0} has a malformed body")]
    Malformed(u8),
}

/// Collects bytes and yields whole frames as (type, body).
#[derive(Debug, Default)]
pub struct Frames {
    buffer: Vec<u8>,
    read: usize,
}

impl Frames {
    /// Adds received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.read > 0 {
            self.buffer.drain(..self.read);
            self.read = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame.
    ///
    /// # Errors
    /// [`FrameError`] when the peer does not speak this format.
    pub fn next_frame(&mut self) -> Result<Option<(u8, &[u8])>, FrameError> {
        let rest = &self.buffer[self.read..];
        let Some((head, tail)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*head) as usize;
        if length == 0 {
            return Err(FrameError::Malformed(0));
        }
        if length > MAX_FRAME {
            return Err(FrameError::TooLong(length));
        }
        if tail.len() < length {
            return Ok(None);
        }
        let start = self.read + 4;
        self.read = start + length;
        Ok(Some((self.buffer[start], &self.buffer[start + 1..start + length])))
    }
}

/// Reads numbers off the front of a body.
struct Body<'a> {
    kind: u8,
    rest: &'a [u8],
}

impl Body<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(FrameError::Malformed(self.kind))?;
        self.rest = rest;
        Ok(*head)
    }

    fn u16(&mut self) -> Result<u16, FrameError> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, FrameError> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, FrameError> {
        self.take().map(u64::from_le_bytes)
    }
}

/// Appends one frame to `out`: its length is known only once the body stands.
fn frame(out: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.push(kind);
    body(out);
    let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

impl ToShim {
    /// Appends this as a frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello { min, max } => frame(out, 1, |out| {
                out.extend_from_slice(&min.to_le_bytes());
                out.extend_from_slice(&max.to_le_bytes());
            }),
            Self::Input { seq, bytes } => frame(out, 2, |out| {
                out.extend_from_slice(&seq.to_le_bytes());
                out.extend_from_slice(bytes);
            }),
            Self::CloseStdin => frame(out, 3, |_| {}),
            Self::Signal(number) => frame(out, 4, |out| out.extend_from_slice(&number.to_le_bytes())),
            Self::KillTree => frame(out, 5, |_| {}),
            Self::Lease { until } => frame(out, 6, |out| out.extend_from_slice(&until.to_le_bytes())),
        }
    }

    /// Reads a frame; `None` for a type of a later version.
    ///
    /// # Errors
    /// [`FrameError::Malformed`].
    pub fn decode(kind: u8, body: &[u8]) -> Result<Option<Self>, FrameError> {
        let mut body = Body { kind, rest: body };
        Ok(Some(match kind {
            1 => Self::Hello { min: body.u16()?, max: body.u16()? },
            2 => Self::Input { seq: body.u64()?, bytes: body.rest.to_vec() },
            3 => Self::CloseStdin,
            4 => Self::Signal(body.u32()?),
            5 => Self::KillTree,
            6 => Self::Lease { until: body.u64()? },
            _ => return Ok(None),
        }))
    }
}

impl FromShim {
    /// Appends this as a frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Welcome { version, child, spool_end, written } => frame(out, 129, |out| {
                out.extend_from_slice(&version.to_le_bytes());
                out.extend_from_slice(&child.to_le_bytes());
                out.extend_from_slice(&spool_end.to_le_bytes());
                out.extend_from_slice(&u32::try_from(written.len()).unwrap_or(u32::MAX).to_le_bytes());
                for seq in written {
                    out.extend_from_slice(&seq.to_le_bytes());
                }
            }),
            Self::Grown { spool_end } => {
                frame(out, 130, |out| out.extend_from_slice(&spool_end.to_le_bytes()));
            }
            Self::InputWritten { seq } => frame(out, 131, |out| out.extend_from_slice(&seq.to_le_bytes())),
            Self::Exited { json } => frame(out, 132, |out| out.extend_from_slice(json)),
            Self::Refused { seq, text } => frame(out, 133, |out| {
                out.extend_from_slice(&seq.to_le_bytes());
                out.extend_from_slice(text.as_bytes());
            }),
            Self::SpoolState { errno } => frame(out, 134, |out| out.extend_from_slice(&errno.to_le_bytes())),
        }
    }

    /// Reads a frame; `None` for a type of a later version.
    ///
    /// # Errors
    /// [`FrameError::Malformed`].
    pub fn decode(kind: u8, body: &[u8]) -> Result<Option<Self>, FrameError> {
        let mut body = Body { kind, rest: body };
        Ok(Some(match kind {
            129 => {
                let (version, child, spool_end) = (body.u16()?, body.u32()?, body.u64()?);
                let count = body.u32()?;
                let written = (0..count).map(|_| body.u64()).collect::<Result<_, _>>()?;
                Self::Welcome { version, child, spool_end, written }
            }
            130 => Self::Grown { spool_end: body.u64()? },
            131 => Self::InputWritten { seq: body.u64()? },
            132 => Self::Exited { json: body.rest.to_vec() },
            133 => Self::Refused { seq: body.u64()?, text: String::from_utf8_lossy(body.rest).into_owned() },
            134 => Self::SpoolState { errno: body.u32()? },
            _ => return Ok(None),
        }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_frame_reads_back_whatever_the_split() {
        let to = [
            ToShim::Hello { min: 1, max: 3 },
            ToShim::Input { seq: 9, bytes: b"{}\n".to_vec() },
            ToShim::CloseStdin,
            ToShim::Signal(15),
            ToShim::KillTree,
            ToShim::Lease { until: 7 },
        ];
        let from = [
            FromShim::Welcome { version: 1, child: 77, spool_end: 5, written: vec![1, 2, 9] },
            FromShim::Grown { spool_end: u64::MAX },
            FromShim::InputWritten { seq: 4 },
            FromShim::Exited { json: b"{}".to_vec() },
            FromShim::Refused { seq: 0, text: "no".into() },
            FromShim::SpoolState { errno: 28 },
        ];
        let mut bytes = Vec::new();
        to.iter().for_each(|frame| frame.encode(&mut bytes));
        from.iter().for_each(|frame| frame.encode(&mut bytes));
        for size in [1, 3, 7, bytes.len()] {
            let (mut frames, mut got_to, mut got_from) = (Frames::default(), Vec::new(), Vec::new());
            for part in bytes.chunks(size) {
                frames.push(part);
                while let Some((kind, body)) = frames.next_frame().expect("well formed") {
                    got_to.extend(ToShim::decode(kind, body).expect("well formed"));
                    got_from.extend(FromShim::decode(kind, body).expect("well formed"));
                }
            }
            assert_eq!(got_to, to);
            assert_eq!(got_from, from);
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let mut frames = Frames::default();
            frames.push(&bytes);
            while let Ok(Some((kind, body))) = frames.next_frame() {
                let _ = ToShim::decode(kind, body);
                let _ = FromShim::decode(kind, body);
            }
        }
    }
}

//! The frame around every stored value: says what it is, in which format, and whether it is whole.
//!
//! ```text
//! byte  0..2   "mv"
//! byte  2      format of the frame, 1
//! byte  3      kind of the record (see `keys`)
//! byte  4..8   CRC32C (little endian) of byte 2, byte 3 and the payload
//! byte  8..    payload: a protobuf message, whose fields are added and never reused
//! ```

use bytes::Bytes;

const MAGIC: &[u8; 2] = b"mv";
const FORMAT: u8 = 1;
const HEADER: usize = 8;

/// What a value holds. Numbers are for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// [`crate::session::record::Fixed`]
    Fixed = 1,
    /// [`crate::session::record::State`]
    State = 2,
    /// `muster.v1.Input`
    Input = 3,
    /// [`crate::session::record::Request`]
    Request = 4,
    /// UTF-8 text.
    Result = 5,
    /// `muster.v1.Project`
    Project = 6,
    /// Eight bytes, little endian.
    Boot = 7,
    /// [`crate::fleet::maintenance::Maintenance`]
    Worker = 8,
    /// `identity::record::Access`
    Access = 9,
    /// `identity::record::Join`
    Join = 10,
    /// `identity::record::Joined`
    Joined = 11,
    /// `tasks::Record`
    Task = 12,
    /// `muster.v1.DeclaredProject`
    Declared = 13,
}

/// A value that is not what its key says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damaged {
    /// Too short, or not ours.
    #[error("it is no framed value")]
    Frame,
    /// Written by a newer muster.
    #[error("its format {0} is newer than this build")]
    Format(u8),
    /// Another record than the key promises.
    #[error("it holds a record of kind {0}")]
    Kind(u8),
    /// The bytes changed since they were written.
    #[error("its checksum does not match")]
    Checksum,
    /// The checksum holds and the message does not parse.
    #[error("its message does not parse")]
    Message,
}

/// Frames `payload`.
#[must_use]
pub fn seal(kind: Kind, payload: &[u8]) -> Bytes {
    let mut framed = Vec::with_capacity(HEADER + payload.len());
    framed.extend_from_slice(MAGIC);
    framed.extend_from_slice(&[FORMAT, kind as u8]);
    framed.extend_from_slice(&checksum(FORMAT, kind as u8, payload).to_le_bytes());
    framed.extend_from_slice(payload);
    framed.into()
}

/// The payload of a framed value.
///
/// # Errors
/// See [`Damaged`].
pub fn open(kind: Kind, framed: &[u8]) -> Result<&[u8], Damaged> {
    let Some((header, payload)) = framed.split_at_checked(HEADER) else { return Err(Damaged::Frame) };
    if &header[..2] != MAGIC {
        return Err(Damaged::Frame);
    }
    if header[2] != FORMAT {
        return Err(Damaged::Format(header[2]));
    }
    if header[3] != kind as u8 {
        return Err(Damaged::Kind(header[3]));
    }
    if header[4..] != checksum(FORMAT, kind as u8, payload).to_le_bytes() {
        return Err(Damaged::Checksum);
    }
    Ok(payload)
}

fn checksum(format: u8, kind: u8, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&[format, kind]), payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_changed_byte_is_noticed() {
        let framed = seal(Kind::State, b"some record");
        assert_eq!(open(Kind::State, &framed), Ok(&b"some record"[..]));
        assert_eq!(open(Kind::Fixed, &framed), Err(Damaged::Kind(2)));
        for at in 0..framed.len() {
            let mut changed = framed.to_vec();
            changed[at] ^= 0x10;
            assert!(open(Kind::State, &changed).is_err(), "byte {at}");
        }
        assert_eq!(open(Kind::State, b"mv"), Err(Damaged::Frame));
    }

    #[test]
    fn the_frame_is_the_published_one() {
        let framed = seal(Kind::Boot, &7u64.to_le_bytes());
        assert_eq!(&framed[..4], b"mv\x01\x07");
        assert_eq!(framed.len(), 16);
    }
}

//! The whole store at one revision, in one file: where a journal begins.
//!
//! ```text
//! "mstrsnp\n", format u32 (1), revision u64, entries u64,
//! per entry: revision u64, key length u32, key, value length u32, value;
//! CRC32C of all before it u32
//! ```
//! All numbers little endian. Written beside the old one and renamed: a snapshot is whole or absent.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
};

use bytes::{Buf as _, Bytes};

use super::{Entry, OpenError, Revision, journal::sync_parent};

const MAGIC: &[u8; 8] = b"mstrsnp\n";
const FORMAT: u32 = 1;

/// The snapshot at `revision`.
pub(super) fn path(folder: &Path, revision: Revision) -> PathBuf {
    folder.join(format!("snapshot-{revision:020}"))
}

/// Writes one, durable before it returns. `count` must be the number of `entries`.
pub(super) fn write(
    folder: &Path,
    revision: Revision,
    count: u64,
    entries: impl Iterator<Item = io::Result<(String, Entry)>>,
) -> io::Result<u64> {
    let target = path(folder, revision);
    let unfinished = target.with_extension("tmp");
    let written = fill(&unfinished, revision, count, entries);
    if written.is_err() {
        // Half a snapshot on a full disk only takes the room that is missing. If it stays, the next one
        // replaces it.
        let _ = fs::remove_file(&unfinished);
    }
    let len = written?;
    fs::rename(&unfinished, &target)?;
    sync_parent(&target)?;
    Ok(len)
}

fn fill(
    unfinished: &Path,
    revision: Revision,
    count: u64,
    entries: impl Iterator<Item = io::Result<(String, Entry)>>,
) -> io::Result<u64> {
    let mut out = Summed { out: BufWriter::new(File::create(unfinished)?), crc: 0, len: 0 };
    out.write(MAGIC)?;
    out.write(&FORMAT.to_le_bytes())?;
    out.write(&revision.to_le_bytes())?;
    out.write(&count.to_le_bytes())?;
    let mut written = 0;
    for entry in entries {
        let (key, entry) = entry?;
        out.write(&entry.revision.to_le_bytes())?;
        for part in [key.as_bytes(), &entry.value] {
            out.write(&u32::try_from(part.len()).map_err(io::Error::other)?.to_le_bytes())?;
            out.write(part)?;
        }
        written += 1;
    }
    if written != count {
        return Err(io::Error::other(format!("{written} entries instead of {count}")));
    }
    let crc = out.crc;
    out.write(&crc.to_le_bytes())?;
    let len = out.len;
    out.out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    Ok(len)
}

/// Reads one whole.
pub(super) fn read(path: &Path) -> Result<(Revision, Vec<(String, Entry)>), OpenError> {
    let bytes = fs::read(path).map_err(|error| OpenError::io("cannot read", path, error))?;
    let damaged = |offset: usize| OpenError::Damaged { path: path.to_owned(), offset: offset as u64 };
    let Some((body, mut crc)) = bytes.len().checked_sub(4).and_then(|at| bytes.split_at_checked(at)) else {
        return Err(damaged(0));
    };
    if body.len() < 28 || &body[..8] != MAGIC {
        return Err(damaged(0));
    }
    let format = (&body[8..12]).get_u32_le();
    if format != FORMAT {
        return Err(OpenError::Format { path: path.to_owned(), found: format, known: FORMAT });
    }
    if crc.get_u32_le() != crc32c::crc32c(body) {
        return Err(damaged(body.len()));
    }
    let len = body.len();
    let mut body = Bytes::from(bytes).slice(12..len);
    let (revision, count) = (body.get_u64_le(), body.get_u64_le());
    let mut entries = Vec::new();
    for _ in 0..count {
        let at = len - body.len();
        entries.push(entry(&mut body).ok_or_else(|| damaged(at))?);
    }
    Ok((revision, entries))
}

fn entry(body: &mut Bytes) -> Option<(String, Entry)> {
    let revision = body.try_get_u64_le().ok()?;
    let mut part = || {
        let length = body.try_get_u32_le().ok()? as usize;
        (length <= body.len()).then(|| body.split_to(length))
    };
    let key = String::from_utf8(part()?.to_vec()).ok()?;
    Some((key, Entry { value: part()?, revision }))
}

struct Summed {
    out: BufWriter<File>,
    crc: u32,
    len: u64,
}

impl Summed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.len += bytes.len() as u64;
        self.out.write_all(bytes)
    }
}

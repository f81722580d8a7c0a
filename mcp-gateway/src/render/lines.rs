//! Cuts a stream of bytes into lines that know where they are.
//!
//! Invariant: the offsets of lines are contiguous, and a line longer than the bound costs no more memory than
//! the bound.

/// Longest line kept whole. A 3 MB answer of claude is one line of 3 MB; past this the rest of a line is
/// dropped and the line counts as unreadable.
pub(crate) const LINE_BYTES: usize = 16 << 20;

/// A line, without its newline.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    /// Offset of its first byte.
    pub(crate) start: u64,
    /// Offset after its newline.
    pub(crate) end: u64,
    pub(crate) bytes: &'a [u8],
    /// Bytes of it that were not kept.
    pub(crate) dropped: u64,
}

/// Collects bytes until a line is whole.
#[derive(Debug)]
pub(crate) struct Lines {
    start: u64,
    buffer: Vec<u8>,
    dropped: u64,
}

impl Lines {
    /// Begins at a byte that is the first of a line.
    pub(crate) const fn starting_at(offset: u64) -> Self {
        Self { start: offset, buffer: Vec::new(), dropped: 0 }
    }

    /// Where the line that is not whole yet begins.
    pub(crate) const fn border(&self) -> u64 {
        self.start
    }

    /// Hands each line that is whole with `bytes` to `take`, until that says no.
    /// False when it did; the rest of `bytes` is forgotten then.
    pub(crate) fn push(&mut self, mut bytes: &[u8], mut take: impl FnMut(&Line<'_>) -> bool) -> bool {
        while let Some(at) = bytes.iter().position(|byte| *byte == b'\n') {
            self.keep(&bytes[..at]);
            bytes = &bytes[at + 1..];
            if !self.emit(1, &mut take) {
                return false;
            }
        }
        self.keep(bytes);
        true
    }

    /// Hands on what is left when no more will come.
    pub(crate) fn finish(&mut self, mut take: impl FnMut(&Line<'_>) -> bool) {
        if !self.buffer.is_empty() {
            self.emit(0, &mut take);
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = LINE_BYTES - self.buffer.len();
        let kept = &bytes[..bytes.len().min(room)];
        self.buffer.extend_from_slice(kept);
        self.dropped += (bytes.len() - kept.len()) as u64;
    }

    fn emit(&mut self, newline: u64, take: &mut impl FnMut(&Line<'_>) -> bool) -> bool {
        let end = self.start + self.buffer.len() as u64 + self.dropped + newline;
        let more = take(&Line { start: self.start, end, bytes: &self.buffer, dropped: self.dropped });
        self.start = end;
        self.buffer.clear();
        self.dropped = 0;
        more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_contiguous_however_the_bytes_arrive() {
        let text = b"one\n\nthree\nrest";
        for size in 1..text.len() {
            let mut lines = Lines::starting_at(100);
            let mut seen = Vec::new();
            for chunk in text.chunks(size) {
                lines.push(chunk, |line| {
                    seen.push((line.start, line.end, String::from_utf8_lossy(line.bytes).into_owned()));
                    true
                });
            }
            assert_eq!(lines.border(), 111);
            lines.finish(|line| {
                seen.push((line.start, line.end, String::from_utf8_lossy(line.bytes).into_owned()));
                true
            });
            assert_eq!(
                seen,
                [
                    (100, 104, "one".to_owned()),
                    (104, 105, String::new()),
                    (105, 111, "three".to_owned()),
                    (111, 115, "rest".to_owned())
                ]
            );
        }
    }

    #[test]
    fn a_line_past_the_bound_is_counted_and_not_kept() {
        let mut lines = Lines::starting_at(0);
        let chunk = vec![b'x'; LINE_BYTES / 2 + 1];
        assert!(lines.push(&chunk, |_| true) && lines.push(&chunk, |_| true));
        let mut seen = Vec::new();
        lines.push(b"\n", |line| {
            seen.push((line.end, line.bytes.len(), line.dropped));
            true
        });
        assert_eq!(seen, [(LINE_BYTES as u64 + 3, LINE_BYTES, 2)]);
    }
}

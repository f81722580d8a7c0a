//! Cuts a byte stream into lines and knows where each one begins and ends.

/// Longest line kept, in bytes: an answer of claude is one line, twice. What is longer is skipped, not cut.
pub const LINE_BYTES: usize = 64 << 20;

/// A splitter. Feed it contiguous bytes; the offset of the first is given at the start.
#[derive(Debug)]
pub struct Lines {
    partial: Vec<u8>,
    /// Offset of the line being collected.
    start: u64,
    /// Offset of the next byte.
    next: u64,
}

/// One line without its newline.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    /// Offset of its first byte.
    pub start: u64,
    /// Offset after its newline.
    pub end: u64,
    /// `None`: longer than [`LINE_BYTES`].
    pub bytes: Option<Vec<u8>>,
}

impl Lines {
    /// One whose next byte has this offset.
    #[must_use]
    pub const fn new(offset: u64) -> Self {
        Self { partial: Vec::new(), start: offset, next: offset }
    }

    /// Adds bytes and returns the lines they complete.
    pub fn push(&mut self, mut bytes: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        while let Some(position) = bytes.iter().position(|byte| *byte == b'\n') {
            self.keep(&bytes[..position]);
            let whole = self.next - self.start == self.partial.len() as u64;
            self.next += 1;
            let text = std::mem::take(&mut self.partial);
            lines.push(Line { start: self.start, end: self.next, bytes: whole.then_some(text) });
            self.start = self.next;
            bytes = &bytes[position + 1..];
        }
        self.keep(bytes);
        lines
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.next += bytes.len() as u64;
        if self.next - self.start <= LINE_BYTES as u64 {
            self.partial.extend_from_slice(bytes);
        } else {
            self.partial = Vec::new(); // its length no longer fits: the line counts as skipped
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_know_their_offsets() {
        let mut lines = Lines::new(100);
        assert_eq!(lines.push(b"ab"), []);
        let got = lines.push(b"c\n\nd\ne");
        let expected = [(100, 104, "abc"), (104, 105, ""), (105, 107, "d")];
        assert_eq!(got.len(), 3);
        for (line, (start, end, text)) in got.iter().zip(expected) {
            assert_eq!((line.start, line.end, line.bytes.as_deref()), (start, end, Some(text.as_bytes())));
        }
    }

    #[test]
    fn a_line_past_the_limit_is_skipped_and_the_next_is_read() {
        let mut lines = Lines::new(0);
        let block = vec![b'x'; 1 << 20];
        for _ in 0..65 {
            assert!(lines.push(&block).is_empty());
        }
        let got = lines.push(b"\nnext\n");
        assert_eq!((got[0].end, &got[0].bytes), ((65 << 20) + 1, &None));
        assert_eq!(got[1].bytes.as_deref(), Some(&b"next"[..]));
    }
}

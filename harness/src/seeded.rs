//! Bytes that look random and are the same on every machine: what a scripted claude writes, a test can
//! compute again.

/// An endless pseudo-random stream (xorshift64*), fixed for ever by its seed.
#[derive(Debug, Clone)]
pub struct SeededBytes {
    state: u64,
}

impl SeededBytes {
    /// The stream of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        // A zero state would stay zero.
        Self { state: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1 }
    }

    /// Fills `buffer` with the next bytes.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            self.state ^= self.state >> 12;
            self.state ^= self.state << 25;
            self.state ^= self.state >> 27;
            let word = self.state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }

    /// The first `count` bytes of this seed's stream.
    #[must_use]
    pub fn take(seed: u64, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        Self::new(seed).fill(&mut bytes);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::SeededBytes;

    #[test]
    fn a_seed_gives_the_same_bytes_however_they_are_read() {
        let whole = SeededBytes::take(7, 4096);
        let mut stream = SeededBytes::new(7);
        let mut halves = vec![0; 4096];
        stream.fill(&mut halves[..2048]);
        stream.fill(&mut halves[2048..]);
        assert_eq!(whole, halves);
        assert_ne!(whole, SeededBytes::take(8, 4096));
    }
}

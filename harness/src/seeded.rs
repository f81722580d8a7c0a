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
        let (words, rest) = buffer.as_chunks_mut::<8>();
        for word in words {
            *word = self.word();
        }
        let last = rest.len();
        if last > 0 {
            rest.copy_from_slice(&self.word()[..last]);
        }
    }

    fn word(&mut self) -> [u8; 8] {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes()
    }

    /// The first `count` bytes of this seed's stream.
    #[must_use]
    pub fn take(seed: u64, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        Self::new(seed).fill(&mut bytes);
        bytes
    }
}

/// Choices that look random and are the same for the same seed.
#[derive(Debug, Clone)]
pub struct Dice {
    stream: SeededBytes,
}

impl Dice {
    /// Those of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { stream: SeededBytes::new(seed) }
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        let mut word = [0; 8];
        self.stream.fill(&mut word);
        u64::from_le_bytes(word)
    }

    /// 0 to `bound` - 1; 0 for a bound of 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.any() % bound.max(1)
    }

    /// True so many times of a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of `choices`.
    ///
    /// # Panics
    /// When there is none.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        let index = usize::try_from(self.below(choices.len() as u64)).unwrap_or(0);
        &choices[index]
    }
}

/// Sizes of the writes in which a scripted claude says `count` seeded bytes: 1 byte to 1 MiB, any magnitude as
/// likely as another.
#[derive(Debug)]
pub struct Pieces {
    dice: Dice,
    left: u64,
}

impl Pieces {
    /// Those of this seed.
    #[must_use]
    pub fn new(seed: u64, count: u64) -> Self {
        Self { dice: Dice::new(seed ^ 0x5EED), left: count }
    }
}

impl Iterator for Pieces {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.left == 0 {
            return None;
        }
        let magnitude = 1 << self.dice.below(21);
        let piece = (1 + self.dice.below(magnitude)).min(self.left);
        self.left -= piece;
        usize::try_from(piece).ok()
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

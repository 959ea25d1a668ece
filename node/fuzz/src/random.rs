//! Chance from a seed, the same everywhere.

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Seeded by what `bytes` are (FNV-1a).
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        }))
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 where that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.draw() % end.max(1) as u64) as usize
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len()))
    }

    /// `bytes` in pieces of up to `longest`.
    pub fn cut<'a>(&mut self, mut bytes: &'a [u8], longest: usize) -> Vec<&'a [u8]> {
        let mut pieces = Vec::new();
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at((1 + self.below(longest)).min(bytes.len()));
            pieces.push(piece);
            bytes = rest;
        }
        pieces
    }

    /// `input` changed in one to four places; `others` lend pieces, `words` are put in.
    #[must_use]
    pub fn mutated(&mut self, input: &[u8], others: &[Vec<u8>], words: &[&[u8]]) -> Vec<u8> {
        let mut bytes = input.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            let end = at + self.below((bytes.len() - at).min(64) + 1);
            match self.below(9) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 if at < bytes.len() => bytes[at] = self.draw() as u8,
                2 => drop(bytes.drain(at..end)),
                3 => {
                    let again = bytes[at..end].to_vec();
                    insert(&mut bytes, at, &again);
                }
                4 => {
                    let other = self.pick(others).map_or(&[][..], Vec::as_slice);
                    let from = self.below(other.len() + 1);
                    let len = self.below((other.len() - from).min(256) + 1);
                    insert(&mut bytes, at, &other[from..from + len]);
                }
                5 => {
                    let noise: Vec<u8> = (0..self.below(12)).map(|_| self.draw() as u8).collect();
                    insert(&mut bytes, at, &noise);
                }
                // Rarely a lot of one thing: limits are met by repetition.
                6 if self.below(12) == 0 => {
                    let word = self.pick(words).copied().unwrap_or(b"x");
                    let many = word.repeat(self.below(1 + 3000 / word.len().max(1)));
                    insert(&mut bytes, at, &many);
                }
                _ => {
                    let word = self.pick(words).copied().unwrap_or_default();
                    insert(&mut bytes, at, word);
                }
            }
        }
        bytes
    }
}

fn insert(bytes: &mut Vec<u8>, at: usize, more: &[u8]) {
    bytes.splice(at..at, more.iter().copied());
}

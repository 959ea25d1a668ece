//! Choices that bytes make: the input of a target read as a list of decisions.

/// Reads decisions from the front. Bytes that are not there count as 0, so every input is one.
pub struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        let wide = u64::from(self.byte());
        let number = if end > 256 {
            wide << 16 | u64::from(self.byte()) << 8 | u64::from(self.byte())
        } else {
            wide
        };
        number % end
    }

    /// Up to `count` bytes as they are.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    /// What no decision was read from.
    #[must_use]
    pub fn rest(self) -> &'a [u8] {
        self.0
    }
}

//! Identifiers that are never used twice.

use std::fmt;
use std::str::FromStr;

use crate::Timestamp;

/// A cluster member. The number is the log index of the entry that allocated it, so it is
/// never given to another member, however often nodes come and go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A message accepted by the cluster: 48 bits of milliseconds, then 80 random bits (the layout
/// of a ULID). Sorts by time; written as 26 characters of Crockford's base 32.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub u128);

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

impl MessageId {
    /// An id for a message that began to arrive `at`; `random` must come from a
    /// cryptographic source, since two nodes draw ids without asking each other.
    #[must_use]
    pub fn new(at: Timestamp, random: u128) -> Self {
        Self((u128::from(at.0) << 80) | (random & ((1 << 80) - 1)))
    }

    /// When the message began to arrive, by the clock of the node that received it.
    #[must_use]
    pub fn at(self) -> Timestamp {
        Timestamp((self.0 >> 80) as u64)
    }

    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// `None` unless `bytes` is 16 long.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(u128::from_be_bytes(bytes.try_into().ok()?)))
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0u8; 26];
        let mut rest = self.0;
        for place in text.iter_mut().rev() {
            *place = ALPHABET[(rest & 31) as usize];
            rest >>= 5;
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not 26 characters of Crockford's base 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a message id: 26 characters of 0-9 and A-Z without I, L, O and U are expected")]
pub struct NotAMessageId;

impl FromStr for MessageId {
    type Err = NotAMessageId;

    fn from_str(text: &str) -> Result<Self, NotAMessageId> {
        // 26 characters hold 130 bits: the first may carry only three of its five.
        if text.len() != 26 || text.as_bytes()[0] > b'7' {
            return Err(NotAMessageId);
        }
        text.bytes()
            .try_fold(0u128, |sum, byte| {
                let digit = ALPHABET
                    .iter()
                    .position(|letter| *letter == byte.to_ascii_uppercase())
                    .ok_or(NotAMessageId)?;
                Ok((sum << 5) | digit as u128)
            })
            .map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_back_as_written_and_tells_its_time() {
        let id = MessageId::new(Timestamp(1_795_400_000_123), u128::MAX);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.at(), Timestamp(1_795_400_000_123));
        assert_eq!(id.to_string().len(), 26);
    }

    #[test]
    fn what_is_not_an_id_is_refused() {
        for text in [
            "",
            "0",
            "8ZZZZZZZZZZZZZZZZZZZZZZZZZ",
            "0123456789ABCDEFGHJKMNPQRU",
        ] {
            assert_eq!(text.parse::<MessageId>(), Err(NotAMessageId), "{text}");
        }
    }
}

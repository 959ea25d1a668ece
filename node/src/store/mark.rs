//! The high-water mark: the last log index known to be durable, in a file of its own.
//!
//! A database recovered after bit-rot may be shorter than what this node acknowledged, without
//! a word. The mark is written after the entries it speaks of, so a log that ends before it has
//! lost some, and the node must not vote.

use std::io;

use super::place::MarkFile;

/// Two slots, written in turn, each in a sector of its own: a torn write spoils one at most.
const SLOT_BYTES: u64 = 4096;

pub(super) struct Mark {
    file: MarkFile,
    /// Grows with every write; the slot with the larger valid one counts.
    turn: u64,
    index: u64,
}

impl Mark {
    pub(super) fn open(file: MarkFile) -> Self {
        let slots = [read_slot(&file, 0), read_slot(&file, 1)];
        let (turn, index) = slots.into_iter().flatten().max().unwrap_or((0, 0));
        Self { file, turn, index }
    }

    /// The last index that was durable, 0 for none.
    pub(super) fn index(&self) -> u64 {
        self.index
    }

    /// Records `index`, durably.
    pub(super) fn set(&mut self, index: u64) -> io::Result<()> {
        self.turn += 1;
        let mut slot = [0; 48];
        slot[..8].copy_from_slice(&self.turn.to_be_bytes());
        slot[8..16].copy_from_slice(&index.to_be_bytes());
        let digest = blake3::hash(&slot[..16]);
        slot[16..].copy_from_slice(digest.as_bytes());
        self.file.write_all_at(&slot, self.turn % 2 * SLOT_BYTES)?;
        self.index = index;
        Ok(())
    }
}

fn read_slot(file: &MarkFile, slot: u64) -> Option<(u64, u64)> {
    let mut bytes = [0; 48];
    file.read_exact_at(&mut bytes, slot * SLOT_BYTES).ok()?;
    if blake3::hash(&bytes[..16]).as_bytes()[..] != bytes[16..] {
        return None;
    }
    let number = |at: usize| Some(u64::from_be_bytes(bytes[at..at + 8].try_into().ok()?));
    Some((number(0)?, number(8)?))
}

//! The high-water mark: the last log index known to be durable, in a file of its own.
//!
//! A database recovered after bit-rot may be shorter than what this node acknowledged, without
//! a word. The mark is written after the entries it speaks of, so a log that ends before it has
//! lost some, and the node must not vote. It is made before the database, so one that is not
//! there, or cannot be read, beside a database was lost, and what it said with it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Two slots, written in turn, each in a sector of its own: a torn write spoils one at most.
const SLOT_BYTES: u64 = 4096;

pub(super) struct Mark {
    file: File,
    /// Grows with every write; the slot with the larger valid one counts.
    turn: u64,
    index: u64,
}

impl Mark {
    /// Opens the mark of a database that is there, or makes the one of a database to come.
    /// `None`: it was lost.
    pub(super) fn open(path: &Path, database_there: bool) -> io::Result<Option<Self>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(!database_there)
            .truncate(false)
            .open(path);
        let file = match file {
            Err(error) if database_there && error.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            other => other?,
        };
        let slots = [read_slot(&file, 0), read_slot(&file, 1)];
        match slots.into_iter().flatten().max() {
            Some((turn, index)) => Ok(Some(Self { file, turn, index })),
            None if database_there => Ok(None),
            None => {
                let mut mark = Self {
                    file,
                    turn: 0,
                    index: 0,
                };
                mark.set(0)?;
                if let Some(dir) = path.parent() {
                    File::open(dir)?.sync_all()?;
                }
                Ok(Some(mark))
            }
        }
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
        self.file.sync_data()?;
        self.index = index;
        Ok(())
    }
}

fn read_slot(file: &File, slot: u64) -> Option<(u64, u64)> {
    let mut bytes = [0; 48];
    file.read_exact_at(&mut bytes, slot * SLOT_BYTES).ok()?;
    if blake3::hash(&bytes[..16]).as_bytes()[..] != bytes[16..] {
        return None;
    }
    let number = |at: usize| Some(u64::from_be_bytes(bytes[at..at + 8].try_into().ok()?));
    Some((number(0)?, number(8)?))
}

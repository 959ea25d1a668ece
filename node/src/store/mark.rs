//! The high-water mark: how far this database is known to be durable, in a file of its own.
//!
//! A database recovered after bit-rot may hold less than what this node acknowledged, without a
//! word: a write-ahead log without its tail, or a manifest whose tail is zeros, and with it the
//! last files that it named. The
//! mark is written after the writes it speaks of, so a database that ends before it has lost
//! some, be they entries or a vote, and the node must not vote. It is made before the database,
//! so one that is not there, or cannot be read, beside a database was lost, and what it said with
//! it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Two slots, written in turn, each in a sector of its own: a torn write spoils one at most.
const SLOT_BYTES: u64 = 4096;

/// Four numbers, the digest of the manifest, and that of the slot itself.
const NUMBERS: usize = 4;
const DIGEST_BYTES: usize = 32;
const DIGEST_AT: usize = NUMBERS * 8 + DIGEST_BYTES;

pub(super) struct Mark {
    file: File,
    /// Grows with every write; the slot with the larger valid one counts.
    turn: u64,
    reached: Reached,
}

/// How far a database is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reached {
    /// RocksDB's number of the last write; it never goes back.
    pub(super) write: u64,
    pub(super) manifest: Manifest,
}

/// The file that names RocksDB's others: which one it is, how much of it is durable, in bytes, and
/// the BLAKE3 of that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Manifest {
    number: u64,
    bytes: u64,
    digest: [u8; DIGEST_BYTES],
}

impl Manifest {
    /// The one in use. `None` where there is none, or it is just being replaced.
    pub(super) fn current(dir: &Path) -> io::Result<Option<Self>> {
        let Some((number, file)) = current(dir)? else {
            return Ok(None);
        };
        let bytes = file.metadata()?.len();
        let digest = digest(&file, bytes)?;
        file.sync_data()?;
        Ok(Some(Self {
            number,
            bytes,
            digest,
        }))
    }

    /// Whether all of this still lies in `dir`. A later manifest repeats what counts.
    pub(super) fn is_held_by(&self, dir: &Path) -> io::Result<bool> {
        let Some((number, file)) = current(dir)? else {
            return Ok(self.bytes == 0);
        };
        Ok(number > self.number
            || (number == self.number
                && file.metadata()?.len() >= self.bytes
                && digest(&file, self.bytes)? == self.digest))
    }

    /// Whether there is more in `dir` than this.
    pub(super) fn has_grown_in(&self, dir: &Path) -> io::Result<bool> {
        Ok(match current(dir)? {
            Some((number, file)) => (number, file.metadata()?.len()) != (self.number, self.bytes),
            None => false,
        })
    }
}

/// The manifest that `CURRENT` names.
fn current(dir: &Path) -> io::Result<Option<(u64, File)>> {
    let there = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Ok(None),
        _ => Err(error),
    };
    let name = match std::fs::read_to_string(dir.join("CURRENT")) {
        Ok(name) => name,
        Err(error) => return there(error),
    };
    // What names no manifest is damaged, and RocksDB does not open it either.
    let number = name.trim_end().strip_prefix("MANIFEST-");
    let Some(number) = number.and_then(|number| number.parse().ok()) else {
        return Ok(None);
    };
    match File::open(dir.join(name.trim_end())) {
        Ok(file) => Ok(Some((number, file))),
        Err(error) => there(error),
    }
}

/// BLAKE3 of the first `bytes` of a file.
fn digest(file: &File, bytes: u64) -> io::Result<[u8; DIGEST_BYTES]> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file.take(bytes))?;
    Ok(*hasher.finalize().as_bytes())
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
            Some((turn, reached)) => Ok(Some(Self {
                file,
                turn,
                reached,
            })),
            None if database_there => Ok(None),
            None => {
                let mut mark = Self {
                    file,
                    turn: 0,
                    reached: Reached::default(),
                };
                mark.set(Reached::default())?;
                if let Some(dir) = path.parent() {
                    File::open(dir)?.sync_all()?;
                }
                Ok(Some(mark))
            }
        }
    }

    pub(super) fn reached(&self) -> Reached {
        self.reached
    }

    /// Records how far the database is durable, durably.
    pub(super) fn set(&mut self, reached: Reached) -> io::Result<()> {
        self.turn += 1;
        let manifest = reached.manifest;
        let numbers = [self.turn, reached.write, manifest.number, manifest.bytes];
        let mut slot = numbers.map(u64::to_be_bytes).concat();
        slot.extend_from_slice(&manifest.digest);
        let digest = blake3::hash(&slot);
        slot.extend_from_slice(digest.as_bytes());
        self.file.write_all_at(&slot, self.turn % 2 * SLOT_BYTES)?;
        self.file.sync_data()?;
        self.reached = reached;
        Ok(())
    }
}

fn read_slot(file: &File, slot: u64) -> Option<(u64, Reached)> {
    let mut bytes = [0; DIGEST_AT + DIGEST_BYTES];
    file.read_exact_at(&mut bytes, slot * SLOT_BYTES).ok()?;
    let (content, digest) = bytes.split_at(DIGEST_AT);
    if blake3::hash(content).as_bytes()[..] != *digest {
        return None;
    }
    let number = |place: usize| -> Option<u64> {
        let at = place * 8;
        Some(u64::from_be_bytes(content[at..at + 8].try_into().ok()?))
    };
    let reached = Reached {
        write: number(1)?,
        manifest: Manifest {
            number: number(2)?,
            bytes: number(3)?,
            digest: content[NUMBERS * 8..].try_into().ok()?,
        },
    };
    Some((number(0)?, reached))
}

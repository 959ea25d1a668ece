//! A disk made of memory, for the simulation: what RocksDB and a few small files promise, and
//! how that breaks.
//!
//! ```text
//!   write ──► current (what is read)        power cut: any suffix of what was not flushed is
//!         └─► log of unflushed writes        gone, the rest is there, in the order of writes
//!   flush ──► durable                        rot: a row that was durable cannot be read
//! ```
//! A torn write is a write that is gone: RocksDB's log has a checksum for each record.
//! Handles of a life before the last power cut do nothing any more.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rocksdb::{Direction, IteratorMode};

use super::StoreError;
use super::engine::Row;
use super::ledger::STATE;
use crate::world::simulated::mix;

const META: &str = "meta";
const LOG: &str = "log";
const GENERATION: &[u8] = b"\0generation";
const APPLIED: &[u8] = b"applied";

/// Where the slots of the high-water mark begin, and how far apart they are.
const MARK_SLOT_BYTES: u64 = 4096;

/// What somebody who looks over the disk's shoulder sees.
pub(crate) enum Seen<'a> {
    /// An entry was written to the log.
    Logged { index: u64, bytes: &'a [u8] },
    /// The state is now that of this log id (as encoded), and has this hash.
    Applied { log_id: &'a [u8], state: u64 },
}

type Observer = Arc<dyn Fn(Seen<'_>) + Send + Sync>;

/// How long a flush takes, and what goes wrong.
#[derive(Clone, Debug)]
pub(crate) struct Manners {
    pub(crate) flush_min: Duration,
    pub(crate) flush_max: Duration,
    /// The next flush fails, with an I/O error.
    pub(crate) fail_flush: bool,
    /// The next write fails, with an I/O error.
    pub(crate) fail_write: bool,
    /// The power goes in the middle of the next write of the mark.
    pub(crate) tear_mark: bool,
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            flush_min: Duration::from_millis(1),
            flush_max: Duration::from_millis(8),
            fail_flush: false,
            fail_write: false,
            tear_mark: false,
        }
    }
}

/// What one store has of a disk: a database and the files beside it. As one life has it.
#[derive(Clone)]
pub(crate) struct Part {
    path: PathBuf,
    life: u64,
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    life: u64,
    current: Rows,
    durable: Rows,
    unflushed: VecDeque<Arc<Vec<Change>>>,
    /// Batches written, ever.
    written: u64,
    mark: BTreeMap<u64, Vec<u8>>,
    poisoned: Option<String>,
    manners: Manners,
    dice: u64,
    observer: Option<Observer>,
}

#[derive(Clone, Debug)]
pub(crate) enum Change {
    Put(&'static str, Vec<u8>, Bytes),
    Delete(&'static str, Vec<u8>),
    DeleteRange(&'static str, Vec<u8>, Vec<u8>),
}

#[derive(Clone, Debug)]
struct Value {
    bytes: Bytes,
    /// Its checksum does not fit any more.
    rotten: bool,
}

type Family = BTreeMap<Vec<u8>, Value>;

/// Rows as they are at one moment; cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Rows {
    families: BTreeMap<&'static str, Arc<Family>>,
    /// The sum of the hashes of all rows of state, for each generation.
    sums: BTreeMap<u8, u64>,
}

impl Change {
    pub(super) fn put(family: &'static str, key: &[u8], value: &[u8]) -> Self {
        Self::Put(family, key.to_vec(), Bytes::copy_from_slice(value))
    }

    pub(super) fn delete(family: &'static str, key: &[u8]) -> Self {
        Self::Delete(family, key.to_vec())
    }

    pub(super) fn delete_range(family: &'static str, from: &[u8], to: &[u8]) -> Self {
        Self::DeleteRange(family, from.to_vec(), to.to_vec())
    }
}

fn row_hash(key: &[u8], value: &[u8]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(key.len() as u64).to_be_bytes());
    hasher.update(key);
    hasher.update(value);
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_be_bytes(first)
}

impl Rows {
    fn family(&mut self, name: &'static str) -> &mut Family {
        Arc::make_mut(self.families.entry(name).or_default())
    }

    fn apply(&mut self, change: &Change) {
        let (family, gone): (_, Vec<(Vec<u8>, Value)>) = match change {
            Change::Put(family, key, bytes) => {
                let value = Value {
                    bytes: bytes.clone(),
                    rotten: false,
                };
                let old = self.family(family).insert(key.clone(), value);
                if *family == STATE {
                    let sum = self.sums.entry(key[0]).or_default();
                    *sum = sum.wrapping_add(row_hash(&key[1..], bytes));
                }
                (family, old.map(|old| (key.clone(), old)).into_iter().collect())
            }
            Change::Delete(family, key) => {
                let old = self.family(family).remove(key);
                (family, old.map(|old| (key.clone(), old)).into_iter().collect())
            }
            Change::DeleteRange(family, from, to) => {
                let rows = self.family(family);
                let keys: Vec<Vec<u8>> = rows
                    .range(from.clone()..to.clone())
                    .map(|(key, _)| key.clone())
                    .collect();
                let gone = keys.into_iter().filter_map(|key| rows.remove_entry(&key));
                (family, gone.collect())
            }
        };
        if *family == STATE {
            for (key, old) in gone {
                let sum = self.sums.entry(key[0]).or_default();
                *sum = sum.wrapping_sub(row_hash(&key[1..], &old.bytes));
            }
        }
    }

    pub(super) fn get(&self, family: &str, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let value = self.families.get(family).and_then(|rows| rows.get(key));
        value.map(Value::read).transpose()
    }

    pub(super) fn scan(self, family: &str, mode: IteratorMode<'_>) -> Scan {
        let rows = self.families.get(family).cloned().unwrap_or_default();
        let (next, back) = match mode {
            IteratorMode::From(from, Direction::Forward) => (Bound::Included(from.to_vec()), false),
            IteratorMode::From(from, Direction::Reverse) => (Bound::Included(from.to_vec()), true),
            IteratorMode::Start => (Bound::Unbounded, false),
            IteratorMode::End => (Bound::Unbounded, true),
        };
        Scan { rows, next, back }
    }

    fn state(&self) -> u64 {
        let generation = self.get(META, GENERATION).ok().flatten();
        let generation = generation.and_then(|bytes| bytes.first().copied());
        let sum = self.sums.get(&generation.unwrap_or(0));
        sum.copied().unwrap_or(0)
    }
}

impl Value {
    fn read(&self) -> io::Result<Vec<u8>> {
        if self.rotten {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "Corruption: block checksum mismatch",
            ));
        }
        Ok(self.bytes.to_vec())
    }
}

pub(crate) struct Scan {
    rows: Arc<Family>,
    next: Bound<Vec<u8>>,
    back: bool,
}

impl Iterator for Scan {
    type Item = io::Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        let (key, value) = if self.back {
            self.rows
                .range((Bound::Unbounded, self.next.clone()))
                .next_back()?
        } else {
            self.rows.range((self.next.clone(), Bound::Unbounded)).next()?
        };
        self.next = Bound::Excluded(key.clone());
        let row = value.read().map(|bytes| (key.clone().into(), bytes.into()));
        Some(row)
    }
}

/// An open database.
pub(crate) struct Database(Part);

fn power_is_off() -> io::Error {
    io::Error::other("the power is off")
}

fn input_output_error() -> io::Error {
    io::Error::other("IO error: Input/output error")
}

impl Part {
    pub(crate) fn new(path: &str, seed: u64) -> Self {
        Self {
            path: path.into(),
            life: 0,
            inner: Arc::new(Mutex::new(Inner {
                life: 0,
                current: Rows::default(),
                durable: Rows::default(),
                unflushed: VecDeque::new(),
                written: 0,
                mark: BTreeMap::new(),
                poisoned: None,
                manners: Manners::default(),
                dice: seed,
                observer: None,
            })),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk as this life has it; after a power cut there is another.
    fn alive(&self) -> io::Result<MutexGuard<'_, Inner>> {
        let inner = self.lock();
        if inner.life == self.life {
            Ok(inner)
        } else {
            Err(power_is_off())
        }
    }

    pub(crate) fn watch(&self, observer: Observer) {
        self.lock().observer = Some(observer);
    }

    pub(crate) fn manners(&self, change: impl FnOnce(&mut Manners)) {
        change(&mut self.lock().manners);
    }

    pub(crate) fn poisoned(&self) -> Option<String> {
        self.lock().poisoned.clone()
    }

    /// Cuts the power: of what was not flushed, some suffix is lost. Returns how many writes
    /// were, and the disk for the next life.
    pub(crate) fn cut_power(&self) -> (usize, Self) {
        let mut inner = self.lock();
        let pending = inner.unflushed.len() as u64;
        let kept = match inner.roll() % 3 {
            0 => 0,
            1 => pending,
            _ => inner.roll() % (pending + 1),
        };
        inner.make_durable(kept);
        let lost = inner.unflushed.len();
        inner.unflushed.clear();
        inner.current = inner.durable.clone();
        inner.life += 1;
        inner.manners = Manners::default();
        let life = inner.life;
        drop(inner);
        let next = Self {
            life,
            ..self.clone()
        };
        (lost, next)
    }

    /// Spoils one durable row, so that reading it fails. Says which family it was of, if there
    /// is a row to spoil.
    pub(crate) fn rot(&self, family: &'static str, choice: u64) -> Option<Vec<u8>> {
        let mut inner = self.lock();
        let count = inner.durable.families.get(family)?.len() as u64;
        let nth = usize::try_from(choice.checked_rem(count)?).ok()?;
        let key = inner.durable.families[family].keys().nth(nth)?.clone();
        let Inner {
            durable, current, ..
        } = &mut *inner;
        for rows in [durable, current] {
            if let Some(value) = rows.family(family).get_mut(&key) {
                value.rotten = true;
            }
        }
        Some(key)
    }

    /// Flips a bit of one durable row without the database noticing it.
    pub(crate) fn flip(&self, family: &'static str, choice: u64) -> Option<Vec<u8>> {
        let mut inner = self.lock();
        let count = inner.durable.families.get(family)?.len() as u64;
        let nth = usize::try_from(choice.checked_rem(count)?).ok()?;
        let (key, value) = inner.durable.families[family].iter().nth(nth)?;
        let (key, mut bytes) = (key.clone(), value.bytes.to_vec());
        let place = usize::try_from(mix(choice) % (bytes.len().max(1) as u64)).ok()?;
        *bytes.get_mut(place)? ^= 1 << (choice % 8);
        let bytes = Bytes::from(bytes);
        let Inner {
            durable, current, ..
        } = &mut *inner;
        for rows in [durable, current] {
            if let Some(value) = rows.family(family).get_mut(&key) {
                value.bytes = bytes.clone();
            }
        }
        Some(key)
    }

    /// The rows that a power cut at this moment would certainly leave.
    pub(crate) fn durable_rows(&self) -> Rows {
        self.lock().durable.clone()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn open(&self) -> Result<Database, StoreError> {
        let path = self.path.clone();
        let inner = self.alive().map_err(|error| StoreError::Io {
            path: path.clone(),
            error,
        })?;
        if let Some(why) = inner.poisoned.clone() {
            return Err(StoreError::Poisoned { path, why });
        }
        drop(inner);
        Ok(Database(self.clone()))
    }

    pub(super) fn poison(&self, why: &str) {
        if let Ok(mut inner) = self.alive() {
            inner.poisoned = Some(why.to_owned());
        }
    }

    pub(super) fn read_mark(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let inner = self.alive()?;
        let slot = inner.mark.get(&(offset / MARK_SLOT_BYTES));
        let slot = slot.filter(|slot| slot.len() == bytes.len());
        bytes.copy_from_slice(slot.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    pub(super) fn write_mark(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut inner = self.alive()?;
        let slot = offset / MARK_SLOT_BYTES;
        if std::mem::take(&mut inner.manners.tear_mark) {
            let half = bytes.len() / 2;
            let mut torn = inner.mark.remove(&slot).unwrap_or_else(|| vec![0; bytes.len()]);
            torn[..half].copy_from_slice(&bytes[..half]);
            inner.mark.insert(slot, torn);
            return Err(power_is_off());
        }
        inner.mark.insert(slot, bytes.to_vec());
        Ok(())
    }
}

impl Inner {
    fn roll(&mut self) -> u64 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.dice)
    }

    fn make_durable(&mut self, batches: u64) {
        for _ in 0..batches {
            let Some(batch) = self.unflushed.pop_front() else {
                return;
            };
            for change in &*batch {
                self.durable.apply(change);
            }
        }
    }

    /// Tells the observer what a batch brings.
    fn tell(&self, changes: &[Change]) {
        let Some(observer) = &self.observer else {
            return;
        };
        for change in changes {
            match change {
                Change::Put(LOG, key, bytes) => {
                    if let Ok(index) = key[..].try_into().map(u64::from_be_bytes) {
                        observer(Seen::Logged { index, bytes });
                    }
                }
                Change::Put(META, key, log_id) if key == APPLIED => observer(Seen::Applied {
                    log_id,
                    state: self.current.state(),
                }),
                _ => {}
            }
        }
    }
}

impl Database {
    pub(super) fn write(&self, changes: Vec<Change>) -> io::Result<()> {
        let mut inner = self.0.alive()?;
        if std::mem::take(&mut inner.manners.fail_write) {
            return Err(input_output_error());
        }
        for change in &changes {
            inner.current.apply(change);
        }
        inner.tell(&changes);
        inner.unflushed.push_back(Arc::new(changes));
        inner.written += 1;
        Ok(())
    }

    pub(super) fn flush(&self) -> io::Result<()> {
        let mut inner = self.0.alive()?;
        inner.make_durable(u64::MAX);
        Ok(())
    }

    /// A flush that takes its time, and covers what was written before it began.
    pub(super) async fn flush_slowly(&self) -> io::Result<()> {
        let (upto, wait) = {
            let mut inner = self.0.alive()?;
            let (min, max) = (inner.manners.flush_min, inner.manners.flush_max);
            let part = u32::try_from(inner.roll() % 1024).unwrap_or(0);
            (inner.written, min + max.saturating_sub(min) * part / 1024)
        };
        tokio::time::sleep(wait).await;
        let mut inner = self.0.alive()?;
        let later = inner.written - upto;
        let covered = (inner.unflushed.len() as u64).saturating_sub(later);
        if std::mem::take(&mut inner.manners.fail_flush) {
            // Which pages reached the disk before the error, nobody knows.
            let some = inner.roll() % (covered + 1);
            inner.make_durable(some);
            return Err(input_output_error());
        }
        inner.make_durable(covered);
        Ok(())
    }

    pub(super) fn rows(&self) -> Rows {
        self.0.lock().current.clone()
    }
}

//! Log, vote and state in one database with one write-ahead log.
//!
//! One log, because a crash then leaves a prefix of what was written: recovered state is never
//! ahead of the recovered log, and applying an entry needs no flush of its own.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use rocksdb::{BlockBasedOptions, Cache, ColumnFamilyDescriptor};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::engine::{Batch, Engine, Scan};
use super::flusher::Flusher;
use super::mark::Mark;
use super::place::Place;
use super::state::{StateBatch, View, row_key};
use super::{Options, StoreError, database_options};

const LOG: &str = "log";
const META: &str = "meta";
pub(super) const STATE: &str = "state";

/// Meta rows of this file's own; the caller's keys begin with anything but a NUL.
const GENERATION: &[u8] = b"\0generation";
const PURGED: &[u8] = b"\0purged";

/// How far apart two writes of the high-water mark are, at least: it costs a sync of its own.
const MARK_EVERY: Duration = Duration::from_secs(1);

/// Rows of a snapshot in one write.
const INSTALL_ROWS: usize = 1024;

/// Bytes of memory for blocks read, shared by the column families.
const CACHE_BYTES: usize = 32 << 20;

/// The ledger's database on this disk.
pub struct Store {
    // Dropped first: its thread uses the database.
    flusher: Flusher,
    db: Arc<Engine>,
    place: Place,
    options: Options,
    progress: Arc<Mutex<Progress>>,
    /// Held while a snapshot is taken and while the generation flips, so that a view never has
    /// the rows of one and the number of the other.
    generation: RwLock<u8>,
}

/// How far the log is durable, and how far the mark on disk says so.
struct Progress {
    mark: Mark,
    /// The last index that a finished flush covers.
    durable: u64,
    /// Truncations so far: an append that one overtook must not raise `durable`.
    truncations: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

impl Store {
    pub fn open(dir: &Path, options: Options) -> Result<Self, StoreError> {
        Self::open_at(Place::Directory(dir.to_owned()), options)
    }

    /// The store on a simulated disk.
    #[cfg(test)]
    pub(crate) fn open_simulated(
        part: super::simulated::Part,
        options: Options,
    ) -> Result<Self, StoreError> {
        Self::open_at(Place::Simulated(part), options)
    }

    fn open_at(place: Place, options: Options) -> Result<Self, StoreError> {
        let in_it = |error: io::Error| place.in_it(error);
        let cache = Cache::new_lru_cache(CACHE_BYTES);
        let family = |name: &str, write_buffer: usize| {
            let mut blocks = BlockBasedOptions::default();
            blocks.set_block_cache(&cache);
            blocks.set_cache_index_and_filter_blocks(true);
            blocks.set_bloom_filter(10.0, false);
            let mut family = rocksdb::Options::default();
            family.set_block_based_table_factory(&blocks);
            family.set_write_buffer_size(write_buffer);
            family.set_max_write_buffer_number(3);
            family.set_compression_type(rocksdb::DBCompressionType::Lz4);
            ColumnFamilyDescriptor::new(name, family)
        };
        let families = [
            family(LOG, 16 << 20),
            family(META, 1 << 20),
            family(STATE, 16 << 20),
        ];
        let db = Arc::new(place.open(&database_options(), families)?);
        let mark = Mark::open(place.mark().map_err(in_it)?);
        let durable = mark.index();
        let progress = Arc::new(Mutex::new(Progress {
            mark,
            durable,
            truncations: 0,
        }));
        let flusher = Flusher::start(
            "ledger-flush",
            place.clone(),
            options.clone(),
            db.clone(),
            {
                let progress = progress.clone();
                let mut last = Instant::now();
                move || {
                    if last.elapsed() < MARK_EVERY {
                        return Ok(());
                    }
                    last = Instant::now();
                    let mut progress = lock(&progress);
                    let index = progress.durable;
                    if index > progress.mark.index() {
                        progress.mark.set(index)
                    } else {
                        Ok(())
                    }
                }
            },
        )
        .map_err(in_it)?;
        let store = Self {
            flusher,
            db,
            place: place.clone(),
            options,
            progress,
            generation: RwLock::new(0),
        };
        let generation = store.meta(GENERATION).map_err(in_it)?;
        *store.generation_mut() = generation
            .and_then(|bytes| bytes.first().copied())
            .unwrap_or(0);
        let purged = store.purged().map_err(in_it)?;
        let last = store
            .log_bounds()
            .map_err(in_it)?
            .map(|(_, last)| last)
            .or(purged)
            .unwrap_or(0);
        if last < durable {
            return Err(StoreError::LogShorterThanMark {
                path: place.path().to_owned(),
                found: last,
                mark: durable,
            });
        }
        lock(&store.progress).durable = last;
        Ok(store)
    }

    fn generation(&self) -> RwLockReadGuard<'_, u8> {
        self.generation
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn generation_mut(&self) -> RwLockWriteGuard<'_, u8> {
        self.generation
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// One write, unsynced. A failure is final: what the database holds is no longer certain.
    fn write(&self, batch: Batch) -> io::Result<()> {
        self.db
            .write(batch)
            .inspect_err(|error| self.options.failed(&self.place, "a write", error))
    }

    /// Appends entries: readable on return; `done` is called once they are durable, in the
    /// order of the calls.
    pub fn append(
        &self,
        entries: Vec<(u64, impl AsRef<[u8]>)>,
        done: impl FnOnce(io::Result<()>) + Send + 'static,
    ) -> io::Result<()> {
        let log = self.db.family(LOG)?;
        let mut batch = self.db.batch();
        for (index, bytes) in &entries {
            batch.put(&log, index.to_be_bytes(), bytes);
        }
        self.write(batch)?;
        let last = entries.last().map(|(index, _)| *index);
        let progress = self.progress.clone();
        let truncations = lock(&progress).truncations;
        self.flusher.flushed(move |result| {
            if let (Ok(()), Some(last)) = (&result, last) {
                let mut progress = lock(&progress);
                if progress.truncations == truncations {
                    progress.durable = last;
                }
            }
            done(result);
        });
        Ok(())
    }

    /// Entries `start..end`, at most about `bytes_max` of them but at least one that is there.
    pub fn log_limited(
        &self,
        start: u64,
        end: u64,
        bytes_max: usize,
    ) -> io::Result<Vec<(u64, Vec<u8>)>> {
        let log = self.db.family(LOG)?;
        let first = start.to_be_bytes();
        let mut found = Vec::new();
        let mut bytes = 0;
        for row in self.db.scan(&log, &first) {
            let (key, value) = row?;
            let index = number(&key).ok_or_else(|| io::Error::other("a log key is damaged"))?;
            bytes += value.len();
            if index >= end || (bytes > bytes_max && !found.is_empty()) {
                break;
            }
            found.push((index, value.into_vec()));
        }
        Ok(found)
    }

    /// The first and last index present.
    pub fn log_bounds(&self) -> io::Result<Option<(u64, u64)>> {
        let log = self.db.family(LOG)?;
        // Searching from 0 would walk over every purged range.
        let from = self.purged()?.map_or(0, |purged| purged + 1);
        let key = from.to_be_bytes();
        let read = |mut rows: Scan<'_>| {
            let row = rows.next().transpose()?;
            io::Result::Ok(row.and_then(|(key, _)| number(&key)))
        };
        let first = read(self.db.scan(&log, &key))?;
        let last = read(self.db.scan_back(&log))?;
        Ok(first.zip(last).filter(|(first, last)| first <= last))
    }

    fn purged(&self) -> io::Result<Option<u64>> {
        Ok(self.meta(PURGED)?.and_then(|bytes| number(&bytes)))
    }

    /// Removes every entry behind `last` (all of them for `None`).
    pub fn truncate_after(&self, last: Option<u64>) -> io::Result<()> {
        // Lowered first: a mark above a log that was shortened on purpose would stop the node.
        {
            let mut progress = lock(&self.progress);
            let index = last.unwrap_or(0);
            progress.truncations += 1;
            progress.durable = progress.durable.min(index);
            if progress.mark.index() > index {
                progress.mark.set(index)?;
            }
        }
        let log = self.db.family(LOG)?;
        let mut batch = self.db.batch();
        let from = last.map_or(0, |last| last + 1);
        batch.delete_range(&log, from.to_be_bytes(), u64::MAX.to_be_bytes());
        self.write(batch)
    }

    /// Removes every entry up to and including `upto`.
    pub fn purge(&self, upto: u64) -> io::Result<()> {
        let (log, meta) = (self.db.family(LOG)?, self.db.family(META)?);
        let from = self.purged()?.map_or(0, |purged| purged + 1);
        if upto < from {
            return Ok(());
        }
        let mut batch = self.db.batch();
        batch.delete_range(&log, from.to_be_bytes(), (upto + 1).to_be_bytes());
        batch.put(&meta, PURGED, upto.to_be_bytes());
        self.write(batch)
    }

    pub fn meta(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.db.get(&self.db.family(META)?, key)
    }

    /// Durable with the next flush.
    pub fn put_meta(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let mut batch = self.db.batch();
        batch.put(&self.db.family(META)?, key, value);
        self.write(batch)
    }

    /// Durable on return; never before an entry that was appended earlier.
    pub fn put_meta_durable(
        &self,
        key: &[u8],
        value: &[u8],
    ) -> impl Future<Output = io::Result<()>> + Send + use<> {
        let written = self.put_meta(key, value).map(|()| self.flush());
        async move { written?.await }
    }

    /// Resolves once everything written so far is durable.
    pub fn flush(&self) -> impl Future<Output = io::Result<()>> + Send + use<> {
        let (done, flushed) = oneshot::channel();
        self.flusher.flushed(move |result| {
            // Nobody waits any more; the flush happened all the same.
            let _gone = done.send(result);
        });
        async move {
            flushed
                .await
                .map_err(|_| io::Error::other("the store has stopped"))?
        }
    }

    /// The state as it is now.
    pub fn view(&self) -> View {
        {
            let generation = self.generation();
            View::new(self.db.clone(), *generation)
        }
    }

    /// A batch of changes to the state.
    pub fn batch(&self) -> StateBatch {
        StateBatch::new(self.db.clone(), *self.generation())
    }

    /// Writes a batch and meta rows as one, unsynced.
    pub fn commit(&self, rows: StateBatch, meta_rows: &[(&[u8], Vec<u8>)]) -> io::Result<()> {
        let (state, meta) = (self.db.family(STATE)?, self.db.family(META)?);
        let generation = rows.generation();
        let mut batch = self.db.batch();
        for (key, value) in rows.into_changes() {
            let key = row_key(generation, &key);
            match value {
                Some(value) => batch.put(&state, key, value),
                None => batch.delete(&state, key),
            }
        }
        for (key, value) in meta_rows {
            batch.put(&meta, key, value);
        }
        self.write(batch)
    }

    /// Replaces the whole state by `rows`; a crash leaves the old or the new. Durable on return.
    /// Not to be called while a batch is being made.
    pub fn replace_state(
        &self,
        rows: impl Iterator<Item = io::Result<(Vec<u8>, Vec<u8>)>>,
        meta_rows: &[(&[u8], Vec<u8>)],
    ) -> io::Result<()> {
        let (state, meta) = (self.db.family(STATE)?, self.db.family(META)?);
        let old = *self.generation();
        let new = old ^ 1;
        let mut batch = self.db.batch();
        // What an installation that did not finish left.
        batch.delete_range(&state, [new], [new + 1]);
        for (count, row) in rows.enumerate() {
            let (key, value) = row?;
            batch.put(&state, row_key(new, &key), value);
            if count % INSTALL_ROWS == INSTALL_ROWS - 1 {
                self.write(std::mem::replace(&mut batch, self.db.batch()))?;
            }
        }
        batch.put(&meta, GENERATION, [new]);
        for (key, value) in meta_rows {
            batch.put(&meta, key, value);
        }
        batch.delete_range(&state, [old], [old + 1]);
        {
            let mut generation = self.generation_mut();
            self.write(batch)?;
            *generation = new;
        }
        self.db
            .flush()
            .inspect_err(|error| self.options.failed(&self.place, "a flush", error))
    }
}

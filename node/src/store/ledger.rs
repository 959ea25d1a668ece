//! Log, vote and state in one database with one write-ahead log.
//!
//! One log, because a crash then leaves a prefix of what was written: recovered state is never
//! ahead of the recovered log, and applying an entry needs no flush of its own.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use holdfast_mail::mutant;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBWithThreadMode, Direction, IteratorMode,
    MultiThreaded, WriteBatch,
};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::flusher::{Flusher, Moment};
use super::mark::{Manifest, Mark, Reached};
use super::state::{StateBatch, View, row_key};
use super::{Options, StoreError, broken, database_options, not_opened, refuse_poisoned, wal};
use crate::failpoint;

pub(super) type Database = DBWithThreadMode<MultiThreaded>;

const LOG: &str = "log";
pub(super) const META: &str = "meta";
pub(super) const STATE: &str = "state";

/// Meta rows of this file's own; the caller's keys begin with anything but a NUL.
const GENERATION: &[u8] = b"\0generation";
const PURGED: &[u8] = b"\0purged";

/// How far apart two writes of the high-water mark are, at least, while entries come: it costs a
/// sync of its own. When none come any more it is written too.
const MARK_EVERY: Duration = Duration::from_secs(1);

/// Rows of a snapshot in one write.
const INSTALL_ROWS: usize = 1024;

/// Bytes of memory for blocks read, shared by the column families.
const CACHE_BYTES: usize = 32 << 20;

/// The ledger's database on this disk.
pub struct Store {
    // Dropped first: its thread uses the database.
    flusher: Flusher,
    db: Arc<Database>,
    dir: PathBuf,
    options: Options,
    /// Held while a snapshot is taken and while the generation flips, so that a view never has
    /// the rows of one and the number of the other.
    generation: RwLock<u8>,
}

fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

impl Store {
    pub fn open(dir: &Path, options: Options) -> Result<Self, StoreError> {
        let path = || dir.to_owned();
        let in_dir = |error: io::Error| StoreError::Io {
            path: path(),
            error,
        };
        std::fs::create_dir_all(dir).map_err(in_dir)?;
        refuse_poisoned(dir)?;
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
            family(LOG, 8 << 20),
            family(META, 1 << 20),
            family(STATE, 8 << 20),
        ];
        // RocksDB's file that names its others; without it there is no database.
        let database_there = dir.join("CURRENT").exists();
        let mark_path = dir.join("MARK");
        let mark = Mark::open(&mark_path, database_there).map_err(in_dir)?;
        let mut mark = mark.ok_or(StoreError::MarkLost { path: mark_path })?;
        let marked = mark.reached();
        // Before RocksDB writes a new one from what it found.
        let whole = marked.manifest.is_held_by(dir).map_err(in_dir)?;
        if !whole && !mutant("truncate-on-corruption") {
            return Err(StoreError::Damaged {
                path: path(),
                why: "its manifest is not what it was".into(),
            });
        }
        wal::can_be_read(dir)?;
        let db = Database::open_cf_descriptors(&database_options(), dir, families)
            .map_err(|error| not_opened(dir, error))?;
        let db = Arc::new(db);
        let found = db.latest_sequence_number();
        if found < marked.write && !mutant("truncate-on-corruption") {
            return Err(StoreError::ShorterThanMark {
                path: path(),
                found,
                mark: marked.write,
            });
        }
        let durable = Arc::new(AtomicU64::new(marked.write));
        let flush = {
            let (db, durable) = (db.clone(), durable.clone());
            move || {
                let written = db.latest_sequence_number();
                failpoint::reach("before-sync");
                db.flush_wal(!mutant("wal-not-synced"))?;
                failpoint::reach("synced");
                durable.store(written, Ordering::Relaxed);
                Ok(())
            }
        };
        let set_mark = {
            let dir = dir.to_owned();
            let mut last = Instant::now();
            move |moment| {
                let write = durable.load(Ordering::Relaxed);
                let behind = write > mark.reached().write;
                if !behind || (moment == Moment::Busy && last.elapsed() < MARK_EVERY) {
                    return Ok(());
                }
                last = Instant::now();
                let mut manifest = mark.reached().manifest;
                if manifest.has_grown_in(&dir)? {
                    manifest = Manifest::current(&dir)?.unwrap_or(manifest);
                }
                mark.set(Reached { write, manifest })?;
                failpoint::reach("mark-written");
                Ok(())
            }
        };
        let flusher = Flusher::start(
            "ledger-flush",
            dir.to_owned(),
            options.clone(),
            flush,
            set_mark,
        )
        .map_err(in_dir)?;
        let store = Self {
            flusher,
            db,
            dir: dir.to_owned(),
            options,
            generation: RwLock::new(0),
        };
        let generation = store.meta(GENERATION).map_err(in_dir)?;
        *store.generation_mut() = generation
            .and_then(|bytes| bytes.first().copied())
            .unwrap_or(0);
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

    fn family(&self, name: &str) -> io::Result<Arc<rocksdb::BoundColumnFamily<'_>>> {
        self.db
            .cf_handle(name)
            .ok_or_else(|| io::Error::other(format!("the database has no column family {name}")))
    }

    /// One write, unsynced. A failure is final: what the database holds is no longer certain.
    fn write(&self, batch: WriteBatch) -> io::Result<()> {
        self.db.write(batch).map_err(|error| {
            let error = broken(error);
            self.options.failed(&self.dir, "a write", &error);
            error
        })
    }

    /// Appends entries: readable on return; `done` is called once they are durable, in the
    /// order of the calls.
    pub fn append(
        &self,
        entries: Vec<(u64, impl AsRef<[u8]>)>,
        done: impl FnOnce(io::Result<()>) + Send + 'static,
    ) -> io::Result<()> {
        let log = self.family(LOG)?;
        let mut batch = WriteBatch::default();
        for (index, bytes) in &entries {
            batch.put_cf(&log, index.to_be_bytes(), bytes);
        }
        self.write(batch)?;
        failpoint::reach("entry-written");
        self.flusher.flushed(done);
        Ok(())
    }

    /// Entries `start..end`, at most about `bytes_max` of them but at least one that is there.
    pub fn log_limited(
        &self,
        start: u64,
        end: u64,
        bytes_max: usize,
    ) -> io::Result<Vec<(u64, Vec<u8>)>> {
        let log = self.family(LOG)?;
        let first = start.to_be_bytes();
        let mut found = Vec::new();
        let mut bytes = 0;
        for row in self
            .db
            .iterator_cf(&log, IteratorMode::From(&first, Direction::Forward))
        {
            let (key, value) = row.map_err(broken)?;
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
        let log = self.family(LOG)?;
        // Searching from 0 would walk over every purged range.
        let from = self.purged()?.map_or(0, |purged| purged + 1);
        let key = from.to_be_bytes();
        let read = |mode| {
            self.db
                .iterator_cf(&log, mode)
                .next()
                .transpose()
                .map_err(broken)
                .map(|row| row.and_then(|(key, _)| number(&key)))
        };
        let first = read(IteratorMode::From(&key, Direction::Forward))?;
        let last = read(IteratorMode::End)?;
        Ok(first.zip(last).filter(|(first, last)| first <= last))
    }

    fn purged(&self) -> io::Result<Option<u64>> {
        Ok(self.meta(PURGED)?.and_then(|bytes| number(&bytes)))
    }

    /// Removes every entry behind `last` (all of them for `None`).
    pub fn truncate_after(&self, last: Option<u64>) -> io::Result<()> {
        let log = self.family(LOG)?;
        let mut batch = WriteBatch::default();
        let from = last.map_or(0, |last| last + 1);
        batch.delete_range_cf(&log, from.to_be_bytes(), u64::MAX.to_be_bytes());
        self.write(batch)
    }

    /// Removes every entry up to and including `upto`.
    pub fn purge(&self, upto: u64) -> io::Result<()> {
        let (log, meta) = (self.family(LOG)?, self.family(META)?);
        let from = self.purged()?.map_or(0, |purged| purged + 1);
        if upto < from {
            return Ok(());
        }
        let mut batch = WriteBatch::default();
        batch.delete_range_cf(&log, from.to_be_bytes(), (upto + 1).to_be_bytes());
        batch.put_cf(&meta, PURGED, upto.to_be_bytes());
        self.write(batch)
    }

    pub fn meta(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.db.get_cf(&self.family(META)?, key).map_err(broken)
    }

    /// Durable with the next flush.
    pub fn put_meta(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let mut batch = WriteBatch::default();
        batch.put_cf(&self.family(META)?, key, value);
        self.write(batch)
    }

    /// Durable on return; never before an entry that was appended earlier.
    pub fn put_meta_durable(
        &self,
        key: &[u8],
        value: &[u8],
    ) -> impl Future<Output = io::Result<()>> + Send + use<> {
        let synced = !mutant("vote-not-synced");
        let written = self.put_meta(key, value).map(|()| {
            failpoint::reach("vote-written");
            synced.then(|| self.flush())
        });
        async move {
            match written? {
                Some(flushed) => flushed.await,
                None => Ok(()),
            }
        }
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
        let (state, meta) = (self.family(STATE)?, self.family(META)?);
        let generation = rows.generation();
        let mut batch = WriteBatch::default();
        for (key, value) in rows.into_changes() {
            let key = row_key(generation, &key);
            match value {
                Some(value) => batch.put_cf(&state, key, value),
                None => batch.delete_cf(&state, key),
            }
        }
        for (key, value) in meta_rows {
            batch.put_cf(&meta, key, value);
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
        let (state, meta) = (self.family(STATE)?, self.family(META)?);
        let old = *self.generation();
        let new = if mutant("snapshot-install-not-atomic") {
            old
        } else {
            old ^ 1
        };
        let mut batch = WriteBatch::default();
        // What an installation that did not finish left.
        batch.delete_range_cf(&state, [new], [new + 1]);
        for (count, row) in rows.enumerate() {
            let (key, value) = row?;
            batch.put_cf(&state, row_key(new, &key), value);
            if count % INSTALL_ROWS == INSTALL_ROWS - 1 {
                self.write(std::mem::take(&mut batch))?;
            }
        }
        batch.put_cf(&meta, GENERATION, [new]);
        for (key, value) in meta_rows {
            batch.put_cf(&meta, key, value);
        }
        batch.delete_range_cf(&state, [old], [old + 1]);
        {
            let mut generation = self.generation_mut();
            self.write(batch)?;
            *generation = new;
        }
        self.db.flush_wal(true).map_err(|error| {
            let error = broken(error);
            self.options.failed(&self.dir, "a flush", &error);
            error
        })
    }
}

#[cfg(test)]
impl Store {
    /// Hands what is pending to the kernel, as a process that dies may have done.
    pub(crate) fn write_out(&self) {
        self.db.flush_wal(false).unwrap();
    }

    /// One of RocksDB's counters.
    pub(super) fn counter(&self, name: &str) -> u64 {
        super::tests::counter(self.db.property_value("rocksdb.options-statistics"), name)
    }
}

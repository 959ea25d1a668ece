//! Bodies on this disk: chunks in blob files, and an end row that makes a body one.
//!
//! A chunk's place follows from its offset, so writing a body again, or by two hands, puts the
//! same bytes into the same rows. A body is present once its end row is durable.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use holdfast_mail::{MessageId, mutant};
use rocksdb::{BlockBasedOptions, Cache, DB, WriteBatch};

use super::flusher::Flusher;
use super::{Options, StoreError, broken, database_options, not_opened, refuse_poisoned, wal};

/// Bytes of one chunk; the last one of a body is shorter.
const CHUNK_BYTES: usize = 256 << 10;

/// The chunk number of the end row.
const END: u32 = u32::MAX;

/// Of this part of the blob files, the oldest, a compaction writes anew what is left of them.
const BLOB_AGE_CUTOFF: f64 = 0.75;

/// Ids remembered as present, so that the gate rarely reads the disk.
const RECENT_MAX: usize = 16_384;

/// Where a body ends, and what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Bytes.
    pub len: u64,
    /// BLAKE3.
    pub digest: [u8; 32],
}

/// The bodies on this disk.
pub struct BodyStore(Arc<Inner>);

struct Inner {
    // Dropped first: its thread uses the database.
    flusher: Flusher,
    db: Arc<DB>,
    dir: PathBuf,
    options: Options,
    known: Mutex<Known>,
    /// Something has been deleted since room was last given back.
    deleted: AtomicBool,
}

/// What is known of ids without reading.
#[derive(Default)]
struct Known {
    /// End row written, not yet durable.
    pending: HashSet<MessageId>,
    recent: HashSet<MessageId>,
    order: VecDeque<MessageId>,
}

impl Known {
    fn durable(&mut self, id: MessageId) {
        self.pending.remove(&id);
        if self.recent.insert(id) {
            self.order.push_back(id);
            if self.order.len() > RECENT_MAX
                && let Some(old) = self.order.pop_front()
            {
                self.recent.remove(&old);
            }
        }
    }
}

fn key(id: MessageId, chunk: u32) -> [u8; 20] {
    let mut key = [0; 20];
    key[..16].copy_from_slice(&id.to_bytes());
    key[16..].copy_from_slice(&chunk.to_be_bytes());
    key
}

fn chunks(len: u64) -> u32 {
    u32::try_from(len.div_ceil(CHUNK_BYTES as u64)).unwrap_or(END - 1)
}

impl Inner {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, batch: WriteBatch) -> io::Result<()> {
        self.db.write(batch).map_err(|error| {
            let error = broken(error);
            self.options.failed(&self.dir, "a write", &error);
            error
        })
    }

    fn end(&self, id: MessageId) -> io::Result<Option<End>> {
        let Some(row) = self.db.get_pinned(key(id, END)).map_err(broken)? else {
            return Ok(None);
        };
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "an end row is damaged");
        let len = row
            .get(..8)
            .and_then(|b| b.try_into().ok())
            .ok_or_else(damaged)?;
        let digest = row
            .get(8..)
            .and_then(|b| b.try_into().ok())
            .ok_or_else(damaged)?;
        Ok(Some(End {
            len: u64::from_be_bytes(len),
            digest,
        }))
    }
}

impl BodyStore {
    pub fn open(dir: &Path, options: Options) -> Result<Self, StoreError> {
        let in_dir = |error: io::Error| StoreError::Io {
            path: dir.to_owned(),
            error,
        };
        std::fs::create_dir_all(dir).map_err(in_dir)?;
        refuse_poisoned(dir)?;
        let mut db_options = database_options();
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_cache(&Cache::new_lru_cache(8 << 20));
        blocks.set_cache_index_and_filter_blocks(true);
        blocks.set_bloom_filter(10.0, false);
        db_options.set_block_based_table_factory(&blocks);
        // Mail is compressed or encoded already; the CPU is what we run out of first.
        db_options.set_compression_type(rocksdb::DBCompressionType::None);
        db_options.set_write_buffer_size(16 << 20);
        db_options.set_max_write_buffer_number(3);
        db_options.set_enable_blob_files(true);
        db_options.set_min_blob_size(512);
        db_options.set_blob_file_size(64 << 20);
        db_options.set_enable_blob_gc(true);
        db_options.set_blob_gc_age_cutoff(BLOB_AGE_CUTOFF);
        db_options.set_blob_gc_force_threshold(0.5);
        wal::can_be_read(dir)?;
        let db = DB::open(&db_options, dir).map_err(|error| not_opened(dir, error))?;
        let db = Arc::new(db);
        let flusher = Flusher::start(
            "bodies-flush",
            dir.to_owned(),
            options.clone(),
            {
                let db = db.clone();
                move || db.flush_wal(!mutant("wal-not-synced"))
            },
            |_| Ok(()),
        )
        .map_err(in_dir)?;
        let known = Mutex::default();
        Ok(Self(Arc::new(Inner {
            flusher,
            db,
            dir: dir.to_owned(),
            options,
            known,
            deleted: AtomicBool::new(true),
        })))
    }

    /// Starts writing a body.
    #[must_use]
    pub fn begin(&self, id: MessageId) -> Writer {
        Writer {
            store: self.0.clone(),
            id,
            chunk: Vec::new(),
            written: 0,
            len: 0,
            hasher: blake3::Hasher::new(),
        }
    }

    /// Whether the body is here, whole and durable.
    pub fn present(&self, id: MessageId) -> io::Result<bool> {
        {
            let known = self.0.known();
            if known.recent.contains(&id) {
                return Ok(true);
            }
            if known.pending.contains(&id) {
                return Ok(false);
            }
        }
        Ok(self.0.end(id)?.is_some())
    }

    /// Whether the body became durable not long ago, in this life of the process.
    #[must_use]
    pub fn is_recent(&self, id: MessageId) -> bool {
        let known = self.0.known();
        known.recent.contains(&id) || known.pending.contains(&id)
    }

    pub fn end(&self, id: MessageId) -> io::Result<Option<End>> {
        self.0.end(id)
    }

    /// Opens a body that is present.
    pub fn reader(&self, id: MessageId) -> io::Result<Reader> {
        let end = self.0.end(id)?.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("the body of {id} is not on this disk"),
            )
        })?;
        Ok(Reader {
            store: self.0.clone(),
            id,
            end,
            next: 0,
            read: 0,
            hasher: blake3::Hasher::new(),
        })
    }

    pub fn delete(&self, ids: &[MessageId]) -> io::Result<()> {
        let mut batch = WriteBatch::default();
        for id in ids {
            let mut known = self.0.known();
            known.recent.remove(id);
            drop(known);
            let end = match self.0.end(*id) {
                // Damaged: how many chunks there are, nobody knows.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => None,
                other => other?,
            };
            match end {
                Some(end) => {
                    for chunk in 0..chunks(end.len) {
                        batch.delete(key(*id, chunk));
                    }
                    batch.delete(key(*id, END));
                }
                None => {
                    batch.delete_range(key(*id, 0), key(*id, END));
                    batch.delete(key(*id, END));
                }
            }
        }
        self.0.write(batch)?;
        self.0.deleted.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Gives the room of deleted bodies back to the disk. RocksDB does so when it compacts, which comes
    /// with new mail: a node whose disk is nearly full takes none, and would never have room again.
    ///
    /// Files are dropped of which nothing is left, and none is written anew for the sake of what is: for
    /// that there may be no room either. But since it knows now what is left in each, RocksDB does so with
    /// files that are half empty, one after the other.
    pub fn reclaim(&self) -> io::Result<()> {
        if !self.0.deleted.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let db = &self.0.db;
        db.flush().map_err(|error| {
            // What was deleted is there still, for the next time.
            self.0.deleted.store(true, Ordering::Relaxed);
            broken(error)
        })?;
        let cut_off = |age: f64| {
            let age = age.to_string();
            let options = [("blob_garbage_collection_age_cutoff", age.as_str())];
            db.set_options(&options).map_err(broken)
        };
        cut_off(0.0)?;
        db.compact_range(None::<&[u8]>, None::<&[u8]>);
        cut_off(BLOB_AGE_CUTOFF)
    }

    /// Ids that have any row, the youngest first, older than `before`. From the end, because a
    /// body's last row is its end, which is small: a row that is stepped on is read.
    pub fn ids(&self, before: Option<MessageId>, limit: usize) -> io::Result<Vec<MessageId>> {
        let mut older = before.map_or(Some(u128::MAX), |id| id.0.checked_sub(1));
        let mut found = Vec::new();
        let mut rows = self.0.db.raw_iterator();
        while let Some(youngest) = older
            && found.len() < limit
        {
            rows.seek_for_prev(key(MessageId(youngest), END));
            let Some(row_key) = rows.key() else {
                rows.status().map_err(broken)?;
                break;
            };
            let id = row_key.get(..16).and_then(MessageId::from_bytes);
            let id = id.ok_or_else(|| io::Error::other("a body's key is damaged"))?;
            found.push(id);
            older = id.0.checked_sub(1);
        }
        Ok(found)
    }
}

#[cfg(test)]
impl BodyStore {
    /// One of RocksDB's counters.
    pub(super) fn counter(&self, name: &str) -> u64 {
        super::tests::counter(self.0.db.property_value("rocksdb.options-statistics"), name)
    }

    /// Moves everything out of memory and the write-ahead log.
    pub(super) fn settle(&self) {
        self.0.db.flush().unwrap();
    }

    /// What a disk that lies does to the first chunk of a body.
    pub(crate) fn spoil(&self, id: MessageId) {
        let Some(mut chunk) = self.0.db.get(key(id, 0)).unwrap() else {
            return;
        };
        chunk[0] ^= 1;
        self.0.db.put(key(id, 0), chunk).unwrap();
    }
}

/// A body being written. Dropped before it is finished, it leaves chunks that nothing refers to.
pub struct Writer {
    store: Arc<Inner>,
    id: MessageId,
    chunk: Vec<u8>,
    written: u32,
    len: u64,
    hasher: blake3::Hasher,
}

impl Writer {
    pub fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        while self.chunk.len() + bytes.len() >= CHUNK_BYTES {
            let (now, rest) = bytes.split_at(CHUNK_BYTES - self.chunk.len());
            self.chunk.extend_from_slice(now);
            let mut batch = WriteBatch::default();
            batch.put(key(self.id, self.written), &self.chunk);
            self.store.write(batch)?;
            self.written += 1;
            self.chunk.clear();
            bytes = rest;
        }
        self.chunk.extend_from_slice(bytes);
        Ok(())
    }

    /// BLAKE3 of what was written so far.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        *self.hasher.finalize().as_bytes()
    }

    /// Ends the body; `done` is called once it is durable. What was written must be as long, and
    /// have the digest, as the caller says; otherwise it stays a body without an end.
    pub fn finish(
        self,
        len: u64,
        digest: [u8; 32],
        done: impl FnOnce(io::Result<()>) + Send + 'static,
    ) {
        if (len, digest) != (self.len, self.digest()) {
            done(Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("the body of {} is not what was written of it", self.id),
            )));
            return;
        }
        let mut batch = WriteBatch::default();
        if !self.chunk.is_empty() {
            batch.put(key(self.id, self.written), &self.chunk);
        }
        let mut end = [0; 40];
        end[..8].copy_from_slice(&len.to_be_bytes());
        end[8..].copy_from_slice(&digest);
        batch.put(key(self.id, END), end);
        let id = self.id;
        self.store.known().pending.insert(id);
        if let Err(error) = self.store.write(batch) {
            done(Err(error));
            return;
        }
        // The callback outlives the store when the last handle goes; it only needs the set.
        let store = Arc::downgrade(&self.store);
        self.store.flusher.flushed(move |result| {
            if let (Ok(()), Some(store)) = (&result, store.upgrade()) {
                store.known().durable(id);
            }
            done(result);
        });
    }
}

/// A body being read. The last chunk comes only when the whole has the right digest.
pub struct Reader {
    store: Arc<Inner>,
    id: MessageId,
    end: End,
    next: u32,
    read: u64,
    hasher: blake3::Hasher,
}

impl Reader {
    #[must_use]
    pub fn end(&self) -> End {
        self.end
    }

    /// The next chunk; `None` after the last. `InvalidData` when the copy on this disk is bad.
    #[expect(clippy::should_implement_trait)] // It fails, and is read as chunks, not collected.
    pub fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.read == self.end.len {
            return Ok(None);
        }
        let damaged = || {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the body of {} on this disk is damaged", self.id),
            )
        };
        let chunk = self
            .store
            .db
            .get(key(self.id, self.next))
            .map_err(broken)?
            .ok_or_else(damaged)?;
        self.next += 1;
        self.read += chunk.len() as u64;
        self.hasher.update(&chunk);
        if chunk.is_empty() || self.read > self.end.len {
            return Err(damaged());
        }
        let whole = self.read == self.end.len && !mutant("body-digest-not-checked");
        if whole && *self.hasher.finalize().as_bytes() != self.end.digest {
            return Err(damaged());
        }
        Ok(Some(Bytes::from(chunk)))
    }
}

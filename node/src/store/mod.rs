//! RocksDB, twice: the ledger (log, vote and state) and the bodies. The only room that knows it.
//!
//! Both work alike: writes go in unsynced, one thread flushes the write-ahead log, and whatever
//! arrived meanwhile shares the next flush. A failed write or flush is never retried: the
//! kernel may have dropped the pages and called them clean, so the process ends and the
//! directory is poisoned.

mod bodies;
mod disk;
mod flusher;
mod ledger;
mod mark;
mod state;
#[cfg(test)]
mod tests;
mod wal;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use holdfast_mail::mutant;

pub use bodies::{BodyStore, End, Reader, Writer};
pub use disk::{Space, disk_space};
pub use flusher::FlushTimes;
pub use ledger::Store;
pub use state::{StateBatch, View};

/// What both stores need.
#[derive(Clone)]
pub struct Options {
    /// Called once when a write or flush has failed. It must end the process.
    pub fatal: Arc<dyn Fn(String) + Send + Sync>,
    pub flush_times: FlushTimes,
    pub failures: Failures,
}

/// The directories in which a write or flush has failed, and why is known. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Failures(Arc<Mutex<BTreeSet<PathBuf>>>);

/// What to do about a node whose data directory cannot be trusted.
const REPLACE: &str = "empty this node's data directory, join with a new token under another name \
                       (holdfast cluster join), and at another node type: holdfast node replace OLD --with NEW";

/// Why a store does not open.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "{path} cannot be opened: {why}. Its copies on the other nodes are safe. Do not repair it: {fix}",
        fix = REPLACE
    )]
    Damaged { path: PathBuf, why: String },
    #[error(
        "{path} cannot be opened now: {why}. Nothing was changed and nothing is lost. Is this node running \
         already? Has the disk room, and may this user write there?"
    )]
    NotOpened { path: PathBuf, why: String },
    #[error(
        "{path} was poisoned by a failed write: {why}. What it holds may be less than it acknowledged, so it must \
         not be used again. Replace the disk, then {fix}",
        fix = REPLACE
    )]
    Poisoned { path: PathBuf, why: String },
    #[error(
        "{path} ends at write {found}, but write {mark} was durable before: entries or a vote are missing. This node \
         must not vote: {fix}",
        fix = REPLACE
    )]
    ShorterThanMark {
        path: PathBuf,
        found: u64,
        mark: u64,
    },
    #[error(
        "{path}, which tells how far this node's database must reach, is missing or damaged: whether entries are missing \
         too cannot be told, so this node must not vote. Its copies on the other nodes are safe: {fix}",
        fix = REPLACE
    )]
    MarkLost { path: PathBuf },
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: io::Error },
}

impl Options {
    /// A write or flush in `dir` has failed: nothing more may be acknowledged, and the process
    /// ends. The directory is poisoned too, unless the disk is merely full: what was called
    /// durable is still there then, and disks that fill together must not cost every copy.
    ///
    /// The first failure decides. Whoever comes to the same file afterwards is only told that there was
    /// one, and may even be the first to say so here.
    fn failed(&self, dir: &Path, what: &str, error: &io::Error) {
        let why = format!("{what} in {} failed: {error}", dir.display());
        let until = Instant::now() + CAUSE_WAIT;
        while is_aftermath(error) && !self.failures.have(dir) && Instant::now() < until {
            std::thread::sleep(CAUSE_POLL);
        }
        if self.failures.is_first(dir) && !is_disk_full(error) {
            poison(dir, &why);
        }
        (self.fatal)(why);
    }
}

impl Failures {
    fn all(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn have(&self, dir: &Path) -> bool {
        self.all().contains(dir)
    }

    fn is_first(&self, dir: &Path) -> bool {
        self.all().insert(dir.to_owned())
    }
}

/// How long a write that failed because of another one waits for that one to say why: less than a
/// thread is kept off a busy machine, more than it takes otherwise. Afterwards the directory is
/// poisoned, for then nobody knows.
const CAUSE_WAIT: Duration = Duration::from_secs(2);
const CAUSE_POLL: Duration = Duration::from_millis(5);

/// RocksDB tells so of a file that has had an error before, and does not say which.
fn is_aftermath(error: &io::Error) -> bool {
    error.to_string().contains("Seen error")
}

/// RocksDB tells of a full disk as an I/O error with the system's text.
fn is_disk_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::StorageFull
        || error.to_string().contains("No space left on device")
}

/// Leaves word that the directory must not be used again, durably.
fn poison(dir: &Path, why: &str) {
    let left = File::create(dir.join("POISONED"))
        .and_then(|mut mark| {
            mark.write_all(why.as_bytes())
                .and_then(|()| mark.sync_all())
        })
        .and_then(|()| File::open(dir)?.sync_all());
    if let Err(error) = left {
        // The disk is failing; the process ends either way and the mark was a courtesy.
        tracing::error!("cannot leave a mark in {}: {error}", dir.display());
    }
}

/// Why a database does not open. Only damage condemns it: a lock that another process holds,
/// a full disk or a missing permission passes, and the data must stay.
fn not_opened(path: &Path, error: rocksdb::Error) -> StoreError {
    let path = path.to_owned();
    match error.kind() {
        rocksdb::ErrorKind::Corruption => StoreError::Damaged {
            path,
            why: error.to_string(),
        },
        _ => StoreError::NotOpened {
            path,
            why: error.to_string(),
        },
    }
}

fn refuse_poisoned(dir: &Path) -> Result<(), StoreError> {
    match std::fs::read_to_string(dir.join("POISONED")) {
        Ok(why) => Err(StoreError::Poisoned {
            path: dir.to_owned(),
            why,
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StoreError::Io {
            path: dir.to_owned(),
            error,
        }),
    }
}

/// Options that both databases share.
fn database_options() -> rocksdb::Options {
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // A torn tail is what a power cut leaves of writes that nobody was told of; anything else
    // that does not fit is damage, and must stop the node instead of shortening its log.
    options.set_wal_recovery_mode(rocksdb::DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_paranoid_checks(true);
    if mutant("truncate-on-corruption") {
        options.set_wal_recovery_mode(rocksdb::DBRecoveryMode::PointInTime);
        options.set_track_and_verify_wals_in_manifest(false);
    }
    #[cfg(test)]
    options.enable_statistics();
    options.set_manual_wal_flush(true);
    options.set_max_open_files(256);
    options.set_max_background_jobs(2);
    options.set_keep_log_file_num(4);
    // The ledger's is read whole for its mark, each time it has grown.
    options.set_max_manifest_file_size(1 << 20);
    options
}

/// `InvalidData` for what is damaged on disk; anything else may pass.
fn broken(error: rocksdb::Error) -> io::Error {
    match error.kind() {
        rocksdb::ErrorKind::Corruption => io::Error::new(io::ErrorKind::InvalidData, error),
        _ => io::Error::other(error),
    }
}

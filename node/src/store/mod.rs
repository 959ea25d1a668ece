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

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use bodies::{BodyStore, End, Reader, Writer};
pub use disk::{Space, disk_space};
pub use ledger::Store;
pub use state::{StateBatch, View};

/// What both stores need.
#[derive(Clone)]
pub struct Options {
    /// Called once when a write or flush has failed. It must end the process.
    pub fatal: Arc<dyn Fn(String) + Send + Sync>,
}

/// Why a store does not open.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "{path} cannot be opened: {why}. Its copies on the other nodes are safe. Do not repair it: remove this \
         node (holdfast cluster leave), empty its data directory and join with a new token"
    )]
    Damaged { path: PathBuf, why: String },
    #[error(
        "{path} was poisoned by a failed write: {why}. What it holds may be less than it acknowledged, so it must \
         not be used again. Replace the disk, remove this node (holdfast cluster leave) and join with a new token"
    )]
    Poisoned { path: PathBuf, why: String },
    #[error(
        "{path} ends at entry {found}, but entry {mark} was durable before: entries are missing. This node must not \
         vote. Remove it (holdfast cluster leave), empty its data directory and join with a new token"
    )]
    LogShorterThanMark {
        path: PathBuf,
        found: u64,
        mark: u64,
    },
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: io::Error },
}

/// Leaves word that the directory must not be used again.
fn poison(dir: &Path, why: &str) {
    if let Err(error) = std::fs::write(dir.join("POISONED"), why) {
        // The disk is failing; the process ends either way and the mark was a courtesy.
        tracing::error!("cannot leave a mark in {}: {error}", dir.display());
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
    options.set_manual_wal_flush(true);
    options.set_max_open_files(256);
    options.set_max_background_jobs(2);
    options.set_keep_log_file_num(4);
    options
}

/// `InvalidData` for what is damaged on disk; anything else may pass.
fn broken(error: rocksdb::Error) -> io::Error {
    match error.kind() {
        rocksdb::ErrorKind::Corruption => io::Error::new(io::ErrorKind::InvalidData, error),
        _ => io::Error::other(error),
    }
}

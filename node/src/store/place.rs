//! Where a store lies: a directory, and the few small files in it beside the database.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rocksdb::{ColumnFamilyDescriptor, DB};

use super::engine::Engine;
use super::{StoreError, not_opened, poison, refuse_poisoned};

#[derive(Clone)]
pub(super) enum Place {
    Directory(PathBuf),
    #[cfg(test)]
    Simulated(super::simulated::Part),
}

impl Place {
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Directory(dir) => dir,
            #[cfg(test)]
            Self::Simulated(part) => part.path(),
        }
    }

    pub(super) fn in_it(&self, error: io::Error) -> StoreError {
        StoreError::Io {
            path: self.path().to_owned(),
            error,
        }
    }

    /// Opens the database, unless word was left that it must not be used again.
    pub(super) fn open(
        &self,
        options: &rocksdb::Options,
        families: impl IntoIterator<Item = ColumnFamilyDescriptor>,
    ) -> Result<Engine, StoreError> {
        match self {
            Self::Directory(dir) => {
                std::fs::create_dir_all(dir).map_err(|error| self.in_it(error))?;
                refuse_poisoned(dir)?;
                DB::open_cf_descriptors(options, dir, families)
                    .map(Engine::Rocks)
                    .map_err(|error| not_opened(dir, error))
            }
            #[cfg(test)]
            Self::Simulated(part) => part.open().map(Engine::Simulated),
        }
    }

    /// Leaves word that the store must not be used again, durably.
    pub(super) fn poison(&self, why: &str) {
        match self {
            Self::Directory(dir) => poison(dir, why),
            #[cfg(test)]
            Self::Simulated(part) => part.poison(why),
        }
    }

    /// The file of the high-water mark.
    pub(super) fn mark(&self) -> io::Result<MarkFile> {
        match self {
            Self::Directory(dir) => OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(dir.join("MARK"))
                .map(MarkFile::Real),
            #[cfg(test)]
            Self::Simulated(part) => Ok(MarkFile::Simulated(part.clone())),
        }
    }
}

pub(super) enum MarkFile {
    Real(File),
    #[cfg(test)]
    Simulated(super::simulated::Part),
}

impl MarkFile {
    pub(super) fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::Real(file) => file.read_exact_at(bytes, offset),
            #[cfg(test)]
            Self::Simulated(part) => part.read_mark(bytes, offset),
        }
    }

    /// Durable on return.
    pub(super) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        match self {
            Self::Real(file) => {
                file.write_all_at(bytes, offset)?;
                file.sync_data()
            }
            #[cfg(test)]
            Self::Simulated(part) => part.write_mark(bytes, offset),
        }
    }
}

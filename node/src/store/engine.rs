//! The database under a store: ordered rows in families, and one write-ahead log.
//!
//! The few verbs the stores need, so that the simulation can put a disk of its own under the
//! very same stores. Writes are seen at once and durable with the next flush; a crash leaves a
//! prefix of them.

use std::io;
use std::sync::Arc;

use rocksdb::{
    BoundColumnFamily, DB, DBIteratorWithThreadMode, Direction, IteratorMode, ReadOptions,
    SnapshotWithThreadMode, WriteBatch,
};

use super::broken;
#[cfg(test)]
use super::simulated;

pub(super) type Row = (Box<[u8]>, Box<[u8]>);

pub(super) enum Engine {
    Rocks(DB),
    #[cfg(test)]
    Simulated(simulated::Database),
}

pub(super) enum Family<'a> {
    Rocks(Arc<BoundColumnFamily<'a>>),
    #[cfg(test)]
    Simulated(&'static str),
}

/// Changes that are written as one.
pub(super) enum Batch {
    Rocks(WriteBatch),
    #[cfg(test)]
    Simulated(Vec<simulated::Change>),
}

/// The rows as they were at one moment.
pub(super) enum Frozen<'a> {
    Rocks(SnapshotWithThreadMode<'a, DB>),
    #[cfg(test)]
    Simulated(simulated::Rows),
}

/// Rows in key order.
pub(super) enum Scan<'a> {
    Rocks(DBIteratorWithThreadMode<'a, DB>),
    #[cfg(test)]
    Simulated(simulated::Scan),
}

impl Engine {
    pub(super) fn family(&self, name: &'static str) -> io::Result<Family<'_>> {
        match self {
            Self::Rocks(db) => db.cf_handle(name).map(Family::Rocks).ok_or_else(|| {
                io::Error::other(format!("the database has no column family {name}"))
            }),
            #[cfg(test)]
            Self::Simulated(_) => Ok(Family::Simulated(name)),
        }
    }

    pub(super) fn batch(&self) -> Batch {
        match self {
            Self::Rocks(_) => Batch::Rocks(WriteBatch::default()),
            #[cfg(test)]
            Self::Simulated(_) => Batch::Simulated(Vec::new()),
        }
    }

    /// One write, unsynced.
    pub(super) fn write(&self, batch: Batch) -> io::Result<()> {
        match (self, batch) {
            (Self::Rocks(db), Batch::Rocks(batch)) => db.write(batch).map_err(broken),
            #[cfg(test)]
            (Self::Simulated(database), Batch::Simulated(changes)) => database.write(changes),
            #[cfg(test)]
            _ => unreachable!("a batch goes where it was made"),
        }
    }

    /// Makes everything written before durable.
    pub(super) fn flush(&self) -> io::Result<()> {
        match self {
            Self::Rocks(db) => db.flush_wal(true).map_err(broken),
            #[cfg(test)]
            Self::Simulated(database) => database.flush(),
        }
    }

    pub(super) fn get(&self, family: &Family<'_>, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        match (self, family) {
            (Self::Rocks(db), Family::Rocks(family)) => db.get_cf(family, key).map_err(broken),
            #[cfg(test)]
            (Self::Simulated(database), Family::Simulated(family)) => {
                database.rows().get(family, key)
            }
            #[cfg(test)]
            _ => unreachable!("a family goes where it was found"),
        }
    }

    /// Rows from `from` on.
    pub(super) fn scan(&self, family: &Family<'_>, from: &[u8]) -> Scan<'_> {
        self.iterate(family, IteratorMode::From(from, Direction::Forward))
    }

    /// The last row and those before it.
    pub(super) fn scan_back(&self, family: &Family<'_>) -> Scan<'_> {
        self.iterate(family, IteratorMode::End)
    }

    fn iterate(&self, family: &Family<'_>, mode: IteratorMode<'_>) -> Scan<'_> {
        match (self, family) {
            (Self::Rocks(db), Family::Rocks(family)) => {
                Scan::Rocks(db.iterator_cf_opt(family, ReadOptions::default(), mode))
            }
            #[cfg(test)]
            (Self::Simulated(database), Family::Simulated(family)) => {
                Scan::Simulated(database.rows().scan(family, mode))
            }
            #[cfg(test)]
            _ => unreachable!("a family goes where it was found"),
        }
    }

    pub(super) fn freeze(&self) -> Frozen<'_> {
        match self {
            Self::Rocks(db) => Frozen::Rocks(db.snapshot()),
            #[cfg(test)]
            Self::Simulated(database) => Frozen::Simulated(database.rows()),
        }
    }
}

impl Batch {
    pub(super) fn put(&mut self, family: &Family<'_>, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        match (self, family) {
            (Self::Rocks(batch), Family::Rocks(family)) => batch.put_cf(family, key, value),
            #[cfg(test)]
            (Self::Simulated(changes), Family::Simulated(family)) => {
                changes.push(simulated::Change::put(family, key.as_ref(), value.as_ref()));
            }
            #[cfg(test)]
            _ => unreachable!("a family goes where it was found"),
        }
    }

    pub(super) fn delete(&mut self, family: &Family<'_>, key: impl AsRef<[u8]>) {
        match (self, family) {
            (Self::Rocks(batch), Family::Rocks(family)) => batch.delete_cf(family, key),
            #[cfg(test)]
            (Self::Simulated(changes), Family::Simulated(family)) => {
                changes.push(simulated::Change::delete(family, key.as_ref()));
            }
            #[cfg(test)]
            _ => unreachable!("a family goes where it was found"),
        }
    }

    /// Deletes `from..to`.
    pub(super) fn delete_range<K: AsRef<[u8]>>(&mut self, family: &Family<'_>, from: K, to: K) {
        match (self, family) {
            (Self::Rocks(batch), Family::Rocks(family)) => batch.delete_range_cf(family, from, to),
            #[cfg(test)]
            (Self::Simulated(changes), Family::Simulated(family)) => {
                let (from, to) = (from.as_ref(), to.as_ref());
                changes.push(simulated::Change::delete_range(family, from, to));
            }
            #[cfg(test)]
            _ => unreachable!("a family goes where it was found"),
        }
    }
}

impl Frozen<'_> {
    pub(super) fn get(&self, family: &Family<'_>, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        match (self, family) {
            (Self::Rocks(rows), Family::Rocks(family)) => rows.get_cf(family, key).map_err(broken),
            #[cfg(test)]
            (Self::Simulated(rows), Family::Simulated(family)) => rows.get(family, key),
            #[cfg(test)]
            _ => unreachable!("a family goes where it was found"),
        }
    }

    /// Rows from `from` on.
    pub(super) fn scan(&self, family: &Family<'_>, from: &[u8]) -> Scan<'_> {
        let mode = IteratorMode::From(from, Direction::Forward);
        match (self, family) {
            (Self::Rocks(rows), Family::Rocks(family)) => {
                Scan::Rocks(rows.iterator_cf(family, mode))
            }
            #[cfg(test)]
            (Self::Simulated(rows), Family::Simulated(family)) => {
                Scan::Simulated(rows.clone().scan(family, mode))
            }
            #[cfg(test)]
            _ => unreachable!("a family goes where it was found"),
        }
    }
}

impl Iterator for Scan<'_> {
    type Item = io::Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Rocks(rows) => rows.next().map(|row| row.map_err(broken)),
            #[cfg(test)]
            Self::Simulated(rows) => rows.next(),
        }
    }
}

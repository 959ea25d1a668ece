//! The ledger's rows: consistent views, and batches that see their own writes.
//!
//! Every row's key begins with a generation byte. A snapshot is installed by writing the other
//! generation and then switching in one batch, so that a crash leaves the old or the new.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use holdfast_ledger::{Kv, KvError, KvRead};
use rocksdb::{Direction, IteratorMode, ReadOptions, SnapshotWithThreadMode};
use self_cell::self_cell;

use super::ledger::{Database, META, STATE};

type Snap<'a> = SnapshotWithThreadMode<'a, Database>;

self_cell!(
    struct Frozen {
        owner: Arc<Database>,
        #[covariant]
        dependent: Snap,
    }
);

/// The rows as they were at one moment. Cheap to clone; holding one for long keeps old versions
/// of rows on disk.
#[derive(Clone)]
pub struct View {
    frozen: Arc<Frozen>,
    generation: u8,
}

fn wrong(error: impl std::fmt::Display) -> KvError {
    KvError(error.to_string())
}

fn no_rows() -> KvError {
    KvError("the database has no rows of state".into())
}

pub(super) fn row_key(generation: u8, key: &[u8]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(key.len() + 1);
    whole.push(generation);
    whole.extend_from_slice(key);
    whole
}

/// Rows of one generation with `prefix`, from `from` on.
fn scan(
    iterator: impl Iterator<Item = Result<(Box<[u8]>, Box<[u8]>), rocksdb::Error>>,
    generation: u8,
    prefix: &[u8],
) -> impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), KvError>> {
    iterator
        .map(|row| row.map_err(wrong))
        .take_while(move |row| match row {
            Ok((key, _)) => key.first() == Some(&generation) && key[1..].starts_with(prefix),
            Err(_) => true,
        })
        .map(|row| row.map(|(key, value)| (key[1..].to_vec(), value.into_vec())))
}

fn start(generation: u8, prefix: &[u8], from: &[u8]) -> Vec<u8> {
    row_key(generation, prefix.max(from))
}

impl View {
    pub(super) fn new(db: Arc<Database>, generation: u8) -> Self {
        Self {
            frozen: Arc::new(Frozen::new(db, |db| db.snapshot())),
            generation,
        }
    }

    /// A meta row as it was at the same moment.
    pub fn meta(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let family = self.frozen.borrow_owner().cf_handle(META);
        let family = family.ok_or_else(|| io::Error::other("the database has no meta rows"))?;
        self.frozen
            .borrow_dependent()
            .get_cf(&family, key)
            .map_err(super::broken)
    }

    /// Every row, in key order, read in pages.
    pub fn rows(&self) -> impl Iterator<Item = io::Result<(Vec<u8>, Vec<u8>)>> + use<> {
        const PAGE: usize = 512;
        let view = self.clone();
        let mut from = Some(Vec::new());
        std::iter::from_fn(move || {
            let start = from.take()?;
            match view.scan(&[], &start, PAGE) {
                Ok(page) => {
                    if page.len() == PAGE {
                        from = page.last().map(|(key, _)| {
                            let mut next = key.clone();
                            next.push(0);
                            next
                        });
                    }
                    Some(page.into_iter().map(Ok).collect::<Vec<_>>())
                }
                Err(error) => Some(vec![Err(io::Error::other(error.0))]),
            }
        })
        .flatten()
    }
}

impl KvRead for View {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        let cf = self
            .frozen
            .borrow_owner()
            .cf_handle(STATE)
            .ok_or_else(no_rows)?;
        let key = row_key(self.generation, key);
        self.frozen
            .borrow_dependent()
            .get_cf(&cf, key)
            .map_err(wrong)
    }

    fn scan(
        &self,
        prefix: &[u8],
        from: &[u8],
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>, KvError> {
        let cf = self
            .frozen
            .borrow_owner()
            .cf_handle(STATE)
            .ok_or_else(no_rows)?;
        let start = start(self.generation, prefix, from);
        let mode = IteratorMode::From(&start, Direction::Forward);
        let rows = self.frozen.borrow_dependent().iterator_cf(&cf, mode);
        scan(rows, self.generation, prefix).take(limit).collect()
    }
}

/// Changes on their way into one write, over what is stored.
pub struct StateBatch {
    db: Arc<Database>,
    generation: u8,
    changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl StateBatch {
    pub(super) fn new(db: Arc<Database>, generation: u8) -> Self {
        Self {
            db,
            generation,
            changes: BTreeMap::new(),
        }
    }

    pub(super) fn generation(&self) -> u8 {
        self.generation
    }

    pub(super) fn into_changes(self) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
        self.changes
    }
}

impl KvRead for StateBatch {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        if let Some(changed) = self.changes.get(key) {
            return Ok(changed.clone());
        }
        let cf = self.db.cf_handle(STATE).ok_or_else(no_rows)?;
        self.db
            .get_cf(&cf, row_key(self.generation, key))
            .map_err(wrong)
    }

    fn scan(
        &self,
        prefix: &[u8],
        from: &[u8],
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>, KvError> {
        let cf = self.db.cf_handle(STATE).ok_or_else(no_rows)?;
        let first = start(self.generation, prefix, from);
        let rows = self.db.iterator_cf_opt(
            &cf,
            ReadOptions::default(),
            IteratorMode::From(&first, Direction::Forward),
        );
        let mut stored = scan(rows, self.generation, prefix).peekable();
        let mut changed = self
            .changes
            .range(first[1..].to_vec()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .peekable();
        let mut found = Vec::new();
        // Two ordered streams become one; a change hides the stored row of the same key.
        while found.len() < limit {
            let stored_key = match stored.peek() {
                Some(Ok((key, _))) => Some(key.as_slice()),
                Some(Err(error)) => return Err(error.clone()),
                None => None,
            };
            match (stored_key, changed.peek()) {
                (None, None) => break,
                (Some(key), Some((new, _))) if key < new.as_slice() => {
                    found.extend(stored.next().transpose()?);
                }
                (Some(_), None) => found.extend(stored.next().transpose()?),
                (stored_key, Some((new, _))) => {
                    if stored_key == Some(new.as_slice()) {
                        let _hidden = stored.next().transpose()?;
                    }
                    if let Some((key, Some(value))) = changed.next() {
                        found.push((key.clone(), value.clone()));
                    }
                }
            }
        }
        Ok(found)
    }
}

impl Kv for StateBatch {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.changes.insert(key.to_vec(), Some(value.to_vec()));
    }

    fn delete(&mut self, key: &[u8]) {
        self.changes.insert(key.to_vec(), None);
    }
}

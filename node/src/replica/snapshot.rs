//! A snapshot of the state as one file: what the ledger's rows were at one log index.
//!
//! ```text
//! "HFSNAP1\n"  u32 length, SnapshotPart (log id and membership)
//! row*         u32 key length, u32 value length, key, value
//! end          u32 0xFFFF_FFFF, 32 bytes BLAKE3 of all before
//! ```
//! Numbers are big-endian. The form is logical (rows, not RocksDB files), so that nodes of
//! different versions can read each other's.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use holdfast_proto::cluster as wire;
use prost::Message;

use super::codec;
use super::types::SnapshotMeta;

/// Their folder in a data directory.
const FOLDER: &str = "snapshots";

const MAGIC: &[u8; 8] = b"HFSNAP1\n";
const END: u32 = u32::MAX;
/// No row is longer; a length above it is damage, not data to allocate for. Bytes.
const ROW_BYTES_MAX: u32 = 64 << 20;

/// An open snapshot file. It stays readable when a newer one takes its name.
#[derive(Clone)]
pub(crate) struct SnapshotFile {
    path: PathBuf,
    file: Arc<File>,
    _staged: Option<Arc<Staged>>,
}

/// A file that is not a snapshot yet: gone with its last user, unless it was adopted.
struct Staged(PathBuf);

impl Drop for Staged {
    fn drop(&mut self) {
        // Adopted, it has another name. What a crash leaves behind goes at the next start.
        let _adopted = std::fs::remove_file(&self.0);
    }
}

/// One row of the state.
pub(crate) type Row = (Vec<u8>, Vec<u8>);

/// Where snapshots lie in a data directory.
#[derive(Clone)]
pub(crate) struct Snapshots {
    dir: PathBuf,
    /// One at a time becomes the current one: openraft builds a snapshot while another comes in.
    turn: Arc<Mutex<()>>,
    /// How many were begun to be built: each has a file of its own.
    builds: Arc<AtomicU64>,
}

/// What is found where the current snapshot lies.
pub(crate) enum Found {
    Nothing,
    Whole(SnapshotMeta, SnapshotFile),
    /// It is removed.
    Damaged,
}

/// Forgets, durably, the snapshots of a node that had this data directory before. They must be gone when
/// another's life begins in it: by its term openraft would take one for newer than the rows there, and put
/// its rows in their place.
pub(crate) fn forget(data_dir: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(data_dir.join(FOLDER)) {
        Ok(()) => File::open(data_dir)?.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

impl Snapshots {
    /// A damaged snapshot is none: a node whose ledger is whole starts without it.
    pub(crate) fn open(dir: PathBuf) -> io::Result<Self> {
        std::fs::create_dir_all(&dir)?;
        // What a crash left half-written was never a snapshot.
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name != "current") {
                std::fs::remove_file(path)?;
            }
        }
        let snapshots = Self {
            dir,
            turn: Arc::default(),
            builds: Arc::default(),
        };
        snapshots.whole()?;
        Ok(snapshots)
    }

    /// An empty file for a snapshot that arrives. It goes with its last clone, unless adopted.
    pub(crate) fn stage(&self, name: &str) -> io::Result<SnapshotFile> {
        let path = self.dir.join(name);
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        Ok(SnapshotFile {
            _staged: Some(Arc::new(Staged(path.clone()))),
            path,
            file: Arc::new(file),
        })
    }

    fn current_path(&self) -> PathBuf {
        self.dir.join("current")
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn current(&self) -> io::Result<Option<(SnapshotMeta, SnapshotFile)>> {
        match SnapshotFile::open(&self.current_path()) {
            Ok(file) => Ok(Some((file.meta()?, file))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The file is the current snapshot, as far as its name says.
    pub(crate) fn is_current(&self, file: &SnapshotFile) -> bool {
        file.path == self.current_path()
    }

    /// The current snapshot, read to its digest. A damaged one is removed: whoever is sent it would refuse
    /// it and ask again, for ever, and nothing is in it that the ledger cannot give again. Blocks.
    pub(crate) fn whole(&self) -> io::Result<Found> {
        // What takes its place meanwhile must not be removed for it.
        let _turn = self.turn();
        let path = self.current_path();
        let file = match SnapshotFile::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(e) => return Err(e),
        };
        match file.checked() {
            Ok(meta) => Ok(Found::Whole(meta, file)),
            Err(error) => {
                std::fs::remove_file(&path)?;
                tracing::warn!(
                    "the snapshot in {} cannot be used and is removed: {error}. Nothing is lost: the ledger is whole, \
                     and another is made from it when one is needed. A disk that loses a bit may lose more: see to it",
                    path.display()
                );
                Ok(Found::Damaged)
            }
        }
    }

    /// Writes a snapshot and makes it the current one, durably.
    pub(crate) fn build(
        &self,
        meta: &SnapshotMeta,
        rows: impl Iterator<Item = io::Result<Row>>,
    ) -> io::Result<SnapshotFile> {
        // Another may be on its way: openraft's own, while a damaged one is replaced.
        let number = self.builds.fetch_add(1, Ordering::Relaxed);
        let staged = self.stage(&format!("building-{number}"))?;
        let mut out = Hashing::new(BufWriter::new(&*staged.file));
        let head = wire::SnapshotPart {
            last: meta.last_log_id.as_ref().map(codec::log_id_to_wire),
            membership: Some(codec::stored_membership_to_wire(&meta.last_membership)),
            ..wire::SnapshotPart::default()
        }
        .encode_to_vec();
        out.put(MAGIC)?;
        out.put_len(head.len())?;
        out.put(&head)?;
        for row in rows {
            let (key, value) = row?;
            out.put_len(key.len())?;
            out.put_len(value.len())?;
            out.put(&key)?;
            out.put(&value)?;
        }
        out.put(&END.to_be_bytes())?;
        let digest = out.hasher.finalize();
        out.inner.write_all(digest.as_bytes())?;
        out.inner
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?
            .sync_all()?;
        self.adopt(&staged.path)
    }

    /// Makes a complete, synced file at `path` the current snapshot, durably, and gives that file:
    /// whatever becomes the current one next, its rows are those. One that is newer stays; the log
    /// before it may be gone.
    pub(crate) fn adopt(&self, path: &Path) -> io::Result<SnapshotFile> {
        let _turn = self.turn();
        let file = SnapshotFile::open(path)?;
        let of = |meta: SnapshotMeta| meta.last_log_id.map(|id| id.index);
        // One that cannot be read is replaced.
        let current = self.current().ok().flatten();
        if current.and_then(|(meta, _)| of(meta)) > of(file.meta()?) {
            std::fs::remove_file(path)?;
            return Ok(file);
        }
        let current = self.current_path();
        std::fs::rename(path, &current)?;
        File::open(&self.dir)?.sync_all()?;
        Ok(SnapshotFile {
            path: current,
            ..file
        })
    }
}

impl SnapshotFile {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            file: Arc::new(File::open(path)?),
            _staged: None,
        })
    }

    /// Puts bytes behind those that are there.
    pub(crate) fn append(&self, bytes: &[u8]) -> io::Result<()> {
        (&*self.file).write_all(bytes)
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes `offset..offset + len`, fewer at the end, none behind it.
    pub(crate) fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let mut buffer = vec![0; len];
        let mut filled = 0;
        while filled < len {
            let n = std::os::unix::fs::FileExt::read_at(
                &*self.file,
                &mut buffer[filled..],
                offset + filled as u64,
            )?;
            if n == 0 {
                break;
            }
            filled += n;
        }
        buffer.truncate(filled);
        Ok(Bytes::from(buffer))
    }

    pub(crate) fn meta(&self) -> io::Result<SnapshotMeta> {
        Ok(self.rows()?.0)
    }

    /// The same, once all of the file is read and its digest fits.
    fn checked(&self) -> io::Result<SnapshotMeta> {
        let (meta, mut rows) = self.rows()?;
        rows.try_for_each(|row| row.map(drop))?;
        Ok(meta)
    }

    /// What the snapshot is of, and its rows. The iterator's last item is an error where the
    /// file is cut short or its digest does not fit.
    pub(crate) fn rows(&self) -> io::Result<(SnapshotMeta, Rows)> {
        let mut rows = Rows {
            input: BufReader::with_capacity(
                1 << 18,
                At {
                    file: self.clone(),
                    offset: 0,
                },
            ),
            hasher: blake3::Hasher::new(),
            done: false,
        };
        let magic = rows.bytes(MAGIC.len() as u32)?;
        if magic != MAGIC {
            return Err(damaged("it does not begin as a snapshot does"));
        }
        let len = rows.length()?;
        let head = rows.bytes(len)?;
        let head = wire::SnapshotPart::decode(&head[..]).map_err(|e| damaged(&e.to_string()))?;
        let meta = SnapshotMeta {
            last_log_id: head.last.as_ref().map(codec::log_id),
            last_membership: codec::stored_membership(head.membership.unwrap_or_default())?,
        };
        Ok((meta, rows))
    }
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the snapshot file is damaged: {why}; the state is untouched"),
    )
}

struct At {
    file: SnapshotFile,
    offset: u64,
}

impl Read for At {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = std::os::unix::fs::FileExt::read_at(&*self.file.file, buffer, self.offset)?;
        self.offset += n as u64;
        Ok(n)
    }
}

/// The rows of a snapshot file, in key order.
pub(crate) struct Rows {
    input: BufReader<At>,
    hasher: blake3::Hasher,
    done: bool,
}

impl Rows {
    fn bytes(&mut self, len: u32) -> io::Result<Vec<u8>> {
        if len > ROW_BYTES_MAX {
            return Err(damaged("a length in it is impossible"));
        }
        let mut bytes = vec![0; len as usize];
        self.input.read_exact(&mut bytes)?;
        self.hasher.update(&bytes);
        Ok(bytes)
    }

    fn length(&mut self) -> io::Result<u32> {
        let bytes = self.bytes(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn row(&mut self) -> io::Result<Option<Row>> {
        let key_len = self.length()?;
        if key_len == END {
            let mut digest = [0; 32];
            self.input.read_exact(&mut digest)?;
            if self.hasher.finalize() != blake3::Hash::from_bytes(digest) {
                return Err(damaged("its digest does not fit"));
            }
            return Ok(None);
        }
        let value_len = self.length()?;
        Ok(Some((self.bytes(key_len)?, self.bytes(value_len)?)))
    }
}

impl Iterator for Rows {
    type Item = io::Result<Row>;

    fn next(&mut self) -> Option<io::Result<Row>> {
        if self.done {
            return None;
        }
        let row = self.row().transpose();
        self.done = !matches!(row, Some(Ok(_)));
        row
    }
}

struct Hashing<W> {
    inner: W,
    hasher: blake3::Hasher,
}

impl<W: Write> Hashing<W> {
    fn new(inner: W) -> Self {
        Self {
            inner,
            hasher: blake3::Hasher::new(),
        }
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.inner.write_all(bytes)
    }

    fn put_len(&mut self, len: usize) -> io::Result<()> {
        let len = u32::try_from(len).ok().filter(|len| *len <= ROW_BYTES_MAX);
        self.put(
            &len.ok_or_else(|| damaged("a row is too long"))?
                .to_be_bytes(),
        )
    }
}

#[cfg(test)]
mod tests {
    use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
    use tokio::sync::broadcast;

    use super::super::state_machine::StateMachine;
    use super::*;
    use crate::store::{Failures, FlushTimes, Options, Store};

    fn meta() -> SnapshotMeta {
        let id = super::super::types::LeaderId {
            term: 2,
            node_id: 1,
        };
        SnapshotMeta {
            last_log_id: Some(openraft::LogId {
                leader_id: id,
                index: 42,
            }),
            ..SnapshotMeta::default()
        }
    }

    fn a_row() -> Row {
        (b"key".to_vec(), b"value".to_vec())
    }

    /// A node's state: one row, as of `meta`.
    fn machine(dir: &Path, snapshots: &Snapshots) -> StateMachine {
        let options = Options {
            fatal: Arc::new(|why| panic!("{why}")),
            flush_times: FlushTimes::default(),
            failures: Failures::default(),
        };
        let store = Arc::new(Store::open(&dir.join("ledger"), options).unwrap());
        let applied = StateMachine::meta_rows(meta().last_log_id.unwrap(), None);
        let rows = std::iter::once(Ok(a_row()));
        store.replace_state(rows, &applied).unwrap();
        let (effects, _) = broadcast::channel(16);
        StateMachine::open(store, snapshots.clone(), effects, Arc::default()).unwrap()
    }

    /// A file with a bit changed in its beginning, its head, its row or its digest, and one that is cut
    /// short.
    fn spoilt(whole: &[u8]) -> Vec<Vec<u8>> {
        let places = [0, 11, 16, whole.len() - 40, whole.len() - 1];
        let mut all = vec![whole[..whole.len() - 1].to_vec()];
        for place in places {
            let mut flipped = whole.to_vec();
            flipped[place] ^= 1;
            all.push(flipped);
        }
        all
    }

    #[test]
    fn a_node_starts_with_a_damaged_snapshot_as_with_none() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Snapshots::open(dir.path().join("s")).unwrap();
        let file = open().build(&meta(), std::iter::once(Ok(a_row()))).unwrap();
        let whole = std::fs::read(file.path()).unwrap();
        for bytes in spoilt(&whole) {
            std::fs::write(file.path(), bytes).unwrap();
            assert!(open().current().unwrap().is_none());
        }
        std::fs::write(file.path(), &whole).unwrap();
        assert!(open().current().unwrap().is_some(), "a whole one stays");
    }

    /// What a follower would be sent, again and again.
    #[tokio::test]
    async fn a_damaged_snapshot_is_handed_to_nobody_and_made_anew_from_the_ledger() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(dir.path().join("s")).unwrap();
        let mut machine = machine(dir.path(), &snapshots);
        let mut builder = machine.get_snapshot_builder().await;
        let file = builder.build_snapshot().await.unwrap().snapshot;
        let whole = std::fs::read(file.path()).unwrap();
        for bytes in spoilt(&whole) {
            std::fs::write(file.path(), bytes).unwrap();
            let found = machine.get_current_snapshot().await.unwrap().unwrap();
            assert_eq!(found.meta, meta());
            assert_eq!(found.snapshot.read_at(0, 1 << 16).unwrap(), whole);
            assert_eq!(std::fs::read(file.path()).unwrap(), whole);
        }
    }

    #[tokio::test]
    async fn a_snapshot_is_installed_whatever_became_of_the_one_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(dir.path().join("s")).unwrap();
        let mut machine = machine(dir.path(), &snapshots);
        let mut builder = machine.get_snapshot_builder().await;
        let file = builder.build_snapshot().await.unwrap().snapshot;
        std::fs::write(file.path(), b"nothing").unwrap();
        let mut newer = meta();
        newer.last_log_id = newer
            .last_log_id
            .map(|id| openraft::LogId { index: 50, ..id });
        let leader = Snapshots::open(dir.path().join("leader")).unwrap();
        let sent = leader.build(&newer, std::iter::empty()).unwrap();
        let staged = snapshots.stage("incoming-1").unwrap();
        staged.append(&sent.read_at(0, 1 << 16).unwrap()).unwrap();
        machine.install_snapshot(&newer, staged).await.unwrap();
        let found = machine.get_current_snapshot().await.unwrap().unwrap();
        assert_eq!(found.meta, newer);
    }

    #[test]
    fn the_snapshots_of_whoever_had_the_data_directory_before_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        forget(dir.path()).unwrap();
        let folder = dir.path().join(FOLDER);
        let snapshots = Snapshots::open(folder.clone()).unwrap();
        snapshots.build(&meta(), std::iter::empty()).unwrap();
        forget(dir.path()).unwrap();
        assert!(!folder.exists());
    }

    /// openraft builds one while another is installed.
    #[test]
    fn a_build_that_ends_late_takes_the_place_of_no_newer_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(dir.path().join("s")).unwrap();
        let row = |text: &str| vec![(text.as_bytes().to_vec(), vec![])];
        let of = |index| {
            let mut meta = meta();
            meta.last_log_id = meta.last_log_id.map(|id| openraft::LogId { index, ..id });
            meta
        };
        let build = |index, text| {
            let rows = row(text).into_iter().map(Ok);
            snapshots.build(&of(index), rows).unwrap()
        };
        let newer = build(50, "newer");
        let late = build(42, "late");
        let rows = |file: &SnapshotFile| -> Vec<Row> {
            file.rows().unwrap().1.collect::<io::Result<_>>().unwrap()
        };
        assert_eq!(rows(&late), row("late"), "its own rows go with its meta");
        let (meta, current) = snapshots.current().unwrap().unwrap();
        assert_eq!((meta, rows(&current)), (of(50), row("newer")));
        let newest = build(51, "newest");
        assert_eq!(rows(&newer), row("newer"), "as opened");
        assert_eq!(snapshots.current().unwrap().unwrap().0, of(51));
        assert_eq!(rows(&newest), row("newest"));
    }

    #[test]
    fn a_snapshot_is_read_back_as_written() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(dir.path().join("s")).unwrap();
        let rows = vec![(b"a".to_vec(), b"1".to_vec()), (b"b".to_vec(), vec![])];
        snapshots
            .build(&meta(), rows.clone().into_iter().map(Ok))
            .unwrap();
        let (found, file) = snapshots.current().unwrap().unwrap();
        assert_eq!(found, meta());
        let back: Vec<Row> = file.rows().unwrap().1.map(Result::unwrap).collect();
        assert_eq!(back, rows);
    }

    #[test]
    fn a_file_that_never_became_a_snapshot_goes_with_its_last_user() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(dir.path().join("s")).unwrap();
        let files = || std::fs::read_dir(dir.path().join("s")).unwrap().count();
        let staged = snapshots.stage("incoming-1").unwrap();
        let other = staged.clone();
        drop(staged);
        assert_eq!(files(), 1, "somebody still reads it");
        drop(other);
        assert_eq!(files(), 0);
        let whole = snapshots.build(&meta(), std::iter::empty()).unwrap();
        let adopted = snapshots.stage("incoming-2").unwrap();
        adopted.append(&whole.read_at(0, 1 << 16).unwrap()).unwrap();
        snapshots.adopt(adopted.path()).unwrap();
        drop(adopted);
        assert_eq!(files(), 1, "it is the current snapshot now");
    }

    #[test]
    fn a_damaged_or_cut_snapshot_ends_in_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(dir.path().join("s")).unwrap();
        let rows = [(b"key".to_vec(), b"value".to_vec())];
        let file = snapshots.build(&meta(), rows.into_iter().map(Ok)).unwrap();
        let whole = std::fs::read(file.path()).unwrap();
        let bad = dir.path().join("bad");
        for place in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[place] ^= 1;
            for bytes in [&flipped[..], &whole[..place]] {
                std::fs::write(&bad, bytes).unwrap();
                let outcome = SnapshotFile::open(&bad)
                    .and_then(|file| file.rows())
                    .and_then(|(_, rows)| rows.collect::<io::Result<Vec<Row>>>());
                assert!(outcome.is_err(), "byte {place}");
            }
        }
    }
}

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
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use holdfast_proto::cluster as wire;
use prost::Message;

use super::codec;
use super::types::SnapshotMeta;

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
}

impl Snapshots {
    pub(crate) fn open(dir: PathBuf) -> io::Result<Self> {
        std::fs::create_dir_all(&dir)?;
        // What a crash left half-written was never a snapshot.
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name != "current") {
                std::fs::remove_file(path)?;
            }
        }
        Ok(Self {
            dir,
            turn: Arc::default(),
        })
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

    pub(crate) fn current(&self) -> io::Result<Option<(SnapshotMeta, SnapshotFile)>> {
        let path = self.dir.join("current");
        match SnapshotFile::open(&path) {
            Ok(file) => Ok(Some((file.meta()?, file))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Writes a snapshot and makes it the current one, durably.
    pub(crate) fn build(
        &self,
        meta: &SnapshotMeta,
        rows: impl Iterator<Item = io::Result<Row>>,
    ) -> io::Result<SnapshotFile> {
        let path = self.dir.join("building");
        let mut out = Hashing::new(BufWriter::new(File::create(&path)?));
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
        self.adopt(&path)
    }

    /// Makes a complete, synced file at `path` the current snapshot, durably, and gives that file:
    /// whatever becomes the current one next, its rows are those. One that is newer stays; the log
    /// before it may be gone.
    pub(crate) fn adopt(&self, path: &Path) -> io::Result<SnapshotFile> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let file = SnapshotFile::open(path)?;
        let of = |meta: SnapshotMeta| meta.last_log_id.map(|id| id.index);
        // One that cannot be read is replaced.
        let current = self.current().ok().flatten();
        if current.and_then(|(meta, _)| of(meta)) > of(file.meta()?) {
            std::fs::remove_file(path)?;
            return Ok(file);
        }
        let current = self.dir.join("current");
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
        format!("the snapshot file is damaged: {why}; the state is untouched, fetch it again"),
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
    use super::*;

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

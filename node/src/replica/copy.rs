//! A copy of everything that the cluster knows and holds, as one file: for a backup, and for founding
//! a cluster anew from what is left of one.
//!
//! ```text
//! "HFCOPY1\n"
//! frame*    u8 kind, u32 length, bytes   head, then rows, then bodies: each a description and chunks
//! end       u8 0, u32 32, BLAKE3 of all before
//! ```
//! Numbers are big-endian. Rows are those of one applied index. A body that was deleted while the copy
//! was made, for its message was delivered, is not in it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};

use bytes::Bytes;
use holdfast_ledger::{KvRead, query};
use holdfast_mail::{BodyRef, MessageId};
use holdfast_proto::cluster as wire;
use prost::Message;

use super::handle::Cluster;
use super::state_machine::{APPLIED, MEMBERSHIP};
use crate::store::View;

const MAGIC: &[u8; 8] = b"HFCOPY1\n";

/// No frame is longer: rows are bounded by what a log entry carries. Bytes.
const FRAME_BYTES_MAX: u32 = 64 << 20;

/// Kinds of frame.
const END: u8 = 0;
const HEAD: u8 = 1;
const ROW: u8 = 2;
const BODY: u8 = 3;
const CHUNK: u8 = 4;

/// Bodies asked of the rows at a time.
const PAGE: usize = 1_000;

/// What a copy consists of, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    Head(wire::CopyHead),
    Row(wire::CopyRow),
    Body(wire::CopyBody),
    /// Of the body before it.
    Chunk(Bytes),
}

/// Writes a copy.
pub struct Writer<W> {
    out: W,
    hasher: blake3::Hasher,
}

impl<W: Write> Writer<W> {
    /// # Errors
    /// It cannot be written.
    pub fn begin(out: W, head: &wire::CopyHead) -> io::Result<Self> {
        let hasher = blake3::Hasher::new();
        let mut writer = Self { out, hasher };
        writer.bytes(MAGIC)?;
        writer.frame(HEAD, &head.encode_to_vec())?;
        Ok(writer)
    }

    /// # Errors
    /// It cannot be written.
    pub fn row(&mut self, key: Vec<u8>, value: Vec<u8>) -> io::Result<()> {
        let row = wire::CopyRow {
            key: key.into(),
            value: value.into(),
        };
        self.frame(ROW, &row.encode_to_vec())
    }

    /// # Errors
    /// It cannot be written.
    pub fn body(&mut self, body: &BodyRef, chunks: &[Bytes]) -> io::Result<()> {
        let told = wire::CopyBody {
            id: body.id.to_bytes().to_vec().into(),
            len: body.len,
            digest: body.digest.to_vec().into(),
        };
        self.frame(BODY, &told.encode_to_vec())?;
        for chunk in chunks {
            self.frame(CHUNK, chunk)?;
        }
        Ok(())
    }

    /// # Errors
    /// It cannot be written.
    pub fn end(mut self) -> io::Result<W> {
        let digest = *self.hasher.finalize().as_bytes();
        self.frame(END, &digest)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn frame(&mut self, kind: u8, bytes: &[u8]) -> io::Result<()> {
        let len = u32::try_from(bytes.len())
            .ok()
            .filter(|len| *len <= FRAME_BYTES_MAX);
        let len = len.ok_or_else(|| damaged("a row is too long"))?;
        self.bytes(&[kind])?;
        self.bytes(&len.to_be_bytes())?;
        self.bytes(bytes)
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.out.write_all(bytes)
    }
}

/// Writes the rows of a view, and the bodies they name. `read` reads a body, or says that it is gone.
/// All of it, before any of it is written: half a body would make the copy a damaged one.
///
/// # Errors
/// Rows or bodies cannot be read, or the copy cannot be written.
pub(crate) fn write<W: Write>(
    out: W,
    head: &wire::CopyHead,
    rows: impl Iterator<Item = io::Result<(Vec<u8>, Vec<u8>)>>,
    kv: &dyn KvRead,
    mut read: impl FnMut(&BodyRef) -> io::Result<Option<Vec<Bytes>>>,
) -> io::Result<W> {
    let mut writer = Writer::begin(out, head)?;
    for row in rows {
        let (key, value) = row?;
        writer.row(key, value)?;
    }
    let mut after: Option<MessageId> = None;
    loop {
        let page = query::bodies(kv, after, PAGE).map_err(|error| io::Error::other(error.0))?;
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        for body in &page {
            if let Some(chunks) = read(body)? {
                writer.body(body, &chunks)?;
            }
        }
    }
    writer.end()
}

/// Who votes, as of a view; a node that has applied nothing does not know.
pub(crate) fn membership(view: &View) -> io::Result<Option<wire::Membership>> {
    let Some(bytes) = view.meta(MEMBERSHIP)? else {
        return Ok(None);
    };
    let stored = wire::StoredMembership::decode(&bytes[..]).map_err(io::Error::other)?;
    Ok(stored.membership)
}

impl Cluster {
    /// Writes a copy of all rows, as of this moment, and of the bodies they name. Blocks.
    ///
    /// # Errors
    /// This node lacks a body, its data cannot be read, or `out` fails.
    pub fn copy<W: Write>(&self, out: W) -> io::Result<()> {
        let view = self.view();
        let applied = match view.meta(APPLIED)? {
            Some(bytes) => wire::LogId::decode(&bytes[..]).map_err(io::Error::other)?,
            None => wire::LogId::default(),
        };
        let head = wire::CopyHead {
            cluster_id: self.cluster_id().to_vec().into(),
            node: self.me().name.clone(),
            at_ms: super::now().0,
            index: applied.index,
            applied: applied.index,
            term: applied.term,
            membership: membership(&view)?,
        };
        let bodies = self.bodies().store();
        let read = |body: &BodyRef| {
            let found = super::offline::body_of(bodies, body)?;
            let is_held =
                || query::envelope(&self.view(), body.id).is_ok_and(|held| held.is_some());
            if found.is_none() && is_held() {
                return Err(io::Error::other(format!(
                    "the body of {} is not on this node, or damaged here; ask another node",
                    body.id
                )));
            }
            Ok(found)
        };
        write(out, &head, view.rows(), &view, read)?;
        Ok(())
    }
}

/// Reads a copy. The last item is an error where it is cut short, or its digest does not fit.
pub struct Reader<R> {
    input: R,
    hasher: blake3::Hasher,
    over: bool,
}

impl<R: Read> Reader<R> {
    /// # Errors
    /// It is no copy.
    pub fn open(mut input: R) -> io::Result<Self> {
        let mut magic = [0; MAGIC.len()];
        input
            .read_exact(&mut magic)
            .map_err(|_| damaged("it is too short"))?;
        if magic != *MAGIC {
            return Err(damaged("it does not begin as a copy of a cluster does"));
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&magic);
        Ok(Self {
            input,
            hasher,
            over: false,
        })
    }

    fn item(&mut self) -> io::Result<Option<Item>> {
        let before = self.hasher.clone();
        let [kind, a, b, c, d] = self.exactly::<5>()?;
        let len = u32::from_be_bytes([a, b, c, d]);
        if len > FRAME_BYTES_MAX {
            return Err(damaged("a length in it is impossible"));
        }
        let mut bytes = vec![0; len as usize];
        self.input.read_exact(&mut bytes).map_err(cut)?;
        self.hasher.update(&bytes);
        let bytes = Bytes::from(bytes);
        let unreadable = |error: prost::DecodeError| damaged(&error.to_string());
        Ok(Some(match kind {
            END if bytes[..] == before.finalize().as_bytes()[..] => return Ok(None),
            END => return Err(damaged("its digest does not fit")),
            HEAD => Item::Head(wire::CopyHead::decode(bytes).map_err(unreadable)?),
            ROW => Item::Row(wire::CopyRow::decode(bytes).map_err(unreadable)?),
            BODY => Item::Body(wire::CopyBody::decode(bytes).map_err(unreadable)?),
            CHUNK => Item::Chunk(bytes),
            _ => return Err(damaged("a newer version wrote it")),
        }))
    }

    fn exactly<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes).map_err(cut)?;
        self.hasher.update(&bytes);
        Ok(bytes)
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = io::Result<Item>;

    fn next(&mut self) -> Option<io::Result<Item>> {
        if self.over {
            return None;
        }
        let item = self.item().transpose();
        self.over = !matches!(item, Some(Ok(_)));
        item
    }
}

fn damaged(why: &str) -> io::Error {
    let text = format!("the copy is damaged: {why}; nothing was changed; use another copy");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn cut(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => damaged("it is cut short"),
        _ => error,
    }
}

/// What is in a copy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    pub head: wire::CopyHead,
    pub rows: u64,
    pub bodies: BTreeSet<MessageId>,
    /// Of the bodies.
    pub bytes: u64,
}

/// Reads all of a copy, and says what is in it once all of it is sound.
///
/// # Errors
/// It is damaged, or cannot be read.
pub fn inspect(file: &File) -> io::Result<Contents> {
    let mut contents = Contents::default();
    let mut body: Option<(wire::CopyBody, u64, blake3::Hasher)> = None;
    let whole = |body: &mut Option<(wire::CopyBody, u64, blake3::Hasher)>| match body.take() {
        Some((told, len, hasher))
            if told.len != len || told.digest[..] != hasher.finalize().as_bytes()[..] =>
        {
            Err(damaged("a body in it is not what it says"))
        }
        _ => Ok(()),
    };
    for item in Reader::open(io::BufReader::new(file))? {
        match item? {
            Item::Head(head) => contents.head = head,
            Item::Row(_) => contents.rows += 1,
            Item::Body(told) => {
                whole(&mut body)?;
                let id = MessageId::from_bytes(&told.id);
                contents
                    .bodies
                    .insert(id.ok_or_else(|| damaged("a body has no id"))?);
                contents.bytes += told.len;
                body = Some((told, 0, blake3::Hasher::new()));
            }
            Item::Chunk(chunk) => {
                let (_, len, hasher) = body.as_mut().ok_or_else(|| damaged("of no body"))?;
                *len += chunk.len() as u64;
                hasher.update(&chunk);
            }
        }
    }
    whole(&mut body)?;
    Ok(contents)
}

#[cfg(test)]
mod tests {
    use holdfast_mail::Timestamp;

    use super::*;

    fn copy() -> Vec<u8> {
        let head = wire::CopyHead {
            cluster_id: vec![1; 16].into(),
            index: 42,
            ..wire::CopyHead::default()
        };
        let mut writer = Writer::begin(Vec::new(), &head).unwrap();
        writer.row(b"key".to_vec(), b"value".to_vec()).unwrap();
        let content = Bytes::from_static(b"mail");
        let body = BodyRef {
            id: MessageId::new(Timestamp(1), 1),
            len: 4,
            digest: *blake3::hash(&content).as_bytes(),
        };
        writer.body(&body, &[content]).unwrap();
        writer.end().unwrap()
    }

    fn inspected(bytes: &[u8]) -> io::Result<Contents> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        io::Seek::rewind(&mut file).unwrap();
        inspect(&file)
    }

    #[test]
    fn a_copy_says_what_is_in_it() {
        let contents = inspected(&copy()).unwrap();
        assert_eq!(contents.head.index, 42);
        assert_eq!(
            (contents.rows, contents.bodies.len(), contents.bytes),
            (1, 1, 4)
        );
    }

    #[test]
    fn a_copy_that_is_cut_short_or_changed_anywhere_is_refused() {
        let whole = copy();
        for place in 0..whole.len() {
            assert!(inspected(&whole[..place]).is_err(), "cut at {place}");
            let mut flipped = whole.clone();
            flipped[place] ^= 1;
            assert!(inspected(&flipped).is_err(), "byte {place}");
        }
    }
}

//! What must hold of any bytes that lie in a log or a snapshot, or come from a peer. The targets
//! of `holdfast-fuzz` that need this room's types; its guided fuzzer takes this file too.

use std::io::{self, Write};
use std::path::Path;

use bytes::Bytes;
use holdfast_fuzz::Choices;
use holdfast_ledger::query;
use holdfast_proto::cluster as wire;
use prost::Message;

use super::codec;
use super::snapshot::{Row, SnapshotFile};

/// An entry, a membership, a vote: a value that is written as it was read, or an error.
pub(crate) fn logged(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    if let Ok(entry) = codec::entry(bytes.clone()) {
        let again = codec::entry(codec::entry_to_bytes(&entry)).expect("what was read is written");
        assert_eq!(again, entry);
    }
    if let Ok(proposal) = codec::proposal(bytes) {
        assert_eq!(proposal.bytes, data);
    }
    if let Ok(stored) = wire::StoredMembership::decode(data)
        && let Ok(stored) = codec::stored_membership(stored)
    {
        let again = codec::stored_membership(codec::stored_membership_to_wire(&stored));
        assert_eq!(again.expect("what was read is written"), stored);
    }
    if let Ok(vote) = wire::Vote::decode(data) {
        let vote = codec::vote(&vote);
        assert_eq!(codec::vote(&codec::vote_to_wire(&vote)), vote);
        assert_eq!(
            codec::some_vote(Some(&codec::vote_to_wire(&vote))).ok(),
            Some(vote)
        );
    }
    if let Ok(id) = wire::LogId::decode(data) {
        let id = codec::log_id(&id);
        assert_eq!(codec::log_id(&codec::log_id_to_wire(&id)), id);
    }
}

const MAGIC: &[u8] = b"HFSNAP1\n";

/// A snapshot file: rows or an error, and rows are never more than the file can hold. The first
/// byte decides whether the file begins as one, and whether its digest fits.
pub(crate) fn snapshot(data: &[u8]) {
    let mut choices = Choices::new(data);
    let (begins, fits) = (choices.flag(), choices.flag());
    let mut file = Vec::new();
    if begins {
        file.extend_from_slice(MAGIC);
    }
    file.extend_from_slice(choices.rest());
    if fits {
        file.extend_from_slice(&u32::MAX.to_be_bytes());
        let digest = blake3::hash(&file);
        file.extend_from_slice(digest.as_bytes());
    }
    let mut on_disk = tempfile::NamedTempFile::new().expect("a file");
    on_disk.write_all(&file).expect("it is written");
    if let Ok(rows) = read(on_disk.path()) {
        let held: usize = rows
            .iter()
            .map(|(key, value)| 8 + key.len() + value.len())
            .sum();
        assert!(held < file.len(), "rows out of nowhere");
        assert!(file.starts_with(MAGIC));
        for (key, value) in &rows {
            // A row that cannot be read is an error, not a panic.
            let _body = query::body_of_row(key, value);
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<Row>> {
    let (_, rows) = SnapshotFile::open(path)?.rows()?;
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: &[&[u8]] = &[
        b"\x0a\x06\x08\x03\x10\x07\x18\x2c",
        b"\x10\x01",
        b"\x12\x00",
        b"\0\0\0\x01\0\0\0\x01kv",
        b"\xff\xff\xff\xff",
        b"\0\0\0\0",
        b"\x30",
    ];

    fn play(name: &'static str, run: fn(&[u8]), rounds: u64) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        let target = holdfast_fuzz::Target {
            name,
            run,
            words: WORDS,
            rounds,
        };
        holdfast_fuzz::play(&target, &corpus);
    }

    #[test]
    fn what_is_logged_is_a_value_or_an_error() {
        play("logged", logged, 200_000);
    }

    #[test]
    fn a_snapshot_file_is_rows_or_an_error() {
        play("snapshot", snapshot, 20_000);
    }
}

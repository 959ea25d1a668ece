//! What the replicated rows come to. After the same entry it is the same on every node: a
//! difference means that two replicas disagree, and that one of them is wrong.

use std::io;

use holdfast_proto::cluster as wire;
use prost::Message;

use super::state_machine::APPLIED;
use crate::store::View;

/// The hash of one consistent view. No row is left out: none may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateHash {
    /// The last entry that the rows contain; 0: none.
    pub applied: u64,
    pub rows: u64,
    pub hash: [u8; 32],
}

impl StateHash {
    /// Reads every row: seconds where millions of messages are held.
    pub(crate) fn of(view: &View) -> io::Result<Self> {
        let applied = match view.meta(APPLIED)? {
            Some(bytes) => {
                wire::LogId::decode(&bytes[..])
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?
                    .index
            }
            None => 0,
        };
        let mut rows = 0;
        let mut hasher = blake3::Hasher::new();
        for row in view.rows() {
            let (key, value) = row?;
            rows += 1;
            // With their lengths, so that no other division of the same bytes is equal.
            for part in [key, value] {
                hasher.update(&(part.len() as u64).to_be_bytes());
                hasher.update(&part);
            }
        }
        Ok(Self {
            applied,
            rows,
            hash: *hasher.finalize().as_bytes(),
        })
    }
}

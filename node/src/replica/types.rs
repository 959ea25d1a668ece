//! The types openraft is instantiated with. They never leave this room.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_ledger::{Batch, Reply};
use holdfast_mail::Timestamp;
use holdfast_proto::ledger as proto;
use openraft::impls::leader_id_adv;
use prost::Message;

/// A batch of commands as one log entry: decoded once, and the bytes that lie in the log.
#[derive(Clone)]
pub(crate) struct Proposal {
    pub(crate) batch: Arc<Batch>,
    pub(crate) bytes: Bytes,
}

/// The ledger's replies to one batch, in its order; empty for entries that are openraft's own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Replies(pub(crate) Vec<Reply>);

/// A member as the membership entry carries it: where its cluster listener is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seat {
    pub(crate) name: String,
    pub(crate) region: String,
    /// `host:port`.
    pub(crate) cluster_address: String,
}

#[cfg(not(test))]
type Runtime = openraft::impls::TokioRuntime;
#[cfg(test)]
type Runtime = super::simulated::Runtime;

openraft::declare_raft_types!(
    /// Holdfast's instance of Raft.
    pub(crate) Types:
        D = Proposal,
        R = Replies,
        NodeId = u64,
        Node = Seat,
        AsyncRuntime = Runtime,
);

pub(crate) type LeaderId = leader_id_adv::LeaderId<u64, u64>;
pub(crate) type LogId = openraft::LogId<LeaderId>;
pub(crate) type Vote = openraft::Vote<LeaderId>;
pub(crate) type Entry = openraft::alias::EntryOf<Types>;
pub(crate) type Payload = openraft::EntryPayload<Proposal, u64, Seat>;
pub(crate) type Membership = openraft::Membership<u64, Seat>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<Types>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<Types>;
pub(crate) type Snapshot = openraft::alias::SnapshotOf<Types, super::snapshot::SnapshotFile>;
pub(crate) type Raft = openraft::Raft<Types, super::state_machine::StateMachine>;

impl Proposal {
    /// Encodes a batch, and reads it back: an entry that a replica cannot read stops it, so
    /// none may enter a log.
    pub(crate) fn new(batch: Batch) -> Result<Self, super::codec::Undecodable> {
        super::codec::proposal(Bytes::from(batch.encode()))
    }

    /// The same of commands that are encoded already.
    pub(crate) fn of(
        at: Timestamp,
        commands: Vec<Bytes>,
    ) -> Result<Self, super::codec::Undecodable> {
        let at_ms = at.0;
        let batch = proto::Batch { at_ms, commands };
        super::codec::proposal(Bytes::from(batch.encode_to_vec()))
    }
}

impl PartialEq for Proposal {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} commands, {} bytes",
            self.batch.commands.len(),
            self.bytes.len()
        )
    }
}

impl fmt::Display for Replies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} replies", self.0.len())
    }
}

impl fmt::Display for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({}) at {}",
            self.name, self.region, self.cluster_address
        )
    }
}

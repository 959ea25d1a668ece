//! Raft's values as protobuf, for the log and the wire. openraft's own forms are not stable
//! between versions; these are.
//!
//! A field that is missing or a variant that is unknown is an error: skipping it would let
//! replicas diverge.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use bytes::Bytes;
use holdfast_ledger::Batch;
use holdfast_proto::cluster as wire;
use openraft::alias::EntryOf;
use prost::Message;

use super::level;
use super::types::{
    Entry, LeaderId, LogId, Membership, Payload, Proposal, Seat, StoredMembership, Types, Vote,
};

/// What came from the disk or a peer is not what this version can read.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot decode {what}: {why}. Nothing was changed; if a newer Holdfast wrote it, run that version"
)]
pub(crate) struct Undecodable {
    what: &'static str,
    why: String,
}

impl Undecodable {
    fn new(what: &'static str, why: impl ToString) -> Self {
        Self {
            what,
            why: why.to_string(),
        }
    }
}

impl From<Undecodable> for io::Error {
    fn from(error: Undecodable) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

pub(crate) fn log_id_to_wire(id: &LogId) -> wire::LogId {
    wire::LogId {
        term: id.leader_id.term,
        leader: id.leader_id.node_id,
        index: id.index,
    }
}

pub(crate) fn log_id(id: &wire::LogId) -> LogId {
    LogId {
        leader_id: LeaderId {
            term: id.term,
            node_id: id.leader,
        },
        index: id.index,
    }
}

pub(crate) fn vote_to_wire(vote: &Vote) -> wire::Vote {
    wire::Vote {
        term: vote.leader_id.term,
        node: vote.leader_id.node_id,
        committed: vote.committed,
    }
}

pub(crate) fn vote(vote: &wire::Vote) -> Vote {
    Vote {
        leader_id: LeaderId {
            term: vote.term,
            node_id: vote.node,
        },
        committed: vote.committed,
    }
}

/// A vote that a message must carry.
pub(crate) fn some_vote(from: Option<&wire::Vote>) -> Result<Vote, Undecodable> {
    from.map(vote)
        .ok_or_else(|| Undecodable::new("a vote", "it is missing"))
}

pub(crate) fn membership_to_wire(membership: &Membership) -> wire::Membership {
    wire::Membership {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|set| wire::VoterSet {
                ids: set.iter().copied().collect(),
            })
            .collect(),
        nodes: membership
            .nodes()
            .map(|(id, seat)| wire::Member {
                id: *id,
                name: seat.name.clone(),
                region: seat.region.clone(),
                cluster_address: seat.cluster_address.clone(),
                ..wire::Member::default()
            })
            .collect(),
    }
}

pub(crate) fn membership(from: wire::Membership) -> Result<Membership, Undecodable> {
    let configs: Vec<BTreeSet<u64>> = from
        .configs
        .into_iter()
        .map(|set| set.ids.into_iter().collect())
        .collect();
    let nodes: BTreeMap<u64, Seat> = from
        .nodes
        .into_iter()
        .map(|m| {
            (
                m.id,
                Seat {
                    name: m.name,
                    region: m.region,
                    cluster_address: m.cluster_address,
                },
            )
        })
        .collect();
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, nodes).map_err(|e| Undecodable::new("a membership", e))
}

pub(crate) fn stored_membership_to_wire(stored: &StoredMembership) -> wire::StoredMembership {
    wire::StoredMembership {
        log_id: stored.log_id().as_ref().map(log_id_to_wire),
        membership: Some(membership_to_wire(stored.membership())),
    }
}

pub(crate) fn stored_membership(
    from: wire::StoredMembership,
) -> Result<StoredMembership, Undecodable> {
    let inside = from.membership.unwrap_or_default();
    Ok(StoredMembership::new(
        from.log_id.as_ref().map(log_id),
        membership(inside)?,
    ))
}

pub(crate) fn entry_to_bytes(entry: &Entry) -> Bytes {
    use wire::entry::Payload as Wire;
    let payload = match &entry.payload {
        Payload::Blank => Wire::Blank(true),
        Payload::Normal(proposal) => Wire::Batch(proposal.bytes.clone()),
        Payload::Membership(m) => Wire::Membership(membership_to_wire(m)),
    };
    let whole = wire::Entry {
        log_id: Some(log_id_to_wire(&entry.log_id)),
        payload: Some(payload),
    };
    Bytes::from(whole.encode_to_vec())
}

pub(crate) fn entry(bytes: Bytes) -> Result<EntryOf<Types>, Undecodable> {
    use wire::entry::Payload as Wire;
    let whole = wire::Entry::decode(bytes).map_err(|e| Undecodable::new("a log entry", e))?;
    let id = whole
        .log_id
        .ok_or_else(|| Undecodable::new("a log entry", "it has no log id"))?;
    let payload = match whole.payload {
        Some(Wire::Blank(_)) => Payload::Blank,
        Some(Wire::Batch(bytes)) => Payload::Normal(proposal(bytes)?),
        Some(Wire::Membership(m)) => Payload::Membership(membership(m)?),
        None => return Err(Undecodable::new("a log entry", "its kind is unknown")),
    };
    Ok(Entry {
        log_id: log_id(&id),
        payload,
    })
}

pub(crate) fn proposal(bytes: Bytes) -> Result<Proposal, Undecodable> {
    let batch = Batch::decode(&bytes).map_err(|e| Undecodable::new("a batch of commands", e))?;
    if !level::understands(&batch) {
        return Err(Undecodable::new(
            "a batch of commands",
            "a newer version wrote it",
        ));
    }
    Ok(Proposal {
        batch: std::sync::Arc::new(batch),
        bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of a stored entry are a promise to every later version.
    #[test]
    fn the_bytes_of_a_blank_entry_do_not_change() {
        let id = LogId {
            leader_id: LeaderId {
                term: 3,
                node_id: 7,
            },
            index: 300,
        };
        let bytes = entry_to_bytes(&Entry {
            log_id: id,
            payload: Payload::Blank,
        });
        assert_eq!(&bytes[..], [10, 7, 8, 3, 16, 7, 24, 172, 2, 16, 1]);
        assert_eq!(entry(bytes).unwrap().log_id, id);
    }

    #[test]
    fn an_entry_of_an_unknown_kind_is_refused_not_skipped() {
        let bytes = Bytes::from_static(&[10, 4, 8, 3, 16, 7, 122, 1, 0]);
        assert!(entry(bytes).is_err());
    }

    #[test]
    fn a_membership_is_read_back_as_written() {
        let seat = |n: &str| Seat {
            name: n.into(),
            region: "eu".into(),
            cluster_address: format!("{n}:7000"),
        };
        let nodes = BTreeMap::from([(1, seat("a")), (5, seat("b"))]);
        let whole =
            Membership::new(vec![BTreeSet::from([1]), BTreeSet::from([1, 5])], nodes).unwrap();
        assert_eq!(membership(membership_to_wire(&whole)).unwrap(), whole);
    }
}

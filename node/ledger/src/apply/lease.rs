//! Leases: which node delivers for a domain.
//!
//! The epoch of a lease is the [`Seq`] of the command that granted it, hence greater than every
//! epoch before and never given twice. Whatever a node does under a lease it names the epoch
//! of; once the domain has gone to somebody else, or to a later life of the same node, the old
//! epoch opens nothing. Being over is not being lost: as long as nobody else has taken a lease
//! its holder may renew it and record under it.

use std::time::Duration;

use holdfast_mail::{Domain, NodeId, Timestamp, mutant};
use holdfast_proto::ledger::LeaseRow;

use super::{LEASE_TTL_MAX, Logged, refuse};
use crate::{Effect, Kv, KvError, KvRead, Refusal, Reply, Seq, row, tables};

pub(super) fn acquire(
    kv: &mut dyn Kv,
    when: Logged,
    seq: Seq,
    domain: &Domain,
    node: NodeId,
    ttl_ms: u64,
    effects: &mut Vec<Effect>,
) -> Result<Reply, KvError> {
    if !row::exists(kv, &tables::member(node))? {
        return refuse(Refusal::UnknownNode);
    }
    // A domain that a customer sends to has no record: mail that is held is all there is of it.
    let is_known =
        row::exists(kv, &tables::domain(domain))? || row::exists(kv, &tables::counts(domain))?;
    if !is_known {
        return refuse(Refusal::UnknownDomain);
    }
    let key = tables::lease(domain);
    if let Some(held) = row::get::<LeaseRow>(kv, &key)?
        && held.node != node.0
        && held.until_ms > when.at.0
    {
        return Ok(Reply::LeaseHeld {
            node: NodeId(held.node),
            until: Timestamp(held.until_ms),
        });
    }
    let until = until(when, ttl_ms);
    let lease = LeaseRow {
        node: node.0,
        epoch: seq.0,
        until_ms: until.0,
    };
    row::put(kv, &key, &lease);
    effects.push(Effect::LeaseChanged {
        domain: domain.clone(),
    });
    Ok(Reply::Lease {
        epoch: seq.0,
        until,
    })
}

pub(super) fn renew(
    kv: &mut dyn Kv,
    when: Logged,
    node: NodeId,
    leases: &[(Domain, u64)],
    ttl_ms: u64,
) -> Result<Reply, KvError> {
    if !row::exists(kv, &tables::member(node))? {
        return refuse(Refusal::UnknownNode);
    }
    let mut epochs = Vec::new();
    for (domain, epoch) in leases {
        let Some(mut lease) = held_by(kv, domain, node, *epoch)? else {
            continue;
        };
        lease.until_ms = lease.until_ms.max(until(when, ttl_ms).0);
        row::put(kv, &tables::lease(domain), &lease);
        epochs.push(*epoch);
    }
    Ok(Reply::Renewed { epochs })
}

pub(super) fn release(
    kv: &mut dyn Kv,
    domain: &Domain,
    node: NodeId,
    epoch: u64,
    effects: &mut Vec<Effect>,
) -> Result<Reply, KvError> {
    if held_by(kv, domain, node, epoch)?.is_none() {
        return refuse(Refusal::Fenced);
    }
    end(kv, domain.clone(), effects);
    Ok(Reply::Done)
}

/// Ends every lease of a node. Walks all leases: nodes leave rarely.
pub(super) fn end_all_of(
    kv: &mut dyn Kv,
    node: NodeId,
    effects: &mut Vec<Effect>,
) -> Result<(), KvError> {
    for (key, value) in kv.scan(tables::LEASES, &[], usize::MAX)? {
        let lease: LeaseRow = row::decode(&key, &value)?;
        if lease.node == node.0 {
            end(kv, tables::domain_of(&key)?, effects);
        }
    }
    Ok(())
}

/// The lease, if it is this node's under this epoch.
pub(super) fn held_by(
    kv: &dyn KvRead,
    domain: &Domain,
    node: NodeId,
    epoch: u64,
) -> Result<Option<LeaseRow>, KvError> {
    let lease: Option<LeaseRow> = row::get(kv, &tables::lease(domain))?;
    Ok(lease.filter(|lease| {
        lease.node == node.0 && (lease.epoch == epoch || mutant("lease-without-epoch"))
    }))
}

fn end(kv: &mut dyn Kv, domain: Domain, effects: &mut Vec<Effect>) {
    kv.delete(&tables::lease(&domain));
    effects.push(Effect::LeaseChanged { domain });
}

pub(super) fn until(when: Logged, ttl_ms: u64) -> Timestamp {
    when.at
        .plus(Duration::from_millis(ttl_ms).min(LEASE_TTL_MAX))
}

//! TakePost: which node writes and sends what senders are owed.
//!
//! One for the whole cluster: notifications are few, and go to domains that are nobody's. The
//! post is a lease like a domain's (see `lease.rs`), and its epoch fences in the same way.

use holdfast_mail::{NodeId, Timestamp};
use holdfast_proto::ledger::LeaseRow;

use super::{Logged, lease, refuse};
use crate::{Kv, KvError, KvRead, Refusal, Reply, Seq, row, tables};

pub(super) fn take(
    kv: &mut dyn Kv,
    when: Logged,
    seq: Seq,
    node: NodeId,
    ttl_ms: u64,
    epoch: u64,
) -> Result<Reply, KvError> {
    if !row::exists(kv, &tables::member(node))? {
        return refuse(Refusal::UnknownNode);
    }
    let until = lease::until(when, ttl_ms);
    if epoch != 0 && !is_held_by(kv, node, epoch)? {
        return refuse(Refusal::Fenced);
    }
    let held: Option<LeaseRow> = row::get(kv, tables::POST)?;
    let post = match held {
        Some(held) if epoch != 0 => LeaseRow {
            until_ms: held.until_ms.max(until.0),
            ..held
        },
        Some(held) if held.node != node.0 && held.until_ms > when.at.0 => {
            return Ok(Reply::LeaseHeld {
                node: NodeId(held.node),
                until: Timestamp(held.until_ms),
            });
        }
        _ => LeaseRow {
            node: node.0,
            epoch: seq.0,
            until_ms: until.0,
        },
    };
    row::put(kv, tables::POST, &post);
    Ok(Reply::Lease {
        epoch: post.epoch,
        until: Timestamp(post.until_ms),
    })
}

pub(super) fn is_held_by(kv: &dyn KvRead, node: NodeId, epoch: u64) -> Result<bool, KvError> {
    let post: Option<LeaseRow> = row::get(kv, tables::POST)?;
    Ok(post.is_some_and(|post| post.node == node.0 && post.epoch == epoch))
}

/// A member that leaves leaves its post.
pub(super) fn end_of(kv: &mut dyn Kv, node: NodeId) -> Result<(), KvError> {
    let post: Option<LeaseRow> = row::get(kv, tables::POST)?;
    if post.is_some_and(|post| post.node == node.0) {
        kv.delete(tables::POST);
    }
    Ok(())
}

//! Observe: which primaries can be reached.

use holdfast_mail::NodeId;
use holdfast_proto::ledger as proto;

use super::place::shortened;
use super::{Logged, refuse};
use crate::{Kv, KvError, Refusal, Reply, Seen, row, tables};

/// Primaries in one command, so that it does not delay the Accepts behind it.
pub const SEEN_MAX: usize = 256;

pub(super) fn observe(
    kv: &mut dyn Kv,
    when: Logged,
    node: NodeId,
    seen: &[Seen],
) -> Result<Reply, KvError> {
    if seen.len() > SEEN_MAX {
        return refuse(Refusal::Malformed);
    }
    if !row::exists(kv, &tables::member(node))? {
        return refuse(Refusal::UnknownNode);
    }
    for Seen { domain, down } in seen {
        // It may have been removed meanwhile.
        if !row::exists(kv, &tables::domain(domain))? {
            continue;
        }
        let key = tables::reach(domain);
        let old: Option<proto::ReachRow> = row::get(kv, &key)?;
        let up = down.is_none();
        let same = old.filter(|old| old.up == up);
        let new = proto::ReachRow {
            up,
            since_ms: same.map_or(when.at.0, |same| same.since_ms),
            at_ms: when.at.0,
            node: node.0,
            why: shortened(down.as_deref().unwrap_or_default()),
        };
        row::put(kv, &key, &new);
    }
    Ok(Reply::Done)
}

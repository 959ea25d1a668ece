//! SetDrained and RaiseLevel: what operators do while nodes are maintained and upgraded.

use holdfast_mail::NodeId;
use holdfast_proto::ledger as proto;

use super::{Logged, account, refuse};
use crate::{Effect, Kv, KvError, Refusal, Reply, level, query, row, tables};

pub(super) fn set_drained(
    kv: &mut dyn Kv,
    when: Logged,
    node: NodeId,
    drained: bool,
    effects: &mut Vec<Effect>,
) -> Result<Reply, KvError> {
    if !row::exists(kv, &tables::member(node))? {
        return refuse(Refusal::UnknownNode);
    }
    let key = tables::drained(node);
    if row::exists(kv, &key)? == drained {
        return Ok(Reply::Done);
    }
    if drained {
        // It is about to be stopped, as those are that were drained before. In the log, so that two
        // operators who drain two nodes at once do not stop the cluster.
        let members = query::members(kv)?.len();
        let on_duty = query::on_duty(kv)?.len().saturating_sub(1);
        if on_duty < members / 2 + 1 {
            return refuse(Refusal::WouldStop);
        }
        row::put(kv, &key, &proto::DrainedRow { at_ms: when.at.0 });
    } else {
        kv.delete(&key);
    }
    // Who is first in rank for a domain is another now.
    effects.push(Effect::MembersChanged);
    Ok(Reply::Done)
}

pub(super) fn raise_level(kv: &mut dyn Kv, level: u32, asked: &[NodeId]) -> Result<Reply, KvError> {
    let members = query::members(kv)?;
    // One that came after the others were asked may not know it.
    if !members.iter().all(|member| asked.contains(&member.id)) {
        return refuse(Refusal::TryAgain);
    }
    let before = query::level(kv)?;
    if level > before {
        if (before + 1..=level).contains(&level::FETCH_SCOPE) {
            // What fetches its mail with a token goes on.
            account::let_deliver_fetch(kv)?;
        }
        set_level(kv, level);
    }
    Ok(Reply::Done)
}

pub(super) fn set_level(kv: &mut dyn Kv, level: u32) {
    // As it was before there were levels: every version writes the same rows.
    if level > 1 {
        row::put(kv, tables::LEVEL, &proto::LevelRow { level });
    }
}

//! Bootstrap, Invite, Redeem and RemoveMember: who belongs to the cluster.
//!
//! A member's id is the index of the log entry that let it in, and a removed id is remembered:
//! a node that was removed can never speak, vote or hold a lease as its successor.

use holdfast_mail::{NodeId, Timestamp, mutant};
use holdfast_proto::ledger as proto;

use super::{Logged, TOKENS_MAX, duty, lease, post, refuse};
use crate::{Effect, Kv, KvError, Member, Refusal, Reply, level, query, row, tables, wire};

pub(super) fn bootstrap(
    kv: &mut dyn Kv,
    cluster_id: &[u8; 16],
    (ca_certificate, ca_key): (&[u8], &[u8]),
    first: &Member,
    level: u32,
    effects: &mut Vec<Effect>,
) -> Result<Reply, KvError> {
    if row::exists(kv, tables::CLUSTER)? {
        return refuse(Refusal::AlreadyBootstrapped);
    }
    let cluster = proto::ClusterRow {
        id: cluster_id.to_vec().into(),
        ca_certificate: ca_certificate.to_vec().into(),
        ca_key: ca_key.to_vec().into(),
        ..proto::ClusterRow::default()
    };
    row::put(kv, tables::CLUSTER, &cluster);
    duty::set_level(kv, level);
    row::put(kv, &tables::member(first.id), &wire::member_to(first));
    effects.push(Effect::MembersChanged);
    Ok(Reply::Done)
}

pub(super) fn invite(
    kv: &mut dyn Kv,
    token_id: &[u8; 16],
    secret_hash: &[u8; 32],
    expires_at: Timestamp,
) -> Result<Reply, KvError> {
    let key = tables::token(token_id);
    let token = proto::TokenRow {
        secret_hash: secret_hash.to_vec().into(),
        expires_at_ms: expires_at.0,
    };
    match row::get::<proto::TokenRow>(kv, &key)? {
        // The same proposal, repeated.
        Some(known) if known == token => return Ok(Reply::Done),
        Some(_) => return refuse(Refusal::BadToken),
        None => {}
    }
    if kv.scan(tables::TOKENS, &[], TOKENS_MAX)?.len() == TOKENS_MAX {
        return refuse(Refusal::TooManyInvitations);
    }
    row::put(kv, &key, &token);
    Ok(Reply::Done)
}

pub(super) fn redeem(
    kv: &mut dyn Kv,
    when: Logged,
    token_id: &[u8; 16],
    secret_hash: &[u8; 32],
    member: &Member,
    effects: &mut Vec<Effect>,
) -> Result<Reply, KvError> {
    let key = tables::token(token_id);
    let token: Option<proto::TokenRow> = row::get(kv, &key)?;
    let good = token.is_some_and(|token| {
        token.secret_hash[..] == secret_hash[..] && token.expires_at_ms > when.at.0
    });
    if !good {
        return refuse(Refusal::BadToken);
    }
    if query::members(kv)?.iter().any(|m| m.name == member.name) {
        return refuse(Refusal::NameTaken);
    }
    // One id per entry; and the first member's id was not given by the log.
    let mut id = NodeId(when.index);
    if mutant("node-id-reused") {
        let last = query::members(kv)?.last().map_or(0, |member| member.id.0);
        id = NodeId(last + 1);
    }
    if when.position != 0
        || row::exists(kv, &tables::member(id))?
        || (row::exists(kv, &tables::removed(id))? && !mutant("node-id-reused"))
    {
        return refuse(Refusal::TryAgain);
    }
    kv.delete(&key);
    let member = Member {
        id,
        ..member.clone()
    };
    row::put(kv, &tables::member(id), &wire::member_to(&member));
    effects.push(Effect::MembersChanged);
    Ok(Reply::Member(id))
}

pub(super) fn remove(
    kv: &mut dyn Kv,
    when: Logged,
    node: NodeId,
    effects: &mut Vec<Effect>,
) -> Result<Reply, KvError> {
    if query::is_removed(kv, node)? {
        return Ok(Reply::Done);
    }
    let members = query::members(kv)?;
    let Some(member) = members.iter().find(|member| member.id == node) else {
        return refuse(Refusal::UnknownNode);
    };
    if members.len() == 1 {
        return refuse(Refusal::LastMember);
    }
    let keeps_name = query::level(kv)? >= level::REMOVED_NAMES;
    lease::end_all_of(kv, node, effects)?;
    post::end_of(kv, node)?;
    kv.delete(&tables::member(node));
    kv.delete(&tables::trusting(node));
    kv.delete(&tables::drained(node));
    let removed = proto::RemovedRow {
        at_ms: when.at.0,
        name: match keeps_name {
            true => member.name.clone(),
            false => String::new(),
        },
    };
    row::put(kv, &tables::removed(node), &removed);
    effects.push(Effect::MembersChanged);
    Ok(Reply::Done)
}

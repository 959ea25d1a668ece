//! Attend and Leave: mail that goes only to where its owner is signed in.
//!
//! For customers whose address changes: the machine that takes the mail is the one that they sign in
//! from, and it gets mail only while its connection to a node lives. Whoever is there first stays: a
//! thief of the password cannot draw the mail away from somebody who is signed in.

use std::net::SocketAddr;
use std::time::Duration;

use holdfast_mail::{Domain, NodeId};
use holdfast_proto::ledger as proto;

use super::{Logged, refuse};
use crate::{Effect, Kv, KvError, Refusal, Reply, query, row, tables};

/// The longest that a session lasts without a sign of life: what a node that died with the
/// connection can cost.
pub const ATTEND_TTL_MAX: Duration = Duration::from_secs(60);

pub(super) fn attend(
    kv: &mut dyn Kv,
    when: Logged,
    domain: &Domain,
    (session, account): (&[u8; 16], &str),
    (to, over): (SocketAddr, Option<NodeId>),
    ttl_ms: u64,
    effects: &mut Vec<Effect>,
) -> Result<Reply, KvError> {
    if !row::exists(kv, &tables::domain(domain))? {
        return refuse(Refusal::UnknownDomain);
    }
    // Over a connection of theirs mail goes to nobody else, whatever the policy.
    if over.is_none() && !query::policy(kv, domain)?.attended {
        return refuse(Refusal::NotAttended);
    }
    let known = query::account(kv, account)?;
    if known.is_none_or(|account| !account.domains.contains(domain)) {
        return refuse(Refusal::UnknownAccount);
    }
    let key = tables::attended(domain);
    let old: Option<proto::AttendRow> = row::get(kv, &key)?;
    let same = old
        .as_ref()
        .filter(|old| old.session[..] == session[..] && old.until_ms > when.at.0);
    if same.is_none() && old.as_ref().is_some_and(|old| old.until_ms > when.at.0) {
        return refuse(Refusal::AttendedElsewhere);
    }
    let ttl = Duration::from_millis(ttl_ms).min(ATTEND_TTL_MAX);
    let new = proto::AttendRow {
        session: session.to_vec().into(),
        account: account.to_owned(),
        address: to.ip().to_string(),
        port: to.port().into(),
        since_ms: same.map_or(when.at.0, |same| same.since_ms),
        until_ms: when.at.plus(ttl).0,
        over: over.map_or(0, |node| node.0),
    };
    let goes_there = |old: &proto::AttendRow| {
        (&old.address, old.port, old.over) == (&new.address, new.port, new.over)
    };
    if !same.is_some_and(goes_there) {
        effects.push(Effect::FlushRequested {
            domain: domain.clone(),
        });
    }
    row::put(kv, &key, &new);
    Ok(Reply::Done)
}

pub(super) fn leave(
    kv: &mut dyn Kv,
    domain: &Domain,
    session: &[u8; 16],
    effects: &mut Vec<Effect>,
) -> Result<Reply, KvError> {
    let key = tables::attended(domain);
    let row: Option<proto::AttendRow> = row::get(kv, &key)?;
    if let Some(row) = row.filter(|row| row.session[..] == session[..]) {
        kv.delete(&key);
        if row.over != 0 {
            // The others may deliver again.
            effects.push(Effect::LeaseChanged {
                domain: domain.clone(),
            });
        }
    }
    Ok(Reply::Done)
}

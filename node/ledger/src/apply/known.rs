//! Learn and Unlearn: what the primary said about its recipients.
//!
//! Strangers choose the names that are asked about, so the rows of a domain are bounded, and a no
//! never takes the place of a yes.

use holdfast_mail::Domain;
use holdfast_mail::address::LOCAL_PART_OCTETS_MAX;
use holdfast_proto::ledger as proto;

use super::place::shortened;
use super::{Logged, RECIPIENTS_PER_COMMAND_MAX, refuse};
use crate::query::{self, listed_name};
use crate::{Known, Kv, KvError, Policy, Refusal, Reply, row, tables};

/// Names of one domain about which something is known, about 200 bytes each.
pub const KNOWN_MAX: u64 = 10_000;

/// Rows that are looked at to make room for one more, so that it does not delay the Accepts
/// behind it.
const LOOKED_AT_MAX: usize = 64;

/// Rows that one Sweep looks at, for the same reason.
pub const SWEEP_KNOWN_MAX: usize = 1_000;

pub(super) fn learn(
    kv: &mut dyn Kv,
    when: Logged,
    domain: &Domain,
    name: &str,
    answer: proto::KnownRow,
) -> Result<Reply, KvError> {
    if !row::exists(kv, &tables::domain(domain))? {
        return refuse(Refusal::UnknownDomain);
    }
    if name.len() > LOCAL_PART_OCTETS_MAX {
        return refuse(Refusal::Malformed);
    }
    let answer = proto::KnownRow {
        reply: shortened(&answer.reply),
        ..answer
    };
    let of_domain = tables::known(domain, "");
    let mut all: proto::KnownsRow = row::get(kv, &of_domain)?.unwrap_or_default();
    if name.is_empty() {
        all.anyone = Some(answer);
        row::put(kv, &of_domain, &all);
        return Ok(Reply::Done);
    }
    let key = tables::known(domain, &listed_name(name));
    if !row::exists(kv, &key)? {
        if all.names >= KNOWN_MAX {
            let gone = make_room(kv, when, domain, &key, answer.takes)?;
            if gone == 0 {
                return refuse(Refusal::TooManyKnown);
            }
            all.names = all.names.saturating_sub(gone);
        }
        all.names += 1;
        row::put(kv, &of_domain, &all);
    }
    row::put(kv, &key, &answer);
    Ok(Reply::Done)
}

/// Deletes what is out of date among the rows behind `key`, or else the oldest no of them, or,
/// for a yes, the oldest yes. Says how many rows went.
fn make_room(
    kv: &mut dyn Kv,
    when: Logged,
    domain: &Domain,
    key: &[u8],
    for_yes: bool,
) -> Result<u64, KvError> {
    let prefix = tables::of_domain(tables::KNOWN, domain);
    let mut rows = kv.scan(&prefix, key, LOOKED_AT_MAX)?;
    if rows.len() < LOOKED_AT_MAX {
        // On from the first name, behind the domain's own row.
        let first = tables::after(prefix.clone());
        rows.extend(kv.scan(&prefix, &first, LOOKED_AT_MAX - rows.len())?);
    }
    let policy = query::policy(kv, domain)?;
    let mut gone = 0;
    let mut oldest: Option<(bool, u64, Vec<u8>)> = None;
    for (key, value) in rows {
        let known: proto::KnownRow = row::decode(&key, &value)?;
        if is_useless(&known, when, &policy) {
            kv.delete(&key);
            gone += 1;
        } else if for_yes || !known.takes {
            let this = (known.takes, known.at_ms, key);
            if oldest.as_ref().is_none_or(|oldest| this < *oldest) {
                oldest = Some(this);
            }
        }
    }
    if gone == 0
        && let Some((_, _, key)) = oldest
    {
        kv.delete(&key);
        gone = 1;
    }
    Ok(gone)
}

pub(super) fn unlearn(
    kv: &mut dyn Kv,
    domain: &Domain,
    names: &[String],
) -> Result<Reply, KvError> {
    if !row::exists(kv, &tables::domain(domain))? {
        return refuse(Refusal::UnknownDomain);
    }
    if names.len() > RECIPIENTS_PER_COMMAND_MAX {
        return refuse(Refusal::Malformed);
    }
    if names.is_empty() {
        forget(kv, domain)?;
        return Ok(Reply::Done);
    }
    let of_domain = tables::known(domain, "");
    let mut all: proto::KnownsRow = row::get(kv, &of_domain)?.unwrap_or_default();
    // The empty name is the domain's own row.
    for name in names.iter().filter(|name| !name.is_empty()) {
        let key = tables::known(domain, &listed_name(name));
        if row::exists(kv, &key)? {
            kv.delete(&key);
            all.names = all.names.saturating_sub(1);
        }
    }
    if row::exists(kv, &of_domain)? {
        row::put(kv, &of_domain, &all);
    }
    Ok(Reply::Done)
}

/// Forgets everything about a domain's recipients: [`KNOWN_MAX`] rows at most, rarely.
pub(super) fn forget(kv: &mut dyn Kv, domain: &Domain) -> Result<(), KvError> {
    for (key, _) in kv.scan(&tables::of_domain(tables::KNOWN, domain), &[], usize::MAX)? {
        kv.delete(&key);
    }
    Ok(())
}

/// The domain has another primary, which may know more names. A yes stays: a new server often
/// stands in for one that died, and has its mailboxes.
pub(super) fn doubt(kv: &mut dyn Kv, domain: &Domain) -> Result<(), KvError> {
    let of_domain = tables::known(domain, "");
    let Some(mut all) = row::get::<proto::KnownsRow>(kv, &of_domain)? else {
        return Ok(());
    };
    all.anyone = None;
    let first = tables::after(of_domain.clone());
    for (key, value) in kv.scan(&of_domain, &first, usize::MAX)? {
        if !row::decode::<proto::KnownRow>(&key, &value)?.takes {
            kv.delete(&key);
            all.names = all.names.saturating_sub(1);
        }
    }
    row::put(kv, &of_domain, &all);
    Ok(())
}

/// Looks at the next piece of the table, and begins anew at its end.
pub(super) fn sweep(kv: &mut dyn Kv, when: Logged) -> Result<(), KvError> {
    let swept: Option<proto::SweptRow> = row::get(kv, tables::KNOWN)?;
    let from = match &swept {
        Some(swept) => tables::after(swept.last.to_vec()),
        None => tables::after(tables::KNOWN.to_vec()),
    };
    let rows = kv.scan(tables::KNOWN, &from, SWEEP_KNOWN_MAX)?;
    let last = (rows.len() == SWEEP_KNOWN_MAX)
        .then(|| rows.last().map(|(key, _)| key.clone()))
        .flatten();
    for (key, value) in rows {
        let (domain, name) = tables::known_name(&key)?;
        if name.is_empty() {
            continue;
        }
        let known: proto::KnownRow = row::decode(&key, &value)?;
        if is_useless(&known, when, &query::policy(kv, &domain)?) {
            kv.delete(&key);
            let of_domain = tables::known(&domain, "");
            let mut all: proto::KnownsRow = row::get(kv, &of_domain)?.unwrap_or_default();
            all.names = all.names.saturating_sub(1);
            row::put(kv, &of_domain, &all);
        }
    }
    match last {
        Some(last) => row::put(kv, tables::KNOWN, &proto::SweptRow { last: last.into() }),
        None if swept.is_some() => kv.delete(tables::KNOWN),
        None => {}
    }
    Ok(())
}

fn is_useless(known: &proto::KnownRow, when: Logged, policy: &Policy) -> bool {
    Known::from_row(known.clone()).is_useless(policy, when.at)
}

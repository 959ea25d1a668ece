//! Review: do with messages what the time has come for.
//!
//! Anybody may ask, at any time and again: the rows, the domain's policy and the logged time
//! decide. So a policy that changes holds for mail that is held already, and no node's clock or
//! memory has a say.

use std::time::Duration;

use holdfast_mail::dsn::Kind;
use holdfast_mail::{Domain, Timestamp};
use holdfast_proto::ledger as proto;

use super::owe::owe;
use super::place::{Place, answer};
use super::usage::Fate;
use super::{Logged, refuse};
use crate::{Effect, Kv, KvError, Policy, Refusal, Reply, Seq, query, row, tables};

/// Messages that one Review looks at, so that it does not delay the Accepts behind it.
pub const REVIEW_MAX: usize = 256;

/// How much later a failure is told when the message expired while a node may have been
/// delivering it: as long as a primary may take to answer its end (RFC 5321 section 4.5.3.2.6).
/// Should it take the message after all, nobody is told that it failed.
const EXPIRY_GRACE: Duration = Duration::from_secs(10 * 60);

pub(super) fn review(
    kv: &mut dyn Kv,
    when: Logged,
    seq: Seq,
    domain: &Domain,
    seqs: &[Seq],
    effects: &mut Vec<Effect>,
) -> Result<Reply, KvError> {
    // Where mail goes, for whoever is told that it did not: a domain that a customer sends to has no
    // record.
    let host = match query::domain(kv, domain)? {
        Some(record) => record.primary.host,
        None if row::exists(kv, &tables::counts(domain))? => domain.to_string(),
        None => return refuse(Refusal::UnknownDomain),
    };
    if seqs.len() > REVIEW_MAX {
        return refuse(Refusal::Malformed);
    }
    let policy = query::policy(kv, domain)?;
    let lease = query::lease(kv, domain)?;
    let tell_from = match lease {
        Some(lease) if lease.until > when.at => when.at.plus(EXPIRY_GRACE),
        _ => when.at,
    };
    let mut messages = 0;
    for queued in seqs {
        let Some(mut place) = Place::at(kv, domain, *queued)? else {
            continue;
        };
        let purged = purge(&mut place, when);
        let received_at = place.envelope.received_at;
        // What is kept back by hand ends by hand.
        let waits = !place.held.recipients.is_empty() || !place.refused.recipients.is_empty();
        let is_over = policy
            .expires_at(received_at)
            .is_some_and(|end| end <= when.at);
        let fate = if waits && is_over {
            let failed = expire(&mut place, &host);
            let begun = failed.1;
            let from = if begun { tell_from } else { when.at };
            owe(
                kv,
                seq,
                &place.envelope,
                Kind::Failed,
                failed.0,
                from,
                effects,
            )?;
            Fate::Returned
        } else {
            let retried = retry(&mut place, when, effects);
            let told = tell(kv, when, seq, &mut place, &policy, effects)?;
            if !purged && !retried && !told {
                continue;
            }
            Fate::Discarded
        };
        place.put_and_count(kv, when, fate, effects)?;
        messages += 1;
    }
    Ok(Reply::Disposed {
        messages,
        more: false,
    })
}

/// Takes everything out of the queue; says of whom, and whether some of it may be under way.
fn expire(place: &mut Place<'_>, primary: &str) -> (Vec<proto::OwedRecipient>, bool) {
    let held = std::mem::take(&mut place.held);
    let refused = std::mem::take(&mut place.refused);
    let mut failed = Vec::new();
    for (queued, why) in [
        (&held, proto::OwedWhy::Expired),
        (&refused, proto::OwedWhy::Refused),
    ] {
        for recipient in &queued.recipients {
            let answer = answer(queued, *recipient);
            failed.push(proto::OwedRecipient {
                recipient: *recipient,
                why: why.into(),
                reply: answer.reply,
                at_ms: answer.at_ms,
                remote: primary.to_owned(),
            });
        }
    }
    (failed, !held.recipients.is_empty())
}

/// Drops what was deleted, if it is time.
fn purge(place: &mut Place<'_>, when: Logged) -> bool {
    let at = place.aside.discard_at_ms;
    let due = !place.aside.recipients.is_empty() && at != 0 && at <= when.at.0;
    if due {
        place.aside.recipients.clear();
    }
    due
}

/// Tries refused mail again, if it is time.
fn retry(place: &mut Place<'_>, when: Logged, effects: &mut Vec<Effect>) -> bool {
    let at = place.refused.retry_at_ms;
    let due = !place.refused.recipients.is_empty() && at != 0 && at <= when.at.0;
    if due {
        place.requeue(effects);
    }
    due
}

/// Tells the sender once that a message is late, if the domain's owner wants that.
fn tell(
    kv: &mut dyn Kv,
    when: Logged,
    seq: Seq,
    place: &mut Place<'_>,
    policy: &Policy,
    effects: &mut Vec<Effect>,
) -> Result<bool, KvError> {
    let received_at = place.envelope.received_at;
    let due = policy
        .delay
        .is_some_and(|delay| received_at.plus(delay) <= when.at);
    if !due || place.held.delay_told || place.held.recipients.is_empty() {
        return Ok(false);
    }
    place.held.delay_told = true;
    let late = place
        .held
        .recipients
        .iter()
        .map(|recipient| {
            let answer = answer(&place.held, *recipient);
            proto::OwedRecipient {
                recipient: *recipient,
                why: proto::OwedWhy::Delayed.into(),
                reply: answer.reply,
                at_ms: answer.at_ms,
                remote: String::new(),
            }
        })
        .collect();
    owe(
        kv,
        seq,
        &place.envelope,
        Kind::Delayed,
        late,
        when.at,
        effects,
    )?;
    let until = policy.expires_at(received_at).map_or(0, |Timestamp(at)| at);
    let key = tables::owed(place.envelope.id, Kind::Delayed);
    if let Some(owed) = row::get::<proto::OwedRow>(kv, &key)? {
        row::put(
            kv,
            &key,
            &proto::OwedRow {
                until_ms: until,
                ..owed
            },
        );
    }
    Ok(true)
}

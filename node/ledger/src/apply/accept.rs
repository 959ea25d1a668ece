//! Accept: the cluster takes responsibility for a message.

use std::collections::BTreeMap;

use holdfast_mail::{Domain, Envelope, mutant};
use holdfast_proto::ledger as proto;

use super::counts::{self, Change};
use super::mark::{self, Mark};
use super::submit;
use super::usage::Fate;
use super::{BODY_OCTETS_MAX, Logged, refuse};
use crate::{Effect, HOSTS_MAX, Kv, KvError, Refusal, Reply, Seq, host, query, row, tables, wire};

/// Who brings a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By<'a> {
    /// For domains of ours.
    Anybody,
    /// For any domain.
    Account(&'a str),
}

/// The hot path: for a message to one domain, seven point reads and four writes. Where plans are
/// in use, three more reads and one more write.
pub(super) fn accept(
    kv: &mut dyn Kv,
    when: Logged,
    seq: Seq,
    envelope: &Envelope,
    by: By<'_>,
    effects: &mut Vec<Effect>,
) -> Result<Reply, KvError> {
    // First whether the id is known: a proposal that is repeated because its reply was lost
    // must get the same answer, even if its domain has been removed since.
    let key = tables::message(envelope.id);
    if let Some(known) = row::get::<proto::MessageRow>(kv, &key)? {
        let seq = Seq(known.seq);
        return Ok(Reply::Accepted { seq });
    }
    match mark::get(kv, envelope.id)? {
        Some(Mark::Completed { seq }) => return Ok(Reply::Accepted { seq }),
        Some(Mark::Cancelled) => return refuse(Refusal::Cancelled),
        None => {}
    }
    if mark::is_stale(envelope.id, when.at) {
        return refuse(Refusal::Stale);
    }
    if envelope.recipients.is_empty()
        || envelope.body.id != envelope.id
        || envelope.body.len > BODY_OCTETS_MAX
    {
        return refuse(Refusal::Malformed);
    }
    let sent = match by {
        By::Anybody => None,
        By::Account(account) => match submit::may_send(kv, when, account, envelope)? {
            Ok(sent) => Some((account, sent)),
            Err(refusal) => return refuse(refusal),
        },
    };
    let mut recipients: BTreeMap<&Domain, Vec<u32>> = BTreeMap::new();
    for (index, recipient) in (0..).zip(&envelope.recipients) {
        let Some(domain) = recipient.address.domain() else {
            return refuse(Refusal::UnknownDomain);
        };
        recipients.entry(domain).or_default().push(index);
    }
    let (mut full, mut full_for_good) = (false, true);
    // How often the message counts with whom: once for each host of a domain.
    let mut shares: BTreeMap<Domain, u64> = BTreeMap::new();
    for domain in recipients.keys() {
        if sent.is_none() && host::taker(kv, domain)?.is_none() {
            return refuse(Refusal::UnknownDomain);
        }
        let keeper = host::keeper(kv, domain)?;
        if let Some(keeper) = &keeper
            && host::below(kv, keeper)?.1 >= HOSTS_MAX
            && !row::exists(kv, &tables::counts(domain))?
        {
            full = true;
            full_for_good = false;
        }
        *shares
            .entry(keeper.unwrap_or_else(|| (*domain).clone()))
            .or_default() += 1;
    }
    for (domain, share) in &shares {
        let policy = query::policy(kv, domain)?;
        let held = query::charged(kv, domain)?;
        let len = envelope.body.len.saturating_mul(*share);
        let has_room = policy.has_room(held.messages.saturating_add(share - 1), held.bytes, len);
        full |= !has_room;
        full_for_good &= !has_room && (policy.full_for_good || policy.is_too_large(len));
    }
    if full {
        // For good only if that is what every domain of the message says: its sender tries again
        // otherwise, and hears at RCPT which of them has room.
        return refuse(if full_for_good {
            Refusal::FullForGood
        } else {
            Refusal::FullForNow
        });
    }

    if let Some((account, row)) = sent {
        submit::sent(kv, account, row);
    }
    // Held from now on, by logged time: the receiving node's clock may be years off.
    let message = proto::MessageRow {
        seq: seq.0,
        envelope: Some(proto::Envelope {
            received_at_ms: when.at.0,
            ..wire::envelope_to(envelope)
        }),
    };
    row::put(kv, &key, &message);
    let arrived = Change::one_message(envelope.body.len);
    counts::change(kv, tables::TOTAL, arrived)?;
    for (domain, mut recipients) in recipients {
        if mutant("hash-order-in-apply") {
            let unordered: std::collections::HashSet<u32> = recipients.drain(..).collect();
            recipients.extend(unordered);
        }
        let held = proto::QueueRow {
            message: envelope.id.to_bytes().to_vec().into(),
            recipients,
            ..proto::QueueRow::default()
        };
        row::put(kv, &tables::held(domain, seq), &held);
        let came = [(Fate::Accepted, envelope.body.len)];
        counts::change_domain(kv, when, domain, arrived.and_pending(1), &came)?;
        effects.push(Effect::MailHeld {
            domain: domain.clone(),
        });
    }
    Ok(Reply::Accepted { seq })
}

//! Accept: the cluster takes responsibility for a message.

use std::collections::BTreeMap;

use holdfast_mail::{Domain, Envelope, mutant};
use holdfast_proto::ledger as proto;

use super::counts::{self, Change};
use super::mark::{self, Mark};
use super::usage::Fate;
use super::{BODY_OCTETS_MAX, Logged, refuse};
use crate::{Effect, Kv, KvError, Refusal, Reply, Seq, query, row, tables, wire};

/// The hot path: for a message to one domain, seven point reads and four writes. Where plans are
/// in use, three more reads and one more write.
pub(super) fn accept(
    kv: &mut dyn Kv,
    when: Logged,
    seq: Seq,
    envelope: &Envelope,
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
    let mut recipients: BTreeMap<&Domain, Vec<u32>> = BTreeMap::new();
    for (index, recipient) in (0..).zip(&envelope.recipients) {
        let Some(domain) = recipient.address.domain() else {
            return refuse(Refusal::UnknownDomain);
        };
        recipients.entry(domain).or_default().push(index);
    }
    let (mut full, mut full_for_good) = (false, true);
    for domain in recipients.keys() {
        if !row::exists(kv, &tables::domain(domain))? {
            return refuse(Refusal::UnknownDomain);
        }
        let policy = query::policy(kv, domain)?;
        let held = query::counts(kv, domain)?;
        let has_room = policy.has_room(held.messages, held.bytes, envelope.body.len);
        full |= !has_room;
        full_for_good &= !has_room && policy.full_for_good;
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

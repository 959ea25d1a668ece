//! Record: what became of delivery attempts.
//!
//! Fenced by the lease's epoch. Outcomes of what is already settled are passed over, so a
//! batch repeated because its reply was lost does no harm; the primary got those messages, and
//! nothing here could take them back.

use std::collections::BTreeMap;

use holdfast_mail::{Domain, Envelope, MessageId, NodeId, mutant};
use holdfast_proto::ledger as proto;

use super::counts::{self, Change};
use super::mark::{self, Mark};
use super::{Logged, REPLY_TEXT_OCTETS_MAX, lease, refuse};
use crate::query::envelope_of;
use crate::{Effect, Kv, KvError, KvRead, Outcome, Refusal, Reply, Seq, Verdict, row, tables};

pub(super) fn record(
    kv: &mut dyn Kv,
    when: Logged,
    domain: &Domain,
    node: NodeId,
    epoch: u64,
    outcomes: &[Outcome],
    effects: &mut Vec<Effect>,
) -> Result<Reply, KvError> {
    if lease::held_by(kv, domain, node, epoch)?.is_none() {
        return refuse(Refusal::Fenced);
    }
    let mut by_message: BTreeMap<MessageId, Vec<&Outcome>> = BTreeMap::new();
    for outcome in outcomes {
        by_message.entry(outcome.message).or_default().push(outcome);
    }
    let (mut in_domain, mut total) = (Change::default(), Change::default());
    for (id, outcomes) in by_message {
        let Some(left) = settle(kv, when, domain, id, &outcomes, effects)? else {
            continue;
        };
        in_domain.take(left.domain);
        total.take(left.cluster);
        if mutant("counts-freed-twice") {
            total.take(left.cluster);
        }
    }
    counts::change(kv, &tables::counts(domain), in_domain)?;
    counts::change(kv, tables::TOTAL, total)?;
    Ok(Reply::Done)
}

/// What left the counts.
#[derive(Default)]
struct Left {
    domain: Change,
    cluster: Change,
}

/// Settles one message in one domain; `None` where nothing of it was waiting.
fn settle(
    kv: &mut dyn Kv,
    when: Logged,
    domain: &Domain,
    id: MessageId,
    outcomes: &[&Outcome],
    effects: &mut Vec<Effect>,
) -> Result<Option<Left>, KvError> {
    let message_key = tables::message(id);
    let Some(message) = row::get::<proto::MessageRow>(kv, &message_key)? else {
        return Ok(None);
    };
    let seq = Seq(message.seq);
    let held_key = tables::held(domain, seq);
    let Some(mut held) = row::get::<proto::QueueRow>(kv, &held_key)? else {
        return Ok(None);
    };
    let refused_key = tables::refused(domain, seq);
    let mut refused: Option<proto::QueueRow> = row::get(kv, &refused_key)?;

    let attempts = held.attempts.saturating_add(1);
    let (mut answered, mut newly_refused) = (false, false);
    for outcome in outcomes {
        let Some(place) = held
            .recipients
            .iter()
            .position(|recipient| *recipient == outcome.recipient)
        else {
            continue;
        };
        answered = true;
        match outcome.verdict {
            Verdict::Deferred => held.last_reply = shortened(&outcome.reply),
            Verdict::Delivered => {
                held.recipients.remove(place);
            }
            Verdict::Refused if mutant("refused-mail-is-dropped") => {
                held.recipients.remove(place);
            }
            Verdict::Refused => {
                newly_refused = true;
                let row = refused.get_or_insert_with(|| proto::QueueRow {
                    message: held.message.clone(),
                    ..proto::QueueRow::default()
                });
                row.recipients.push(held.recipients.remove(place));
                row.recipients.sort_unstable();
                row.attempts = attempts;
                row.last_reply = shortened(&outcome.reply);
            }
        }
    }
    if !answered {
        return Ok(None);
    }

    if newly_refused && let Some(row) = &refused {
        row::put(kv, &refused_key, row);
    }
    if !held.recipients.is_empty() {
        held.attempts = attempts;
        row::put(kv, &held_key, &held);
        return Ok(Some(Left::default()));
    }
    kv.delete(&held_key);
    let mut left = Left {
        domain: Change::default().and_pending(1),
        cluster: Change::default(),
    };
    if refused.is_some() {
        return Ok(Some(left));
    }
    let envelope = envelope_of(&message_key, message)?;
    let message = Change::one_message(envelope.body.len);
    left.domain = message.and_pending(1);
    if !waits_elsewhere(kv, &envelope, seq, domain)? {
        left.cluster = message;
        kv.delete(&message_key);
        if !mutant("delivered-mail-leaves-no-mark") {
            mark::put(kv, when, id, &Mark::Completed { seq });
        }
        effects.push(Effect::BodyReleased { body: id });
    }
    Ok(Some(left))
}

/// Anything of the message is held or refused in another domain.
fn waits_elsewhere(
    kv: &dyn KvRead,
    envelope: &Envelope,
    seq: Seq,
    but: &Domain,
) -> Result<bool, KvError> {
    let mut seen = std::collections::BTreeSet::from([but]);
    for recipient in &envelope.recipients {
        let Some(domain) = recipient.address.domain() else {
            continue;
        };
        if seen.insert(domain)
            && (row::exists(kv, &tables::held(domain, seq))?
                || row::exists(kv, &tables::refused(domain, seq))?)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Cut at a character's border.
fn shortened(reply: &str) -> String {
    let mut end = reply.len().min(REPLY_TEXT_OCTETS_MAX);
    while !reply.is_char_boundary(end) {
        end -= 1;
    }
    reply[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reply_is_cut_between_characters() {
        assert_eq!(shortened("250 ok"), "250 ok");
        let long = format!("{}é", "x".repeat(REPLY_TEXT_OCTETS_MAX - 1));
        assert_eq!(shortened(&long), "x".repeat(REPLY_TEXT_OCTETS_MAX - 1));
    }
}

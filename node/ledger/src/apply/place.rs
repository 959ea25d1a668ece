//! A message in one domain: what of it is held, what was refused and what was set aside, with the
//! counts in step.
//!
//! A verb finds the place, moves recipients about in it, and puts it back. Whoever puts it back
//! lets go of the message once nothing refers to it any more.

use std::collections::BTreeSet;

use holdfast_mail::{Domain, Envelope, MessageId, Timestamp, mutant};
use holdfast_proto::ledger as proto;

use super::counts::{self, Change};
use super::mark::{self, Mark};
use super::usage::Fate;
use super::{Logged, REPLY_TEXT_OCTETS_MAX};
use crate::query::envelope_of;
use crate::row::{self, unreadable};
use crate::{Effect, Kv, KvError, KvRead, Seq, tables, wire};

pub(super) struct Place<'a> {
    domain: &'a Domain,
    pub(super) seq: Seq,
    pub(super) envelope: Envelope,
    /// Empty recipients: no row.
    pub(super) held: proto::QueueRow,
    /// Empty recipients: no row.
    pub(super) refused: proto::QueueRow,
    /// Empty recipients: no row.
    pub(super) aside: proto::QueueRow,
    was_held: bool,
    was_refused: bool,
    was_aside: bool,
}

/// What left the counts.
#[derive(Default)]
pub(super) struct Left {
    pub(super) domain: Change,
    pub(super) cluster: Change,
}

impl<'a> Place<'a> {
    /// `None` where nothing is known of the message.
    pub(super) fn find(
        kv: &dyn KvRead,
        domain: &'a Domain,
        id: MessageId,
    ) -> Result<Option<Self>, KvError> {
        let key = tables::message(id);
        let Some(message) = row::get::<proto::MessageRow>(kv, &key)? else {
            return Ok(None);
        };
        let seq = Seq(message.seq);
        let held: Option<proto::QueueRow> = row::get(kv, &tables::held(domain, seq))?;
        let refused: Option<proto::QueueRow> = row::get(kv, &tables::refused(domain, seq))?;
        let aside: Option<proto::QueueRow> = row::get(kv, &tables::aside(domain, seq))?;
        Ok(Some(Self {
            domain,
            seq,
            envelope: envelope_of(&key, message)?,
            was_held: held.is_some(),
            was_refused: refused.is_some(),
            was_aside: aside.is_some(),
            held: held.unwrap_or_default(),
            refused: refused.unwrap_or_default(),
            aside: aside.unwrap_or_default(),
        }))
    }

    /// The same by the place in the queue; `None` where nothing of it is kept.
    pub(super) fn at(
        kv: &dyn KvRead,
        domain: &'a Domain,
        seq: Seq,
    ) -> Result<Option<Self>, KvError> {
        for key in rows(domain, seq) {
            if let Some(queued) = row::get::<proto::QueueRow>(kv, &key)? {
                let id = wire::message_id(&queued.message).map_err(|e| unreadable(&key, e))?;
                return Self::find(kv, domain, id);
            }
        }
        Ok(None)
    }

    /// Keeps a recipient that was refused.
    pub(super) fn refuse(&mut self, answer: proto::Answer, retry_at: Option<Timestamp>) {
        self.refused.last_reply.clone_from(&answer.reply);
        self.refused.recipients.push(answer.recipient);
        self.refused.recipients.sort_unstable();
        set_answer(&mut self.refused, answer);
        self.refused.delay_told |= self.held.delay_told;
        let retry_at = retry_at.unwrap_or_default().0;
        // Those refused together are tried again together; the latest time keeps them so.
        self.refused.retry_at_ms = self.refused.retry_at_ms.max(retry_at);
    }

    /// Moves what was refused back into the queue.
    pub(super) fn requeue(&mut self, effects: &mut Vec<Effect>) {
        let refused = std::mem::take(&mut self.refused);
        self.queue(refused, effects);
    }

    /// Moves what was set aside back into the queue.
    pub(super) fn release(&mut self, effects: &mut Vec<Effect>) {
        let aside = std::mem::take(&mut self.aside);
        self.queue(aside, effects);
    }

    /// Sets all of it aside.
    pub(super) fn set_aside(&mut self) {
        for from in [&mut self.held, &mut self.refused] {
            join(&mut self.aside, std::mem::take(from));
        }
    }

    fn queue(&mut self, from: proto::QueueRow, effects: &mut Vec<Effect>) {
        if from.recipients.is_empty() {
            return;
        }
        join(&mut self.held, from);
        effects.push(Effect::Requeued {
            domain: self.domain.clone(),
        });
    }

    /// Writes the rows. What left the counts is for the caller to take off, so that a verb that
    /// settles many messages counts once.
    pub(super) fn put(
        mut self,
        kv: &mut dyn Kv,
        when: Logged,
        effects: &mut Vec<Effect>,
    ) -> Result<Left, KvError> {
        let id = self.envelope.id;
        let domain = self.domain;
        let is_held = !self.held.recipients.is_empty();
        let was = [self.was_held, self.was_refused, self.was_aside];
        let mut is_kept = false;
        let queues = [&mut self.held, &mut self.refused, &mut self.aside];
        for ((key, queued), was) in rows(domain, self.seq).into_iter().zip(queues).zip(was) {
            if !queued.recipients.is_empty() {
                is_kept = true;
                queued.message = id.to_bytes().to_vec().into();
                let (recipients, answers) = (&queued.recipients, &mut queued.answers);
                answers.retain(|answer| recipients.contains(&answer.recipient));
                row::put(kv, &key, queued);
            } else if was {
                kv.delete(&key);
            }
        }
        let message = Change::one_message(self.envelope.body.len);
        let pending = i64::from(self.was_held) - i64::from(is_held);
        let mut left = Left::default();
        if was.contains(&true) && !is_kept {
            left.domain = message;
            if let_go(kv, when, &self.envelope, self.seq, effects)? {
                left.cluster = message;
            }
        }
        left.domain = left.domain.and_pending(pending);
        Ok(left)
    }

    /// The same for a verb that has only this one. `fate` is what it counts as if all of it went.
    pub(super) fn put_and_count(
        self,
        kv: &mut dyn Kv,
        when: Logged,
        fate: Fate,
        effects: &mut Vec<Effect>,
    ) -> Result<(), KvError> {
        let domain = self.domain;
        let left = self.put(kv, when, effects)?;
        let (mut in_domain, mut total) = (Change::default(), Change::default());
        in_domain.take(left.domain);
        total.take(left.cluster);
        let went = left.domain.message().map(|len| (fate, len));
        counts::change_domain(kv, when, domain, in_domain, went.as_slice())?;
        counts::change(kv, tables::TOTAL, total)
    }
}

/// Where a message may be in one domain: held, refused, set aside.
pub(super) fn rows(domain: &Domain, seq: Seq) -> [Vec<u8>; 3] {
    [tables::held, tables::refused, tables::aside].map(|key| key(domain, seq))
}

/// Puts the recipients of `from`, and what is known of them, into `to`.
fn join(to: &mut proto::QueueRow, from: proto::QueueRow) {
    to.recipients.extend(from.recipients);
    to.recipients.sort_unstable();
    to.attempts = to.attempts.max(from.attempts);
    to.delay_told |= from.delay_told;
    if to.last_reply.is_empty() {
        to.last_reply = from.last_reply;
    }
    for answer in from.answers {
        set_answer(to, answer);
    }
}

/// The domains that a message goes to, each once.
pub(super) fn domains(envelope: &Envelope) -> BTreeSet<&Domain> {
    let recipients = envelope.recipients.iter();
    recipients
        .filter_map(|recipient| recipient.address.domain())
        .collect()
}

/// Those in whose queues a message is.
pub(super) fn in_queue(
    kv: &dyn KvRead,
    envelope: &Envelope,
    seq: Seq,
) -> Result<Vec<Domain>, KvError> {
    let mut queued = Vec::new();
    for domain in domains(envelope) {
        for key in rows(domain, seq) {
            if row::exists(kv, &key)? {
                queued.push(domain.clone());
                break;
            }
        }
    }
    Ok(queued)
}

/// Lets go of a message that nothing refers to any more. Says whether that was so.
pub(super) fn let_go(
    kv: &mut dyn Kv,
    when: Logged,
    envelope: &Envelope,
    seq: Seq,
    effects: &mut Vec<Effect>,
) -> Result<bool, KvError> {
    let id = envelope.id;
    if !in_queue(kv, envelope, seq)?.is_empty() {
        return Ok(false);
    }
    if !kv.scan(&tables::owed_of(id), &[], 1)?.is_empty() {
        return Ok(false);
    }
    kv.delete(&tables::message(id));
    if !mutant("delivered-mail-leaves-no-mark") {
        mark::put(kv, when, id, &Mark::Completed { seq });
    }
    effects.push(Effect::BodyReleased { body: id });
    Ok(true)
}

/// What was last said of a recipient.
pub(super) fn answer(queued: &proto::QueueRow, recipient: u32) -> proto::Answer {
    queued
        .answers
        .iter()
        .find(|answer| answer.recipient == recipient)
        .cloned()
        .unwrap_or(proto::Answer {
            recipient,
            reply: queued.last_reply.clone(),
            ..proto::Answer::default()
        })
}

pub(super) fn set_answer(queued: &mut proto::QueueRow, answer: proto::Answer) {
    queued
        .answers
        .retain(|old| old.recipient != answer.recipient);
    queued.answers.push(answer);
    queued
        .answers
        .sort_unstable_by_key(|answer| answer.recipient);
}

/// Cut at a character's border.
pub(super) fn shortened(reply: &str) -> String {
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

//! Dispose: somebody decides about mail by hand. Every decision leaves an audit row.

use std::time::Duration;

use holdfast_mail::dsn::Kind;
use holdfast_mail::{Domain, MessageId};
use holdfast_proto::ledger as proto;

use super::owe::owe;
use super::place::{Place, answer};
use super::usage::Fate;
use super::{Logged, audit, refuse};
use crate::row::unreadable;
use crate::{Disposal, Effect, Kv, KvError, Refusal, Reply, Seq, query, row, tables, wire};

/// Messages that one Dispose does something with, so that it does not delay the Accepts behind
/// it.
pub const DISPOSE_MAX: usize = 256;

/// How long what was deleted can be had back.
pub const UNDELETE_TIME: Duration = Duration::from_secs(24 * 3600);

/// What is asked, and by whom.
pub(super) struct Order<'a> {
    pub(super) how: Disposal,
    pub(super) messages: &'a [MessageId],
    pub(super) held: bool,
    pub(super) by: &'a str,
}

pub(super) fn dispose(
    kv: &mut dyn Kv,
    when: Logged,
    seq: Seq,
    domain: &Domain,
    order: &Order<'_>,
    effects: &mut Vec<Effect>,
) -> Result<Reply, KvError> {
    let is_known =
        row::exists(kv, &tables::domain(domain))? || row::exists(kv, &tables::counts(domain))?;
    if !is_known {
        return refuse(Refusal::UnknownDomain);
    }
    if order.messages.len() > DISPOSE_MAX
        || order.held && !matches!(order.how, Disposal::Discard | Disposal::Bounce)
    {
        return refuse(Refusal::Malformed);
    }
    let (messages, more) = if order.messages.is_empty() {
        all(kv, domain, order)?
    } else {
        (order.messages.to_vec(), false)
    };
    let mut done = Vec::new();
    for id in messages {
        let Some(mut place) = Place::find(kv, domain, id)? else {
            continue;
        };
        if !concerns(order, &place) {
            continue;
        }
        match order.how {
            Disposal::Hold => {
                place.set_aside();
                place.aside.kept_back = true;
            }
            Disposal::Delete => {
                place.set_aside();
                place.aside.discard_at_ms = when.at.plus(UNDELETE_TIME).0;
            }
            // It was kept back before it was deleted.
            Disposal::Undelete if place.aside.kept_back => place.aside.discard_at_ms = 0,
            Disposal::Release | Disposal::Undelete => place.release(effects),
            Disposal::Requeue => {
                // A fresh start: what was refused before is forgotten.
                for answer in &mut place.refused.answers {
                    answer.refusals = 0;
                    answer.first_refused_ms = 0;
                }
                place.requeue(effects);
            }
            Disposal::Discard => {
                take(&mut place, order.held);
            }
            Disposal::Bounce => {
                let remote = query::domain(kv, domain)?.map_or(String::new(), |d| d.primary.host);
                let returned = take(&mut place, order.held)
                    .into_iter()
                    .map(|(answer, was_refused)| owed(answer, was_refused, &remote))
                    .collect();
                owe(
                    kv,
                    seq,
                    &place.envelope,
                    Kind::Failed,
                    returned,
                    when.at,
                    effects,
                )?;
            }
        }
        let fate = match order.how {
            Disposal::Bounce => Fate::Returned,
            _ => Fate::Discarded,
        };
        place.put_and_count(kv, when, fate, effects)?;
        done.push(id);
    }
    if !done.is_empty() {
        note(kv, when, seq, domain, order, &done)?;
    }
    Ok(Reply::Disposed {
        messages: done.len() as u64,
        more,
    })
}

/// Whether there is anything of the message that the order is about.
fn concerns(order: &Order<'_>, place: &Place<'_>) -> bool {
    let [held, refused, aside] =
        [&place.held, &place.refused, &place.aside].map(|row| !row.recipients.is_empty());
    let is_deleted = place.aside.discard_at_ms != 0;
    match order.how {
        Disposal::Requeue => refused,
        Disposal::Discard | Disposal::Bounce => refused || order.held && (held || aside),
        Disposal::Hold => held || refused,
        Disposal::Release => aside && !is_deleted,
        Disposal::Delete => held || refused || aside && !is_deleted,
        Disposal::Undelete => aside && is_deleted,
    }
}

/// The first messages of the domain that the order is about.
fn all(kv: &dyn Kv, domain: &Domain, order: &Order<'_>) -> Result<(Vec<MessageId>, bool), KvError> {
    let tables: &[&[u8]] = match order.how {
        Disposal::Requeue => &[tables::REFUSED],
        Disposal::Discard | Disposal::Bounce if !order.held => &[tables::REFUSED],
        Disposal::Hold => &[tables::REFUSED, tables::HELD],
        Disposal::Discard | Disposal::Bounce | Disposal::Delete => {
            &[tables::REFUSED, tables::HELD, tables::ASIDE]
        }
        Disposal::Release | Disposal::Undelete => &[tables::ASIDE],
    };
    let mut found = Vec::new();
    for table in tables {
        let mut after = Vec::new();
        // What was set aside otherwise is passed over, so there may be more behind it.
        while found.len() < DISPOSE_MAX {
            let page = kv.scan(&tables::of_domain(table, domain), &after, DISPOSE_MAX)?;
            for (key, value) in &page {
                let queued: proto::QueueRow = row::decode(key, value)?;
                let deleted = queued.discard_at_ms != 0;
                let passed_over = *table == tables::ASIDE
                    && match order.how {
                        Disposal::Release | Disposal::Delete => deleted,
                        Disposal::Undelete => !deleted,
                        _ => false,
                    };
                let id = wire::message_id(&queued.message).map_err(|e| unreadable(key, e))?;
                if !passed_over && !found.contains(&id) {
                    found.push(id);
                }
            }
            match page.into_iter().nth(DISPOSE_MAX - 1) {
                Some((last, _)) => after = tables::after(last),
                None => break,
            }
        }
    }
    let more = found.len() >= DISPOSE_MAX;
    found.truncate(DISPOSE_MAX);
    Ok((found, more))
}

/// Takes recipients out of their rows, with what was last said of each and whether it was
/// refused.
fn take(place: &mut Place<'_>, held: bool) -> Vec<(proto::Answer, bool)> {
    let refused = std::mem::take(&mut place.refused);
    let mut taken: Vec<_> = refused
        .recipients
        .iter()
        .map(|recipient| (answer(&refused, *recipient), true))
        .collect();
    if held {
        for row in [&mut place.held, &mut place.aside] {
            let row = std::mem::take(row);
            taken.extend(row.recipients.iter().map(|r| (answer(&row, *r), false)));
        }
    }
    taken
}

fn owed(answer: proto::Answer, was_refused: bool, remote: &str) -> proto::OwedRecipient {
    proto::OwedRecipient {
        recipient: answer.recipient,
        why: if was_refused {
            proto::OwedWhy::Refused
        } else {
            proto::OwedWhy::Returned
        }
        .into(),
        reply: answer.reply,
        at_ms: answer.at_ms,
        remote: remote.to_owned(),
    }
}

fn note(
    kv: &mut dyn Kv,
    when: Logged,
    seq: Seq,
    domain: &Domain,
    order: &Order<'_>,
    done: &[MessageId],
) -> Result<(), KvError> {
    let what = match order.how {
        Disposal::Requeue => "requeue",
        Disposal::Discard => "discard",
        Disposal::Bounce => "bounce",
        Disposal::Hold => "hold",
        Disposal::Release => "release",
        Disposal::Delete => "delete",
        Disposal::Undelete => "undelete",
    };
    let entry = proto::AuditRow {
        at_ms: when.at.0,
        by: order.by.to_owned(),
        what: what.to_owned(),
        domain: domain.to_string(),
        messages: done.len() as u64,
        ids: done
            .iter()
            .map(|id| id.to_bytes().to_vec().into())
            .collect(),
        from: String::new(),
    };
    audit::note(kv, audit::DECISIONS, seq, &entry)
}

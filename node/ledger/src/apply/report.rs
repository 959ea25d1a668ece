//! Report and SettleReports: a notification becomes a message of the cluster, and goes.
//!
//! Report does two things in one entry: it accepts the notification, and owes it no more. So
//! whatever dies when, the cluster sends exactly one: before the entry is committed there is
//! none, and whoever has the post next writes it anew; behind it no other Report can succeed.

use std::time::Duration;

use holdfast_mail::dsn::Kind;
use holdfast_mail::{Envelope, MessageId, NodeId, ReversePath, retry};
use holdfast_proto::ledger as proto;

use super::counts::{self, Change};
use super::mark::{self, Mark};
use super::place::{let_go, shortened};
use super::usage::Fate;
use super::{BODY_OCTETS_MAX, Logged, post, refuse};
use crate::query::envelope_of;
use crate::row::unreadable;
use crate::{
    Effect, Kv, KvError, Refusal, Reply, ReportFate, ReportOutcome, Seq, host, row, tables, wire,
};

/// How long a notification is tried. It has no sender, so at the end it is dropped.
pub const REPORT_KEPT: Duration = Duration::from_secs(5 * 24 * 3600);

/// What a Report is about.
pub(super) struct About {
    pub(super) message: MessageId,
    pub(super) kind: Kind,
    pub(super) version: u64,
}

pub(super) fn report(
    kv: &mut dyn Kv,
    when: Logged,
    seq: Seq,
    (node, epoch): (NodeId, u64),
    about: &About,
    envelope: &Envelope,
    effects: &mut Vec<Effect>,
) -> Result<Reply, KvError> {
    // As in Accept: a Report that is repeated gets the answer it got before.
    let key = tables::message(envelope.id);
    if let Some(known) = row::get::<proto::MessageRow>(kv, &key)? {
        return Ok(Reply::Accepted {
            seq: Seq(known.seq),
        });
    }
    match mark::get(kv, envelope.id)? {
        Some(Mark::Completed { seq }) => return Ok(Reply::Accepted { seq }),
        Some(Mark::Cancelled) => return refuse(Refusal::Cancelled),
        None => {}
    }
    if mark::is_stale(envelope.id, when.at) {
        return refuse(Refusal::Stale);
    }
    if !post::is_held_by(kv, node, epoch)? {
        return refuse(Refusal::Fenced);
    }
    let original_key = tables::message(about.message);
    let owed_key = tables::owed(about.message, about.kind);
    let (Some(original), Some(owed)) = (
        row::get::<proto::MessageRow>(kv, &original_key)?,
        row::get::<proto::OwedRow>(kv, &owed_key)?,
    ) else {
        return refuse(Refusal::NotOwed);
    };
    if owed.version != about.version || owed.not_before_ms > when.at.0 {
        return refuse(Refusal::NotOwed);
    }
    let original_seq = Seq(original.seq);
    let original = envelope_of(&original_key, original)?;
    let domain = match (
        &envelope.reverse_path,
        &original.reverse_path,
        &envelope.recipients[..],
    ) {
        (ReversePath::Null, ReversePath::Mailbox(sender), [only])
            if only.address == *sender
                && envelope.body.id == envelope.id
                && envelope.body.len <= BODY_OCTETS_MAX =>
        {
            only.address.domain()
        }
        _ => None,
    };
    let Some(domain) = domain else {
        return refuse(Refusal::Malformed);
    };

    let message = proto::MessageRow {
        seq: seq.0,
        envelope: Some(wire::envelope_to(envelope)),
    };
    row::put(kv, &key, &message);
    let arrived = Change::one_message(envelope.body.len);
    counts::change(kv, tables::TOTAL, arrived)?;
    if host::taker(kv, domain)?.is_some() {
        // The sender is a customer: his own primary takes it, like all his mail. No quota stands
        // in its way, for there is nobody to send it back to.
        let held = proto::QueueRow {
            message: envelope.id.to_bytes().to_vec().into(),
            recipients: vec![0],
            ..proto::QueueRow::default()
        };
        row::put(kv, &tables::held(domain, seq), &held);
        let came = [(Fate::Accepted, envelope.body.len)];
        counts::change_domain(kv, when, domain, arrived.and_pending(1), &came)?;
        effects.push(Effect::MailHeld {
            domain: domain.clone(),
        });
    } else {
        let report = proto::ReportRow {
            message: envelope.id.to_bytes().to_vec().into(),
            attempts: 0,
            last_reply: String::new(),
            next_at_ms: when.at.0,
            give_up_at_ms: when.at.plus(REPORT_KEPT).0,
        };
        row::put(kv, &tables::report(seq), &report);
        effects.push(Effect::ReportDue);
    }
    kv.delete(&owed_key);
    if let_go(kv, when, &original, original_seq, effects)? {
        let mut total = Change::default();
        total.take(Change::one_message(original.body.len));
        counts::change(kv, tables::TOTAL, total)?;
    }
    Ok(Reply::Accepted { seq })
}

pub(super) fn settle(
    kv: &mut dyn Kv,
    when: Logged,
    (node, epoch): (NodeId, u64),
    outcomes: &[ReportOutcome],
    effects: &mut Vec<Effect>,
) -> Result<Reply, KvError> {
    if !post::is_held_by(kv, node, epoch)? {
        return refuse(Refusal::Fenced);
    }
    let mut total = Change::default();
    for outcome in outcomes {
        let key = tables::report(outcome.seq);
        let Some(mut report) = row::get::<proto::ReportRow>(kv, &key)? else {
            continue;
        };
        if outcome.fate == ReportFate::Deferred {
            report.attempts = report.attempts.saturating_add(1);
            report.last_reply = shortened(&outcome.reply);
            report.next_at_ms = when.at.plus(retry::stranger_delay(report.attempts)).0;
            row::put(kv, &key, &report);
            continue;
        }
        kv.delete(&key);
        let id = wire::message_id(&report.message).map_err(|e| unreadable(&key, e))?;
        let message_key = tables::message(id);
        if let Some(message) = row::get::<proto::MessageRow>(kv, &message_key)? {
            let envelope = envelope_of(&message_key, message)?;
            if let_go(kv, when, &envelope, outcome.seq, effects)? {
                total.take(Change::one_message(envelope.body.len));
            }
        }
    }
    counts::change(kv, tables::TOTAL, total)?;
    Ok(Reply::Done)
}

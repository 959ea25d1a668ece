//! What senders are owed: a row for each message and kind of notification, until one node has
//! written it.
//!
//! A row gathers recipients as long as nobody has written it; each change gives it a new
//! version, and a notification counts only if it was written from the latest. So every failed
//! recipient is told of exactly once, by whichever node.

use holdfast_mail::dsn::{self, Kind};
use holdfast_mail::{Envelope, Timestamp};
use holdfast_proto::ledger as proto;

use crate::{Effect, Kv, KvError, Seq, row, tables};

/// Owes the sender a word about those of `recipients` for whom one may be sent.
pub(super) fn owe(
    kv: &mut dyn Kv,
    seq: Seq,
    envelope: &Envelope,
    kind: Kind,
    recipients: Vec<proto::OwedRecipient>,
    not_before: Timestamp,
    effects: &mut Vec<Effect>,
) -> Result<(), KvError> {
    if kind == Kind::Failed {
        // That it is late is no news any more.
        let failed: Vec<u32> = recipients.iter().map(|owed| owed.recipient).collect();
        withdraw(kv, envelope, Kind::Delayed, &failed)?;
    }
    let key = tables::owed(envelope.id, kind);
    let mut owed: proto::OwedRow = row::get(kv, &key)?.unwrap_or_default();
    let before = owed.recipients.len();
    for new in recipients {
        let may = envelope
            .recipients
            .get(new.recipient as usize)
            .is_some_and(|recipient| dsn::is_owed(&envelope.reverse_path, recipient, kind));
        if may
            && owed
                .recipients
                .iter()
                .all(|old| old.recipient != new.recipient)
        {
            owed.recipients.push(new);
        }
    }
    if owed.recipients.len() > before {
        owed.recipients.sort_unstable_by_key(|owed| owed.recipient);
        owed.version = seq.0;
        owed.not_before_ms = owed.not_before_ms.max(not_before.0);
        row::put(kv, &key, &owed);
        effects.push(Effect::ReportDue);
    }
    Ok(())
}

/// Owes nothing about these recipients any more. Says whether something was owed.
pub(super) fn withdraw(
    kv: &mut dyn Kv,
    envelope: &Envelope,
    kind: Kind,
    recipients: &[u32],
) -> Result<bool, KvError> {
    if recipients.is_empty() {
        return Ok(false);
    }
    let key = tables::owed(envelope.id, kind);
    let Some(mut owed) = row::get::<proto::OwedRow>(kv, &key)? else {
        return Ok(false);
    };
    let before = owed.recipients.len();
    owed.recipients
        .retain(|owed| !recipients.contains(&owed.recipient));
    if owed.recipients.len() == before {
        return Ok(false);
    }
    if owed.recipients.is_empty() {
        kv.delete(&key);
    } else {
        // A report written before no longer fits; and no command to come has this Seq.
        owed.version = owed.version.wrapping_add(1);
        row::put(kv, &key, &owed);
    }
    Ok(true)
}

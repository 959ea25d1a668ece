//! Counts, kept in step with the rows they count.

use holdfast_mail::Domain;
use holdfast_proto::ledger::CountsRow;

use super::Logged;
use super::usage::{self, Fate};
use crate::row::{self, unreadable};
use crate::{Kv, KvError, tables};

/// What is added to counts; negative where something went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    messages: i64,
    bytes: i64,
    pending: i64,
}

impl Change {
    pub(super) fn one_message(len: u64) -> Self {
        Self {
            messages: 1,
            // Never cut: Accept refuses what is longer than BODY_OCTETS_MAX.
            bytes: i64::try_from(len).unwrap_or(i64::MAX),
            pending: 0,
        }
    }

    pub(super) fn and_pending(self, pending: i64) -> Self {
        Self { pending, ..self }
    }

    /// The length of the message, where it is one.
    pub(super) fn message(self) -> Option<u64> {
        let bytes = u64::try_from(self.bytes).ok();
        bytes.filter(|_| self.messages == 1)
    }

    pub(super) fn take(&mut self, gone: Self) {
        self.messages -= gone.messages;
        self.bytes = self.bytes.saturating_sub(gone.bytes);
        self.pending -= gone.pending;
    }
}

/// Changes the counts at `key`. Counts that fall to zero leave no row, so that a walk over
/// domains with mail meets no others.
pub(super) fn change(kv: &mut dyn Kv, key: &[u8], change: Change) -> Result<(), KvError> {
    if change == Change::default() {
        return Ok(());
    }
    changed(kv, key, change)?;
    Ok(())
}

/// The same for a domain's counts and its usage; `messages` are those that came or went.
pub(super) fn change_domain(
    kv: &mut dyn Kv,
    when: Logged,
    domain: &Domain,
    change: Change,
    messages: &[(Fate, u64)],
) -> Result<(), KvError> {
    if change == Change::default() {
        return Ok(());
    }
    let held = changed(kv, &tables::counts(domain), change)?;
    if messages.is_empty() {
        return Ok(());
    }
    usage::count(kv, when, domain, held, messages)
}

/// Returns the bytes before and after.
fn changed(kv: &mut dyn Kv, key: &[u8], change: Change) -> Result<(u64, u64), KvError> {
    let old: CountsRow = row::get(kv, key)?.unwrap_or_default();
    let sum = |count: u64, change| {
        count
            .checked_add_signed(change)
            .ok_or_else(|| unreadable(key, "more mail goes than was ever counted"))
    };
    let new = CountsRow {
        messages: sum(old.messages, change.messages)?,
        bytes: sum(old.bytes, change.bytes)?,
        pending: sum(old.pending, change.pending)?,
    };
    if new == CountsRow::default() {
        kv.delete(key);
    } else {
        row::put(kv, key, &new);
    }
    Ok((old.bytes, new.bytes))
}

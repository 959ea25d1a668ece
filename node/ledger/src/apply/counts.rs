//! Counts, kept in step with the rows they count.

use holdfast_mail::Domain;
use holdfast_proto::ledger::CountsRow;

use super::Logged;
use super::usage::{self, Fate};
use crate::row::{self, unreadable};
use crate::{Kv, KvError, host, query, tables};

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

    /// The same for the domain that keeps it: it counts hosts, not what they have to deliver.
    fn of_hosts(self, hosts: i64) -> Self {
        self.and_pending(hosts)
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
    changed(kv, key, change)
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
    let key = tables::counts(domain);
    let old: Option<CountsRow> = row::get(kv, &key)?;
    let keeper = match &old {
        Some(old) => host::keeper_of(&key, old)?,
        None => host::keeper(kv, domain)?,
    };
    let was = old.is_some();
    let new = CountsRow {
        keeper: keeper.as_ref().map_or(String::new(), Domain::to_string),
        ..sum(&key, &old.clone().unwrap_or_default(), change)?
    };
    let is = put(kv, &key, &new);
    let before = old.unwrap_or_default().bytes;
    let (payer, held) = match &keeper {
        Some(keeper) => {
            let before = query::charged(kv, keeper)?.bytes;
            let hosts = i64::from(is) - i64::from(was);
            self::change(kv, &tables::below(keeper), change.of_hosts(hosts))?;
            (keeper, (before, query::charged(kv, keeper)?.bytes))
        }
        None => {
            let (below, _) = host::below(kv, domain)?;
            let all = |own: u64| own.saturating_add(below.bytes);
            (domain, (all(before), all(new.bytes)))
        }
    };
    if messages.is_empty() {
        return Ok(());
    }
    usage::count(kv, when, payer, held, messages)
}

/// A host has a record of its own from now on: what it holds counts there and no longer with the
/// domain above.
pub(super) fn leave_keeper(kv: &mut dyn Kv, when: Logged, host: &Domain) -> Result<(), KvError> {
    let key = tables::counts(host);
    let Some(row) = row::get::<CountsRow>(kv, &key)? else {
        return Ok(());
    };
    let Some(keeper) = host::keeper_of(&key, &row)? else {
        return Ok(());
    };
    let before = query::charged(kv, &keeper)?.bytes;
    let mut gone = Change::default();
    gone.take(Change {
        messages: i64::try_from(row.messages).unwrap_or(i64::MAX),
        bytes: i64::try_from(row.bytes).unwrap_or(i64::MAX),
        pending: 1,
    });
    change(kv, &tables::below(&keeper), gone)?;
    let after = query::charged(kv, &keeper)?.bytes;
    usage::count(kv, when, &keeper, (before, after), &[])?;
    let keeper = String::new();
    row::put(kv, &key, &CountsRow { keeper, ..row });
    Ok(())
}

fn changed(kv: &mut dyn Kv, key: &[u8], change: Change) -> Result<(), KvError> {
    let old: CountsRow = row::get(kv, key)?.unwrap_or_default();
    let new = sum(key, &old, change)?;
    put(kv, key, &new);
    Ok(())
}

fn sum(key: &[u8], old: &CountsRow, change: Change) -> Result<CountsRow, KvError> {
    let sum = |count: u64, change| {
        count
            .checked_add_signed(change)
            .ok_or_else(|| unreadable(key, "more mail goes than was ever counted"))
    };
    Ok(CountsRow {
        messages: sum(old.messages, change.messages)?,
        bytes: sum(old.bytes, change.bytes)?,
        pending: sum(old.pending, change.pending)?,
        keeper: String::new(),
    })
}

/// Says whether anything is left.
fn put(kv: &mut dyn Kv, key: &[u8], new: &CountsRow) -> bool {
    let is_left = (new.messages, new.bytes, new.pending) != (0, 0, 0);
    if is_left {
        row::put(kv, key, new);
    } else {
        kv.delete(key);
    }
    is_left
}

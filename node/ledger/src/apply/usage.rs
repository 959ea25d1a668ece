//! Usage, kept in step with what comes and goes.

use holdfast_mail::{Domain, Timestamp};
use holdfast_proto::ledger as proto;

use super::Logged;
use crate::usage::{Month, UpToNow, since, up_to_now};
use crate::{Kv, KvError, query, row, tables};

/// Rows of usage that one Sweep forgets, so that it does not delay the Accepts behind it.
pub const SWEEP_USAGE_MAX: usize = 1_000;

/// What a message counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Accepted,
    Delivered,
    Returned,
    Discarded,
}

/// Usage is counted from now on.
pub(super) fn begin(kv: &mut dyn Kv, when: Logged) -> Result<(), KvError> {
    if since(kv)?.is_none() {
        let since = proto::UsageSinceRow { at_ms: when.at.0 };
        row::put(kv, tables::USAGE, &since);
    }
    Ok(())
}

/// Counts messages of a domain that came or went, each with its length. `before` and `after` is
/// what was and is held, in bytes.
pub(super) fn count(
    kv: &mut dyn Kv,
    when: Logged,
    domain: &Domain,
    (before, after): (u64, u64),
    messages: &[(Fate, u64)],
) -> Result<(), KvError> {
    let Some(mut counted) = up_to_now(kv, domain, before, when.at)? else {
        return Ok(());
    };
    // Who sends to other people's domains pays by what goes into his own.
    if !row::exists(kv, &tables::domain(domain))? {
        return Ok(());
    }
    let row = &mut counted.current;
    for (fate, len) in messages {
        let (count, bytes) = match fate {
            Fate::Accepted => (&mut row.accepted_messages, &mut row.accepted_bytes),
            Fate::Delivered => (&mut row.delivered_messages, &mut row.delivered_bytes),
            Fate::Returned => (&mut row.returned_messages, &mut row.returned_bytes),
            Fate::Discarded => (&mut row.discarded_messages, &mut row.discarded_bytes),
        };
        *count = count.saturating_add(1);
        *bytes = bytes.saturating_add(*len);
    }
    row.peak_bytes = row.peak_bytes.max(after);
    put(kv, domain, &counted);
    Ok(())
}

/// The domain is on another plan from now on, or has another number of steps. Who leaves a plan
/// has had it in the month that runs.
pub(super) fn charge(
    kv: &mut dyn Kv,
    when: Logged,
    domain: &Domain,
    plan: &str,
    extra_steps: u32,
) -> Result<(), KvError> {
    let held = query::charged(kv, domain)?.bytes;
    let Some(mut counted) = up_to_now(kv, domain, held, when.at)? else {
        return Ok(());
    };
    if !plan.is_empty() {
        plan.clone_into(&mut counted.current.plan);
        counted.current.extra_steps = extra_steps;
    }
    put(kv, domain, &counted);
    Ok(())
}

fn put(kv: &mut dyn Kv, domain: &Domain, counted: &UpToNow) {
    for (month, row) in &counted.closed {
        row::put(kv, &tables::usage(*month, domain), row);
    }
    row::put(kv, &tables::usage(counted.month, domain), &counted.current);
}

/// Forgets months that are over long ago; they lie at the front. Says whether more may be left.
pub(super) fn sweep(kv: &mut dyn Kv, now: Timestamp) -> Result<bool, KvError> {
    let first = tables::usage_in(Month(0));
    let rows = kv.scan(tables::USAGE, &first, SWEEP_USAGE_MAX)?;
    let mut gone = 0;
    for (key, _) in rows {
        let (month, _) = tables::usage_of(&key)?;
        if !month.is_over_long_ago(Month::of(now)) {
            break;
        }
        kv.delete(&key);
        gone += 1;
    }
    Ok(gone == SWEEP_USAGE_MAX)
}

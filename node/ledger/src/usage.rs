//! Usage: what came of a domain's mail, month by month, and what is to be paid for it.
//!
//! A month is a calendar month in UTC, by logged time. Every command that changes what is held
//! for a domain brings its usage up to its time first: what was held until then is held in the
//! month's byte-days, and months that went by without a change are made up for. So nothing has to
//! run at midnight, and a question about a month in which nothing happened is answered in the
//! same way.
//!
//! Usage is counted from the first SetPlan on. Older versions know no plans and stop at that
//! command; would they go on, they would count differently from the others.

use std::fmt;
use std::str::FromStr;

use holdfast_mail::{Domain, Timestamp};
use holdfast_proto::ledger::{UsageRow, UsageSinceRow};

use crate::plan::{self, Plan};
use crate::{KvError, KvRead, query, row, tables};

/// Months whose usage is kept, with the one that runs: two years of invoices can be written again.
pub const USAGE_MONTHS: u64 = 24;

const DAY_MS: u64 = 86_400_000;

/// A calendar month in UTC: the year times 12, and 0 for January.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Month(pub u64);

impl Month {
    #[must_use]
    pub fn of(at: Timestamp) -> Self {
        let civil = at.civil();
        Self(civil.year * 12 + civil.month - 1)
    }

    /// Its first millisecond; the start or the end of time where it lies beyond them.
    #[must_use]
    pub fn start(self) -> Timestamp {
        // Years that begin in March have their leap day at the end.
        let march = self.0.saturating_sub(2);
        let (year, month) = (march / 12, march % 12);
        let (era, year) = (year / 400, year % 400);
        let day_of_era = year * 365 + year / 4 - year / 100 + (153 * month + 2) / 5;
        let days = era.saturating_mul(146_097).saturating_add(day_of_era);
        Timestamp(days.saturating_sub(719_468).saturating_mul(DAY_MS))
    }

    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    #[must_use]
    pub fn back(self, months: u64) -> Self {
        Self(self.0.saturating_sub(months))
    }

    /// Its usage is kept no longer.
    #[must_use]
    pub fn is_over_long_ago(self, now: Self) -> bool {
        self.0.saturating_add(USAGE_MONTHS) <= now.0
    }
}

/// `2026-11`
impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.0 / 12, self.0 % 12 + 1)
    }
}

/// The same.
impl FromStr for Month {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "not a month such as 2026-11";
        let number = |digits: &str, len: usize| {
            let plain = digits.len() == len && digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse::<u64>().ok().filter(|_| plain)
        };
        let (year, month) = text.split_once('-').ok_or(wrong)?;
        match (number(year, 4), number(month, 2)) {
            (Some(year), Some(month @ 1..=12)) => Ok(Self(year * 12 + month - 1)),
            _ => Err(wrong),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    pub messages: u64,
    pub bytes: u64,
}

/// One domain in one month. A message counts in each domain that it has recipients in: as accepted
/// when it comes, and as one of the others when its last recipient there is settled, by what
/// became of that one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    pub domain: Domain,
    pub accepted: Amount,
    pub delivered: Amount,
    /// Refused, expired, or given back by hand.
    pub returned: Amount,
    /// Dropped by hand.
    pub discarded: Amount,
    /// The most that was held at once.
    pub peak_bytes: u64,
    /// What was held, times how long.
    pub byte_days: u64,
    /// `None`: the domain was on no plan.
    pub bill: Option<Bill>,
}

/// What is to be paid for a month: the last plan the domain was on in it, at the last price that
/// the plan had in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bill {
    pub plan: String,
    pub extra_steps: u32,
    /// ISO 4217.
    pub currency: String,
    /// Minor units of the currency.
    pub amount: u64,
}

/// Since when usage is counted; `None`: not yet.
pub(crate) fn since(kv: &dyn KvRead) -> Result<Option<Timestamp>, KvError> {
    let since: Option<UsageSinceRow> = row::get(kv, tables::USAGE)?;
    Ok(since.map(|since| Timestamp(since.at_ms)))
}

/// A domain's usage up to now.
pub(crate) struct UpToNow {
    /// Months that are over and were not closed yet, and those that went by since.
    pub(crate) closed: Vec<(Month, UsageRow)>,
    pub(crate) month: Month,
    /// Of the month that runs.
    pub(crate) current: UsageRow,
}

/// `None`: usage is not counted yet. Looks at [`USAGE_MONTHS`] rows at most, and at one where
/// anything happened this month.
pub(crate) fn up_to_now(
    kv: &dyn KvRead,
    domain: &Domain,
    held_bytes: u64,
    now: Timestamp,
) -> Result<Option<UpToNow>, KvError> {
    let Some(since) = since(kv)? else {
        return Ok(None);
    };
    let this = Month::of(now);
    let latest = latest(kv, domain, this)?;
    if let Some((month, mut current)) = latest.clone()
        && month == this
    {
        hold(&mut current, held_bytes, now);
        let closed = Vec::new();
        return Ok(Some(UpToNow {
            closed,
            month,
            current,
        }));
    }
    let (plan, extra_steps) = query::subscription(kv, domain)?.unwrap_or_default();
    let begun = |at: Timestamp| UsageRow {
        until_ms: at.0,
        plan: plan.clone(),
        extra_steps,
        ..UsageRow::default()
    };
    let (mut month, mut current) = latest.unwrap_or_else(|| {
        let first = Month::of(since).max(this.back(USAGE_MONTHS - 1));
        (first, begun(since.max(first.start())))
    });
    let mut closed = Vec::new();
    while month < this {
        let end = month.next().start();
        hold(&mut current, held_bytes, end);
        let over = std::mem::replace(&mut current, begun(end));
        if is_worth_a_row(&over) {
            closed.push((month, over));
        }
        month = month.next();
    }
    hold(&mut current, held_bytes, now);
    Ok(Some(UpToNow {
        closed,
        month,
        current,
    }))
}

/// The domain's latest row, not later than `this` month.
fn latest(
    kv: &dyn KvRead,
    domain: &Domain,
    this: Month,
) -> Result<Option<(Month, UsageRow)>, KvError> {
    for back in 0..USAGE_MONTHS {
        let month = this.back(back);
        if let Some(row) = row::get(kv, &tables::usage(month, domain))? {
            return Ok(Some((month, row)));
        }
    }
    Ok(None)
}

/// So much was held from where the row ends until `until`.
fn hold(row: &mut UsageRow, bytes: u64, until: Timestamp) {
    let ms = until.0.saturating_sub(row.until_ms);
    let held = u128::from(bytes) * u128::from(ms) + u128::from(row.byte_ms);
    let (days, rest) = (held / u128::from(DAY_MS), held % u128::from(DAY_MS));
    row.byte_days = u64::try_from(days).map_or(u64::MAX, |days| row.byte_days.saturating_add(days));
    row.byte_ms = u64::try_from(rest).unwrap_or(0);
    row.until_ms = row.until_ms.max(until.0);
    row.peak_bytes = row.peak_bytes.max(bytes);
}

/// Something came, went or was held, or there is something to pay.
fn is_worth_a_row(row: &UsageRow) -> bool {
    let empty = UsageRow {
        until_ms: row.until_ms,
        ..UsageRow::default()
    };
    *row != empty
}

/// What a domain's usage comes to in a month that has begun; `None`: there is nothing to tell.
pub(crate) fn usage(
    kv: &dyn KvRead,
    domain: &Domain,
    month: Month,
) -> Result<Option<Usage>, KvError> {
    let now = query::now(kv)?;
    let held = query::charged(kv, domain)?.bytes;
    let Some(counted) = up_to_now(kv, domain, held, now)? else {
        return Ok(None);
    };
    let made_up = counted.closed.into_iter().find(|(of, _)| *of == month);
    let row = match made_up {
        _ if month == counted.month => Some(counted.current),
        Some((_, row)) => Some(row),
        None => row::get(kv, &tables::usage(month, domain))?,
    };
    row.filter(is_worth_a_row)
        .map(|row| told(kv, domain, month, row))
        .transpose()
}

fn told(kv: &dyn KvRead, domain: &Domain, month: Month, row: UsageRow) -> Result<Usage, KvError> {
    let amount = |messages, bytes| Amount { messages, bytes };
    let plan = plan::plan_row(kv, &row.plan)?;
    let plan = plan.and_then(|of| Plan::in_month(&row.plan, &of, month));
    Ok(Usage {
        domain: domain.clone(),
        accepted: amount(row.accepted_messages, row.accepted_bytes),
        delivered: amount(row.delivered_messages, row.delivered_bytes),
        returned: amount(row.returned_messages, row.returned_bytes),
        discarded: amount(row.discarded_messages, row.discarded_bytes),
        peak_bytes: row.peak_bytes,
        byte_days: row.byte_days,
        bill: plan.map(|plan| Bill {
            amount: plan.amount_with(row.extra_steps),
            extra_steps: row.extra_steps,
            currency: plan.currency,
            plan: plan.name,
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_are_those_of_the_calendar() {
        let mut month = Month::of(Timestamp(0));
        assert_eq!(month.to_string(), "1970-01");
        assert_eq!(month.start(), Timestamp(0));
        // Past three leap years that are none, and one that is.
        while month < Month(2500 * 12) {
            let start = month.start();
            assert_eq!(Month::of(start), month);
            assert_eq!(Month::of(Timestamp(start.0 - u64::from(start.0 > 0))).0, {
                month.0 - u64::from(start.0 > 0)
            });
            assert_eq!(start.civil().day, 1);
            assert_eq!(start.0 % DAY_MS, 0);
            assert_eq!(month.to_string().parse(), Ok(month));
            month = month.next();
        }
    }

    #[test]
    fn a_month_at_the_end_of_time_is_one_too() {
        let last = Month::of(Timestamp(u64::MAX));
        assert!(last.start() < Timestamp(u64::MAX));
        assert_eq!(last.next().start(), Timestamp(u64::MAX));
        assert_eq!(Month(u64::MAX).next().start(), Timestamp(u64::MAX));
    }

    #[test]
    fn a_month_is_written_in_one_way() {
        for text in [
            "2026", "2026-13", "2026-00", "26-11", "2026-1", "2026-+1", "-",
        ] {
            assert!(text.parse::<Month>().is_err(), "{text}");
        }
    }

    #[test]
    fn byte_days_lose_nothing_to_rounding() {
        let mut often = UsageRow::default();
        let mut at_once = UsageRow::default();
        for hour in 1..=48 {
            hold(&mut often, 1001, Timestamp(hour * DAY_MS / 24));
        }
        hold(&mut at_once, 1001, Timestamp(2 * DAY_MS));
        assert_eq!(often, at_once);
        assert_eq!(often.byte_days, 2002);
        let before = often.clone();
        hold(&mut often, 1001, Timestamp(0));
        assert_eq!(often, before, "time never goes back");
    }
}

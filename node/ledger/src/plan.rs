//! Plans: what customers pay for, and what it gives their domains.
//!
//! A domain that is on a plan has what the plan says wherever its own policy says nothing. It is
//! looked up when it is needed, so a plan that changes has changed for all its domains at once.

use std::time::Duration;

use holdfast_proto::ledger as proto;

use crate::level::PLANS_WATCH;
use crate::policy::{HOLD_DEFAULT, PROBE_DEFAULT, changed};
use crate::{KvError, KvRead, Month, row, tables};

/// Plans, with those that were removed and are still on a bill: more than a price list can hold,
/// and few enough to be looked through at once.
pub const PLANS_MAX: usize = 1_000;

/// Octets of a plan's name, as an invoice prints it.
pub const PLAN_NAME_OCTETS_MAX: usize = 64;

/// Steps of extra quota that one domain has: far beyond what is sold, and small enough that
/// amounts cannot overflow.
pub const EXTRA_STEPS_MAX: u32 = 100_000;

/// Minor units of a price: far beyond what is charged, and small enough that amounts cannot
/// overflow.
pub const PRICE_MAX: u64 = 1_000_000_000_000;

/// Octets of a plan's quota or of one step, 1 EiB: what 100,000 steps come to is cut at the
/// largest number, and that is no limit any more.
pub const QUOTA_OCTETS_MAX: u64 = 1 << 60;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub name: String,
    /// ISO 4217.
    pub currency: String,
    /// Of a month, minor units of the currency.
    pub price: u64,
    /// `None`: no limit.
    pub quota_bytes: Option<u64>,
    /// `None`: no limit.
    pub quota_messages: Option<u64>,
    /// What one step of extra quota adds; zero: there are none.
    pub step_bytes: u64,
    pub step_price: u64,
    /// How many of our hosts belong into the domain's MX records; zero: as many as anybody gets.
    pub mx_hosts: u32,
    /// Zero: without end.
    pub hold_ms: u64,
    pub full_for_good: bool,
    /// How often a primary is looked at.
    pub probe_ms: u64,
    /// A primary that cannot be reached is pinged.
    pub ping: bool,
    /// Domains that are on it.
    pub domains: u64,
}

/// What is to be changed of a plan: only the fields that are there. Units and defaults are told
/// where the log's format is.
pub use proto::Plan as PlanChange;

impl Plan {
    /// `None`: it is removed, or has no terms.
    pub(crate) fn from_row(name: &str, row: &proto::PlanRow) -> Option<Self> {
        let terms = row.terms.last().filter(|_| row.removed_month == 0)?;
        Some(Self {
            domains: row.domains,
            ..Self::from_terms(name, terms.plan.clone().unwrap_or_default())
        })
    }

    /// What a plan was in `month`: the last terms that month had. Terms that came later hold for
    /// the time before the first ones too, for a plan cannot have been used before.
    pub(crate) fn in_month(name: &str, row: &proto::PlanRow, month: Month) -> Option<Self> {
        let in_force = row
            .terms
            .iter()
            .rfind(|terms| terms.from_month <= month.0)
            .or(row.terms.first())?;
        Some(Self::from_terms(
            name,
            in_force.plan.clone().unwrap_or_default(),
        ))
    }

    fn from_terms(name: &str, plan: proto::Plan) -> Self {
        let limit = |number: Option<u64>| number.filter(|number| *number > 0);
        let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(0);
        Self {
            name: name.to_owned(),
            currency: plan.currency.unwrap_or_default(),
            price: plan.price.unwrap_or(0),
            quota_bytes: limit(plan.quota_bytes),
            quota_messages: limit(plan.quota_messages),
            step_bytes: plan.step_bytes.unwrap_or(0),
            step_price: plan.step_price.unwrap_or(0),
            mx_hosts: plan.mx_hosts.unwrap_or(0),
            hold_ms: plan.hold_ms.unwrap_or(ms(HOLD_DEFAULT)),
            full_for_good: plan.full_for_good.unwrap_or(false),
            probe_ms: plan.probe_ms.unwrap_or(ms(PROBE_DEFAULT)),
            ping: plan.ping.unwrap_or(false),
            domains: 0,
        }
    }

    /// The quota with `extra_steps` more.
    #[must_use]
    pub fn quota_with(&self, extra_steps: u32) -> Option<u64> {
        let extra = self.step_bytes.saturating_mul(extra_steps.into());
        Some(self.quota_bytes?.saturating_add(extra))
    }

    /// What a month costs with `extra_steps` more, minor units.
    #[must_use]
    pub fn amount_with(&self, extra_steps: u32) -> u64 {
        let extra = self.step_price.saturating_mul(extra_steps.into());
        self.price.saturating_add(extra)
    }

    /// What a domain's own policy does not say.
    pub(crate) fn fill(&self, own: proto::Policy, extra_steps: u32) -> proto::Policy {
        let limit = |number: Option<u64>| Some(number.unwrap_or(0));
        proto::Policy {
            hold_ms: own.hold_ms.or(Some(self.hold_ms)),
            quota_bytes: own.quota_bytes.or(limit(self.quota_with(extra_steps))),
            quota_messages: own.quota_messages.or(limit(self.quota_messages)),
            full_for_good: own.full_for_good.or(Some(self.full_for_good)),
            probe_ms: own.probe_ms.or(Some(self.probe_ms)),
            ping: own.ping.or(Some(self.ping)),
            ..own
        }
    }
}

/// A policy that says nothing of what a plan says in a cluster of that level.
pub(crate) fn follow(own: proto::Policy, level: u32) -> proto::Policy {
    let (probe_ms, ping) = match level >= PLANS_WATCH {
        true => (None, None),
        false => (own.probe_ms, own.ping),
    };
    proto::Policy {
        probe_ms,
        ping,
        hold_ms: None,
        quota_bytes: None,
        quota_messages: None,
        full_for_good: None,
        ..own
    }
}

pub(crate) fn plan_row(kv: &dyn KvRead, name: &str) -> Result<Option<proto::PlanRow>, KvError> {
    row::get(kv, &tables::plan(name))
}

/// The terms with the change in them; `None` where they are none that a plan can have.
pub(crate) fn upon(old: proto::Plan, change: &PlanChange) -> Option<proto::Plan> {
    let new = changed(old, change);
    let currency = new.currency.as_deref().unwrap_or_default().as_bytes();
    let is_within = |number: Option<u64>, max| number.is_none_or(|number| number <= max);
    let sound = currency.len() == 3
        && currency.iter().all(u8::is_ascii_uppercase)
        && is_within(new.price, PRICE_MAX)
        && is_within(new.step_price, PRICE_MAX)
        && is_within(new.quota_bytes, QUOTA_OCTETS_MAX)
        && is_within(new.step_bytes, QUOTA_OCTETS_MAX);
    sound.then_some(new)
}

/// A name that stands in a command line, a table and an invoice as it is.
pub(crate) fn is_name(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=PLAN_NAME_OCTETS_MAX).contains(&text.len()) && text.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(plan: &PlanChange) -> Option<proto::Plan> {
        upon(proto::Plan::default(), plan)
    }

    #[test]
    fn a_plan_has_a_currency_and_numbers_that_can_be_added_up() {
        let euro = || Some("EUR".to_owned());
        let plan = |currency, price, step_bytes| PlanChange {
            currency,
            price: Some(price),
            step_bytes: Some(step_bytes),
            ..PlanChange::default()
        };
        assert!(terms(&plan(euro(), PRICE_MAX, QUOTA_OCTETS_MAX)).is_some());
        assert_eq!(terms(&plan(None, 1, 1)), None);
        assert_eq!(terms(&plan(Some("Eur".to_owned()), 1, 1)), None);
        assert_eq!(terms(&plan(euro(), PRICE_MAX + 1, 1)), None);
        assert_eq!(terms(&plan(euro(), 1, QUOTA_OCTETS_MAX + 1)), None);
    }

    #[test]
    fn the_dearest_plan_with_the_most_steps_has_a_price_and_a_quota() {
        let dearest = terms(&PlanChange {
            currency: Some("EUR".to_owned()),
            price: Some(PRICE_MAX),
            quota_bytes: Some(QUOTA_OCTETS_MAX),
            step_bytes: Some(QUOTA_OCTETS_MAX),
            step_price: Some(PRICE_MAX),
            ..PlanChange::default()
        });
        let plan = Plan::from_terms("dearest", dearest.unwrap());
        let steps = u64::from(EXTRA_STEPS_MAX);
        assert_eq!(plan.amount_with(EXTRA_STEPS_MAX), PRICE_MAX * (steps + 1));
        assert_eq!(plan.quota_with(EXTRA_STEPS_MAX), Some(u64::MAX));
    }

    #[test]
    fn how_a_primary_is_watched_is_the_plans_unless_the_domain_says_otherwise() {
        let watched = terms(&PlanChange {
            currency: Some("EUR".to_owned()),
            probe_ms: Some(900_000),
            ping: Some(true),
            ..PlanChange::default()
        });
        let plan = Plan::from_terms("watched", watched.unwrap());
        let in_force = |own| {
            let filled = plan.fill(own, 0);
            (filled.probe_ms, filled.ping)
        };
        let own = proto::Policy {
            probe_ms: Some(60_000),
            ping: Some(false),
            ..proto::Policy::default()
        };
        let plans = (Some(900_000), Some(true));
        assert_eq!(in_force(proto::Policy::default()), plans);
        assert_eq!(in_force(own), (Some(60_000), Some(false)));
        assert_eq!(in_force(follow(own, PLANS_WATCH)), plans);
        // An older version would keep what it has never known a plan to say.
        assert_eq!(follow(own, PLANS_WATCH - 1), own);
    }

    #[test]
    fn a_plan_without_a_quota_has_none_however_many_steps_are_added() {
        let free = terms(&PlanChange {
            currency: Some("EUR".to_owned()),
            step_bytes: Some(1),
            ..PlanChange::default()
        });
        assert_eq!(Plan::from_terms("free", free.unwrap()).quota_with(3), None);
    }

    #[test]
    fn a_name_is_one_word() {
        assert!(is_name("Premium-2.0_eu"));
        for text in ["", "two words", "a,b", "ü", "a\n", &"x".repeat(65)] {
            assert!(!is_name(text), "{text:?}");
        }
    }
}

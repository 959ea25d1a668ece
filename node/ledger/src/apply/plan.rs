//! SetPlan, RemovePlan and Subscribe: what is on offer, and which domain has what of it.

use holdfast_mail::{Domain, Timestamp};
use holdfast_proto::ledger as proto;

use super::{Logged, refuse, usage};
use crate::plan::{self, EXTRA_STEPS_MAX, PLANS_MAX, Plan, PlanChange};
use crate::usage::{Month, USAGE_MONTHS};
use crate::{Effect, Kv, KvError, Refusal, Reply, query, row, tables};

/// What is asked for a domain.
pub(super) struct Order<'a> {
    /// Empty: none any more; `None`: as it is.
    pub(super) plan: Option<&'a str>,
    /// `None`: as they are, and none of a plan that is another.
    pub(super) extra_steps: Option<u32>,
    /// The domain's own policy gives way to the plan.
    pub(super) follow: bool,
}

pub(super) fn set(
    kv: &mut dyn Kv,
    when: Logged,
    name: &str,
    change: &PlanChange,
    must_be_new: bool,
    must_exist: bool,
) -> Result<Reply, KvError> {
    if !plan::is_name(name) {
        return refuse(Refusal::Malformed);
    }
    let known = plan::plan_row(kv, name)?;
    let is_new_row = known.is_none();
    let mut row = known.unwrap_or_default();
    let in_force = match row.terms.last() {
        Some(last) if row.removed_month == 0 => Some(last.plan.clone().unwrap_or_default()),
        _ => None,
    };
    match in_force {
        Some(_) if must_be_new => return refuse(Refusal::PlanExists),
        None if must_exist => return refuse(Refusal::UnknownPlan),
        _ => {}
    }
    let Some(new) = plan::upon(in_force.clone().unwrap_or_default(), change) else {
        return refuse(Refusal::Malformed);
    };
    if in_force.as_ref() == Some(&new) {
        return Ok(Reply::Done);
    }
    if is_new_row && kv.scan(tables::PLANS, &[], PLANS_MAX)?.len() == PLANS_MAX {
        return refuse(Refusal::TooManyPlans);
    }
    let month = Month::of(when.at);
    // A month is billed by the last terms it had.
    row.terms.retain(|terms| terms.from_month < month.0);
    row.terms.push(proto::PlanTerms {
        from_month: month.0,
        plan: Some(new),
    });
    // Only what bills that can still be written need.
    let first = month.back(USAGE_MONTHS - 1).0;
    let older = row.terms.iter().filter(|terms| terms.from_month <= first);
    let unneeded = older.count().saturating_sub(1);
    row.terms.drain(..unneeded);
    row.removed_month = 0;
    row::put(kv, &tables::plan(name), &row);
    usage::begin(kv, when)?;
    Ok(Reply::Done)
}

pub(super) fn remove(kv: &mut dyn Kv, when: Logged, name: &str) -> Result<Reply, KvError> {
    let known = plan::plan_row(kv, name)?.filter(|row| row.removed_month == 0);
    let Some(mut row) = known else {
        return refuse(Refusal::UnknownPlan);
    };
    if row.domains > 0 {
        return refuse(Refusal::PlanInUse);
    }
    // Domains that were on it until lately are still to be billed for it.
    row.removed_month = Month::of(when.at).0;
    row::put(kv, &tables::plan(name), &row);
    Ok(Reply::Done)
}

/// Forgets plans that are on no bill any more.
pub(super) fn sweep(kv: &mut dyn Kv, now: Timestamp) -> Result<(), KvError> {
    for (key, value) in kv.scan(tables::PLANS, &[], PLANS_MAX)? {
        let row: proto::PlanRow = row::decode(&key, &value)?;
        if row.removed_month != 0 && Month(row.removed_month).is_over_long_ago(Month::of(now)) {
            kv.delete(&key);
        }
    }
    Ok(())
}

pub(super) fn subscribe(
    kv: &mut dyn Kv,
    when: Logged,
    domain: &Domain,
    order: &Order<'_>,
    effects: &mut Vec<Effect>,
) -> Result<Reply, KvError> {
    if !row::exists(kv, &tables::domain(domain))? {
        return refuse(Refusal::UnknownDomain);
    }
    let key = tables::policy(domain);
    let old: proto::PolicyRow = row::get(kv, &key)?.unwrap_or_default();
    let name = order.plan.unwrap_or(&old.plan);
    let is_another = name != old.plan;
    let kept = if is_another { 0 } else { old.extra_steps };
    let extra_steps = order.extra_steps.unwrap_or(kept);
    if extra_steps > EXTRA_STEPS_MAX {
        return refuse(Refusal::Malformed);
    }
    let asks_for_steps = order.extra_steps.is_some_and(|steps| steps > 0);
    if name.is_empty() {
        if asks_for_steps {
            return refuse(Refusal::NoSteps);
        }
    } else {
        let row = plan::plan_row(kv, name)?;
        match row.and_then(|row| Plan::from_row(name, &row)) {
            None => return refuse(Refusal::UnknownPlan),
            Some(plan) if plan.step_bytes == 0 && asks_for_steps => {
                return refuse(Refusal::NoSteps);
            }
            Some(_) => {}
        }
    }
    let level = query::level(kv)?;
    let new = proto::PolicyRow {
        policy: if order.follow {
            old.policy.map(|own| plan::follow(own, level))
        } else {
            old.policy
        },
        plan: name.to_owned(),
        extra_steps,
    };
    if new == old {
        return Ok(Reply::Done);
    }
    usage::charge(kv, when, domain, name, extra_steps)?;
    if is_another {
        leave(kv, &old.plan)?;
        join(kv, name)?;
    }
    row::put(kv, &key, &new);
    effects.push(Effect::PolicyChanged {
        domain: domain.clone(),
    });
    Ok(Reply::Done)
}

/// The domain is on the plan no more. The empty name is no plan.
pub(super) fn leave(kv: &mut dyn Kv, name: &str) -> Result<(), KvError> {
    count(kv, name, |domains| domains.checked_sub(1))
}

fn join(kv: &mut dyn Kv, name: &str) -> Result<(), KvError> {
    count(kv, name, |domains| domains.checked_add(1))
}

fn count(kv: &mut dyn Kv, name: &str, change: impl Fn(u64) -> Option<u64>) -> Result<(), KvError> {
    let key = tables::plan(name);
    if let Some(mut row) = row::get::<proto::PlanRow>(kv, &key)? {
        row.domains = change(row.domains)
            .ok_or_else(|| row::unreadable(&key, "more domains leave it than were on it"))?;
        row::put(kv, &key, &row);
    }
    Ok(())
}

//! Plans, and what domains used of them.

use holdfast_ledger::{
    Command, EXTRA_STEPS_MAX, KvRead, Month, PLAN_NAME_OCTETS_MAX, PRICE_MAX, Plan, PlanChange,
    QUOTA_OCTETS_MAX, Refusal, USAGE_MONTHS, Usage, query,
};
use holdfast_mail::{Domain, Timestamp};
use holdfast_proto::admin as wire;
use tokio::sync::mpsc;
use tonic::Status;

use super::{Admin, broken, domains, refused};

/// Domains whose usage is sent at a time.
const PAGE: usize = 256;

pub(super) async fn set(
    admin: &Admin,
    request: wire::PlanSetRequest,
) -> Result<wire::Empty, Status> {
    let wanted = request.plan.unwrap_or_default();
    let change = PlanChange {
        currency: wanted.currency,
        price: wanted.price,
        quota_bytes: wanted.quota_bytes,
        quota_messages: wanted.quota_messages,
        step_bytes: wanted.step_bytes,
        step_price: wanted.step_price,
        mx_hosts: wanted.mx_hosts,
        hold_ms: wanted.hold_ms,
        full_for_good: wanted.full_for_good,
        probe_ms: wanted.probe_ms,
        ping: wanted.ping,
    };
    let known = query::plan(&admin.cluster()?.view(), &wanted.name).map_err(broken)?;
    check(&wanted.name, &change, known.as_ref()).map_err(Status::invalid_argument)?;
    let command = Command::SetPlan {
        name: wanted.name,
        change,
        must_be_new: request.must_be_new,
        must_exist: !request.must_be_new,
    };
    admin.propose(command).await?;
    Ok(wire::Empty {})
}

/// What the ledger would only call malformed.
fn check(name: &str, change: &PlanChange, known: Option<&Plan>) -> Result<(), String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    // `none` is what takes a domain off its plan.
    let is_name = !name.is_empty() && name != "none" && name.chars().all(is_plain);
    if !is_name || name.len() > PLAN_NAME_OCTETS_MAX {
        return Err(format!(
            "{name:?} is no name for a plan: take 1 to {PLAN_NAME_OCTETS_MAX} letters, digits and ._-"
        ));
    }
    let is_beyond = |number: Option<u64>, max| number.is_some_and(|number| number > max);
    if is_beyond(change.price, PRICE_MAX) || is_beyond(change.step_price, PRICE_MAX) {
        return Err(format!(
            "a price is at most {PRICE_MAX} of the smallest coins"
        ));
    }
    if is_beyond(change.quota_bytes, QUOTA_OCTETS_MAX)
        || is_beyond(change.step_bytes, QUOTA_OCTETS_MAX)
    {
        return Err(format!("a quota is at most {QUOTA_OCTETS_MAX} bytes"));
    }
    let Some(currency) = &change.currency else {
        return Ok(());
    };
    if currency.len() != 3 || !currency.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return Err(format!(
            "{currency:?} is not a currency such as EUR (ISO 4217)"
        ));
    }
    // 5.00 EUR must not become 5.00 USD because only the price of a step was to change.
    match known {
        Some(plan)
            if plan.currency != *currency
                && (change.price.is_none()
                    || plan.step_price > 0 && change.step_price.is_none()) =>
        {
            Err(format!(
                "the plan's prices are in {}; to change the currency, name all its prices",
                plan.currency
            ))
        }
        _ => Ok(()),
    }
}

pub(super) async fn remove(admin: &Admin, name: String) -> Result<wire::Empty, Status> {
    admin.propose(Command::RemovePlan { name }).await?;
    Ok(wire::Empty {})
}

/// All plans, or the one of that name.
pub(super) fn list(admin: &Admin, name: &str) -> Result<wire::PlanList, Status> {
    let view = admin.cluster()?.view();
    let plans = if name.is_empty() {
        query::plans(&view).map_err(broken)?
    } else {
        let plan = query::plan(&view, name).map_err(broken)?;
        vec![plan.ok_or_else(|| refused(&Refusal::UnknownPlan))?]
    };
    Ok(wire::PlanList {
        plans: plans.into_iter().map(to_wire).collect(),
    })
}

fn to_wire(plan: Plan) -> wire::Plan {
    wire::Plan {
        name: plan.name,
        currency: Some(plan.currency),
        price: Some(plan.price),
        quota_bytes: Some(plan.quota_bytes.unwrap_or(0)),
        quota_messages: Some(plan.quota_messages.unwrap_or(0)),
        step_bytes: Some(plan.step_bytes),
        step_price: Some(plan.step_price),
        mx_hosts: Some(plan.mx_hosts),
        hold_ms: Some(plan.hold_ms),
        full_for_good: Some(plan.full_for_good),
        probe_ms: Some(plan.probe_ms),
        ping: Some(plan.ping),
        domains: plan.domains,
    }
}

/// What is asked for a domain of plans, if anything is; refused here already where the ledger
/// would refuse it, so that a new domain is not added without its plan.
pub(super) fn subscription(
    view: &dyn KvRead,
    domain: &Domain,
    request: &wire::DomainSetRequest,
) -> Result<Option<Command>, Status> {
    let (plan, extra_steps) = (request.plan.clone(), request.extra_steps);
    if plan.is_none() && extra_steps.is_none() && !request.follow_plan {
        return Ok(None);
    }
    if extra_steps.is_some_and(|steps| steps > EXTRA_STEPS_MAX) {
        return Err(Status::invalid_argument(format!(
            "a domain has at most {EXTRA_STEPS_MAX} extra steps"
        )));
    }
    let old = query::subscription(view, domain).map_err(broken)?;
    let name = plan
        .clone()
        .or(old.map(|(plan, _)| plan))
        .unwrap_or_default();
    let of = query::plan(view, &name).map_err(broken)?;
    if of.is_none() && !name.is_empty() {
        return Err(refused(&Refusal::UnknownPlan));
    }
    let has_steps = of.is_some_and(|plan| plan.step_bytes > 0);
    if extra_steps.is_some_and(|steps| steps > 0) && !has_steps {
        return Err(refused(&Refusal::NoSteps));
    }
    Ok(Some(Command::Subscribe {
        domain: domain.clone(),
        plan,
        extra_steps,
        follow: request.follow_plan,
    }))
}

/// What one domain, or all of them, used in a month.
pub(super) fn usage(
    admin: &Admin,
    request: &wire::UsageRequest,
) -> Result<mpsc::Receiver<Result<wire::UsagePage, Status>>, Status> {
    let view = admin.cluster()?.view();
    let now = Month::of(query::now(&view).map_err(broken)?);
    let month = match &request.month[..] {
        "" => now,
        text => text
            .parse()
            .map_err(|why| Status::invalid_argument(format!("{text:?} is {why}")))?,
    };
    if month > now {
        return Err(Status::invalid_argument(format!(
            "{month} has not begun: for the cluster it is {now}"
        )));
    }
    if month.is_over_long_ago(now) {
        return Err(Status::invalid_argument(format!(
            "usage is kept for {USAGE_MONTHS} months, and that of {month} is gone"
        )));
    }
    let only = match &request.domain[..] {
        "" => None,
        name => Some(domains::parse(name)?),
    };
    let head = wire::UsagePage {
        month: month.to_string(),
        is_over: month < now,
        since_ms: query::usage_since(&view)
            .map_err(broken)?
            .map_or(0, |Timestamp(at)| at),
        usages: Vec::new(),
    };
    let (out, pages) = mpsc::channel(4);
    tokio::spawn(async move {
        let mut after: Option<Domain> = None;
        loop {
            let found = match &only {
                Some(domain) => Ok(vec![domain.clone()]),
                None => query::used_domains(&view, month, after.as_ref(), PAGE),
            };
            let page = found.and_then(|domains| {
                let usage = |domain| query::usage(&view, domain, month).transpose();
                let usages = domains.iter().filter_map(usage);
                let usages = usages
                    .map(|usage| usage.map(used))
                    .collect::<Result<_, _>>()?;
                Ok((domains, usages))
            });
            let (domains, usages) = match page {
                Ok(page) => page,
                Err(error) => {
                    let _gone = out.send(Err(broken(error))).await;
                    return;
                }
            };
            let page = wire::UsagePage {
                usages,
                ..head.clone()
            };
            if out.send(Ok(page)).await.is_err() || domains.len() < PAGE {
                return;
            }
            after = domains.into_iter().next_back();
        }
    });
    Ok(pages)
}

fn used(usage: Usage) -> wire::Usage {
    let (plan, extra_steps, currency, amount) = usage.bill.map_or_else(Default::default, |bill| {
        (bill.plan, bill.extra_steps, bill.currency, bill.amount)
    });
    wire::Usage {
        domain: usage.domain.to_string(),
        plan,
        extra_steps,
        currency,
        amount,
        accepted_messages: usage.accepted.messages,
        accepted_bytes: usage.accepted.bytes,
        delivered_messages: usage.delivered.messages,
        delivered_bytes: usage.delivered.bytes,
        returned_messages: usage.returned.messages,
        returned_bytes: usage.returned.bytes,
        discarded_messages: usage.discarded.messages,
        discarded_bytes: usage.discarded.bytes,
        peak_bytes: usage.peak_bytes,
        byte_days: usage.byte_days,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_keeps_its_currency_unless_all_prices_change() {
        let known = basic();
        let change = |currency: &str, price, step_price| PlanChange {
            currency: Some(currency.to_owned()),
            price,
            step_price,
            ..PlanChange::default()
        };
        let check = |change: &PlanChange| check("basic", change, Some(&known));
        assert_eq!(check(&change("EUR", Some(1), None)), Ok(()));
        assert_eq!(check(&change("USD", Some(1), Some(1))), Ok(()));
        for half in [change("USD", Some(1), None), change("USD", None, Some(1))] {
            let why = check(&half).unwrap_err();
            assert!(why.contains("prices are in EUR"), "{why}");
        }
        assert!(check(&change("eur", Some(1), Some(1))).is_err());
        assert!(check(&change("EUR", Some(PRICE_MAX + 1), None)).is_err());
    }

    fn basic() -> Plan {
        Plan {
            name: "basic".to_owned(),
            currency: "EUR".to_owned(),
            price: 500,
            quota_bytes: None,
            quota_messages: None,
            step_bytes: 1,
            step_price: 100,
            mx_hosts: 0,
            hold_ms: 0,
            full_for_good: false,
            probe_ms: 0,
            ping: false,
            domains: 0,
        }
    }
}

//! SetDomain, SetPolicy, SetRoute and RemoveDomain: whose mail is held, for which server, and how.

use holdfast_mail::Domain;
use holdfast_proto::ledger as proto;

use super::{Logged, account, counts, known, plan, recipients, refuse, usage};
use crate::policy::changed;
use crate::{
    Effect, Kv, KvError, PolicyChange, Primary, Refusal, Reply, Route, query, row, tables, wire,
};

pub(super) fn set(
    kv: &mut dyn Kv,
    when: Logged,
    domain: &Domain,
    primary: &Primary,
    must_be_new: bool,
    must_exist: bool,
    effects: &mut Vec<Effect>,
) -> Result<Reply, KvError> {
    let old = query::domain(kv, domain)?;
    match &old {
        Some(_) if must_be_new => return refuse(Refusal::DomainExists),
        None if must_exist => return refuse(Refusal::UnknownDomain),
        Some(old) if old.primary == *primary => return Ok(Reply::Done),
        _ => {}
    }
    let row = proto::DomainRow {
        primary: Some(wire::primary_to(primary)),
        created_at_ms: old.map_or(when.at, |old| old.created_at).0,
    };
    row::put(kv, &tables::domain(domain), &row);
    counts::leave_keeper(kv, when, domain)?;
    // Another server has proved nothing yet.
    kv.delete(&tables::health(domain));
    kv.delete(&tables::reach(domain));
    known::doubt(kv, domain)?;
    effects.push(Effect::DomainChanged {
        domain: domain.clone(),
    });
    Ok(Reply::Done)
}

pub(super) fn set_policy(
    kv: &mut dyn Kv,
    domain: &Domain,
    change: PolicyChange,
    effects: &mut Vec<Effect>,
) -> Result<Reply, KvError> {
    if !row::exists(kv, &tables::domain(domain))? {
        return refuse(Refusal::UnknownDomain);
    }
    let key = tables::policy(domain);
    let old: proto::PolicyRow = row::get(kv, &key)?.unwrap_or_default();
    let policy = old.policy.unwrap_or_default();
    let new = changed(policy, &change);
    if new != policy {
        let policy = Some(new);
        row::put(kv, &key, &proto::PolicyRow { policy, ..old });
        effects.push(Effect::PolicyChanged {
            domain: domain.clone(),
        });
    }
    Ok(Reply::Done)
}

pub(super) fn set_route(
    kv: &mut dyn Kv,
    domain: &Domain,
    route: &Route,
    effects: &mut Vec<Effect>,
) -> Result<Reply, KvError> {
    if !row::exists(kv, &tables::domain(domain))? {
        return refuse(Refusal::UnknownDomain);
    }
    if !route.is_sound() {
        return refuse(Refusal::UnsoundRoute);
    }
    if query::route(kv, domain)? == *route {
        return Ok(Reply::Done);
    }
    let route = Some(route.to_proto());
    row::put(kv, &tables::route(domain), &proto::RouteRow { route });
    // Nobody has gone this way yet.
    kv.delete(&tables::reach(domain));
    effects.push(Effect::DomainChanged {
        domain: domain.clone(),
    });
    Ok(Reply::Done)
}

pub(super) fn remove(
    kv: &mut dyn Kv,
    when: Logged,
    domain: &Domain,
    effects: &mut Vec<Effect>,
) -> Result<Reply, KvError> {
    if !row::exists(kv, &tables::domain(domain))? {
        return refuse(Refusal::UnknownDomain);
    }
    // Refused mail counts too: without the domain nobody would find it again.
    if row::exists(kv, &tables::counts(domain))? || row::exists(kv, &tables::below(domain))? {
        return refuse(Refusal::MailHeld);
    }
    let leased = row::exists(kv, &tables::lease(domain))?;
    if let Some((plan, extra_steps)) = query::subscription(kv, domain)? {
        // Its months so far are billed after it is gone.
        usage::charge(kv, when, domain, &plan, extra_steps)?;
        plan::leave(kv, &plan)?;
    }
    kv.delete(&tables::domain(domain));
    kv.delete(&tables::policy(domain));
    kv.delete(&tables::askers(domain));
    kv.delete(&tables::route(domain));
    kv.delete(&tables::attended(domain));
    recipients::forget(kv, domain)?;
    known::forget(kv, domain)?;
    account::forget_domain(kv, domain)?;
    kv.delete(&tables::health(domain));
    kv.delete(&tables::reach(domain));
    effects.push(Effect::DomainChanged {
        domain: domain.clone(),
    });
    if leased {
        kv.delete(&tables::lease(domain));
        effects.push(Effect::LeaseChanged {
            domain: domain.clone(),
        });
    }
    Ok(Reply::Done)
}

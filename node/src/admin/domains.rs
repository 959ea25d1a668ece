//! Customers' domains and their held mail.

use std::time::Duration;

use holdfast_ledger::query::{self, DomainRecord};
use holdfast_ledger::{
    Askers, Command, NETWORKS_MAX, Policy, PolicyChange, Primary, Probation, Refusal, Route,
};
use holdfast_mail::{Domain, Network};
use holdfast_proto::admin as wire;
use holdfast_smtp::PORT;
use tonic::Status;

use super::{Admin, broken, plans, refused, route};
use crate::explain::{self, BY_MX, REFUSED_MAX, primary_text};
use crate::replica::{Cluster, now};

/// Rows read from the state at a time.
const PAGE: usize = 256;

pub(super) fn parse(text: &str) -> Result<Domain, Status> {
    let domain = Domain::parse(text)
        .ok()
        .filter(|domain| !domain.is_literal());
    domain.ok_or_else(|| {
        Status::invalid_argument(format!("{text:?} is not a domain name such as example.org"))
    })
}

/// `host:port`; an IPv6 address stands in brackets.
fn parse_primary(text: &str) -> Result<Primary, Status> {
    let wrong = || {
        Status::invalid_argument(format!(
            "{text:?} is not HOST:PORT, such as mail.example.org:25 or [2001:db8::1]:25"
        ))
    };
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port
        .parse()
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(wrong)?;
    let literal = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let host = match literal {
        Some(inside) => inside
            .parse::<std::net::Ipv6Addr>()
            .map_err(|_| wrong())?
            .to_string(),
        None => Domain::parse(host)
            .ok()
            .filter(|_| !host.contains('['))
            .ok_or_else(wrong)?
            .to_string(),
    };
    Ok(Primary { host, port })
}

fn to_wire(cluster: &Cluster, record: &DomainRecord) -> Result<wire::Domain, Status> {
    let view = cluster.view();
    let counts = query::counts(&view, &record.name).map_err(broken)?;
    let policy = query::policy(&view, &record.name).map_err(broken)?;
    let subscription = query::subscription(&view, &record.name).map_err(broken)?;
    let (plan, extra_steps) = subscription.unwrap_or_default();
    let refused = query::refused(&view, &record.name, REFUSED_MAX).map_err(broken)?;
    let primary = explain::primary_of(&view, record).map_err(broken)?;
    Ok(wire::Domain {
        now_ms: now().0,
        says: explain::sentences(&view, record).map_err(broken)?,
        name: record.name.to_string(),
        primary,
        held_messages: counts.messages,
        held_bytes: counts.bytes,
        created_at_ms: record.created_at.0,
        refused_messages: refused.len() as u64,
        policy: Some(policy_to_wire(&policy)),
        route: Some(route::to_wire(
            &query::route(&view, &record.name).map_err(broken)?,
        )),
        plan,
        extra_steps,
    })
}

fn policy_to_wire(policy: &Policy) -> wire::Policy {
    let ms = |span: Option<Duration>| {
        Some(span.map_or(0, |span| {
            u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
        }))
    };
    wire::Policy {
        hold_ms: ms(policy.hold),
        delay_ms: ms(policy.delay),
        probation_ms: match policy.probation {
            Probation::For(span) => ms(Some(span)),
            Probation::Endless => Some(u64::MAX),
        },
        quota_bytes: Some(policy.quota_bytes.unwrap_or(0)),
        quota_messages: Some(policy.quota_messages.unwrap_or(0)),
        full_for_good: Some(policy.full_for_good),
        listed_only: Some(policy.listed_only),
        delimiter: Some(policy.delimiter.map_or(0, u32::from)),
        verify: Some(policy.verify),
        yes_ms: ms(Some(policy.yes)),
        no_ms: ms(Some(policy.no)),
        attended: Some(policy.attended),
        probe_ms: ms(Some(policy.probe)),
        defer: Some(policy.defer),
        ping: Some(policy.ping),
        atrn: Some(policy.atrn),
        at_host: Some(policy.at_host),
    }
}

fn change_from_wire(change: wire::Policy) -> PolicyChange {
    PolicyChange {
        hold_ms: change.hold_ms,
        delay_ms: change.delay_ms,
        probation_ms: change.probation_ms,
        quota_bytes: change.quota_bytes,
        quota_messages: change.quota_messages,
        full_for_good: change.full_for_good,
        listed_only: change.listed_only,
        delimiter: change.delimiter,
        verify: change.verify,
        yes_ms: change.yes_ms,
        no_ms: change.no_ms,
        attended: change.attended,
        probe_ms: change.probe_ms,
        defer: change.defer,
        ping: change.ping,
        atrn: change.atrn,
        at_host: change.at_host,
    }
}

pub(super) async fn set(
    admin: &Admin,
    request: wire::DomainSetRequest,
) -> Result<wire::Domain, Status> {
    let cluster = admin.cluster()?;
    let domain = parse(&request.name)?;
    let mut change = request.policy.map(change_from_wire).unwrap_or_default();
    // An older version in the cluster need not know of what is not so anyway.
    if change.at_host == Some(false)
        && !query::policy(&cluster.view(), &domain)
            .map_err(broken)?
            .at_host
    {
        change.at_host = None;
    }
    let change = (change != PolicyChange::default()).then_some(change);
    let known = query::domain(&cluster.view(), &domain).map_err(broken)?;
    let subscribe = plans::subscription(&cluster.view(), &domain, &request)?;
    if request.primary.is_empty() {
        // Only the policy is to change.
        let record = known.ok_or_else(|| refused(&Refusal::UnknownDomain))?;
        if let Some(change) = change.filter(|_| !request.dry_run) {
            admin.propose(Command::SetPolicy { domain, change }).await?;
        }
        if let Some(command) = subscribe.filter(|_| !request.dry_run) {
            admin.propose(command).await?;
        }
        return Ok(wire::Domain {
            name: request.name,
            primary: explain::primary_of(&cluster.view(), &record).map_err(broken)?,
            ..wire::Domain::default()
        });
    }
    let by_mx = request.primary == BY_MX;
    let primary = if by_mx {
        let host = domain.to_string();
        Primary { host, port: PORT }
    } else {
        parse_primary(&request.primary)?
    };
    let text = match by_mx {
        true => BY_MX.to_owned(),
        false => primary_text(&primary),
    };
    // A primary that is one of our own listeners would make us deliver to ourselves for ever.
    let named = (!by_mx).then_some(&primary);
    if cluster.leads_to_us(&domain, named).await {
        return Err(Status::invalid_argument(match by_mx {
            true => format!(
                "the MX records of {domain} name no server before our nodes: mail would go round in a \
                 loop. Give the customer's own server the smallest number"
            ),
            false => format!(
                "{text} is a node of this cluster: mail would go round in a loop. Name the customer's own server"
            ),
        }));
    }
    if request.dry_run {
        return match known {
            Some(_) if request.must_be_new => Err(refused(&Refusal::DomainExists)),
            None if request.must_exist => Err(refused(&Refusal::UnknownDomain)),
            _ => Ok(wire::Domain {
                name: domain.to_string(),
                primary: text,
                ..wire::Domain::default()
            }),
        };
    }
    let (must_be_new, must_exist) = (request.must_be_new, request.must_exist);
    admin
        .propose(Command::SetDomain {
            domain: domain.clone(),
            primary,
            must_be_new,
            must_exist,
        })
        .await?;
    let route = query::route(&cluster.view(), &domain).map_err(broken)?;
    if route.by_mx != by_mx {
        let domain = domain.clone();
        let route = Route { by_mx, ..route };
        admin.propose(Command::SetRoute { domain, route }).await?;
    }
    if let Some(change) = change {
        let domain = domain.clone();
        admin.propose(Command::SetPolicy { domain, change }).await?;
    }
    if let Some(command) = subscribe {
        admin.propose(command).await?;
    }
    // Committed, but this node may apply it a moment later; answer what was committed.
    Ok(wire::Domain {
        name: domain.to_string(),
        primary: text,
        ..wire::Domain::default()
    })
}

/// Who may ask for a domain's held mail.
pub(super) async fn set_askers(
    admin: &Admin,
    request: wire::AskersSetRequest,
) -> Result<wire::Empty, Status> {
    let domain = parse(&request.domain)?;
    if request.networks.len() > NETWORKS_MAX {
        return Err(Status::invalid_argument(format!(
            "at most {NETWORKS_MAX} networks may ask for one domain"
        )));
    }
    let askers = if request.anybody {
        Askers::Anybody
    } else {
        let network = |text: &String| {
            Network::parse(text).map_err(|why| Status::invalid_argument(format!("{text:?}: {why}")))
        };
        let networks = request.networks.iter().map(network);
        Askers::Networks(networks.collect::<Result<_, _>>()?)
    };
    admin.propose(Command::SetAskers { domain, askers }).await?;
    Ok(wire::Empty {})
}

pub(super) fn get(admin: &Admin, name: &str) -> Result<wire::Domain, Status> {
    let cluster = admin.cluster()?;
    let record = query::domain(&cluster.view(), &parse(name)?).map_err(broken)?;
    to_wire(
        &cluster,
        &record.ok_or_else(|| refused(&Refusal::UnknownDomain))?,
    )
}

pub(super) async fn remove(
    admin: &Admin,
    request: wire::DomainName,
) -> Result<wire::Empty, Status> {
    let domain = parse(&request.name)?;
    if request.dry_run {
        let known = get(admin, &request.name)?;
        return if known.held_messages > 0 {
            Err(refused(&Refusal::MailHeld))
        } else {
            Ok(wire::Empty {})
        };
    }
    admin.propose(Command::RemoveDomain { domain }).await?;
    Ok(wire::Empty {})
}

pub(super) fn list(admin: &Admin) -> Result<wire::DomainList, Status> {
    let cluster = admin.cluster()?;
    let view = cluster.view();
    let mut domains = Vec::new();
    let mut after: Option<Domain> = None;
    loop {
        let page = query::domains(&view, after.as_ref(), PAGE).map_err(broken)?;
        let Some(last) = page.last() else {
            return Ok(wire::DomainList { domains });
        };
        after = Some(last.name.clone());
        for record in &page {
            domains.push(to_wire(&cluster, record)?);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_primary_is_a_host_and_a_port() {
        for text in ["mail.example.org:25", "127.0.0.1:2600", "[2001:db8::1]:25"] {
            assert_eq!(primary_text(&parse_primary(text).unwrap()), text);
        }
        for text in [
            "mail.example.org",
            "mail.example.org:0",
            ":25",
            "a b:25",
            "[::1:25",
            "2001:db8::1:25:99999",
        ] {
            assert!(parse_primary(text).is_err(), "{text}");
        }
    }
}

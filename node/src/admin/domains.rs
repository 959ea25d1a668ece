//! Customers' domains and their held mail.

use holdfast_ledger::query::{self, DomainRecord};
use holdfast_ledger::{Command, Primary, Refusal};
use holdfast_mail::Domain;
use holdfast_proto::admin as wire;
use tokio::sync::mpsc;
use tonic::Status;

use super::{Admin, broken, refused};
use crate::replica::Cluster;

/// Rows read from the state at a time.
const PAGE: usize = 256;

/// Refused messages that one listing shows.
const REFUSED_MAX: usize = 10_000;

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

fn primary_text(primary: &Primary) -> String {
    if primary.host.contains(':') {
        format!("[{}]:{}", primary.host, primary.port)
    } else {
        format!("{}:{}", primary.host, primary.port)
    }
}

fn to_wire(cluster: &Cluster, record: &DomainRecord) -> Result<wire::Domain, Status> {
    let counts = query::counts(&cluster.view(), &record.name).map_err(broken)?;
    Ok(wire::Domain {
        name: record.name.to_string(),
        primary: primary_text(&record.primary),
        held_messages: counts.messages,
        held_bytes: counts.bytes,
        created_at_ms: record.created_at.0,
    })
}

pub(super) async fn set(
    admin: &Admin,
    request: wire::DomainSetRequest,
) -> Result<wire::Domain, Status> {
    let cluster = admin.cluster()?;
    let domain = parse(&request.name)?;
    let primary = parse_primary(&request.primary)?;
    // A primary that is one of our own listeners would make us deliver to ourselves for ever.
    let ours = primary_text(&primary);
    if cluster
        .members()
        .iter()
        .any(|m| m.smtp_address == ours || m.smtp_name == primary.host)
    {
        return Err(Status::invalid_argument(format!(
            "{ours} is a node of this cluster: mail would go round in a loop. Name the customer's own server"
        )));
    }
    if request.dry_run {
        let known = query::domain(&cluster.view(), &domain).map_err(broken)?;
        return match known {
            Some(_) if request.must_be_new => Err(refused(&Refusal::DomainExists)),
            None if request.must_exist => Err(refused(&Refusal::UnknownDomain)),
            _ => Ok(wire::Domain {
                name: domain.to_string(),
                primary: ours,
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
    // Committed, but this node may apply it a moment later; answer what was committed.
    Ok(wire::Domain {
        name: domain.to_string(),
        primary: ours,
        ..wire::Domain::default()
    })
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

/// The held (or refused) mail of a domain, oldest first.
pub(super) fn mail(
    cluster: &Cluster,
    domain: Domain,
    request: &wire::MailListRequest,
) -> mpsc::Receiver<Result<wire::Mail, Status>> {
    let (out, mails) = mpsc::channel(64);
    let view = cluster.view();
    let limit = if request.limit == 0 {
        u64::MAX
    } else {
        request.limit
    };
    let refused_only = request.refused;
    tokio::spawn(async move {
        let mut after = None;
        let mut sent = 0;
        loop {
            let page = if refused_only {
                query::refused(&view, &domain, REFUSED_MAX)
            } else {
                query::held(&view, &domain, after, PAGE)
            };
            let page = match page.map_err(broken) {
                Ok(page) => page,
                Err(status) => {
                    let _gone = out.send(Err(status)).await;
                    return;
                }
            };
            let full = page.len() == PAGE;
            after = page.last().map(|held| held.seq);
            for held in page {
                if sent == limit {
                    return;
                }
                sent += 1;
                let mail = match query::envelope(&view, held.message).map_err(broken) {
                    Ok(Some(envelope)) => Ok(wire::Mail {
                        id: held.message.to_string(),
                        domain: domain.to_string(),
                        reverse_path: envelope.reverse_path.as_str().into(),
                        recipients: held
                            .pending
                            .iter()
                            .filter_map(|i| envelope.recipients.get(*i as usize))
                            .map(|recipient| recipient.address.to_string())
                            .collect(),
                        bytes: envelope.body.len,
                        received_at_ms: envelope.received_at.0,
                        attempts: held.attempts,
                        last_reply: held.last_reply,
                        state: if refused_only { "refused" } else { "held" }.into(),
                    }),
                    Ok(None) => continue,
                    Err(status) => Err(status),
                };
                if out.send(mail).await.is_err() {
                    return;
                }
            }
            if !full || refused_only {
                return;
            }
        }
    });
    mails
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

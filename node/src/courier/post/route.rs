//! The way to a domain that is no customer's: by its MX records.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use holdfast_mail::Domain;
use holdfast_mail::route::{self, NoRoute};

use super::super::desk::jitter;
use super::Desk;
use crate::destination::{CONNECT_TIMEOUT, literal, split};
use crate::net::dns::Exchangers;
use crate::talk::deliver::{self, Connection, Dialing};

/// Addresses tried in one attempt.
const ADDRESSES_MAX: usize = 8;

const SMTP_PORT: u16 = 25;

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(super) enum Closed {
    /// However long one waits.
    #[error("{0}")]
    Never(String),
    #[error("{0}")]
    Now(String),
}

impl From<NoRoute> for Closed {
    fn from(why: NoRoute) -> Self {
        Self::Never(why.to_string())
    }
}

/// A session with a host that takes the domain's mail.
pub(super) async fn open(desk: &Desk, domain: &Domain) -> Result<Connection, Closed> {
    let dialing = Dialing {
        helo: desk.cluster.me().smtp_name.clone(),
        connect_timeout: CONNECT_TIMEOUT,
        opening_wait_max: Duration::MAX,
    };
    let (hosts, port) = match &desk.via {
        Some((host, port)) => (vec![host.clone()], *port),
        None => (hosts(desk, domain).await?, SMTP_PORT),
    };
    let mut last = format!("no mail exchanger of {domain} has an address that can be used");
    let mut tried = 0;
    for host in hosts {
        let addresses = match literal(&host) {
            Some(address) => vec![address],
            None => match desk.resolver.addresses(&host).await {
                Ok(addresses) => addresses,
                Err(error) => {
                    last = format!("{host} has no address now: {error}");
                    continue;
                }
            },
        };
        for address in addresses {
            if desk.via.is_none() && !may_be_dialled(address) {
                last = format!("{host} has the address {address}, where no mail can go");
                continue;
            }
            if tried == ADDRESSES_MAX {
                return Err(Closed::Now(last));
            }
            tried += 1;
            match deliver::open(&dialing, SocketAddr::new(address, port), &host).await {
                Ok(connection) => return Ok(connection),
                Err(why) => last = why.to_string(),
            }
        }
    }
    Err(Closed::Now(last))
}

/// The hosts to try, in order.
async fn hosts(desk: &Desk, domain: &Domain) -> Result<Vec<String>, Closed> {
    if domain.is_literal() {
        let inside = domain.as_str().trim_matches(['[', ']']);
        let address = inside.strip_prefix("ipv6:").unwrap_or(inside);
        return Ok(vec![address.to_owned()]);
    }
    match desk.resolver.exchangers(domain.as_str()).await {
        Ok(Exchangers::NoDomain) => Err(Closed::Never(format!("there is no domain {domain}"))),
        Ok(Exchangers::Implicit) => Ok(vec![domain.to_string()]),
        Ok(Exchangers::Mx(exchangers)) => {
            let members = desk.cluster.members();
            let is_ours = |host: &str| {
                members.iter().any(|member| {
                    let listener = split(&member.smtp_address).map(|(host, _)| host);
                    member.smtp_name.eq_ignore_ascii_case(host) || listener == Some(host)
                })
            };
            Ok(route::hosts(exchangers, is_ours, jitter())?)
        }
        Err(error) => Err(Closed::Now(format!(
            "the mail exchangers of {domain} cannot be found out now: {error}"
        ))),
    }
}

/// An MX record may name any address; some would make us talk to ourselves or to many.
fn may_be_dialled(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_loopback() || address.is_unspecified() || address.is_multicast() || broadcast)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_mx_record_cannot_make_us_talk_to_ourselves() {
        for address in [
            "127.0.0.1",
            "::1",
            "0.0.0.0",
            "::ffff:127.0.0.1",
            "224.0.0.1",
        ] {
            assert!(!may_be_dialled(address.parse().unwrap()), "{address}");
        }
        assert!(may_be_dialled("192.0.2.1".parse().unwrap()));
    }
}

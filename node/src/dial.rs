//! From the name of a host, or the MX records of a domain, to a session.
//!
//! Names lead wherever their owner wants, so the address that is connected to is the one that was
//! looked at: not one of ours, for mail would go round in a loop; and where nobody allowed it, not a
//! private one, where an intruder would have us knock at doors that he cannot reach.

mod ours;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use holdfast_mail::Domain;
use holdfast_mail::route::{self, NoRoute};
use holdfast_smtp::PORT;
use holdfast_smtp::client::Closed;

use crate::net::dns::{Exchangers, Resolver};
use crate::public::is_public;
use crate::replica::Cluster;
use crate::talk::deliver::{self, Connection, Dialing, Unavailable};

use ours::{Ours, Whose};

/// How long one TCP connect may take. The kernel repeats a lost SYN after one and three
/// seconds, so a primary that comes back in the middle of an attempt is still met by it.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Addresses tried in a row (RFC 5321 section 5.1: "SHOULD try at least two").
const ADDRESSES_MAX: usize = 8;

/// Hosts to try, in order.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    /// Names, or addresses.
    pub(crate) hosts: Vec<String>,
    pub(crate) port: u16,
    /// Whether private addresses may be connected to.
    pub(crate) private: bool,
    /// The hosts are mail exchangers: behind one of ours, by whatever name, stand only worse ones, and
    /// those may hand mail back to us (RFC 5321 section 5.1).
    pub(crate) ranked: bool,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoSession {
    #[error("there is no domain {0}")]
    NoDomain(Domain),
    #[error("{}", NoRoute::NullMx)]
    NullMx,
    #[error("{}", NoRoute::Ourselves)]
    Loop,
    #[error("{0}; mail is kept")]
    NotNow(String),
    #[error("{host} has no address now: {why}; mail is kept; check the name and the DNS")]
    NoAddress { host: String, why: io::Error },
    #[error(
        "{address}, an address of {host}, is a node of this cluster, so mail would come back to \
         us; mail is kept; set the domain's real primary"
    )]
    Ourselves { host: String, address: SocketAddr },
    #[error(
        "{address}, an address of {host}, is private; mail is kept; if it is right, allow it with \
         `domain route NAME --private-addresses allow`"
    )]
    Private { host: String, address: IpAddr },
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl From<NoRoute> for NoSession {
    fn from(why: NoRoute) -> Self {
        match why {
            NoRoute::Ourselves => Self::Loop,
            NoRoute::NullMx => Self::NullMx,
        }
    }
}

impl NoSession {
    /// Waiting does not help: somebody has to change something.
    pub(crate) fn needs_an_operator(&self) -> bool {
        matches!(
            self,
            Self::Loop | Self::Ourselves { .. } | Self::Private { .. }
        ) || self.is_final()
    }

    /// Nobody takes the domain's mail, however long one waits.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::NoDomain(_) | Self::NullMx)
    }

    /// The host took the connection and then let us wait.
    pub(crate) fn is_slow(&self) -> bool {
        matches!(
            self,
            Self::Unavailable(Unavailable::Session {
                why: Closed::Lost { .. },
                ..
            })
        )
    }
}

/// A session with the first of the hosts that grants one. Names are resolved anew each time, so
/// that a changed address is used at once.
pub(crate) async fn dial(
    cluster: &Cluster,
    resolver: &Resolver,
    dialing: &Dialing,
    way: &Way,
) -> Result<Connection, NoSession> {
    let ours = Ours::at(cluster, resolver, way.port).await;
    let mut last = NoSession::NotNow("no host has an address".to_owned());
    let mut tried = 0;
    for host in &way.hosts {
        let addresses = match literal(host) {
            Some(address) => vec![address],
            None => match resolver.addresses(host).await {
                Ok(addresses) => addresses,
                Err(why) => {
                    let host = host.clone();
                    last = NoSession::NoAddress { host, why };
                    continue;
                }
            },
        };
        for ip in addresses {
            let (host, address) = (host.clone(), SocketAddr::new(ip, way.port));
            let obstacle = match ours.whose(ip, &host) {
                Whose::Others => None,
                Whose::Ours => Some(NoSession::Ourselves {
                    host: host.clone(),
                    address,
                }),
                Whose::Unknown(why) => Some(NoSession::NotNow(format!(
                    "{address}, an address of {host}, may be one of our own nodes: {why}"
                ))),
            };
            if let Some(obstacle) = obstacle {
                if way.ranked {
                    // What was wrong with a better host says more: others may reach it from where they are.
                    return Err(if tried > 0 { last } else { obstacle });
                }
                last = obstacle;
                continue;
            }
            if !way.private && !is_public(ip) {
                last = NoSession::Private { host, address: ip };
                continue;
            }
            if tried == ADDRESSES_MAX {
                return Err(last);
            }
            tried += 1;
            match deliver::open(dialing, address, &host).await {
                Ok(connection) => return Ok(connection),
                Err(why) => last = why.into(),
            }
        }
    }
    Err(last)
}

/// The hosts that take a domain's mail, but for us and whoever is no better (RFC 5321 section 5.1).
/// `draw` mixes those of equal preference.
pub(crate) async fn exchangers(
    cluster: &Cluster,
    resolver: &Resolver,
    domain: &Domain,
    draw: u32,
) -> Result<Vec<String>, NoSession> {
    if domain.is_literal() {
        let inside = domain.as_str().trim_matches(['[', ']']);
        let address = inside.strip_prefix("ipv6:").unwrap_or(inside);
        return Ok(vec![address.to_owned()]);
    }
    match resolver.exchangers(domain.as_str()).await {
        Ok(Exchangers::NoDomain) => Err(NoSession::NoDomain(domain.clone())),
        Ok(Exchangers::Implicit) => Ok(vec![domain.to_string()]),
        Ok(Exchangers::Mx(exchangers)) => {
            let members = cluster.members();
            let is_ours = |host: &str| ours::is_name_of_ours(&members, host);
            Ok(route::hosts(exchangers, is_ours, draw)?)
        }
        Err(error) => Err(NoSession::NotNow(format!(
            "the mail exchangers of {domain} cannot be found out now: {error}"
        ))),
    }
}

/// The machine that has the domain's name: whoever takes its mail before us, and itself where that
/// is nobody, for a customer's hosts name us as their mail exchanger.
pub(crate) async fn machine(
    cluster: &Cluster,
    resolver: &Resolver,
    host: &Domain,
    draw: u32,
) -> Result<Vec<String>, NoSession> {
    match exchangers(cluster, resolver, host, draw).await {
        Err(NoSession::Loop) => Ok(vec![host.to_string()]),
        other => other,
    }
}

/// Whether mail for a primary that somebody names would come back to us, as far as the DNS says now:
/// a domain may be set up before its records are.
pub(crate) async fn leads_to_us(
    cluster: &Cluster,
    resolver: &Resolver,
    host: &str,
    port: u16,
) -> bool {
    if ours::is_name_of_ours(&cluster.members(), host) {
        return true;
    }
    let addresses = match literal(host) {
        Some(address) => vec![address],
        None => resolver.addresses(host).await.unwrap_or_default(),
    };
    let ours = Ours::at(cluster, resolver, port).await;
    let mut addresses = addresses.into_iter();
    addresses.any(|ip| ours.whose(ip, host) == Whose::Ours)
}

/// The same of a domain whose MX records are to name its primary.
pub(crate) async fn exchangers_lead_to_us(
    cluster: &Cluster,
    resolver: &Resolver,
    domain: &Domain,
) -> bool {
    match exchangers(cluster, resolver, domain, 0).await {
        Err(why) => matches!(why, NoSession::Loop),
        Ok(hosts) => match hosts.first() {
            Some(best) => leads_to_us(cluster, resolver, best, PORT).await,
            None => false,
        },
    }
}

pub(crate) fn split(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    Some((host, port.parse().ok()?))
}

/// An IP address, in the brackets of a URL or an address literal or without.
pub(crate) fn literal(host: &str) -> Option<IpAddr> {
    let inside = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    inside.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart_in_all_their_forms() {
        assert_eq!(split("[::1]:25"), Some(("[::1]", 25)));
        assert_eq!(split("mx.example:2525"), Some(("mx.example", 2525)));
        assert_eq!(split("mx.example"), None);
        assert_eq!(literal("[::1]"), Some("::1".parse().unwrap()));
        assert_eq!(literal("192.0.2.1"), Some("192.0.2.1".parse().unwrap()));
        assert_eq!(literal("mx.example"), None);
    }
}

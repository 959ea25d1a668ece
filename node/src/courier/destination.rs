//! The way to a domain's primary: its record, its addresses, a session.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use holdfast_ledger::{KvError, Member, Primary, query};
use holdfast_mail::Domain;
use holdfast_smtp::client::Closed;

use crate::net::dns::Resolver;
use crate::replica::Cluster;
use crate::talk::deliver::{self, Connection, Dialing, Unavailable};

/// How long one TCP connect may take. The kernel repeats a lost SYN after one and three
/// seconds, so a primary that comes back in the middle of an attempt is still met by it.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Addresses of a primary tried in a row (RFC 5321 section 5.1: "SHOULD try at least two").
const ADDRESSES_MAX: usize = 8;

pub(super) struct Destination {
    pub(super) cluster: Cluster,
    pub(super) resolver: Arc<Resolver>,
    pub(super) domain: Domain,
}

/// Why there is no session with the primary. Mail stays held in every case.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreachable {
    #[error("the domain has no record of its primary; mail is kept; configure the domain again")]
    NoPrimary,
    #[error(transparent)]
    State(#[from] KvError),
    #[error("{host} has no address now: {why}; mail is kept; check the name and the DNS")]
    NoAddress { host: String, why: io::Error },
    #[error(
        "{address}, the primary's address, is a node of this cluster, so mail would come back \
         to us; mail is kept; set the domain's real primary"
    )]
    Ourselves { address: SocketAddr },
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl Unreachable {
    /// Waiting does not help: somebody has to change the domain's record.
    pub(super) fn needs_an_operator(&self) -> bool {
        matches!(self, Self::NoPrimary | Self::Ourselves { .. })
    }

    /// The primary took the connection and then let us wait.
    pub(super) fn is_slow(&self) -> bool {
        matches!(
            self,
            Self::Unavailable(Unavailable::Session {
                why: Closed::Lost { .. },
                ..
            })
        )
    }
}

impl Destination {
    /// Resolves the primary's name anew each time, so that a changed address is used at once,
    /// and tries its addresses in the resolver's order.
    pub(super) async fn open(&self, opening_wait_max: Duration) -> Result<Connection, Unreachable> {
        let primary = query::domain(&self.cluster.view(), &self.domain)?
            .ok_or(Unreachable::NoPrimary)?
            .primary;
        let members = self.cluster.members();
        let dialing = Dialing {
            helo: self.cluster.me().smtp_name.clone(),
            connect_timeout: CONNECT_TIMEOUT,
            opening_wait_max,
        };
        let mut last = Unreachable::NoAddress {
            host: primary.host.clone(),
            why: io::ErrorKind::NotFound.into(),
        };
        let addresses = self.addresses(&primary).await?;
        for ip in addresses.into_iter().take(ADDRESSES_MAX) {
            let address = SocketAddr::new(ip, primary.port);
            if self.is_ours(address, &primary, &members).await {
                last = Unreachable::Ourselves { address };
                continue;
            }
            match deliver::open(&dialing, address, &primary.host).await {
                Ok(connection) => return Ok(connection),
                Err(why) => last = why.into(),
            }
        }
        Err(last)
    }

    async fn addresses(&self, primary: &Primary) -> Result<Vec<IpAddr>, Unreachable> {
        if let Some(ip) = literal(&primary.host) {
            return Ok(vec![ip]);
        }
        self.resolver
            .addresses(&primary.host)
            .await
            .map_err(|why| Unreachable::NoAddress {
                host: primary.host.clone(),
                why,
            })
    }

    /// Whether a connection to `address` would reach an SMTP listener of this cluster.
    async fn is_ours(&self, address: SocketAddr, primary: &Primary, members: &[Member]) -> bool {
        for member in members {
            let Some((host, port)) = split(&member.smtp_address) else {
                continue;
            };
            if port != address.port() {
                continue;
            }
            let ours = match literal(host) {
                // A listener on every address is met on loopback by those on its machine.
                Some(ip) if ip.is_unspecified() => {
                    member.id == self.cluster.me().id && address.ip().is_loopback()
                        || member.smtp_name.eq_ignore_ascii_case(&primary.host)
                }
                Some(ip) => ip == address.ip(),
                None if host.eq_ignore_ascii_case(&primary.host) => true,
                None => self
                    .resolver
                    .addresses(host)
                    .await
                    .is_ok_and(|addresses| addresses.contains(&address.ip())),
            };
            if ours {
                return true;
            }
        }
        false
    }
}

pub(super) fn split(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    Some((host, port.parse().ok()?))
}

/// An IP address, in the brackets of a URL or an address literal or without.
pub(super) fn literal(host: &str) -> Option<IpAddr> {
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

//! The way to a domain's primary: its record, its addresses, a session.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use holdfast_ledger::{KvError, Member, Primary, query};
use holdfast_mail::Domain;
use holdfast_smtp::client::Closed;

use crate::net::dns::Resolver;
use crate::replica::{Cluster, now};
use crate::talk::deliver::{self, Connection, Dialing, Unavailable};

/// How long one TCP connect may take. The kernel repeats a lost SYN after one and three
/// seconds, so a primary that comes back in the middle of an attempt is still met by it.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Addresses of a primary tried in a row (RFC 5321 section 5.1: "SHOULD try at least two").
const ADDRESSES_MAX: usize = 8;

pub(crate) struct Destination {
    pub(crate) cluster: Cluster,
    pub(crate) resolver: Arc<Resolver>,
    pub(crate) domain: Domain,
}

/// Why there is no session with the primary. Mail stays held in every case.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreachable {
    #[error("the domain has no record of its primary; mail is kept; configure the domain again")]
    NoPrimary,
    #[error("nobody is signed in where the domain's mail goes; mail is kept until somebody is")]
    NobodySignedIn,
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
    pub(crate) fn needs_an_operator(&self) -> bool {
        matches!(self, Self::NoPrimary | Self::Ourselves { .. })
    }

    /// Other nodes would fare no better: it is not the line.
    pub(crate) fn is_ours_to_mend(&self) -> bool {
        self.needs_an_operator() || matches!(self, Self::NobodySignedIn | Self::State(_))
    }

    /// The primary took the connection and then let us wait.
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

impl Destination {
    /// Resolves the primary's name anew each time, so that a changed address is used at once,
    /// and tries its addresses in the resolver's order.
    pub(crate) async fn open(&self, opening_wait_max: Duration) -> Result<Connection, Unreachable> {
        let primary = self.primary()?;
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

    /// Where mail goes now.
    fn primary(&self) -> Result<Primary, Unreachable> {
        let view = self.cluster.view();
        let record = query::domain(&view, &self.domain)?.ok_or(Unreachable::NoPrimary)?;
        if !query::policy(&view, &self.domain)?.attended {
            return Ok(record.primary);
        }
        let attended = query::attended(&view, &self.domain)?;
        let attended = attended.filter(|attended| now() < attended.until);
        let to = attended.ok_or(Unreachable::NobodySignedIn)?.to;
        Ok(Primary {
            host: to.ip().to_string(),
            port: to.port(),
        })
    }

    /// Whether a message may go out over a connection that is open: not to a machine that nobody
    /// is signed in at any more.
    pub(super) fn is_open(&self) -> bool {
        self.primary().is_ok()
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

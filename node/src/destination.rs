//! The way to a domain's primary: its record, its route, a session.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use holdfast_ledger::drill::DRILL_DOMAIN;
use holdfast_ledger::{KvError, Route, RouteTls, query};
use holdfast_mail::Domain;
use holdfast_smtp::PORT;
use holdfast_smtp::client::Protocol;
use holdfast_smtp::login::Login;

use crate::dial::{self, CONNECT_TIMEOUT, NoSession, Way, literal};
use crate::net::dns::Resolver;
use crate::net::tls::Trust;
use crate::replica::{Cluster, random_id};
use crate::switchboard::Switchboard;
use crate::talk::deliver::{Connection, Dialing, Security};

pub(crate) struct Destination {
    pub(crate) cluster: Cluster,
    pub(crate) resolver: Arc<Resolver>,
    pub(crate) domain: Domain,
    /// Where connections wait that customers made.
    pub(crate) switchboard: Switchboard,
    /// A relay for mail to other people's domains.
    pub(crate) relay: Option<(String, u16)>,
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
    #[error(transparent)]
    NoSession(#[from] NoSession),
}

impl Unreachable {
    /// The DNS says that nobody takes the domain's mail, however long one waits: what its sender is
    /// told, beginning with a status (RFC 3463, RFC 7505 section 4.2).
    pub(crate) fn nowhere(&self) -> Option<String> {
        match self {
            Self::NoSession(NoSession::NoDomain(_)) => Some(format!("5.1.2 {self}")),
            Self::NoSession(NoSession::NullMx) => Some(format!("5.1.10 {self}")),
            _ => None,
        }
    }

    /// Waiting does not help: somebody has to change the domain's record.
    pub(crate) fn needs_an_operator(&self) -> bool {
        match self {
            Self::NoPrimary => true,
            Self::NobodySignedIn | Self::State(_) => false,
            Self::NoSession(why) => why.needs_an_operator(),
        }
    }

    /// Other nodes would fare no better: it is not the line.
    pub(crate) fn is_ours_to_mend(&self) -> bool {
        self.needs_an_operator() || matches!(self, Self::NobodySignedIn | Self::State(_))
    }

    /// The machine that was tried last.
    pub(crate) fn host(&self) -> Option<IpAddr> {
        match self {
            Self::NoSession(NoSession::Unavailable(why)) => Some(why.address().ip()),
            _ => None,
        }
    }

    /// The primary took the connection and then let us wait.
    pub(crate) fn is_slow(&self) -> bool {
        matches!(self, Self::NoSession(why) if why.is_slow())
    }
}

/// Where mail goes now, and how.
#[derive(PartialEq)]
pub(crate) struct CurrentWay(Place, Route);

/// Where mail goes now.
#[derive(PartialEq)]
enum Place {
    Host(String, u16),
    /// Where somebody is signed in.
    SignedIn(SocketAddr),
    /// By the domain's MX records.
    Exchangers,
    /// The machine that has the domain's name.
    Machine,
    Relay(String, u16),
    /// Over a connection that the customer made, to this node.
    Turned,
    /// The same, to another node.
    TurnedElsewhere,
    /// This node's stand-in for a primary, in a drill.
    Sink(SocketAddr),
}

impl Destination {
    pub(crate) async fn open(&self, opening_wait_max: Duration) -> Result<Connection, Unreachable> {
        let place = self.place()?;
        let route = self.route()?;
        let (cluster, resolver) = (&self.cluster, &self.resolver);
        let way = match place {
            // An address that somebody configured is what they mean. One that somebody signed in from is
            // whatever stands before this node: a proxy, or a machine inside.
            Place::SignedIn(to) => Way {
                private: route.private,
                hosts: vec![to.ip().to_string()],
                port: to.port(),
                ranked: false,
            },
            Place::Host(host, port) => Way {
                private: route.private || literal(&host).is_some(),
                hosts: vec![host],
                port,
                ranked: false,
            },
            Place::Turned => {
                let waiting = self.switchboard.take(&self.domain);
                return waiting.ok_or(Unreachable::NobodySignedIn);
            }
            Place::TurnedElsewhere => return Err(Unreachable::NobodySignedIn),
            Place::Relay(host, port) => Way {
                hosts: vec![host],
                port,
                private: true,
                ranked: false,
            },
            Place::Sink(address) => Way {
                hosts: vec![address.ip().to_string()],
                port: address.port(),
                private: true,
                ranked: false,
            },
            Place::Machine => Way {
                hosts: dial::machine(cluster, resolver, &self.domain, random_id() as u32).await?,
                port: PORT,
                private: route.private,
                ranked: true,
            },
            Place::Exchangers => Way {
                hosts: dial::exchangers(cluster, resolver, &self.domain, random_id() as u32)
                    .await?,
                port: PORT,
                private: route.private,
                ranked: true,
            },
        };
        let helo = &cluster.me().smtp_name;
        let dialing = Dialing {
            security: security(&route),
            protocol: if route.lmtp {
                Protocol::Lmtp
            } else {
                Protocol::Smtp
            },
            login: route.login.map(|(user, secret)| Login { user, secret }),
            ..Dialing::new(helo, CONNECT_TIMEOUT, opening_wait_max)
        };
        Ok(dial::dial(cluster, resolver, &dialing, &way).await?)
    }

    /// A host below a domain is reached as the domain says, but it has no part in its secrets, nor
    /// in a protocol that is not for port 25 (RFC 2033 section 5).
    fn route(&self) -> Result<Route, Unreachable> {
        let view = self.cluster.view();
        Ok(match query::keeper(&view, &self.domain)? {
            Some(keeper) => Route {
                login: None,
                lmtp: false,
                ..query::route(&view, &keeper)?
            },
            None => query::route(&view, &self.domain)?,
        })
    }

    fn place(&self) -> Result<Place, Unreachable> {
        if self.domain.as_str() == DRILL_DOMAIN {
            let rehearsal = self.cluster.rehearsal();
            let sink = rehearsal.sink().filter(|_| !rehearsal.primary_is_down());
            let down = || NoSession::NotNow("a drill has the server be down".to_owned());
            return Ok(Place::Sink(sink.ok_or_else(down)?));
        }
        let view = self.cluster.view();
        let Some(record) = query::domain(&view, &self.domain)? else {
            if query::keeper(&view, &self.domain)?.is_some() {
                let attended = query::policy(&view, &self.domain)?.attended;
                return match attended {
                    true => Err(Unreachable::NobodySignedIn),
                    false => Ok(Place::Machine),
                };
            }
            // Mail that a customer sent goes to whom the DNS names.
            let is_passing = query::counts(&view, &self.domain)?.messages > 0;
            return match &self.relay {
                _ if !is_passing => Err(Unreachable::NoPrimary),
                Some((host, port)) => Ok(Place::Relay(host.clone(), *port)),
                None => Ok(Place::Exchangers),
            };
        };
        let attended = query::attended(&view, &self.domain)?;
        let attended = attended.filter(|attended| self.cluster.time() < attended.until);
        match attended.as_ref().and_then(|attended| attended.over) {
            Some(node) if node == self.cluster.me().id => return Ok(Place::Turned),
            Some(_) => return Ok(Place::TurnedElsewhere),
            None => {}
        }
        let policy = query::policy(&view, &self.domain)?;
        if policy.attended {
            let to = attended.ok_or(Unreachable::NobodySignedIn)?.to;
            if !policy.at_host {
                return Ok(Place::SignedIn(to));
            }
        }
        if query::route(&view, &self.domain)?.by_mx {
            return Ok(Place::Exchangers);
        }
        Ok(Place::Host(record.primary.host, record.primary.port))
    }

    /// Whether the domain is no customer's: its mail was sent by one, and goes by its MX records.
    pub(crate) fn is_strangers(&self) -> Result<bool, KvError> {
        let view = self.cluster.view();
        Ok(self.domain.as_str() != DRILL_DOMAIN && query::is_strangers(&view, &self.domain)?)
    }

    /// How mail goes now, as the cluster's state says; `None`: not at all.
    pub(crate) fn way(&self) -> Option<CurrentWay> {
        Some(CurrentWay(self.place().ok()?, self.route().ok()?))
    }

    /// Whether mail still goes that way: a message may go out over a connection that was opened then. Not
    /// to a machine that nobody is signed in at any more, over a call that has been ended, or without the
    /// security that is asked for meanwhile.
    pub(crate) fn is_way(&self, way: &Option<CurrentWay>) -> bool {
        way.is_some() && self.way() == *way
    }

    /// Whether mail goes over a connection to another node now, which alone can deliver.
    pub(crate) fn is_elsewhere(&self) -> bool {
        matches!(self.place(), Ok(Place::TurnedElsewhere))
    }
}

fn security(route: &Route) -> Security {
    match (route.tls, route.key) {
        (RouteTls::Opportunistic, _) => Security::Opportunistic,
        (_, Some(key)) => Security::Required(Trust::Key(key)),
        (RouteTls::Required, None) => Security::Required(Trust::Anyone),
        (RouteTls::Verified, None) => Security::Required(Trust::Roots),
    }
}

//! Which doors are our own: mail that goes in there comes back.

use std::net::IpAddr;
use std::time::Duration;

use futures::future::join_all;
use holdfast_ledger::Member;
use holdfast_mail::NodeId;

use super::{is_public, literal, split};
use crate::net::dns::Resolver;
use crate::replica::Cluster;

/// How long our own names may take to lead somewhere.
const LOOK_UP_TIME_MAX: Duration = Duration::from_secs(3);

/// Where the nodes of this cluster take mail, as far as it is known now.
pub(crate) struct Ours {
    me: NodeId,
    doors: Vec<Door>,
}

/// Where one node does, at the port that is asked about.
struct Door {
    node: NodeId,
    names: Vec<String>,
    addresses: Vec<IpAddr>,
    /// It listens on every address of its machine.
    is_everywhere: bool,
    /// Why the DNS does not say now where it is.
    unknown: Option<String>,
}

/// Whose door an address is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    Ours,
    Others,
    /// It cannot be told now.
    Unknown(String),
}

impl Ours {
    /// Those at `port`.
    pub(crate) async fn at(cluster: &Cluster, resolver: &Resolver, port: u16) -> Self {
        let members = cluster.members();
        let at_port = |member: &&Member| split(&member.smtp_address).is_some_and(|it| it.1 == port);
        let doors = members.iter().filter(at_port).map(|it| door(it, resolver));
        Self {
            me: cluster.me().id,
            doors: join_all(doors).await,
        }
    }

    /// Of an address of `host`, a name or the address itself.
    pub(crate) fn whose(&self, address: IpAddr, host: &str) -> Whose {
        let address = address.to_canonical();
        let is_ours = |door: &Door| {
            door.addresses.contains(&address)
                || has_name(&door.names, host)
                // Met on loopback by those on its machine.
                || door.is_everywhere && door.node == self.me && address.is_loopback()
        };
        if self.doors.iter().any(is_ours) {
            return Whose::Ours;
        }
        let unknown = self.doors.iter().find_map(|door| door.unknown.clone());
        match unknown {
            // What somebody wrote down was looked at then, and leads nowhere else since.
            Some(why) if literal(host).is_none() => Whose::Unknown(why),
            _ => Whose::Others,
        }
    }
}

/// Whether it is a name of one of our nodes, whatever it leads to.
pub(super) fn is_name_of_ours(members: &[Member], host: &str) -> bool {
    members.iter().any(|member| has_name(&names(member), host))
}

fn has_name(names: &[String], host: &str) -> bool {
    names.iter().any(|name| name.eq_ignore_ascii_case(host))
}

/// As it greets, as senders reach it, and as other nodes do.
fn names(member: &Member) -> Vec<String> {
    let hosts = [&member.smtp_address, &member.cluster_address];
    let hosts = hosts.iter().filter_map(|address| split(address));
    let names = hosts.map(|(host, _)| host).chain([&*member.smtp_name]);
    let mut names: Vec<String> = names
        .filter(|name| !name.is_empty() && literal(name).is_none())
        .map(str::to_owned)
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

async fn door(member: &Member, resolver: &Resolver) -> Door {
    let names = names(member);
    let host = |address| split(address).map_or("", |(host, _)| host);
    let (listener, inside) = (host(&member.smtp_address), host(&member.cluster_address));
    let listens = literal(listener);
    let literals = [listens, literal(inside)].into_iter().flatten();
    let mut addresses: Vec<IpAddr> = literals.filter(|ip| !ip.is_unspecified()).collect();
    let mut unknown = None;
    // Where only its own network knows a node, it may have a name that nobody looks up.
    let is_known_outside = listens.is_none_or(|ip| ip.is_unspecified() || is_public(ip));
    let looks = names
        .iter()
        .filter(|_| is_known_outside)
        .map(|name| async move {
            let looking = tokio::time::timeout(LOOK_UP_TIME_MAX, resolver.addresses_or_none(name));
            let found = match looking.await {
                Ok(found) => found.map_err(|error| error.to_string()),
                Err(_) => Err("no answer in time".to_owned()),
            };
            (name, found)
        });
    for (name, found) in join_all(looks).await {
        match found {
            Ok(found) => addresses.extend(found),
            // Its other names may be none of the DNS's.
            Err(why) if name == listener => unknown = Some(format!("{name}: {why}")),
            Err(_) => {}
        }
    }
    Door {
        node: member.id,
        names,
        addresses: addresses.iter().map(IpAddr::to_canonical).collect(),
        is_everywhere: listens.is_some_and(|ip| ip.is_unspecified()),
        unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(smtp: &str, cluster: &str) -> Member {
        Member {
            id: NodeId(1),
            name: "oslo".to_owned(),
            region: String::new(),
            cluster_address: cluster.to_owned(),
            smtp_name: "MX1.ours.example".to_owned(),
            smtp_address: smtp.to_owned(),
        }
    }

    #[test]
    fn each_name_of_a_node_is_ours() {
        let named = [member("smtp.ours.example:25", "oslo.ours.example:7400")];
        for host in ["mx1.ours.example", "smtp.OURS.example", "oslo.ours.example"] {
            assert!(is_name_of_ours(&named, host), "{host}");
        }
        for host in ["ours.example", "25", ""] {
            assert!(!is_name_of_ours(&named, host), "{host}");
        }
        let literal = [member("192.0.2.1:25", "[2001:db8::1]:7400")];
        assert_eq!(names(&literal[0]), ["MX1.ours.example"]);
    }

    #[test]
    fn an_address_is_ours_by_whatever_name_it_is_found() {
        let door = |unknown: Option<&str>| Door {
            node: NodeId(1),
            names: vec!["mx1.ours.example".to_owned()],
            addresses: vec!["192.0.2.1".parse().unwrap()],
            is_everywhere: true,
            unknown: unknown.map(str::to_owned),
        };
        let ours = |node, unknown| Ours {
            me: NodeId(node),
            doors: vec![door(unknown)],
        };
        let whose =
            |ours: &Ours, address: &str, host: &str| ours.whose(address.parse().unwrap(), host);
        let known = ours(1, None);
        for (address, host) in [
            ("192.0.2.1", "mail.a.example"),
            ("::ffff:192.0.2.1", "mail.a.example"),
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.9", "MX1.ours.example"),
            ("127.0.0.1", "mail.a.example"),
        ] {
            assert_eq!(
                whose(&known, address, host),
                Whose::Ours,
                "{address} {host}"
            );
        }
        assert_eq!(whose(&known, "192.0.2.9", "mail.a.example"), Whose::Others);
        // Another node's loopback is not this machine's.
        assert_eq!(
            whose(&ours(2, None), "127.0.0.1", "mail.a.example"),
            Whose::Others
        );
        // Where the DNS does not say where we are, a name may lead to us.
        let unknown = ours(1, Some("timed out"));
        let timed_out = Whose::Unknown("timed out".to_owned());
        assert_eq!(whose(&unknown, "192.0.2.9", "mail.a.example"), timed_out);
        assert_eq!(whose(&unknown, "192.0.2.9", "192.0.2.9"), Whose::Others);
        assert_eq!(whose(&unknown, "192.0.2.1", "mail.a.example"), Whose::Ours);
    }
}

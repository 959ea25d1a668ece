//! Which doors are our own: mail that goes in there comes back.

use std::net::IpAddr;
use std::time::Duration;

use futures::future::join_all;
use holdfast_ledger::Member;
use holdfast_mail::NodeId;
use holdfast_smtp::PORT;

use super::{literal, split};
use crate::net::dns::Resolver;
use crate::public::is_public;
use crate::replica::Cluster;

/// How long our own names may take to lead somewhere.
const LOOK_UP_TIME_MAX: Duration = Duration::from_secs(3);

/// The same of names without which it is known where a node is, most often: each delivery waits for it.
const OTHERS_TIME_MAX: Duration = Duration::from_secs(1);

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
        let signs = members
            .iter()
            .filter_map(|it| Some((it.id, sign(it, port)?)));
        let doors = signs.map(|(node, sign)| door(node, sign, resolver));
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
        .filter(|name| is_name(name))
        .map(str::to_owned)
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn is_name(host: &str) -> bool {
    !host.is_empty() && literal(host).is_none()
}

/// What a door is known by before the DNS is asked.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sign {
    names: Vec<String>,
    addresses: Vec<IpAddr>,
    /// Of the names, those that lead to it.
    asked: Vec<String>,
    /// Of these, the one without which nobody knows where it is.
    needed: Option<String>,
    is_everywhere: bool,
}

/// Of the node's door at `port`, if it may have one there. Senders come to port 25 of its name, whatever
/// it listens on: a router or a proxy before it is known by that name alone.
fn sign(member: &Member, port: u16) -> Option<Sign> {
    let outside = Some(member.smtp_name.clone()).filter(|name| is_name(name));
    let (listener, its_port) = split(&member.smtp_address).unwrap_or_default();
    if its_port != port {
        let asked: Vec<String> = outside.filter(|_| port == PORT).into_iter().collect();
        return (!asked.is_empty()).then(|| Sign {
            names: asked.clone(),
            asked,
            ..Sign::default()
        });
    }
    let inside = split(&member.cluster_address).map_or("", |(host, _)| host);
    let listens = literal(listener);
    let literals = [listens, literal(inside)].into_iter().flatten();
    let names = names(member);
    // Where only its own network knows a node, its other names may be ones that nobody looks up.
    let is_known_outside = listens.is_none_or(|ip| ip.is_unspecified() || is_public(ip));
    let leads = |name: &&String| is_known_outside || outside.as_ref() == Some(*name);
    Some(Sign {
        addresses: literals.filter(|ip| !ip.is_unspecified()).collect(),
        asked: names.iter().filter(leads).cloned().collect(),
        names,
        needed: Some(listener.to_owned()).filter(|name| is_name(name)),
        is_everywhere: listens.is_some_and(|ip| ip.is_unspecified()),
    })
}

async fn door(node: NodeId, sign: Sign, resolver: &Resolver) -> Door {
    let needed = sign.needed.as_ref();
    let looks = sign.asked.iter().map(|name| async move {
        let limit = match needed == Some(name) {
            true => LOOK_UP_TIME_MAX,
            false => OTHERS_TIME_MAX,
        };
        let looking = tokio::time::timeout(limit, resolver.addresses_or_none(name));
        let found = match looking.await {
            Ok(found) => found.map_err(|error| error.to_string()),
            Err(_) => Err("no answer in time".to_owned()),
        };
        (name, found)
    });
    let mut addresses = sign.addresses;
    let mut unknown = None;
    for (name, found) in join_all(looks).await {
        match found {
            Ok(found) => addresses.extend(found),
            Err(why) if needed == Some(name) => {
                unknown = Some(format!("{name}: {why}"));
            }
            // Its other names may be none of the DNS's.
            Err(_) => {}
        }
    }
    Door {
        node,
        names: sign.names,
        addresses: addresses.iter().map(IpAddr::to_canonical).collect(),
        is_everywhere: sign.is_everywhere,
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

    /// Behind a router that hands port 25 on, a node listens on an address that no sender knows.
    #[test]
    fn where_senders_find_a_node_is_looked_up_whatever_it_listens_on() {
        let inside = "oslo.ours.example:7400";
        let outside = "MX1.ours.example".to_owned();
        let at = |smtp: &str, port| sign(&member(smtp, inside), port);
        let by_name = Some(Sign {
            names: vec![outside.clone()],
            asked: vec![outside.clone()],
            ..Sign::default()
        });
        for smtp in ["10.0.0.1:2525", "0.0.0.0:2525", "192.0.2.1:2525", ""] {
            assert_eq!(at(smtp, 25), by_name, "{smtp}");
            assert_eq!(at(smtp, 24), None, "{smtp}");
        }
        for (smtp, port) in [("10.0.0.1:25", 25), ("10.0.0.1:2525", 2525)] {
            let sign = at(smtp, port).unwrap();
            assert_eq!(sign.asked, [&*outside], "{smtp}");
            assert_eq!(sign.names, [&*outside, "oslo.ours.example"], "{smtp}");
            assert_eq!(sign.addresses, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
            // That it leads nowhere now, does not hold up mail.
            assert_eq!(sign.needed, None);
        }
        for smtp in ["0.0.0.0:25", "192.0.2.1:25", "smtp.ours.example:25"] {
            let sign = at(smtp, 25).unwrap();
            assert_eq!(sign.asked, sign.names, "{smtp}");
            let needed = smtp
                .starts_with("smtp")
                .then(|| "smtp.ours.example".to_owned());
            assert_eq!(sign.needed, needed, "{smtp}");
        }
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

//! A network of machines: each has a namespace and an address of its own, and a line to the test,
//! which forwards between them. What is cut is what the nodes say to each other; senders and
//! primaries always reach every machine.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::relay::{Quality, Relays};
use super::world::must;
use crate::partition::Link;

/// The test's own address, where primaries listen.
pub(super) const HOME: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

const SMTP_PORT: u16 = 25;
/// Also SMTP, for clients that are to come from many addresses.
const FLOOD_PORT: u16 = 2525;
/// They are these: enough that a limit for each client alone does not stop them.
const FLOOD_HOSTS: std::ops::RangeInclusive<u8> = 2..=60;
const CLUSTER_PORT: u16 = 7400;
/// Where packets are dropped: before address translation, so that a rule names the machines.
const CHAIN: [&str; 4] = ["-w", "-t", "raw", "PREROUTING"];

/// The line of a node that is not upgraded yet.
pub(super) fn level_setting(level: Option<u32>) -> String {
    level.map_or_else(String::new, |level| format!("sandbox_level = {level}\n"))
}

#[derive(Debug)]
pub struct Network {
    machines: u8,
    wan_profile: &'static str,
    level: Option<u32>,
    snapshot_every: Option<u64>,
    /// None: packets are forwarded at once, and a cut line drops them.
    relays: Option<Relays>,
    cut: BTreeSet<Link>,
}

impl Network {
    /// # Panics
    /// If it cannot be made: the test cannot go on. It needs a world of its own.
    #[must_use]
    pub fn new(machines: u8) -> Self {
        must(
            "ip",
            &["address", "add", &format!("{HOME}/32"), "dev", "lo"],
        );
        let mut network = Self {
            machines: 0,
            wan_profile: "lan",
            level: None,
            snapshot_every: None,
            relays: None,
            cut: BTreeSet::new(),
        };
        for _ in 0..machines {
            network.add_machine();
        }
        network
    }

    /// A network whose lines can be made bad; good ones until then. The nodes are told
    /// `wan_profile`.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn with_relays(machines: u8, wan_profile: &'static str, seed: u64) -> Self {
        let mut network = Self::new(machines);
        let all: Vec<Link> = links(machines).collect();
        let (relays, ports) =
            Relays::start(&all, cluster_address, seed).expect("relays of a network");
        for ((from, to), port) in ports {
            let (from, to) = (address(from).to_string(), address(to).to_string());
            let (cluster, port) = (CLUSTER_PORT.to_string(), port.to_string());
            must(
                "iptables",
                &[
                    "-w",
                    "-t",
                    "nat",
                    "-A",
                    "PREROUTING",
                    "-s",
                    &from,
                    "-d",
                    &to,
                    "-p",
                    "tcp",
                    "--dport",
                    &cluster,
                    "-j",
                    "REDIRECT",
                    "--to-ports",
                    &port,
                ],
            );
        }
        network.relays = Some(relays);
        network.wan_profile = wan_profile;
        network
    }

    /// From now on every line is like that.
    ///
    /// # Panics
    /// If there are no relays.
    pub fn set_quality(&self, quality: Quality) {
        self.relays.as_ref().expect("relays").set(quality);
    }

    /// The same for one line, in its direction.
    ///
    /// # Panics
    /// If there are no relays, or none for this line.
    pub fn set_line(&self, link: &Link, quality: Quality) {
        self.relays
            .as_ref()
            .expect("relays")
            .set_line(link, quality);
    }

    /// Bytes that the nodes have said to each other, where there are relays.
    #[must_use]
    pub fn carried(&self) -> u64 {
        self.relays.as_ref().map_or(0, Relays::carried)
    }

    /// One more machine; its number.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn add_machine(&mut self) -> u8 {
        self.machines += 1;
        let machine = self.machines;
        let (space, line) = (namespace(machine), format!("line{machine}"));
        let gateway = Ipv4Addr::new(10, 77, machine, 1).to_string();
        let (ours, theirs) = (format!("{gateway}/30"), format!("{}/30", address(machine)));
        must("ip", &["netns", "add", &space]);
        must(
            "ip",
            &[
                "link", "add", &line, "type", "veth", "peer", "name", "eth0", "netns", &space,
            ],
        );
        must("ip", &["address", "add", &ours, "dev", &line]);
        must("ip", &["link", "set", &line, "up"]);
        must(
            "ip",
            &["-n", &space, "address", "add", &theirs, "dev", "eth0"],
        );
        must("ip", &["-n", &space, "link", "set", "eth0", "up"]);
        must("ip", &["-n", &space, "link", "set", "lo", "up"]);
        must(
            "ip",
            &["-n", &space, "route", "add", "default", "via", &gateway],
        );
        machine
    }

    /// New nodes are as old as this feature level; with `None` they know all there is.
    pub fn set_level(&mut self, level: Option<u32>) {
        self.level = level;
    }

    /// New nodes write down their state after so many entries, and give back the log before it.
    pub fn set_snapshot_every(&mut self, entries: u64) {
        self.snapshot_every = Some(entries);
    }

    /// What is in the nodes' configurations for its sake.
    pub(super) fn settings(&self) -> String {
        let timing = format!("wan_profile = \"{}\"\n", self.wan_profile);
        let every = self.snapshot_every;
        let snapshots = every.map(|entries| format!("sandbox_snapshot_every = {entries}\n"));
        level_setting(self.level) + &snapshots.unwrap_or_default() + &timing
    }

    /// From now on clients of the flood's port come from many addresses.
    ///
    /// # Panics
    /// If the rule cannot be made.
    pub fn disguise_floods(&self) {
        let host = |last| Ipv4Addr::new(10, 77, 0, last);
        for last in FLOOD_HOSTS {
            must(
                "ip",
                &["address", "add", &format!("{}/32", host(last)), "dev", "lo"],
            );
        }
        let hosts = format!(
            "{}-{}",
            host(*FLOOD_HOSTS.start()),
            host(*FLOOD_HOSTS.end())
        );
        let port = FLOOD_PORT.to_string();
        must(
            "iptables",
            &[
                "-w",
                "-t",
                "nat",
                "-A",
                "POSTROUTING",
                "-p",
                "tcp",
                "--dport",
                &port,
                "-j",
                "SNAT",
                "--to-source",
                &hosts,
            ],
        );
    }

    /// Drops exactly these links from now on; all others work.
    ///
    /// # Panics
    /// If the rules cannot be changed.
    pub fn cut(&mut self, links: &BTreeSet<Link>) {
        if let Some(relays) = &self.relays {
            relays.cut(|link| links.contains(link));
        } else {
            for link in self.cut.difference(links) {
                rule("-D", *link);
            }
            for link in links.difference(&self.cut) {
                rule("-A", *link);
            }
        }
        self.cut.clone_from(links);
    }

    /// Those that are dropped.
    #[must_use]
    pub fn cut_links(&self) -> &BTreeSet<Link> {
        &self.cut
    }
}

/// Every link among so many machines.
pub(super) fn links(machines: u8) -> impl Iterator<Item = Link> {
    (1..=machines).flat_map(move |from| {
        (1..=machines)
            .filter(move |to| *to != from)
            .map(move |to| (from, to))
    })
}

fn rule(what: &str, (from, to): Link) {
    let [wait, table, raw, chain] = CHAIN;
    let (from, to) = (address(from).to_string(), address(to).to_string());
    must(
        "iptables",
        &[
            wait, table, raw, what, chain, "-s", &from, "-d", &to, "-j", "DROP",
        ],
    );
}

#[must_use]
pub(super) fn namespace(machine: u8) -> String {
    format!("machine{machine}")
}

#[must_use]
pub(super) fn address(machine: u8) -> IpAddr {
    Ipv4Addr::new(10, 77, machine, 2).into()
}

#[must_use]
pub(super) fn smtp_address(machine: u8) -> SocketAddr {
    (address(machine), SMTP_PORT).into()
}

#[must_use]
pub(super) fn flood_address(machine: u8) -> SocketAddr {
    (address(machine), FLOOD_PORT).into()
}

#[must_use]
pub(super) fn cluster_address(machine: u8) -> SocketAddr {
    (address(machine), CLUSTER_PORT).into()
}

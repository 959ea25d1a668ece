//! One run: a cluster, its senders, the primaries of two domains, and the judgement at the end.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::machines::Size;
use super::network::{HOME, Network};
use super::newcomer::Newcomer;
use super::primary::{Mood, Primary, SENDERS};
use super::relay::Quality;
use super::sandbox::{Sandbox, binary, signal};
use super::sender::Load;
use super::wait_for;
use super::watch::{Watch, look};
use crate::figures::Figures;
use crate::history::{Event, Fault, Recorder};
use crate::invariants::{self, Verdict, acknowledged_mail_lost};
use crate::partition::Link;
use crate::random::{SEED_VARIABLE, seed};

/// Two, so that a message can go to both.
pub const DOMAINS: [&str; 2] = ["example.test", "other.test"];

/// For every node to have heard of a domain.
const DOMAIN_TIME_MAX: Duration = Duration::from_secs(30);
const ACKNOWLEDGE_TIME_MAX: Duration = Duration::from_secs(60);
const DELIVER_TIME_MAX: Duration = Duration::from_secs(300);
/// How long what is missing is waited for, where many runs are to fail.
const DELIVER_SECONDS_VARIABLE: &str = "HOLDFAST_DRAIN_SECONDS";
/// While waiting for it.
const DELIVER_EVERY: Duration = Duration::from_secs(10);
/// A new node is started, answers and asks to be let in within about that time.
const JOIN_BEGINS: Duration = Duration::from_millis(1200);
/// The exit code of a node that is a member no more.
const REMOVED: i32 = 7;
/// At each node, at rest.
const LOOKS: usize = 4;
/// For what should not come any more.
const LINGER: Duration = Duration::from_secs(2);

pub struct Run {
    pub sandbox: Sandbox,
    pub recorder: Arc<Recorder>,
    pub load: Arc<Load>,
    pub seed: u64,
    /// None: the nodes share this machine's.
    network: Option<Network>,
    /// Of each machine.
    size: Size,
    minority: BTreeSet<String>,
    /// Those whose lines were cut first, until all are mended.
    parted: Vec<String>,
    primaries: Vec<Primary>,
    /// Takes the notifications of nodes on machines.
    reports: Option<Primary>,
    senders: Vec<JoinHandle<()>>,
    watch: Option<Watch>,
}

impl Run {
    /// Three nodes, two protected domains, both primaries down, nobody sending yet.
    #[must_use]
    pub fn start() -> Self {
        Self::start_by(&binary())
    }

    /// The same with nodes of another binary.
    #[must_use]
    pub fn start_by(binary: &Path) -> Self {
        let (recorder, primaries) = surroundings(Ipv4Addr::LOCALHOST.into());
        let primary = primaries[0].address();
        let sandbox = Sandbox::start_by(binary, 3, DOMAINS[0], primary, &[]);
        Self::with(recorder, primaries, sandbox, None, Size::ORDINARY)
    }

    /// The same with each of `count` nodes on a machine of its own, with a disk of `disk_bytes`.
    /// It needs a world of its own.
    #[must_use]
    pub fn on_machines(count: u8, disk_bytes: u64) -> Self {
        let size = Size {
            disk_bytes,
            ..Size::ORDINARY
        };
        Self::on_machines_of(count, size)
    }

    /// The same with machines of that size.
    #[must_use]
    pub fn on_machines_of(count: u8, size: Size) -> Self {
        Self::in_network(count, Network::new(count), size)
    }

    /// The same with nodes that give back their log after so many entries.
    #[must_use]
    pub fn with_short_logs(count: u8, entries: u64) -> Self {
        let mut network = Network::new(count);
        network.set_snapshot_every(entries);
        Self::in_network(count, network, Size::ORDINARY)
    }

    /// The same over lines that can be made bad.
    #[must_use]
    pub fn over_relays(count: u8, wan_profile: &'static str) -> Self {
        let network = Network::with_relays(count, wan_profile, seed());
        Self::in_network(count, network, Size::ORDINARY)
    }

    /// The same with nodes that are as old as a feature level, to be upgraded.
    #[must_use]
    pub fn over_relays_of_level(count: u8, wan_profile: &'static str, level: u32) -> Self {
        let mut network = Network::with_relays(count, wan_profile, seed());
        network.set_level(Some(level));
        let mut run = Self::in_network(count, network, Size::ORDINARY);
        if let Some(network) = &mut run.network {
            network.set_level(None);
        }
        run
    }

    fn in_network(count: u8, network: Network, size: Size) -> Self {
        let (recorder, primaries) = surroundings(HOME.into());
        let mut reports = Primary::new(SENDERS, HOME.into(), seed(), Arc::clone(&recorder));
        reports.behave(Mood::Willing);
        reports.come_up();
        let sandbox = Sandbox::on_machines(count, &network, size, reports.address());
        let first = primaries[0].address().to_string();
        sandbox.must("n1", &["domain", "add", DOMAINS[0], "--primary", &first]);
        let mut run = Self::with(recorder, primaries, sandbox, Some(network), size);
        run.reports = Some(reports);
        run
    }

    fn with(
        recorder: Arc<Recorder>,
        primaries: Vec<Primary>,
        sandbox: Sandbox,
        network: Option<Network>,
        size: Size,
    ) -> Self {
        let other = primaries[1].address().to_string();
        sandbox.must("n1", &["domain", "add", DOMAINS[1], "--primary", &other]);
        for node in sandbox.names() {
            for domain in DOMAINS {
                wait_for(&format!("{domain} at {node}"), DOMAIN_TIME_MAX, || {
                    let shown = sandbox.ask(&node, &["domain", "show", domain]);
                    shown.status.success().then_some(())
                });
            }
        }
        let nodes = sandbox
            .nodes()
            .iter()
            .map(|node| (node.name.clone(), node.smtp))
            .collect();
        let seed = seed();
        let load = Arc::new(Load::new(nodes, &DOMAINS, seed, Arc::clone(&recorder)));
        Self {
            sandbox,
            recorder,
            load,
            seed,
            network,
            size,
            minority: BTreeSet::new(),
            parted: Vec::new(),
            primaries,
            reports: None,
            senders: Vec::new(),
            watch: None,
        }
    }

    pub fn send(&mut self, senders: usize) {
        self.senders = self.load.start(senders);
    }

    /// Waits until `count` more messages have been acknowledged than now.
    pub fn wait_for_acknowledged(&self, count: usize) {
        let wanted = self.recorder.acknowledged() + count;
        wait_for(
            &format!("{count} more acknowledgements"),
            ACKNOWLEDGE_TIME_MAX,
            || (self.recorder.acknowledged() >= wanted).then_some(()),
        );
    }

    /// Waits until mail is acknowledged that is begun from now on, and records how long that took.
    ///
    /// # Panics
    /// If it takes longer than `limit`.
    pub fn wait_for_recovery(&self, from: Fault, limit: Duration) {
        let (begun, next) = (Instant::now(), self.load.next_attempt());
        wait_for(&format!("mail after {from:?}"), limit, || {
            (self.recorder.newest_acknowledged() >= next).then_some(())
        });
        let seconds = begun.elapsed().as_secs_f64();
        self.recorder.record(Event::Recovered { from, seconds });
    }

    /// Asks every node from now on what its rows come to and who holds the leases.
    pub fn watch(&mut self) {
        self.watch = Some(Watch::start(self.sandbox.nodes(), &self.recorder));
    }

    /// Lets the senders finish what they are at.
    pub fn stop_sending(&mut self) {
        self.load.stop();
        for sender in self.senders.drain(..) {
            assert!(sender.join().is_ok(), "a sender panicked");
        }
    }

    pub fn kill(&mut self, node: &str) {
        self.began(Fault::Kill, &[node.to_owned()]);
        self.sandbox.kill(node);
        self.note_minority();
    }

    /// Starts a node that was killed or lost its power.
    pub fn restart(&mut self, node: &str) {
        self.restart_all(&[node.to_owned()]);
    }

    /// The same for several at once.
    pub fn restart_all(&mut self, nodes: &[String]) {
        self.note_minority_with(nodes, &self.cut_links());
        for node in nodes {
            self.sandbox.restart(node);
            for fault in [Fault::Kill, Fault::PowerCut] {
                self.ended(fault, std::slice::from_ref(node));
            }
        }
    }

    /// Starts a node that was killed with another binary, or in another environment.
    pub fn restart_as(&mut self, node: &str, binary: &Path, environment: &[(&str, String)]) {
        self.note_minority_with(&[node.to_owned()], &self.cut_links());
        self.sandbox.restart_as(node, binary, environment);
        for fault in [Fault::Kill, Fault::PowerCut] {
            self.ended(fault, &[node.to_owned()]);
        }
    }

    /// Lets a domain hold at most so many messages.
    pub fn limit(&self, domain: &'static str, messages: usize) {
        let count = messages.to_string();
        self.sandbox
            .must("n1", &["domain", "set", domain, "--quota-messages", &count]);
        let domain = domain.to_owned();
        self.recorder.record(Event::Quota { domain, messages });
    }

    /// From now on a domain's recipients are those that its primary says it has; what it says is
    /// kept for so many seconds.
    ///
    /// # Panics
    /// If not every node hears of it.
    pub fn verify(&self, domain: &'static str, keep_yes: u32, keep_no: u32) {
        let (yes, no) = (format!("{keep_yes}s"), format!("{keep_no}s"));
        let policy = [
            "--recipients",
            "verify",
            "--keep-yes",
            &yes,
            "--keep-no",
            &no,
        ];
        let set = [&["domain", "set", domain], &policy[..]].concat();
        self.sandbox.must("n1", &set);
        for node in self.sandbox.names() {
            wait_for(&format!("the policy at {node}"), DOMAIN_TIME_MAX, || {
                let shown = self.sandbox.must(&node, &["domain", "show", domain]);
                shown.to_string().contains("\"verify\"").then_some(())
            });
        }
        self.recorder.record(Event::Verify {
            domain: domain.to_owned(),
            keep_yes: keep_yes.into(),
            keep_no: keep_no.into(),
        });
    }

    /// Lets a domain hold mail for so many minutes only.
    pub fn hold_for_minutes(&self, domain: &'static str, minutes: u32) {
        let time = format!("{minutes}m");
        self.sandbox
            .must("n1", &["domain", "set", domain, "--hold", &time]);
        self.recorder.record(Event::Hold {
            domain: domain.to_owned(),
            seconds: f64::from(minutes) * 60.0,
        });
    }

    /// Cuts the power of these nodes at one moment. What they had not synced is gone.
    pub fn cut_power(&mut self, nodes: &[String]) {
        self.sandbox.cut_power(nodes);
        // One event for the moment, after it: what was acknowledged before is at risk.
        for node in nodes {
            self.began(Fault::PowerCut, std::slice::from_ref(node));
        }
        self.note_minority();
    }

    pub fn pause(&mut self, node: &str) {
        self.began(Fault::Pause, &[node.to_owned()]);
        self.sandbox.pause(node);
        self.note_minority();
    }

    pub fn resume(&mut self, node: &str) {
        self.note_minority_with(&[node.to_owned()], &self.cut_links());
        self.sandbox.resume(node);
        self.ended(Fault::Pause, &[node.to_owned()]);
    }

    /// Drops exactly these links between machines from now on; an empty set heals.
    ///
    /// # Panics
    /// If the nodes have no machines of their own.
    pub fn cut(&mut self, links: &BTreeSet<Link>) {
        let before = self.cut_links();
        if !links.is_subset(&before) {
            if before.is_empty() {
                self.parted = self.sandbox.names();
            }
            self.began(Fault::Partition, &self.parted);
        }
        // What is mended is there before this returns.
        let in_both = before.intersection(links).copied().collect();
        self.note_minority_with(&[], &in_both);
        let network = self.network.as_mut().expect("machines of their own");
        network.cut(links);
        self.note_minority();
        if links.is_empty() {
            self.ended(Fault::Partition, &self.parted);
        }
    }

    /// From now on every line between machines is like that.
    ///
    /// # Panics
    /// If the nodes are not connected by relays.
    pub fn set_quality(&self, quality: Quality) {
        let network = self.network.as_ref().expect("machines of their own");
        network.set_quality(quality);
        let nodes = self.sandbox.names();
        if quality == Quality::default() {
            self.ended(Fault::BadLines, &nodes);
        } else {
            self.began(Fault::BadLines, &nodes);
        }
    }

    /// The same for one line, in its direction.
    ///
    /// # Panics
    /// If the nodes are not connected by relays.
    pub fn set_line(&self, link: &Link, quality: Quality) {
        let network = self.network.as_ref().expect("machines of their own");
        network.set_line(link, quality);
        let nodes = [link.0, link.1].map(|number| format!("n{number}"));
        if quality == Quality::default() {
            self.ended(Fault::BadLines, &nodes);
        } else {
            self.began(Fault::BadLines, &nodes);
        }
    }

    /// From now on floods come from many addresses.
    ///
    /// # Panics
    /// If the nodes have no machines of their own.
    pub fn disguise_floods(&self) {
        let network = self.network.as_ref().expect("machines of their own");
        network.disguise_floods();
    }

    /// Makes every write and sync of a running node fail.
    pub fn fail_disk(&mut self, node: &str) {
        self.began(Fault::DiskFails, &[node.to_owned()]);
        self.sandbox.fail_disk(node);
    }

    /// A node is lost with its disk.
    pub fn lose(&mut self, node: &str) {
        self.began(Fault::Replaced, &[node.to_owned()]);
        self.sandbox.kill(node);
        self.note_minority();
    }

    /// It is no member any more.
    pub fn forget(&mut self, node: &str) {
        self.sandbox.forget(node);
        self.note_minority();
    }

    /// A new machine's node joins; its name.
    ///
    /// # Panics
    /// If it does not, or the nodes share a machine.
    pub fn add_next_machine(&mut self) -> String {
        let network = self.network.as_mut().expect("machines of their own");
        let number = network.add_machine();
        self.sandbox
            .add_machine(number, network, self.size.disk_bytes);
        format!("n{number}")
    }

    /// The same while a member is killed, which comes back when the new one is in.
    ///
    /// # Panics
    /// As `add_next_machine`.
    pub fn add_machine_while_killing(&mut self, victim: &str) {
        self.began(Fault::Kill, &[victim.to_owned()]);
        let pid = self.sandbox.pid(victim);
        let killing = thread::spawn(move || {
            thread::sleep(JOIN_BEGINS);
            signal("KILL", pid);
        });
        self.add_next_machine();
        assert!(killing.join().is_ok(), "the victim was not killed");
        self.sandbox.kill(victim);
        self.restart(victim);
    }

    /// A new machine's node begins to join; it does so while the test goes on.
    ///
    /// # Panics
    /// If the nodes share a machine.
    pub fn add_newcomer(&mut self) -> Newcomer {
        let network = self.network.as_mut().expect("machines of their own");
        let number = network.add_machine();
        let newcomer = self
            .sandbox
            .add_newcomer(number, network, self.size.disk_bytes);
        self.began(Fault::Membership, std::slice::from_ref(&newcomer.name));
        newcomer
    }

    /// Whether it has left; then it is forgotten.
    pub fn has_left(&mut self, newcomer: &Newcomer) -> bool {
        // A node that is a member no more is told so, and ends.
        if self.sandbox.ended(&newcomer.name) != Some(REMOVED) {
            return false;
        }
        self.forget(&newcomer.name);
        self.ended(Fault::Membership, std::slice::from_ref(&newcomer.name));
        true
    }

    pub fn began(&self, fault: Fault, nodes: &[String]) {
        let nodes = nodes.to_vec();
        self.recorder.record(Event::FaultBegan { fault, nodes });
    }

    pub fn ended(&self, fault: Fault, nodes: &[String]) {
        let nodes = nodes.to_vec();
        self.recorder.record(Event::FaultEnded { fault, nodes });
    }

    /// Records who can reach no quorum, after something has been taken away.
    fn note_minority(&mut self) {
        self.note_minority_with(&[], &self.cut_links());
    }

    /// The same as if `returning` were there already, before they are, and only `cut` were cut.
    fn note_minority_with(&mut self, returning: &[String], cut: &BTreeSet<Link>) {
        let minority = self.without_quorum(returning, cut);
        if minority != self.minority {
            self.minority.clone_from(&minority);
            let nodes = minority.into_iter().collect();
            self.recorder.record(Event::Minority { nodes });
        }
    }

    /// The nodes that together with all that they can reach over lines that work both ways are
    /// less than a quorum.
    fn without_quorum(&self, returning: &[String], cut: &BTreeSet<Link>) -> BTreeSet<String> {
        let members = self.sandbox.names();
        let mut alive: BTreeSet<String> = self.sandbox.alive().into_iter().collect();
        alive.extend(returning.iter().cloned());
        let number = |node: &String| {
            let machine = self.sandbox.node(node).machine.as_ref();
            machine.map_or(0, |machine| machine.number)
        };
        let hear_each_other = |a: &String, b: &String| {
            let (a, b) = (number(a), number(b));
            !cut.contains(&(a, b)) && !cut.contains(&(b, a))
        };
        let mut minority = BTreeSet::new();
        for node in &alive {
            let mut reached = BTreeSet::from([node.clone()]);
            let mut frontier = vec![node.clone()];
            while let Some(at) = frontier.pop() {
                for next in &alive {
                    if !reached.contains(next) && hear_each_other(&at, next) {
                        reached.insert(next.clone());
                        frontier.push(next.clone());
                    }
                }
            }
            if reached.len() < members.len() / 2 + 1 {
                minority.insert(node.clone());
            }
        }
        minority
    }

    fn cut_links(&self) -> BTreeSet<Link> {
        let network = self.network.as_ref();
        network.map_or_else(BTreeSet::new, |network| network.cut_links().clone())
    }

    /// The leader, once there is one.
    #[must_use]
    pub fn leader(&self) -> String {
        wait_for("a leader", ACKNOWLEDGE_TIME_MAX, || self.sandbox.leader())
    }

    /// A node that is lost for good leaves, and a new machine takes its place.
    ///
    /// # Panics
    /// If the new one does not join, or the nodes share a machine.
    pub fn replace(&mut self, lost: &str) {
        self.began(Fault::Replaced, &[lost.to_owned()]);
        self.sandbox.kill(lost);
        let other = self.sandbox.alive().into_iter().next();
        let other = other.expect("another node");
        self.sandbox.must(&other, &["cluster", "leave", lost]);
        self.forget(lost);
        self.add_next_machine();
        self.ended(Fault::Replaced, &[lost.to_owned()]);
    }

    /// A node whose data is no use any more leaves, and joins anew with an empty directory on the
    /// same machine.
    ///
    /// # Panics
    /// If it does not join.
    pub fn rejoin(&mut self, name: &str) {
        self.began(Fault::Replaced, &[name.to_owned()]);
        self.sandbox.kill(name);
        let other = self.sandbox.alive().into_iter().next();
        let other = other.expect("another node");
        self.sandbox.must(&other, &["cluster", "leave", name]);
        self.sandbox.begin_anew(name);
        self.ended(Fault::Replaced, &[name.to_owned()]);
    }

    pub fn primaries_come_up(&mut self) {
        self.primaries.iter_mut().for_each(Primary::come_up);
    }

    pub fn primaries_behave(&self, mood: Mood) {
        for primary in &self.primaries {
            primary.behave(mood);
        }
    }

    pub fn primary_comes_up(&mut self, domain: &str) {
        for primary in &mut self.primaries {
            if primary.domain() == domain {
                primary.come_up();
            }
        }
    }

    /// From now on a domain's primary has only these users.
    pub fn primary_has_only(&self, domain: &str, users: &[&str]) {
        for primary in &self.primaries {
            if primary.domain() == domain {
                primary.has_only(users);
            }
        }
    }

    pub fn primary_behaves(&self, domain: &str, mood: Mood) {
        for primary in &self.primaries {
            if primary.domain() == domain {
                primary.behave(mood);
            }
        }
    }

    pub fn primary_goes_down(&mut self, domain: &str) {
        for primary in &mut self.primaries {
            if primary.domain() == domain {
                primary.go_down();
            }
        }
    }

    /// Waits until nothing is held for `domain`.
    ///
    /// # Panics
    /// If something is after `limit`.
    pub fn wait_until_delivered(&self, domain: &str, limit: Duration) {
        wait_for(&format!("the mail of {domain}"), limit, || {
            let shown = self.sandbox.ask("n1", &["domain", "show", domain]).stdout;
            let shown: Value = serde_json::from_slice(&shown).ok()?;
            (shown["held_messages"] == 0).then_some(())
        });
    }

    pub fn primaries_go_down(&mut self) {
        self.primaries.iter_mut().for_each(Primary::go_down);
    }

    /// Waits until nothing acknowledged is missing, every node has caught up and none holds
    /// anything, and a little longer. If that never comes, the judgement will say what is
    /// missing. Primaries are willing then, and what they deferred is asked for again: how long
    /// it waits by itself is another test's question.
    ///
    /// # Panics
    /// If all has been delivered and a node still lags or holds mail.
    pub fn drain(&self) {
        self.primaries_behave(Mood::Willing);
        let (begun, mut asked) = (Instant::now(), None::<Instant>);
        loop {
            if asked.is_none_or(|asked| asked.elapsed() > DELIVER_EVERY) {
                for (domain, node) in DOMAINS.iter().zip(self.sandbox.alive().iter().cycle()) {
                    // A node that is still coming back refuses; the next round asks again.
                    drop(
                        self.sandbox
                            .ask(node, &["mail", "deliver", "--domain", domain]),
                    );
                }
                asked = Some(Instant::now());
            }
            let lost = acknowledged_mail_lost::check(&self.recorder.history());
            let delivered = !matches!(lost, Verdict::Broken { .. });
            let status = self.sandbox.status().unwrap_or_default();
            if delivered && is_at_rest(&status) {
                thread::sleep(LINGER);
                self.compare_replicas();
                return;
            }
            if begun.elapsed() > deliver_time_max() {
                self.recorder.note("gave up waiting for the deliveries");
                assert!(
                    !delivered,
                    "all is delivered, but the cluster is not at rest: {status:#}"
                );
                return;
            }
            // The whole record is read each time.
            thread::sleep(Duration::from_millis(500));
        }
    }

    /// At rest, entries are rare: several looks find every pair of nodes at the same one.
    fn compare_replicas(&self) {
        let alive = self.sandbox.alive();
        for _ in 0..LOOKS {
            for node in self.sandbox.nodes() {
                if alive.contains(&node.name) {
                    look(&node.name, &node.config, &self.recorder);
                }
            }
        }
    }

    /// Holds the history against every rule; those named in `tried` must have been tried.
    ///
    /// # Panics
    /// If a rule is broken, or one of `tried` was not tried.
    pub fn judge(&self, tried: &[&str]) {
        let history = self.recorder.history();
        let report = invariants::check(&history);
        eprintln!("{report}");
        Figures::of(self.seed, &history, &report).leave();
        let untried: Vec<_> = tried.iter().filter(|rule| !report.is_tried(rule)).collect();
        if !report.is_broken() && untried.is_empty() {
            return;
        }
        panic!("broken or untried ({untried:?}):\n{report}");
    }
}

/// The record, and the primaries of the two domains, down, at that address.
fn surroundings(at: IpAddr) -> (Arc<Recorder>, Vec<Primary>) {
    let recorder = Arc::new(Recorder::default());
    let primaries = DOMAINS
        .iter()
        .zip(seed()..)
        .map(|(domain, seed)| Primary::new(domain, at, seed, Arc::clone(&recorder)))
        .collect();
    (recorder, primaries)
}

fn deliver_time_max() -> Duration {
    let asked = std::env::var(DELIVER_SECONDS_VARIABLE);
    let seconds = asked.ok().and_then(|seconds| seconds.parse().ok());
    seconds.map_or(DELIVER_TIME_MAX, Duration::from_secs)
}

/// Every node answers and has applied all, and nothing is held.
fn is_at_rest(status: &Value) -> bool {
    let nodes = status["nodes"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    // Disks may be full on purpose, which is not healthy.
    status["quorum"] == true
        && status["held_messages"] == 0
        && nodes.iter().all(|node| {
            node["reachable"] == true && node["lag"] == 0 && node["bodies_missing"] == 0
        })
}

impl Drop for Run {
    fn drop(&mut self) {
        self.load.stop();
        if !thread::panicking() {
            return;
        }
        eprintln!("repeat this run with {SEED_VARIABLE}={}", self.seed);
        if let Some(folder) = self.sandbox.folder() {
            let file = folder.join("history.jsonl");
            match std::fs::write(&file, self.recorder.json_lines()) {
                Ok(()) => eprintln!("what was seen is in {}", file.display()),
                Err(error) => eprintln!("what was seen could not be written: {error}"),
            }
        }
    }
}

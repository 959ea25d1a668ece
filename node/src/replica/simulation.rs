//! A cluster in one thread: real ledger, gate, bodies, stores and openraft, over a network of
//! memory, on clocks that stand still until they are moved. Everything by chance comes from one
//! seed, so that a failure can be had again; its faults are then taken away one by one, as long
//! as it still fails.
//!
//! RocksDB is the real one, in a directory in memory. It keeps what was not flushed in the
//! process, so a crash is a copy of the directory: what was not flushed is not in it. Before
//! some crashes what is pending is written out and the log's end torn off.
//!
//! `ops/simulate` runs many seeds; those of `simulation/seeds.txt` are run in every test.

mod quiet;
mod room;
mod slow;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_ledger::{Command, Member, Outcome, Primary, Refusal, Reply, Verdict, query};
use holdfast_mail::{
    Address, BodyRef, BodyType, Domain, Envelope, MessageId, NodeId, Recipient, ReversePath,
};
use openraft::async_runtime::watch::WatchReceiver;
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep};

use super::{Cluster, Identity, ProposeError, StateHash, membership};
use crate::config::WanProfile;
use crate::net::authority;
use crate::net::listen::Listener;
use crate::net::simulated::{Switch, address};
use crate::store::View;
use crate::world::simulated::{Machine, enter, mix};

const HOSTS: usize = 3;

/// Faults happen in this many simulated milliseconds, and then all is well for this many more.
const FAULTS_MS: u64 = 40_000;
const CALM_MS: u64 = 60_000;

/// How many seeds every test run plays besides those that once failed.
const USUAL: u64 = 3;

/// The wall clock when a run begins.
const BEGIN: u64 = 1_800_000_000_000;

const DOMAIN: &str = "b.example";

/// What goes wrong, and when.
#[derive(Clone, Debug)]
struct Fault {
    /// Its place among the faults of its seed.
    number: usize,
    at: u64,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// The power goes, for so long. `tear`: part of what was pending reached the disk.
    Crash { host: usize, ms: u64, tear: bool },
    /// The power goes everywhere at one moment.
    Blackout { ms: u64 },
    /// One host hears nobody and nobody hears it.
    Isolate { host: usize, ms: u64 },
    /// Nothing comes through in one direction.
    OneWay { from: usize, to: usize, ms: u64 },
    /// The host stands still.
    Pause { host: usize, ms: u64 },
    /// Its wall clock is wrong.
    Skew { host: usize, ms: i64 },
    /// A flush fails.
    DiskFails { host: usize },
    /// A body's bytes change on its disk.
    Rot { host: usize },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>3}: {:>6} ms {:?}", self.number, self.at, self.kind)
    }
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0) % below
    }

    fn host(&mut self) -> usize {
        usize::try_from(self.roll(HOSTS as u64)).unwrap()
    }
}

fn faults(seed: u64) -> Vec<Fault> {
    let mut dice = Dice(seed ^ 0xfa);
    // One disk may be bad: what two of three lose is lost.
    let bad_disk = dice.host();
    let mut disk_fails = false;
    let count = 2 + dice.roll(7);
    let mut faults: Vec<Fault> = (0..count)
        .map(|_| {
            let (at, host) = (dice.roll(FAULTS_MS), dice.host());
            let ms = 100 + dice.roll(12_000);
            let kind = match dice.roll(16) {
                0..=5 => Kind::Crash {
                    host,
                    ms,
                    tear: dice.roll(2) == 0,
                },
                6..=8 => Kind::Isolate { host, ms },
                9..=10 => {
                    let to = (host + 1 + usize::from(dice.roll(2) == 0)) % HOSTS;
                    Kind::OneWay { from: host, to, ms }
                }
                11..=12 => Kind::Pause { host, ms },
                13 => Kind::Skew {
                    host,
                    ms: i64::try_from(dice.roll(600_000)).unwrap() - 300_000,
                },
                14 if !disk_fails => {
                    disk_fails = true;
                    Kind::DiskFails { host: bad_disk }
                }
                _ => Kind::Rot { host: bad_disk },
            };
            Fault {
                number: 0,
                at,
                kind,
            }
        })
        .collect();
    // By other dice, so that what a seed meant before it still means.
    let mut dice = Dice(seed ^ 0xb1ac);
    if dice.roll(3) == 0 {
        let (at, ms) = (dice.roll(FAULTS_MS), 100 + dice.roll(12_000));
        faults.push(Fault {
            number: 0,
            at,
            kind: Kind::Blackout { ms },
        });
    }
    faults.sort_by_key(|fault| fault.at);
    for (number, fault) in faults.iter_mut().enumerate() {
        fault.number = number;
    }
    faults
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the world outside saw.
#[derive(Default)]
pub(crate) struct History {
    /// Content of what senders were told 250 for, or nothing.
    accepted: BTreeMap<MessageId, Vec<u8>>,
    /// In doubt: the sender was told nothing.
    unanswered: u64,
    refused: BTreeSet<MessageId>,
    /// How often the primary took each message.
    delivered: BTreeMap<MessageId, u64>,
    /// Deliveries whose outcome is in the ledger.
    settled: BTreeSet<MessageId>,
    /// Messages that the primary took and a life of a host still had.
    held: BTreeSet<(usize, u64, MessageId)>,
    /// Who had the lease at each epoch.
    holders: BTreeMap<u64, u64>,
    hashes: BTreeMap<u64, [u8; 32]>,
    /// How many snapshots each life of a host had installed when last looked at.
    installed: BTreeMap<(usize, u64), u64>,
    /// Senders send no more.
    calm: bool,
    broken: Vec<String>,
}

/// Shared by all that see something.
pub(crate) type Shared = Arc<Mutex<History>>;

/// Begins to deliver for a host, until that dies.
pub(crate) type Deliverer = fn(Cluster, Shared);

impl History {
    /// The primary took a message.
    pub(crate) fn took(&mut self, id: MessageId, content: &[u8]) {
        let wanted = self.accepted.get(&id).cloned();
        self.holds(wanted.is_none_or(|wanted| wanted == content), || {
            format!("{id} was delivered with other content")
        });
        let settled = self.settled.contains(&id);
        self.holds(!settled, || {
            format!("{id} was delivered again although its delivery was recorded")
        });
        *self.delivered.entry(id).or_default() += 1;
    }

    /// What a node's state says of leases and of mail that was delivered.
    fn sees(&mut self, (host, life): (usize, u64), view: &View) {
        let domain = Domain::parse(DOMAIN).unwrap();
        if let Some(lease) = query::lease(view, &domain).unwrap() {
            let holder = lease.node.0;
            let first = *self.holders.entry(lease.epoch).or_insert(holder);
            self.holds(first == holder, || {
                format!(
                    "nodes {first} and {holder} both have the lease at epoch {}",
                    lease.epoch
                )
            });
        }
        for id in self.delivered.keys() {
            // A host that has not seen it come has not seen it go.
            if query::envelope(view, *id).unwrap().is_some() {
                self.held.insert((host, life, *id));
            } else if self.held.contains(&(host, life, *id)) {
                self.settled.insert(*id);
            }
        }
    }

    fn holds(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.broken.push(what());
        }
    }
}

struct Host {
    dir: PathBuf,
    life: u64,
    running: Option<(Runtime, Arc<Machine>)>,
    cluster: Arc<Mutex<Option<Cluster>>>,
    fatal: Arc<Mutex<Option<String>>>,
    up_at: u64,
    paused_until: u64,
    /// Up to when its clocks have gone.
    stepped: u64,
    /// Its disk has failed: it never comes back.
    lost: bool,
}

fn member(host: usize, id: NodeId) -> Member {
    Member {
        id,
        name: format!("host{host}"),
        region: "here".into(),
        cluster_address: address(host),
        smtp_name: "mx.example".into(),
        smtp_address: "127.0.0.1:25".into(),
    }
}

/// Of odd seeds, so often that hosts which come back find no log to catch up from.
const SNAPSHOT_EVERY: u64 = 50;

fn snapshot_every(seed: u64) -> u64 {
    match seed % 2 {
        0 => crate::config::SNAPSHOT_EVERY,
        _ => SNAPSHOT_EVERY,
    }
}

fn options(
    host: usize,
    dir: &Path,
    snapshot_every: u64,
    fatal: &Arc<Mutex<Option<String>>>,
) -> super::Options {
    let fatal = fatal.clone();
    super::Options {
        data_dir: dir.to_owned(),
        member: member(host, NodeId(0)),
        profile: WanProfile::Lan,
        snapshot_every,
        disk_free_min: 0,
        fatal: Arc::new(move |why| {
            lock(&fatal).get_or_insert(why);
        }),
        flush_times: crate::store::FlushTimes::default(),
    }
}

fn machine(host: usize, wall: u64, seed: u64) -> (Runtime, Arc<Machine>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    let started = {
        let _inside = runtime.enter();
        Instant::now()
    };
    (runtime, Arc::new(Machine::new(host, started, wall, seed)))
}

fn listener() -> Listener {
    Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Where directories in memory are.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}

/// Moves one host by a millisecond, after `missed` in which it stood still.
fn step((runtime, machine): &(Runtime, Arc<Machine>), missed: u64) {
    enter(Some(machine.clone()));
    runtime.block_on(async {
        if missed > 0 {
            tokio::time::advance(Duration::from_millis(missed)).await;
        }
        sleep(Duration::from_millis(1)).await;
    });
    enter(None);
}

/// What every run begins with: three nodes that have a domain and no mail.
struct Template {
    dir: tempfile::TempDir,
    identities: Vec<Identity>,
}

fn template() -> Template {
    let dir = scratch();
    let switch = Switch::install(1);
    let fatal = Arc::default();
    let hosts: Vec<_> = (0..HOSTS)
        .map(|host| machine(host, BEGIN - 3_600_000, host as u64))
        .collect();
    let identities: Arc<Mutex<Vec<Identity>>> = Arc::default();
    let clusters: Arc<Mutex<Vec<Cluster>>> = Arc::default();
    for (host, (runtime, machine)) in hosts.iter().enumerate() {
        let dir = dir.path().join(host.to_string());
        let options = options(host, &dir, crate::config::SNAPSHOT_EVERY, &fatal);
        let (identities, clusters, switch) = (identities.clone(), clusters.clone(), switch.clone());
        enter(Some(machine.clone()));
        let made = runtime.spawn(async move {
            if host == 0 {
                let (identity, bootstrap) = super::found(&member(0, NodeId(1))).unwrap();
                switch.host(0, (identity.node_id, identity.cluster_id));
                lock(&identities).push(identity.clone());
                let stores = super::create(&options, identity).await.unwrap();
                let cluster = super::start(options, stores, listener(), Some(bootstrap))
                    .await
                    .unwrap();
                for other in 1..HOSTS {
                    let identity = admit(&cluster, other).await;
                    switch.host(other, (identity.node_id, identity.cluster_id));
                    lock(&identities).push(identity);
                }
                let domain = Command::SetDomain {
                    domain: Domain::parse(DOMAIN).unwrap(),
                    primary: Primary {
                        host: "127.0.0.1".into(),
                        port: 1,
                    },
                    must_be_new: false,
                    must_exist: false,
                };
                propose(&cluster, domain).await.unwrap();
                lock(&clusters).push(cluster);
            } else {
                // One joins after the other.
                while lock(&clusters).len() < host {
                    sleep(Duration::from_millis(50)).await;
                }
                let identity = lock(&identities)[host].clone();
                let stores = super::create(&options, identity).await.unwrap();
                let cluster = super::start(options, stores, listener(), None)
                    .await
                    .unwrap();
                let members: Vec<_> = {
                    let first = lock(&clusters)[0].clone();
                    first
                        .members()
                        .iter()
                        .map(membership::member_to_wire)
                        .collect()
                };
                membership::promote(&cluster, &members).await.unwrap();
                lock(&clusters).push(cluster);
            }
        });
        enter(None);
        drop(made);
    }
    let mut left = 120_000;
    while lock(&clusters).len() < HOSTS || left % 5_000 != 0 {
        assert!(
            left > 0,
            "the three nodes did not find together: {:?}",
            lock(&fatal)
        );
        left -= 1;
        switch.tick();
        hosts.iter().for_each(|host| step(host, 0));
    }
    for cluster in lock(&clusters).drain(..) {
        cluster.0.store.write_out();
    }
    let identities = lock(&identities).clone();
    // As after a crash: what the running nodes have open is not shared.
    let still = scratch();
    copy(dir.path(), still.path());
    for (runtime, _) in hosts {
        runtime.shutdown_background();
    }
    Switch::uninstall();
    Template {
        dir: still,
        identities,
    }
}

async fn propose(cluster: &Cluster, command: Command) -> Result<Reply, ProposeError> {
    cluster
        .propose(command, Instant::now() + Duration::from_secs(10))
        .await
}

/// What `admission::admit` does, without a call.
async fn admit(cluster: &Cluster, host: usize) -> Identity {
    let secret = [u8::try_from(host).unwrap(); 32];
    let token_id = [secret[0]; 16];
    let secret_hash = *blake3::hash(&secret).as_bytes();
    let invite = Command::Invite {
        token_id,
        secret_hash,
        expires_at: super::now().plus(Duration::from_secs(3600)),
    };
    propose(cluster, invite).await.unwrap();
    let redeem = Command::Redeem {
        token_id,
        secret_hash,
        member: member(host, NodeId(0)),
    };
    let Ok(Reply::Member(node_id)) = propose(cluster, redeem).await else {
        panic!("not admitted");
    };
    let known = query::cluster(&cluster.view()).unwrap().unwrap();
    let (key, request) = authority::request().unwrap();
    let (ca, ca_key) = (&known.ca_certificate, &known.ca_key);
    let certificate = authority::sign(ca, ca_key, &request, node_id, known.id).unwrap();
    Identity {
        cluster_id: known.id,
        node_id,
        incarnation: crate::world::random(),
        certificate,
        key,
        ca_certificate: known.ca_certificate,
    }
}

/// How a run went.
struct Run {
    trace: String,
    simulated: Duration,
    accepted: usize,
    delivered: usize,
    /// Snapshots that were installed.
    installed: u64,
    broken: Vec<String>,
}

struct Simulation {
    seed: u64,
    now: u64,
    dir: tempfile::TempDir,
    switch: Switch,
    hosts: Vec<Host>,
    history: Shared,
    deliverer: Deliverer,
}

fn run(template: &Template, seed: u64, faults: &[Fault], deliverer: Deliverer) -> Run {
    let mut simulation = Simulation::begin(template, seed, deliverer);
    let mut healing = 0;
    let mut next = faults.iter().peekable();
    while simulation.now < FAULTS_MS + CALM_MS {
        while let Some(fault) = next.next_if(|fault| fault.at <= simulation.now) {
            healing = healing.max(simulation.strike(fault.kind));
        }
        if simulation.now == healing.min(FAULTS_MS) {
            simulation.switch.heal();
        }
        if simulation.now == FAULTS_MS + CALM_MS / 2 {
            lock(&simulation.history).calm = true;
        }
        simulation.step();
        if !lock(&simulation.history).broken.is_empty() {
            break;
        }
    }
    simulation.end()
}

impl Simulation {
    /// Three hosts that are about to start.
    fn begin(template: &Template, seed: u64, deliverer: Deliverer) -> Self {
        let dir = scratch();
        copy(template.dir.path(), dir.path());
        let switch = Switch::install(seed);
        let hosts = template
            .identities
            .iter()
            .enumerate()
            .map(|(host, identity)| {
                switch.host(host, (identity.node_id, identity.cluster_id));
                Host {
                    dir: dir.path().join(host.to_string()),
                    life: 0,
                    running: None,
                    cluster: Arc::default(),
                    fatal: Arc::default(),
                    up_at: 0,
                    paused_until: 0,
                    stepped: 0,
                    lost: false,
                }
            });
        let hosts = hosts.collect();
        Self {
            seed,
            now: 0,
            dir,
            switch,
            hosts,
            history: Arc::default(),
            deliverer,
        }
    }

    fn step(&mut self) {
        self.now += 1;
        self.switch.tick();
        for host in 0..HOSTS {
            let at = &self.hosts[host];
            let failed = lock(&at.fatal).take();
            if let Some(why) = failed {
                tracing::info!(host, "{why}");
                self.crash(host, 500, false);
            }
            let at = &self.hosts[host];
            if at.running.is_none() && !at.lost && at.up_at <= self.now {
                self.start(host);
            }
            let at = &mut self.hosts[host];
            if let Some(running) = &at.running
                && at.paused_until <= self.now
            {
                step(running, self.now - at.stepped - 1);
                at.stepped = self.now;
            }
        }
        if self.now.is_multiple_of(50) {
            self.look();
        }
    }

    /// What no moment may show.
    fn look(&mut self) {
        let mut history = lock(&self.history);
        for (number, host) in self.hosts.iter().enumerate() {
            let Some(cluster) = lock(&host.cluster).clone() else {
                continue;
            };
            let installed = cluster.vitals().snapshots_installed;
            history.installed.insert((number, host.life), installed);
            let (term, leads, applied) = {
                let metrics = cluster.0.raft.metrics();
                let metrics = metrics.borrow_watched();
                let applied = metrics.last_applied.map_or(0, |id| id.index);
                (metrics.current_term, metrics.state.is_leader(), applied)
            };
            history.sees((number, host.life), &cluster.view());
            let me = cluster.me().id.0;
            self.switch.note(&[1, me, term, u64::from(leads), applied]);
            if self.now.is_multiple_of(1000) {
                let missing = cluster.bodies().missing(&cluster.view()).unwrap();
                history.holds(missing == 0, || {
                    format!("node {me} has entries and not the {missing} bodies that they need")
                });
                let hash = StateHash::of(&cluster.view()).unwrap();
                let first = *history.hashes.entry(hash.applied).or_insert(hash.hash);
                history.holds(first == hash.hash, || {
                    format!(
                        "node {me} has another state than others after entry {}",
                        hash.applied
                    )
                });
            }
        }
    }

    fn start(&mut self, host: usize) {
        let at = &mut self.hosts[host];
        at.life += 1;
        let seed = mix(self.seed ^ (host as u64) << 32 ^ at.life << 48);
        let (runtime, machine) = machine(host, BEGIN + self.now, seed);
        let options = options(host, &at.dir, snapshot_every(self.seed), &at.fatal);
        let (slot, fatal, history) = (at.cluster.clone(), at.fatal.clone(), self.history.clone());
        let deliverer = self.deliverer;
        self.switch.up(host);
        self.switch.note(&[2, host as u64]);
        enter(Some(machine.clone()));
        let stores = {
            let _inside = runtime.enter();
            super::reopen(&options)
        };
        match stores {
            Ok(Some(stores)) => {
                runtime.spawn(async move {
                    match super::start(options, stores, listener(), None).await {
                        Ok(cluster) => {
                            *lock(&slot) = Some(cluster.clone());
                            tokio::spawn(send(cluster.clone(), history.clone()));
                            deliverer(cluster, history);
                        }
                        Err(error) => {
                            lock(&fatal).get_or_insert(error.to_string());
                        }
                    }
                });
                at.running = Some((runtime, machine));
                at.stepped = self.now - 1;
                at.paused_until = 0;
            }
            Ok(None) => panic!("an identity is gone"),
            Err(error) => {
                let failed = at.dir.join("ledger/POISONED").exists()
                    || at.dir.join("bodies/POISONED").exists();
                lock(&self.history).holds(failed, || {
                    format!("host {host} does not start again: {error}")
                });
                at.lost = true;
            }
        }
        enter(None);
    }

    fn crash(&mut self, host: usize, ms: u64, tear: bool) {
        let at = &mut self.hosts[host];
        let Some((runtime, machine)) = at.running.take() else {
            return;
        };
        let next = self.dir.path().join(format!("{host}-{}", at.life));
        let flushed = wal(&at.dir);
        let cluster = lock(&at.cluster).take();
        if let Some(cluster) = cluster.filter(|_| tear) {
            cluster.0.store.write_out();
        }
        copy(&at.dir, &next);
        if let (Some((_, before)), Some((path, after))) = (flushed, wal(&next)) {
            let torn = before + machine.roll() % (after.saturating_sub(before) + 1);
            if after > before {
                let file = std::fs::File::options().write(true).open(path).unwrap();
                file.set_len(torn).unwrap();
            }
        }
        drop(runtime);
        let _left = std::fs::remove_dir_all(&at.dir);
        at.dir = next;
        at.up_at = self.now + ms;
        self.switch.down(host);
        self.switch.note(&[3, host as u64]);
    }

    /// Returns when the network is whole again.
    fn strike(&mut self, kind: Kind) -> u64 {
        let now = self.now;
        match kind {
            Kind::Crash { host, ms, tear } => self.crash(host, ms, tear),
            Kind::Blackout { ms } => {
                for host in 0..HOSTS {
                    self.crash(host, ms, false);
                }
            }
            Kind::Isolate { host, ms } => {
                for other in (0..HOSTS).filter(|other| *other != host) {
                    self.switch.cut(host, other);
                    self.switch.cut(other, host);
                }
                return now + ms;
            }
            Kind::OneWay { from, to, ms } => {
                self.switch.cut(from, to);
                return now + ms;
            }
            Kind::Pause { host, ms } => self.hosts[host].paused_until = now + ms,
            Kind::Skew { host, ms } => {
                if let Some((_, machine)) = &self.hosts[host].running {
                    machine.set_skew(ms);
                }
            }
            Kind::DiskFails { host } => {
                if let Some((_, machine)) = &self.hosts[host].running {
                    machine.fail_disk();
                }
            }
            Kind::Rot { host } => {
                let cluster = lock(&self.hosts[host].cluster).clone();
                if let Some(cluster) = cluster {
                    let domain = Domain::parse(DOMAIN).unwrap();
                    let held = query::held(&cluster.view(), &domain, None, 1).unwrap();
                    for held in held {
                        cluster.bodies().spoil(held.message);
                    }
                }
            }
        }
        0
    }

    /// What must be true when all has been well for a while.
    fn end(mut self) -> Run {
        let mut history = std::mem::take(&mut *lock(&self.history));
        let whole = history.broken.is_empty();
        let lost: Vec<MessageId> = history
            .accepted
            .keys()
            .filter(|id| !history.delivered.contains_key(id))
            .copied()
            .collect();
        history.holds(!whole || lost.is_empty(), || {
            format!(
                "{} messages were acknowledged and never delivered: {lost:?}",
                lost.len()
            )
        });
        let after_refusal: Vec<MessageId> = history
            .refused
            .iter()
            .filter(|id| history.delivered.contains_key(id))
            .copied()
            .collect();
        history.holds(after_refusal.is_empty(), || {
            format!("delivered although the sender was told 451: {after_refusal:?}")
        });
        let accepted = history.accepted.len();
        history.holds(!whole || accepted > 0, || {
            "nothing was accepted in all the time".into()
        });
        for host in &mut self.hosts {
            lock(&host.cluster).take();
            host.running = None;
        }
        let trace = self.switch.trace();
        Switch::uninstall();
        Run {
            trace,
            simulated: Duration::from_millis(self.now),
            accepted,
            delivered: history.delivered.len(),
            installed: history.installed.values().sum(),
            broken: history.broken,
        }
    }
}

/// The ledger's write-ahead log that is written to, and its length.
fn wal(dir: &Path) -> Option<(PathBuf, u64)> {
    let files = std::fs::read_dir(dir.join("ledger")).ok()?;
    let logs = files.flatten().map(|file| file.path());
    let last = logs
        .filter(|path| path.extension().is_some_and(|e| e == "log"))
        .max()?;
    let len = std::fs::metadata(&last).ok()?.len();
    Some((last, len))
}

/// A sender: one message after the other, by the rules of the intake.
async fn send(cluster: Cluster, history: Shared) {
    for count in 0u64.. {
        sleep(Duration::from_millis(
            200 + u64::from(crate::world::random::<1>()[0]) * 4,
        ))
        .await;
        // The last ones need time to be delivered.
        if lock(&history).calm {
            return;
        }
        let id = MessageId::new(super::now(), super::random_id());
        let content = format!("{count} from {}\r\n{id}\r\n", cluster.me().id).into_bytes();
        let mut writer = cluster.bodies().begin(id);
        let Ok(body) = async {
            writer.write(content.clone().into()).await?;
            writer.finish().await
        }
        .await
        else {
            continue;
        };
        let accepted = propose(&cluster, accept(body)).await;
        let told = match accepted {
            Ok(Reply::Accepted { .. }) => Some(true),
            Ok(_) | Err(ProposeError::NotProposed(_)) => Some(false),
            Err(ProposeError::Unknown(_)) => {
                match propose(&cluster, Command::Cancel { message: id }).await {
                    Ok(Reply::Cancelled | Reply::Refused(Refusal::Cancelled)) => Some(false),
                    Ok(Reply::AlreadyAccepted) => Some(true),
                    _ => None,
                }
            }
        };
        let mut history = lock(&history);
        match told {
            Some(true) => {
                history.accepted.insert(id, content);
            }
            Some(false) => {
                history.refused.insert(id);
            }
            None => history.unanswered += 1,
        }
    }
}

fn accept(body: BodyRef) -> Command {
    Command::Accept {
        envelope: Envelope {
            id: body.id,
            reverse_path: ReversePath::Null,
            recipients: vec![Recipient {
                address: Address::parse(&format!("a@{DOMAIN}"), false).unwrap(),
                notify: None,
                orcpt: None,
            }],
            body,
            received_at: super::now(),
            body_type: BodyType::SevenBit,
            smtputf8: false,
            ret: None,
            envid: None,
            helo: String::new(),
            client: String::new(),
        },
    }
}

fn in_a_loop(cluster: Cluster, history: Shared) {
    tokio::spawn(deliver(cluster, history));
}

/// Delivers while it has the lease.
async fn deliver(cluster: Cluster, history: Shared) {
    let domain = Domain::parse(DOMAIN).unwrap();
    let me = cluster.me().id;
    loop {
        sleep(Duration::from_millis(500)).await;
        let acquire = Command::AcquireLease {
            domain: domain.clone(),
            node: me,
            ttl_ms: 10_000,
        };
        let until = Instant::now() + Duration::from_secs(6);
        let Ok(Reply::Lease { epoch, .. }) = propose(&cluster, acquire).await else {
            continue;
        };
        // What others recorded under older leases is seen from here on.
        seen(until, || {
            let lease = query::lease(&cluster.view(), &domain).unwrap();
            lease.is_some_and(|lease| lease.epoch >= epoch)
        })
        .await;
        while Instant::now() < until {
            let held = query::held(&cluster.view(), &domain, None, 16).unwrap_or_default();
            let mut outcomes = Vec::new();
            for held in held {
                let envelope = query::envelope(&cluster.view(), held.message);
                let Ok(Some(envelope)) = envelope else {
                    continue;
                };
                let Some(content) = content(&cluster, &envelope.body).await else {
                    continue;
                };
                if Instant::now() >= until {
                    break;
                }
                let id = held.message;
                lock(&history).took(id, &content);
                outcomes.push(Outcome {
                    message: id,
                    recipient: 0,
                    verdict: Verdict::Delivered,
                    reply: "250 2.0.0 taken".into(),
                });
            }
            if outcomes.is_empty() {
                sleep(Duration::from_millis(100)).await;
                continue;
            }
            let ids: Vec<MessageId> = outcomes.iter().map(|outcome| outcome.message).collect();
            let settle = Command::Settle {
                domain: domain.clone(),
                node: me,
                epoch,
                outcomes,
            };
            match propose(&cluster, settle).await {
                Ok(Reply::Done) => {}
                _ => break,
            }
            seen(until, || {
                let held = query::held(&cluster.view(), &domain, None, 16).unwrap();
                !held.iter().any(|held| ids.contains(&held.message))
            })
            .await;
        }
        let release = Command::ReleaseLease {
            domain: domain.clone(),
            node: me,
            epoch,
        };
        let _late = propose(&cluster, release).await;
    }
}

/// Waits until this node has applied what it was told.
async fn seen(until: Instant, applied: impl Fn() -> bool) {
    while Instant::now() < until && !applied() {
        sleep(Duration::from_millis(5)).await;
    }
}

async fn content(cluster: &Cluster, body: &BodyRef) -> Option<Vec<u8>> {
    let mut reader = cluster.bodies().read(body).await.ok()?;
    let mut content = Vec::new();
    while let Some(chunk) = reader.next().await.ok()? {
        content.extend_from_slice(&chunk);
    }
    Some(content)
}

/// The fewest of `faults` with which the seed still fails.
fn shrink(
    template: &Template,
    seed: u64,
    mut faults: Vec<Fault>,
    deliverer: Deliverer,
) -> Vec<Fault> {
    let mut at = 0;
    while at < faults.len() {
        let mut fewer = faults.clone();
        fewer.remove(at);
        if run(template, seed, &fewer, deliverer).broken.is_empty() {
            at += 1;
        } else {
            faults = fewer;
        }
    }
    faults
}

/// Runs one seed, or some of its faults; a failure is told with the fewest that bring it about.
fn check(
    template: &Template,
    seed: u64,
    only: Option<&[usize]>,
    deliverer: Deliverer,
) -> Result<Run, String> {
    let mut faults = faults(seed);
    if let Some(only) = only {
        faults.retain(|fault| only.contains(&fault.number));
    }
    let went = run(template, seed, &faults, deliverer);
    if went.broken.is_empty() {
        return Ok(went);
    }
    let least = shrink(template, seed, faults, deliverer);
    let numbers: Vec<String> = least.iter().map(|fault| fault.number.to_string()).collect();
    let numbers = numbers.join(",");
    let least: Vec<String> = least.iter().map(Fault::to_string).collect();
    Err(format!(
        "seed {seed}, trace {}, {:.1} s: {}\nthe fewest faults with which it fails:\n{}\n\
         again: ops/simulate {seed} '{numbers}'",
        went.trace,
        went.simulated.as_secs_f64(),
        went.broken.join("; "),
        least.join("\n")
    ))
}

/// `17` or `0..100`.
fn seeds(text: &str) -> std::ops::Range<u64> {
    let number = |text: &str| text.parse().expect("HOLDFAST_SEEDS is like 17 or 0..100");
    match text.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => number(text)..number(text) + 1,
    }
}

/// Seeds that once failed.
fn old_seeds() -> impl Iterator<Item = u64> {
    include_str!("simulation/seeds.txt")
        .lines()
        .filter_map(|line| line.split('#').next()?.trim().parse().ok())
}

#[test]
fn no_seed_loses_mail() {
    play(in_a_loop);
}

/// Plays the seeds that are asked for.
pub(crate) fn play(deliverer: Deliverer) {
    let begun = std::time::Instant::now();
    let seeds: Vec<u64> = match std::env::var("HOLDFAST_SEEDS") {
        Ok(asked) => seeds(&asked).collect(),
        Err(_) => old_seeds().chain(0..USUAL).collect(),
    };
    let only: Option<Vec<usize>> = std::env::var("HOLDFAST_FAULTS").ok().map(|numbers| {
        let numbers = numbers.split(',').filter(|number| !number.is_empty());
        numbers.map(|number| number.parse().unwrap()).collect()
    });
    let template = template();
    let (mut simulated, mut failed) = (Duration::ZERO, Vec::new());
    for seed in seeds {
        match check(&template, seed, only.as_deref(), deliverer) {
            Ok(went) => {
                simulated += went.simulated;
                println!(
                    "seed {seed} trace {} accepted {} delivered {} snapshots {}",
                    went.trace, went.accepted, went.delivered, went.installed
                );
            }
            Err(why) => {
                println!("{why}");
                failed.push(why);
                break;
            }
        }
    }
    let taken = begun.elapsed();
    println!(
        "{} simulated seconds in {:.1} s: {:.0} a second",
        simulated.as_secs(),
        taken.as_secs_f64(),
        simulated.as_secs_f64() / taken.as_secs_f64()
    );
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn the_same_seed_goes_the_same_way() {
    goes_the_same_way(in_a_loop);
}

pub(crate) fn goes_the_same_way(deliverer: Deliverer) {
    let template = template();
    let faults = faults(3);
    let traces = [0, 1].map(|_| run(&template, 3, &faults, deliverer).trace);
    assert_eq!(traces[0], traces[1]);
}

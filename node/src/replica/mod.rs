//! The replicated log, state and bodies: the only room that knows openraft.
//!
//! Above it the cluster is a [`Cluster`]: propose a command, read a view, hear effects, move
//! bodies. Below it are the stores and the network.

mod admission;
mod bodies;
mod clock;
mod codec;
pub mod copy;
mod credentials;
mod doorman;
mod duty;
#[cfg(test)]
mod fuzz;
mod gate;
mod handle;
mod identity;
mod knock;
mod lacking;
pub(crate) mod level;
mod log_storage;
mod lookout;
pub mod membership;
mod network;
pub mod offline;
mod peers;
mod propose;
mod rehearsal;
mod renewal;
pub mod replace;
mod room;
mod service;
#[cfg(test)]
pub(crate) mod simulated;
#[cfg(test)]
pub(crate) mod simulation;
mod snapshot;
mod state_hash;
mod state_machine;
mod tally;
#[cfg(test)]
mod tests;
mod timing;
mod trace;
mod types;
mod vitals;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use holdfast_ledger::{Command, Effect, Member, Reply};
use holdfast_mail::{NodeId, mutant};
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

pub use bodies::{Bodies, BodyError, BodyReader, BodyWriter, Copies};
pub(crate) use clock::follow as follow_clock;
pub use clock::now;
pub use credentials::read as credentials;
pub use duty::{Duties, Served};
pub use handle::{Cluster, Place, ProposeError, Stands};
pub use identity::{Identity, IdentityError};
pub use knock::{Ear, KNOCKS_MAX, Knock};
pub use lookout::{Looking, Lookout};
pub use rehearsal::{DRILL_LEASE, Rehearsal};
pub use state_hash::StateHash;
pub use tally::Tally;
pub use trace::Seen;
pub use vitals::Vitals;

use crate::config::WanProfile;
use crate::net::{authority, grpc, listen::Listener};
use crate::store::{BodyStore, Store, StoreError};
use crate::world::{self, random};
use credentials::Papers;
use handle::Inner;
use types::Seat;

/// Effects that may wait for a slow listener; one that misses some scans the state.
const EFFECTS_KEPT: usize = 8192;

/// How often the disk's free space is looked at: within that time the fastest senders do not fill
/// what is kept free.
const DISK_LOOK: Duration = Duration::from_millis(250);

/// How often deleted bodies are made to give their room back while the disk is nearly full: it is read and
/// written for that.
const RECLAIM_EVERY: Duration = Duration::from_secs(60);

/// How often the chores are done.
const CHORES_EVERY: Duration = Duration::from_secs(2);

/// How often abandoned bodies are looked for.
const ORPHAN_LOOK: Duration = Duration::from_secs(3600);

/// What a replica needs to start.
pub struct Options {
    pub data_dir: PathBuf,
    /// `id` is taken from the identity.
    pub member: Member,
    pub profile: WanProfile,
    /// Entries between two snapshots: `config::SNAPSHOT_EVERY`, or fewer in tests.
    pub snapshot_every: u64,
    /// Below this many free bytes no new mail is taken.
    pub disk_free_min: u64,
    /// Called once when this node can no longer be trusted (a failed fsync, a broken state);
    /// it must end the process.
    pub fatal: Arc<dyn Fn(String) + Send + Sync>,
    pub flush_times: crate::store::FlushTimes,
}

/// Why a replica does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("TLS: {0}")]
    Tls(String),
    #[error("consensus: {0}")]
    Raft(String),
    #[error("{0}")]
    TooOld(String),
}

/// The stores of a node that may start.
pub struct Stores {
    identity: Identity,
    ledger: Arc<Store>,
    bodies: Arc<BodyStore>,
}

const SEAL: &[u8] = b"identity";

fn open_stores(options: &Options) -> Result<(Arc<Store>, Arc<BodyStore>), StartError> {
    let store_options = crate::store::Options {
        fatal: options.fatal.clone(),
        flush_times: options.flush_times.clone(),
        failures: crate::store::Failures::default(),
    };
    let ledger = Store::open(&options.data_dir.join("ledger"), store_options.clone())?;
    let bodies = BodyStore::open(&options.data_dir.join("bodies"), store_options)?;
    Ok((Arc::new(ledger), Arc::new(bodies)))
}

/// Opens what a node that already is a member left on its disk; `None` where it never joined.
pub fn reopen(options: &Options) -> Result<Option<Stores>, StartError> {
    let dir = &options.data_dir;
    let ledger_there = dir.join("ledger").exists();
    let Some(identity) = Identity::read(dir)? else {
        return if ledger_there {
            Err(IdentityError::Mismatch { dir: dir.clone() }.into())
        } else {
            Ok(None)
        };
    };
    let wiped = || IdentityError::Wiped {
        dir: dir.clone(),
        node: identity.node_id,
    };
    let there = ledger_there && dir.join("bodies").exists();
    if !there && !mutant("wiped-node-starts") {
        return Err(wiped().into());
    }
    let (ledger, bodies) = open_stores(options)?;
    match ledger.meta(SEAL)? {
        None if mutant("wiped-node-starts") => Ok(Some(Stores {
            identity,
            ledger,
            bodies,
        })),
        None => Err(wiped().into()),
        Some(seal) if seal[..] == identity.seal()[..] => Ok(Some(Stores {
            identity,
            ledger,
            bodies,
        })),
        Some(_) => Err(IdentityError::Mismatch { dir: dir.clone() }.into()),
    }
}

/// Makes the stores of a node that has just been given `identity`. The seal goes into the
/// database before the identity lies beside it: a crash between the two leaves a directory that
/// is refused, never one that votes with nothing.
pub async fn create(options: &Options, identity: Identity) -> Result<Stores, StartError> {
    let (ledger, bodies) = open_stores(options)?;
    ledger.put_meta_durable(SEAL, &identity.seal()).await?;
    snapshot::forget(&options.data_dir)?;
    identity.write(&options.data_dir)?;
    Ok(Stores {
        identity,
        ledger,
        bodies,
    })
}

/// The identity of the first node of a new cluster, and the command that begins its log.
pub fn found(member: &Member) -> Result<(Identity, Command), StartError> {
    let tls_error = |e: &dyn std::fmt::Display| StartError::Tls(e.to_string());
    let cluster_id: [u8; 16] = random();
    let ca = authority::Authority::create(cluster_id).map_err(|e| tls_error(&e))?;
    let (key, request) = authority::request().map_err(|e| tls_error(&e))?;
    // Entry 0 is the first membership and entry 1 the first leader's blank, so no later entry
    // allocates this id.
    let node_id = NodeId(1);
    let certificate = authority::sign(&ca.certificate, &ca.key, &request, node_id, cluster_id)
        .map_err(|e| tls_error(&e))?;
    let bootstrap = Command::Bootstrap {
        cluster_id,
        ca_certificate: ca.certificate.clone(),
        ca_key: ca.key.clone(),
        first: Member {
            id: node_id,
            ..member.clone()
        },
        level: level::known(),
    };
    let identity = Identity {
        cluster_id,
        node_id,
        incarnation: random(),
        certificate,
        key,
        ca_certificate: ca.certificate,
    };
    Ok((identity, bootstrap))
}

/// Starts this node's replica: answers the other members on `listener` and takes part in Raft.
/// With `bootstrap`, as the first and only member of a new cluster.
pub async fn start(
    options: Options,
    stores: Stores,
    listener: Listener,
    bootstrap: Option<Command>,
) -> Result<Cluster, StartError> {
    let Stores {
        identity,
        ledger,
        bodies: body_store,
    } = stores;
    level::check(&ledger.view())?;
    let identity = Arc::new(identity);
    let me = Member {
        id: identity.node_id,
        ..options.member.clone()
    };
    let tls_error = |e: &dyn std::fmt::Display| StartError::Tls(e.to_string());
    let papers = Papers::open(&options.data_dir, &identity).map_err(|e| tls_error(&e))?;
    let server = papers.nodes();
    let peers = Arc::new(peers::Peers::new(identity.clone(), papers.client()));
    let (voters_tx, voters) = watch::channel(Vec::new());
    let room = Arc::new(room::Room::new(me.id.0, voters.clone()));

    let snapshots = snapshot::Snapshots::open(options.data_dir.join("snapshots"))?;
    let (effects, _) = broadcast::channel(EFFECTS_KEPT);
    let machine = state_machine::StateMachine::open(
        ledger.clone(),
        snapshots.clone(),
        effects.clone(),
        peers.clock.clone(),
    )?;
    let (applied, replaced) = (machine.applied(), machine.replaced());
    let config = options.profile.raft_config(options.snapshot_every);
    let config = config
        .validate()
        .map_err(|e| StartError::Raft(e.to_string()))?;
    let raft = types::Raft::new(
        me.id.0,
        Arc::new(config),
        network::Network {
            peers: peers.clone(),
            room: room.clone(),
        },
        log_storage::LogStorage::new(ledger.clone()),
        machine,
    )
    .await
    .map_err(|e| StartError::Raft(e.to_string()))?;

    let (members_tx, members) = watch::channel(BTreeMap::new());
    let bodies = Bodies::new(
        me.id.0,
        body_store,
        ledger.clone(),
        peers.clone(),
        (voters, room.clone()),
    );
    let (proposals, queue) = propose::queue();
    let inner = Arc::new(Inner {
        me: me.clone(),
        identity,
        papers,
        raft,
        store: ledger,
        bodies,
        peers,
        profile: options.profile,
        effects,
        proposals,
        applied,
        members,
        heard: std::sync::Mutex::default(),
        room,
        disk_free_min: AtomicU64::new(options.disk_free_min),
        disk_free: AtomicU64::new(0),
        disk_total: AtomicU64::new(0),
        leader_changes: AtomicU64::new(0),
        replaced,
        stopping: AtomicBool::new(false),
        promoting: std::sync::Mutex::default(),
        replacing: std::sync::Mutex::default(),
        lacking: Arc::default(),
        rehearsal: Rehearsal::new(me.id),
        lookout: std::sync::OnceLock::new(),
        tally: Tally::default(),
        history: std::sync::OnceLock::new(),
        traces: std::sync::OnceLock::new(),
        ear: std::sync::OnceLock::new(),
        retiring: watch::Sender::new(false),
        drained: watch::Sender::new(false),
        served: Arc::default(),
        retired: watch::Sender::new(false),
        removed: watch::Sender::new(false),
    });
    let cluster = Cluster(inner.clone());
    // Before a room opens its doors.
    duty::look(&cluster);
    look_at_disk(&inner, &options.data_dir);

    let router = service::Service::new(inner.clone(), snapshots).router();
    tokio::spawn({
        let fatal = options.fatal.clone();
        async move {
            let served = grpc::serve(router, listener, server).await;
            // A node that hears nobody but votes and leads would be half alive.
            if let Err(error) = served {
                fatal(format!("the cluster listener stopped: {error}"));
            }
        }
    });
    tokio::spawn(propose::run(inner.clone(), queue));
    tokio::spawn(follow_membership(
        inner.clone(),
        members_tx,
        voters_tx,
        options.fatal.clone(),
    ));
    tokio::spawn(duty::follow(cluster.clone(), options.fatal));
    tokio::spawn(inner.bodies.clone().push_to_members(inner.members.clone()));
    tokio::spawn(release_bodies(cluster.clone()));
    tokio::spawn(watch_disk(cluster.clone(), options.data_dir));
    tokio::spawn(look_after(cluster.clone()));
    tokio::spawn(membership::resume_promotions(cluster.clone()));
    tokio::spawn(renewal::run(cluster.clone()));

    if let Some(bootstrap) = bootstrap {
        found_cluster(&cluster, bootstrap).await?;
    }
    Ok(cluster)
}

async fn found_cluster(cluster: &Cluster, bootstrap: Command) -> Result<(), StartError> {
    let raft_error = |e: &dyn std::fmt::Display| StartError::Raft(e.to_string());
    let me = cluster.me();
    let seat = Seat {
        name: me.name.clone(),
        region: me.region.clone(),
        cluster_address: me.cluster_address.clone(),
    };
    let raft = &cluster.0.raft;
    if !raft.is_initialized().await.map_err(|e| raft_error(&e))? {
        raft.initialize(BTreeMap::from([(me.id.0, seat)]))
            .await
            .map_err(|e| raft_error(&e))?;
    }
    match cluster
        .propose(bootstrap, Instant::now() + Duration::from_secs(30))
        .await
    {
        Ok(Reply::Done) => Ok(()),
        other => Err(StartError::Raft(format!(
            "the first entry was not accepted: {other:?}"
        ))),
    }
}

impl Cluster {
    /// Leaves Raft in order: hands over leadership if this node has it, then stops.
    pub async fn stop(&self) {
        if self.leader() == Some(self.me().id) {
            match tokio::time::timeout(Duration::from_secs(5), membership::transfer(self, None))
                .await
            {
                Ok(Ok(to)) => tracing::info!(%to, "leadership handed over"),
                Ok(Err(error)) => tracing::info!("leadership stays until others elect: {error}"),
                Err(_) => tracing::info!("no other node took leadership in time"),
            }
        }
        self.0.stopping.store(true, Ordering::Relaxed);
        if let Err(error) = self.0.raft.shutdown().await {
            tracing::error!("consensus did not stop in order: {error}");
        }
        if let Err(error) = self.0.store.flush().await {
            tracing::error!("the last writes were not flushed: {error}");
        }
    }
}

/// Publishes the membership as Raft has it, and ends the process when Raft has failed.
async fn follow_membership(
    inner: Arc<Inner>,
    members: watch::Sender<BTreeMap<u64, Seat>>,
    voters: watch::Sender<bodies::VoterSets>,
    fatal: Arc<dyn Fn(String) + Send + Sync>,
) {
    let mut metrics = inner.raft.metrics();
    let mut last_leader = None;
    loop {
        {
            let now = metrics.borrow_watched();
            if let Err(error) = &now.running_state {
                if inner.stopping.load(Ordering::Relaxed) {
                    return;
                }
                fatal(format!("consensus failed: {error}"));
                return;
            }
            if let Some(leader) = now.current_leader
                && last_leader
                    .replace(leader)
                    .is_some_and(|last| last != leader)
            {
                inner.leader_changes.fetch_add(1, Ordering::Relaxed);
            }
            let membership = now.membership_config.membership();
            let seats: BTreeMap<u64, Seat> = membership
                .nodes()
                .map(|(id, seat)| (*id, seat.clone()))
                .collect();
            members.send_if_modified(|known| {
                let changed = *known != seats;
                *known = seats;
                changed
            });
            let sets = membership.get_joint_config().clone();
            voters.send_if_modified(|known| {
                let changed = *known != sets;
                *known = sets;
                changed
            });
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

/// Lets go of bodies that the ledger released.
async fn release_bodies(cluster: Cluster) {
    let mut effects = cluster.effects();
    loop {
        match effects.recv().await {
            Ok(Effect::BodyReleased { body }) => cluster.bodies().release(body),
            // What is missed here, the search for abandoned bodies finds.
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

fn look_at_disk(inner: &Inner, data_dir: &Path) {
    match crate::store::disk_space(data_dir) {
        Ok(space) => {
            inner.disk_free.store(space.free, Ordering::Relaxed);
            inner.disk_total.store(space.total, Ordering::Relaxed);
            let free_min = inner.disk_free_min.load(Ordering::Relaxed);
            if let Some(low) = inner.room.look(space.free, free_min) {
                tracing::warn!(
                    free_bytes = space.free,
                    "{}",
                    if low {
                        "the disk is nearly full: no new mail is taken"
                    } else {
                        "the disk has room again"
                    }
                );
            }
        }
        Err(error) => tracing::error!("cannot tell the disk's free space: {error}"),
    }
}

/// Looks at the disk, whatever else goes on: a flood fills the last of it within seconds. And, while it is
/// nearly full, has what deleted bodies take given back.
async fn watch_disk(cluster: Cluster, data_dir: PathBuf) {
    let mut reclaiming = tokio::spawn(std::future::ready(()));
    let mut every = tokio::time::interval(DISK_LOOK);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        look_at_disk(&cluster.0, &data_dir);
        // That takes some room itself, and a write that finds none ends the process.
        let room = &cluster.0.room;
        if room.is_low() && !room.is_full() && reclaiming.is_finished() {
            reclaiming = tokio::spawn(reclaim(cluster.clone()));
        }
    }
}

async fn reclaim(cluster: Cluster) {
    let bodies = cluster.bodies().clone();
    match world::blocking(move || bodies.store().reclaim()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!("deleted bodies still take room: {error}"),
        Err(error) => tracing::error!("deleted bodies still take room: {error}"),
    }
    tokio::time::sleep(RECLAIM_EVERY).await;
}

/// The chores: released and abandoned bodies, expired marks, and, while no leader
/// is heard, whether this node was removed.
async fn look_after(cluster: Cluster) {
    let mut last_orphans = Instant::now();
    let mut turn = 0u64;
    let mut every = tokio::time::interval(CHORES_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        turn += 1;
        // Nodes know the cluster's time from the log alone. While nothing is logged and the clocks are
        // set forward, nobody would notice that mail is due.
        if cluster.0.peers.clock.is_ahead_of_the_log() {
            sweep_log(&cluster).await;
        }
        if let Err(error) = cluster.bodies().sweep_released() {
            tracing::error!("cannot delete bodies that are no longer needed: {error}");
        }
        if !cluster.has_quorum() {
            let others: Vec<u64> = cluster
                .0
                .members
                .borrow()
                .keys()
                .copied()
                .filter(|id| *id != cluster.me().id.0)
                .collect();
            if let Some(other) =
                others.get(usize::try_from(turn).unwrap_or(0) % others.len().max(1))
            {
                // The answer matters only if it says that this node was removed.
                let _standing = cluster.ask_standing(*other).await;
            }
        }
        if last_orphans.elapsed() >= ORPHAN_LOOK {
            last_orphans = Instant::now();
            sweep(&cluster).await;
        }
    }
}

async fn sweep(cluster: &Cluster) {
    let all_applied = {
        let raft = cluster.0.raft.clone();
        move || {
            let metrics = raft.metrics();
            let metrics = metrics.borrow_watched();
            metrics.last_log_index == metrics.last_applied.map(|id| id.index)
        }
    };
    {
        let cluster = cluster.clone();
        let swept = world::blocking(move || cluster.bodies().sweep_orphans(all_applied)).await;
        match swept {
            Ok(Ok(0)) => {}
            Ok(Ok(bodies)) => tracing::info!(bodies, "abandoned bodies deleted"),
            Ok(Err(error)) => tracing::error!("cannot delete abandoned bodies: {error}"),
            Err(error) => tracing::error!("the search for abandoned bodies stopped: {error}"),
        }
    }
    sweep_log(cluster).await;
}

/// Has expired marks swept, if this node leads.
async fn sweep_log(cluster: &Cluster) {
    if cluster.leader() == Some(cluster.me().id) {
        let deadline = Instant::now() + Duration::from_secs(30);
        if let Err(error) = cluster.propose(Command::Sweep, deadline).await {
            tracing::info!("old marks are swept later: {error}");
        }
    }
}

/// The random part of a message id.
#[must_use]
pub fn random_id() -> u128 {
    u128::from_be_bytes(random())
}

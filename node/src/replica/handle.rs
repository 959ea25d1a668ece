//! The cluster, as the rooms above see it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use holdfast_ledger::{Command, Effect, Member, Refusal, Reply, query};
use holdfast_mail::{MessageId, NodeId, Timestamp};
use holdfast_proto::cluster as wire;
use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::Instant;

use super::bodies::{Bodies, Copies};
use super::credentials::Papers;
use super::lacking::Lacking;
use super::lookout::Lookout;
use super::membership::member_to_wire;
use super::peers::Peers;
use super::propose::{self, Waiting};
use super::rehearsal::Rehearsal;
use super::room::Room;
use super::tally::Tally;
use super::types::{LogId, Raft, Seat};
use super::{Identity, StateHash, codec, level};
use crate::config::WanProfile;
use crate::history::History;
use crate::net::authority;
use crate::net::tls::ClusterServer;
use crate::observe::Traces;
use crate::store::{Store, View};

/// How long somebody who changed something waits until this node's view shows it: some round trips.
const SEEN_TIME_MAX: Duration = Duration::from_secs(2);

/// How long a node may take to say how it stands.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

/// The same where it counts the bodies that it lacks: one look for each held message, and somebody else's
/// count may have to end first.
const COUNT_TIME_MAX: Duration = Duration::from_secs(30 * 60);

/// Why a proposal has no reply.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProposeError {
    /// Nothing entered the log: whatever it was will not happen.
    #[error("{0}")]
    NotProposed(String),
    /// It entered a log, and may still be committed.
    #[error("{0}")]
    Unknown(String),
}

/// This node's membership in the cluster. Cheap to clone.
#[derive(Clone)]
pub struct Cluster(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) me: Member,
    pub(crate) identity: Arc<Identity>,
    pub(crate) papers: Papers,
    pub(crate) raft: Raft,
    pub(crate) store: Arc<Store>,
    pub(crate) bodies: Bodies,
    pub(crate) peers: Arc<Peers>,
    pub(crate) profile: WanProfile,
    pub(crate) effects: broadcast::Sender<Effect>,
    pub(crate) proposals: mpsc::Sender<Waiting>,
    pub(crate) applied: watch::Receiver<Option<LogId>>,
    pub(crate) members: watch::Receiver<BTreeMap<u64, Seat>>,
    /// When a leader was last heard from.
    pub(crate) heard: Mutex<Option<Instant>>,
    pub(crate) room: Arc<Room>,
    pub(crate) disk_free_min: AtomicU64,
    pub(crate) disk_free: AtomicU64,
    pub(crate) disk_total: AtomicU64,
    /// How often another node than the last was seen to lead.
    pub(crate) leader_changes: AtomicU64,
    /// How often all rows were replaced by another node's.
    pub(crate) replaced: Arc<AtomicU64>,
    /// Consensus is being stopped on purpose: that it has stopped is no failure.
    pub(crate) stopping: AtomicBool,
    /// Nodes that this one, as leader, is making voters.
    pub(crate) promoting: Mutex<BTreeSet<u64>>,
    /// Whose place a node takes when it becomes one: the new one's id, and the dead one's.
    pub(crate) replacing: Mutex<BTreeMap<u64, u64>>,
    pub(crate) lacking: Arc<Lacking>,
    pub(crate) rehearsal: Rehearsal,
    pub(crate) lookout: OnceLock<Arc<dyn Lookout>>,
    pub(crate) tally: Tally,
    pub(crate) history: OnceLock<History>,
    pub(crate) traces: OnceLock<Traces>,
    pub(crate) ear: OnceLock<super::knock::Ear>,
    /// Set when this node is about to be removed; the rooms above hand back what they hold and
    /// then report through `retired`.
    pub(crate) retiring: watch::Sender<bool>,
    pub(crate) retired: watch::Sender<bool>,
    /// This node is drained.
    pub(crate) drained: watch::Sender<bool>,
    /// Clients and customers whom this node serves.
    pub(crate) served: Arc<AtomicU64>,
    /// Set when a peer says that this node was removed from the cluster.
    pub(crate) removed: watch::Sender<bool>,
}

impl Cluster {
    /// Proposes a command and waits for the ledger's reply. Commands of neighbours travel
    /// together; the leader may be any node; what is safe to repeat is repeated until the
    /// deadline.
    pub async fn propose(
        &self,
        command: Command,
        deadline: Instant,
    ) -> Result<Reply, ProposeError> {
        // Nodes that do not know the command would stop at it.
        if command.level() > 1 && !raises(&command) && command.level() > self.level() {
            return Ok(Reply::Refused(Refusal::NotFinalized));
        }
        propose::submit(&self.0.proposals, command, deadline).await
    }

    /// The cluster's time, as far as this node has heard of it: what decides when a lease, or
    /// somebody's being there, ends. Its own clock may be wrong.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        self.0.peers.clock.time()
    }

    /// What this node has applied, as one consistent view. It may lag behind the leader.
    #[must_use]
    pub fn view(&self) -> View {
        self.0.store.view()
    }

    /// What this node's rows come to.
    pub async fn state_hash(&self) -> io::Result<StateHash> {
        let view = self.view();
        crate::world::blocking(move || StateHash::of(&view)).await?
    }

    /// What happens from now on. Hints: after `Lagged`, and at the start, scan the state.
    #[must_use]
    pub fn effects(&self) -> broadcast::Receiver<Effect> {
        self.0.effects.subscribe()
    }

    #[must_use]
    pub fn me(&self) -> &Member {
        &self.0.me
    }

    #[must_use]
    pub fn cluster_id(&self) -> [u8; 16] {
        self.0.identity.cluster_id
    }

    /// The members as the ledger knows them.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        query::members(&self.view()).unwrap_or_else(|error| {
            tracing::error!("cannot read the members: {}", error.0);
            Vec::new()
        })
    }

    /// Whether a leader is known and was heard from a moment ago, or this node leads and a
    /// quorum answers it.
    #[must_use]
    pub fn has_quorum(&self) -> bool {
        let silence_max = self.0.profile.leader_silence_max() * 2;
        let metrics = self.0.raft.metrics();
        let metrics = metrics.borrow_watched();
        match metrics.current_leader {
            None => false,
            Some(leader) if leader == self.0.me.id.0 => {
                // A sole voter is its own quorum, and sends itself no heartbeats to ack.
                let is_sole = metrics
                    .membership_config
                    .membership()
                    .voter_ids()
                    .eq([leader]);
                is_sole
                    || metrics
                        .last_quorum_acked
                        .as_ref()
                        .is_some_and(|at| at.elapsed() < silence_max)
            }
            Some(_) => {
                let heard = self.0.heard.lock().unwrap_or_else(PoisonError::into_inner);
                heard.is_some_and(|at| at.elapsed() < silence_max)
            }
        }
    }

    /// Whether this node has applied nearly all that it knows to be committed. One that catches
    /// up must not take on work that it would decide from an old view.
    #[must_use]
    pub fn is_current(&self) -> bool {
        const ENTRIES_BEHIND_MAX: u64 = 64;
        let metrics = self.0.raft.metrics();
        let metrics = metrics.borrow_watched();
        let index = |id: &Option<LogId>| id.map_or(0, |id| id.index);
        let applied = index(&metrics.last_applied);
        index(&metrics.cluster_committed) <= applied + ENTRIES_BEHIND_MAX
    }

    /// Waits until this node's view shows all that the leader has now, so that whoever changed something
    /// here finds it here next. It does not insist: somebody waits in front of a screen.
    pub async fn see_what_is_committed(&self) {
        let Some(leader) = self.leader().filter(|leader| *leader != self.me().id) else {
            return;
        };
        let seen = async {
            let standing = self.ask_standing(leader.0).await.ok()?;
            // What the leader has applied may be told a moment later than what it answered.
            let wanted = standing.last_log?.index;
            let mut applied = self.0.applied.clone();
            let shown = applied.wait_for(|id| id.is_some_and(|id| id.index >= wanted));
            shown.await.ok().map(drop)
        };
        if !matches!(
            tokio::time::timeout(SEEN_TIME_MAX, seen).await,
            Ok(Some(()))
        ) {
            tracing::debug!("this node's view does not show yet what the leader has");
        }
    }

    /// Who leads, as far as this node knows.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.0
            .raft
            .metrics()
            .borrow_watched()
            .current_leader
            .map(NodeId)
    }

    #[must_use]
    pub fn durable_copies(&self, message: MessageId) -> Copies {
        self.0.bodies.durable_copies(message)
    }

    #[must_use]
    pub fn bodies(&self) -> &Bodies {
        &self.0.bodies
    }

    /// With less free space than this, in bytes, no new mail is taken.
    pub fn set_disk_free_min(&self, bytes: u64) {
        self.0.disk_free_min.store(bytes, Ordering::Relaxed);
    }

    /// Whether the data directory's disk is nearly full: no new mail, but delivery goes on.
    #[must_use]
    pub fn disk_low(&self) -> bool {
        self.0.room.is_low() || self.0.rehearsal.disk_is_full()
    }

    /// Whether new mail can be taken: this node has room for it, and so has a quorum.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.disk_low() && !self.0.room.is_nowhere()
    }

    /// Resolves when a peer has said that this node was removed.
    pub async fn was_removed(&self) {
        let mut removed = self.0.removed.subscribe();
        let _sender_gone = removed.wait_for(|removed| *removed).await;
    }

    /// Resolves when this node is about to be removed: take no new mail, hand back leases, then
    /// call [`Self::retired`].
    pub async fn retiring(&self) {
        let mut retiring = self.0.retiring.subscribe();
        let _sender_gone = retiring.wait_for(|retiring| *retiring).await;
    }

    /// Whether this node is about to be removed.
    #[must_use]
    pub fn is_retiring(&self) -> bool {
        *self.0.retiring.borrow()
    }

    /// The rooms above hold no lease any more.
    pub fn retired(&self) {
        self.0.retired.send_replace(true);
    }

    /// Announces the removal and waits until the rooms above are done.
    pub(crate) async fn retire(&self) {
        let mut retired = self.0.retired.subscribe();
        self.0.retiring.send_replace(true);
        let limit = Duration::from_secs(10);
        let _late = tokio::time::timeout(limit, retired.wait_for(|retired| *retired)).await;
    }

    /// When this node's certificate in the cluster ends.
    #[must_use]
    pub fn certificate_ends(&self) -> Timestamp {
        let ends = authority::expires(&self.0.papers.now().certificate).unwrap_or(0);
        Timestamp(u64::try_from(ends).unwrap_or(0).saturating_mul(1000))
    }

    /// What a listener presents to operators who are elsewhere.
    #[must_use]
    pub fn people_server(&self) -> ClusterServer {
        self.0.papers.people()
    }

    /// How this node stands.
    #[must_use]
    pub fn standing(&self) -> wire::Standing {
        let metrics = self.0.raft.metrics();
        let metrics = metrics.borrow_watched();
        wire::Standing {
            node_id: self.0.me.id.0,
            version: env!("CARGO_PKG_VERSION").into(),
            last_log: Some(wire::LogId {
                index: metrics.last_log_index.unwrap_or(0),
                ..wire::LogId::default()
            }),
            applied: metrics.last_applied.as_ref().map(codec::log_id_to_wire),
            term: metrics.current_term,
            leader: metrics.current_leader.unwrap_or(0),
            disk_free_bytes: self.0.disk_free.load(Ordering::Relaxed),
            disk_total_bytes: self.0.disk_total.load(Ordering::Relaxed),
            bodies_missing: 0,
            voter: metrics
                .membership_config
                .voter_ids()
                .any(|id| id == self.0.me.id.0),
            retiring: self.is_retiring(),
            clock_ms: super::now().0,
            level: level::known(),
            drained: self.is_drained(),
            served: self.0.served.load(Ordering::Relaxed),
            certificate_ends_ms: self.certificate_ends().0,
            certificate_late: super::renewal::is_late(&self.0.papers.now().certificate),
            ..wire::Standing::default()
        }
    }

    /// The same, and what the request asks beside.
    pub(super) fn standing_for(&self, request: &wire::StandingRequest) -> wire::Standing {
        let mut standing = self.standing();
        let held = query::total(&self.view()).map_or(0, |total| total.messages);
        self.tally().tell(&mut standing, held, request.with_tries);
        standing.disk_low = self.disk_low();
        standing.has_body = MessageId::from_bytes(&request.body)
            .is_some_and(|id| self.bodies().present(id).unwrap_or(false));
        standing
    }

    /// How many bodies of held messages are not on this disk: counted now, or as far as that is known.
    pub(super) async fn bodies_missing(&self, counted: bool) -> io::Result<u64> {
        let cluster = self.clone();
        let counting = move || cluster.bodies().missing(&cluster.view());
        match counted {
            true => self.0.lacking.count(counting).await,
            false => Ok(self.0.lacking.about(counting).await),
        }
    }

    /// Asks every member how it stands; an error text, the round trip and, by this node's clock,
    /// when it had answered for each.
    pub async fn standings(&self) -> Vec<Stands> {
        self.standings_with(&wire::StandingRequest::default()).await
    }

    /// And whether each has a body.
    pub async fn standings_of(&self, body: MessageId) -> Vec<Stands> {
        let asked = wire::StandingRequest {
            body: body.to_bytes().to_vec().into(),
            with_tries: true,
            ..wire::StandingRequest::default()
        };
        self.standings_with(&asked).await
    }

    /// And when each tries the domains again that it delivers for.
    pub async fn standings_and_tries(&self) -> Vec<Stands> {
        let asked = wire::StandingRequest {
            with_tries: true,
            ..wire::StandingRequest::default()
        };
        self.standings_with(&asked).await
    }

    async fn standings_with(&self, asked: &wire::StandingRequest) -> Vec<Stands> {
        let seats: Vec<Place> = {
            let metrics = self.0.raft.metrics();
            let metrics = metrics.borrow_watched();
            let membership = metrics.membership_config.membership();
            let voters: BTreeSet<u64> = membership.voter_ids().collect();
            membership
                .nodes()
                .map(|(id, seat)| Place {
                    id: NodeId(*id),
                    name: seat.name.clone(),
                    region: seat.region.clone(),
                    voter: voters.contains(id),
                })
                .collect()
        };
        let asks = seats.into_iter().map(|seat| async move {
            let begin = Instant::now();
            let standing = if seat.id == self.0.me.id {
                Ok(self.standing_for(asked))
            } else {
                self.ask_how(seat.id.0, asked.clone()).await
            };
            (seat, standing, begin.elapsed(), super::now())
        });
        futures::future::join_all(asks).await
    }

    pub(crate) async fn ask_standing(&self, node: u64) -> Result<wire::Standing, String> {
        self.ask_how(node, wire::StandingRequest::default()).await
    }

    /// Asks a node that joins, and tells it where the others are.
    pub(crate) async fn ask_newcomer(&self, node: u64) -> Result<wire::Standing, String> {
        self.ask_how(node, self.for_a_newcomer()).await
    }

    /// The same, and has it count the bodies that it lacks.
    pub(crate) async fn ask_what_it_lacks(&self, node: u64) -> Result<wire::Standing, String> {
        let asked = wire::StandingRequest {
            with_missing: true,
            ..self.for_a_newcomer()
        };
        self.ask_how(node, asked).await
    }

    fn for_a_newcomer(&self) -> wire::StandingRequest {
        wire::StandingRequest {
            members: self.members().iter().map(member_to_wire).collect(),
            ..wire::StandingRequest::default()
        }
    }

    async fn ask_how(
        &self,
        node: u64,
        mut request: wire::StandingRequest,
    ) -> Result<wire::Standing, String> {
        let mut client = self
            .0
            .peers
            .members(node)
            .ok_or("its address is not known")?;
        request.envelope = self.0.peers.envelope(node);
        let limit = match request.with_missing {
            true => COUNT_TIME_MAX,
            false => ANSWER_TIME_MAX,
        };
        match tokio::time::timeout(limit, client.standing(request)).await {
            Ok(Ok(reply)) => Ok(reply.into_inner()),
            Ok(Err(status)) => {
                if status.code() == tonic::Code::PermissionDenied
                    && status.metadata().contains_key(super::service::REMOVED)
                {
                    self.0.removed.send_replace(true);
                }
                Err(status.message().to_owned())
            }
            Err(_) => Err(format!("no answer within {} s", limit.as_secs())),
        }
    }
}

/// A member, how it stands or why that is not known, the round trip, and when it had answered.
pub type Stands = (Place, Result<wire::Standing, String>, Duration, Timestamp);

/// The one command above the cluster's level that may be proposed: every member was asked.
fn raises(command: &Command) -> bool {
    match command {
        Command::RaiseLevel { .. } => true,
        Command::By { command, .. } => raises(command),
        _ => false,
    }
}

/// A member's place in Raft's membership.
#[derive(Clone, Debug)]
pub struct Place {
    pub id: NodeId,
    pub name: String,
    pub region: String,
    pub voter: bool,
}

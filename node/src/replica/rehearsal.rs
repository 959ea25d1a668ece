//! What this node pretends while a drill lasts.
//!
//! Kept in memory only, and over by this node's own clock: whatever becomes of the operator, of the
//! node that conducts the drill or of the network, nothing has to be undone. It is a lease of seconds
//! that the conductor renews until the drill's time is over: a node that is started again meanwhile takes it
//! up again with the next renewal.
//! Nothing here touches a disk, a database or mail: requests of others are left unanswered, and the
//! rooms above ask whether they are to be silent.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use holdfast_ledger::KvError;
use holdfast_ledger::drill::{Drill, DrillKind, drills};
use holdfast_mail::{MessageId, NodeId};
use holdfast_proto::cluster as wire;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::clock::now;
use super::handle::Cluster;

/// Receipts that are kept: those of the longest drill at the highest rate, each ten times.
const RECEIPTS_MAX: usize = 1_000_000;

/// How long a node pretends after it heard from the conductor last: a few renewals may be lost on the
/// way, and a conductor that died leaves nobody cut off for longer.
pub const DRILL_LEASE: Duration = Duration::from_secs(15);

/// How long another node may take to say that it does.
const ASK_TIME_MAX: Duration = Duration::from_secs(3);

/// The failure that is pretended.
#[derive(Debug)]
struct Act {
    drill: MessageId,
    kind: DrillKind,
    /// That fail.
    nodes: Vec<NodeId>,
    until: Instant,
}

impl Act {
    fn is_on(&self) -> bool {
        Instant::now() < self.until
    }

    /// Whether a node can neither hear nor speak.
    fn kills(&self, node: NodeId) -> bool {
        let kills = matches!(
            self.kind,
            DrillKind::LeaderLoss | DrillKind::NodeLoss | DrillKind::RegionLoss
        );
        kills && self.nodes.contains(&node)
    }

    fn parts(&self, one: NodeId, other: NodeId) -> bool {
        let is_between = self.nodes.contains(&one) != self.nodes.contains(&other);
        self.kills(one) || self.kills(other) || self.kind == DrillKind::Partition && is_between
    }
}

/// One for a node.
pub struct Rehearsal {
    me: NodeId,
    act: watch::Sender<Option<Arc<Act>>>,
    /// The drill that was ended last: a renewal that was under way does not begin it again.
    ended: Mutex<Option<MessageId>>,
    /// Canaries that came to this node, of the last drill.
    receipts: Mutex<(Option<MessageId>, Vec<wire::Receipt>)>,
    /// Where this node takes canaries.
    sink: OnceLock<SocketAddr>,
}

impl Rehearsal {
    pub(super) fn new(me: NodeId) -> Self {
        Self {
            me,
            act: watch::Sender::new(None),
            ended: Mutex::default(),
            receipts: Mutex::default(),
            sink: OnceLock::new(),
        }
    }

    fn act(&self) -> Option<Arc<Act>> {
        self.act.borrow().clone().filter(|act| act.is_on())
    }

    /// Whether this node pretends something for `drill`.
    #[must_use]
    pub fn is_on(&self, drill: MessageId) -> bool {
        self.act().is_some_and(|act| act.drill == drill)
    }

    /// Whether this node pretends nothing more for `drill`: it was ended, or nobody renewed it.
    #[must_use]
    pub fn is_done_with(&self, drill: MessageId) -> bool {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let act = self.act.borrow().clone();
        *ended == Some(drill) || act.is_some_and(|act| act.drill == drill && !act.is_on())
    }

    /// Whether this node pretends a failure of its own.
    #[must_use]
    pub fn pretends(&self) -> bool {
        self.act().is_some_and(|act| act.nodes.contains(&self.me))
    }

    /// Whether this node is to look as if it were down.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.act().is_some_and(|act| act.kills(self.me))
    }

    /// Resolves when this node is to look as if it had just died.
    pub async fn dies(&self) {
        let mut act = self.act.subscribe();
        let kills = |act: &Option<Arc<Act>>| {
            act.as_ref()
                .is_some_and(|act| act.is_on() && act.kills(self.me))
        };
        if act.wait_for(kills).await.is_err() {
            std::future::pending().await
        }
    }

    #[must_use]
    pub(super) fn disk_is_full(&self) -> bool {
        let is_full =
            |act: Arc<Act>| act.kind == DrillKind::DiskFull && act.nodes.contains(&self.me);
        self.act().is_some_and(is_full)
    }

    /// Whether the server that canaries are delivered to is to look as if it were down.
    #[must_use]
    pub fn primary_is_down(&self) -> bool {
        self.act()
            .is_some_and(|act| act.kind == DrillKind::PrimaryOutage)
    }

    /// Returns at once, or, where `peer` is not to reach this node, once it may again. A request is
    /// then too late: it was lost, as on a line that is cut.
    pub(super) async fn hears(&self, peer: NodeId) -> Result<(), tonic::Status> {
        let parts = |act: &Arc<Act>| act.parts(self.me, peer);
        let mut changes = self.act.subscribe();
        let mut was_lost = false;
        while let Some(act) = self.act().filter(parts) {
            was_lost = true;
            // A renewal, or the end.
            let changed = changes.wait_for(|now| {
                let is_same = |now: &Arc<Act>| Arc::ptr_eq(now, &act);
                !now.as_ref().is_some_and(is_same)
            });
            tokio::select! {
                () = sleep_until(act.until) => {}
                _ = changed => {}
            }
        }
        match was_lost {
            true => Err(tonic::Status::unavailable("lost in a drill")),
            false => Ok(()),
        }
    }

    /// Begins to pretend, or goes on. False: it was ended.
    fn begin(&self, drill: &Drill, lasts: Duration) -> bool {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if *ended == Some(drill.id) {
            return false;
        }
        let act = Act {
            drill: drill.id,
            kind: drill.plan.kind(),
            nodes: drill.plan.nodes.iter().map(|node| NodeId(*node)).collect(),
            until: Instant::now() + lasts.min(DRILL_LEASE),
        };
        if !self.is_on(drill.id) {
            tracing::warn!(
                drill = %act.drill,
                kind = act.kind.as_str_name(),
                "a drill: this node pretends a failure"
            );
        }
        self.act.send_replace(Some(Arc::new(act)));
        true
    }

    fn end(&self, drill: MessageId) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        *ended = Some(drill);
        let was_on = self.act.send_if_modified(|act| {
            let is_it = act.as_ref().is_some_and(|act| act.drill == drill);
            if is_it {
                *act = None;
            }
            is_it
        });
        if was_on {
            tracing::info!(%drill, "the drill's failure is over");
        }
    }

    /// A canary came to this node.
    pub fn received(&self, drill: MessageId, receipt: wire::Receipt) {
        let mut receipts = self.receipts.lock().unwrap_or_else(PoisonError::into_inner);
        if receipts.0 != Some(drill) {
            *receipts = (Some(drill), Vec::new());
        }
        if receipts.1.len() < RECEIPTS_MAX {
            receipts.1.push(receipt);
        }
    }

    fn receipts(&self, drill: MessageId) -> Vec<wire::Receipt> {
        let receipts = self.receipts.lock().unwrap_or_else(PoisonError::into_inner);
        match receipts.0 {
            Some(of) if of == drill => receipts.1.clone(),
            _ => Vec::new(),
        }
    }

    /// Where this node takes canaries; once.
    pub fn set_sink(&self, sink: SocketAddr) {
        let _set_before = self.sink.set(sink);
    }

    #[must_use]
    pub fn sink(&self) -> Option<SocketAddr> {
        self.sink.get().copied()
    }
}

impl Cluster {
    #[must_use]
    pub fn rehearsal(&self) -> &Rehearsal {
        &self.0.rehearsal
    }

    /// The drill that is on, if one is.
    ///
    /// # Errors
    /// The rows cannot be read.
    pub fn drill_under_way(&self) -> Result<Option<Drill>, KvError> {
        let all = drills(&self.view())?;
        Ok(all.into_iter().find(|drill| drill.is_under_way(now())))
    }

    /// Why nobody may be taken out of the cluster, if a drill is on: a node may only look dead, and
    /// what is measured would not be the drill's failure.
    ///
    /// # Errors
    /// As an operator reads it.
    pub(crate) fn must_not_rehearse(&self) -> Result<(), String> {
        match self.drill_under_way() {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(
                "a drill is under way: a node may only look dead, and one that is taken out besides would be a real \
                 failure on top of it; nothing was changed\nfix: wait until the drill is over, or: holdfast drill \
                 stop; and then see which nodes answer"
                    .into(),
            ),
            Err(error) => Err(error.0),
        }
    }

    /// Pretends what the ledger says of `drill`, for so long and no longer than [`DRILL_LEASE`]; a node
    /// that knows nothing of it does not.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn rehearse_here(
        &self,
        caller: NodeId,
        drill: MessageId,
        lasts: Duration,
    ) -> Result<(), String> {
        if lasts.is_zero() {
            self.rehearsal().end(drill);
            return Ok(());
        }
        let known = drills(&self.view()).map_err(|error| error.0)?;
        let known = known.iter().find(|known| known.id == drill);
        let known = known.ok_or("this node does not know the drill yet")?;
        let is_conductor = caller.0 == known.plan.conductor;
        let goes_on = is_conductor && known.is_under_way(now());
        match goes_on && self.rehearsal().begin(known, lasts) {
            true => Ok(()),
            false => Err("the drill has ended, or another node conducts it".to_owned()),
        }
    }

    /// Asks a member to pretend what the drill says for so long, or to go on; zero: no more.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn rehearse_at(
        &self,
        node: NodeId,
        drill: MessageId,
        lasts: Duration,
    ) -> Result<(), String> {
        if node == self.me().id {
            return self.rehearse_here(node, drill, lasts);
        }
        let peers = &self.0.peers;
        let mut client = peers.members(node.0).ok_or("its address is not known")?;
        let request = wire::RehearseRequest {
            envelope: peers.envelope(node.0),
            drill: drill.to_bytes().to_vec().into(),
            for_ms: u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX),
        };
        let asked = tokio::time::timeout(ASK_TIME_MAX, client.rehearse(request)).await;
        let reply = asked.map_err(|_| "no answer in time")?;
        match reply
            .map_err(|status| status.message().to_owned())?
            .into_inner()
            .refused
        {
            refused if refused.is_empty() => Ok(()),
            refused => Err(refused),
        }
    }

    /// The canaries of `drill` that came to a member.
    ///
    /// # Errors
    /// Why they are not known.
    pub async fn receipts_at(
        &self,
        node: NodeId,
        drill: MessageId,
    ) -> Result<Vec<wire::Receipt>, String> {
        if node == self.me().id {
            return Ok(self.receipts_here(drill));
        }
        let peers = &self.0.peers;
        let mut client = peers.members(node.0).ok_or("its address is not known")?;
        let request = wire::ReceiptsRequest {
            envelope: peers.envelope(node.0),
            drill: drill.to_bytes().to_vec().into(),
        };
        let asked = tokio::time::timeout(ASK_TIME_MAX, client.receipts(request)).await;
        let reply = asked.map_err(|_| "no answer in time")?;
        let reply = reply.map_err(|status| status.message().to_owned())?;
        Ok(reply.into_inner().receipts)
    }

    pub(super) fn receipts_here(&self, drill: MessageId) -> Vec<wire::Receipt> {
        self.rehearsal().receipts(drill)
    }
}

#[cfg(test)]
mod tests {
    use holdfast_ledger::drill::DrillPlan;
    use holdfast_mail::Timestamp;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn drill(kind: DrillKind, nodes: &[u64]) -> Drill {
        Drill {
            id: MessageId::new(Timestamp(1), 1),
            plan: DrillPlan {
                kind: kind.into(),
                nodes: nodes.to_vec(),
                ..DrillPlan::default()
            },
            began_at: Timestamp(1),
            events: Vec::new(),
            report: None,
        }
    }

    async fn is_heard(rehearsal: &Rehearsal, peer: u64) -> bool {
        let heard = rehearsal.hears(NodeId(peer));
        matches!(tokio::time::timeout(SECOND / 10, heard).await, Ok(Ok(())))
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_is_lost_hears_nobody_until_whoever_conducts_the_drill_is_not_heard_either()
    {
        let lost = drill(DrillKind::NodeLoss, &[2]);
        let (one, two) = (Rehearsal::new(NodeId(1)), Rehearsal::new(NodeId(2)));
        one.begin(&lost, 60 * SECOND);
        two.begin(&lost, 60 * SECOND);
        assert!(!is_heard(&one, 2).await && !is_heard(&two, 1).await && !is_heard(&two, 3).await);
        assert!(is_heard(&one, 3).await);
        assert!(two.is_dead() && !one.is_dead());
        two.dies().await;
        // It is renewed for a while, and then the conductor dies.
        let began = Instant::now();
        let renewed = async {
            for _ in 0..4 {
                tokio::time::sleep(DRILL_LEASE / 2).await;
                one.begin(&lost, 60 * SECOND);
                two.begin(&lost, 60 * SECOND);
            }
        };
        let (late, ()) = tokio::join!(two.hears(NodeId(3)), renewed);
        assert_eq!(late.unwrap_err().message(), "lost in a drill");
        assert_eq!(began.elapsed().as_secs(), (DRILL_LEASE * 3).as_secs());
        // Nobody had to end it.
        assert!(is_heard(&one, 2).await && is_heard(&two, 1).await && !two.is_dead());
        assert!(two.is_done_with(lost.id));
    }

    #[tokio::test(start_paused = true)]
    async fn a_drill_that_was_ended_is_not_begun_again_by_a_renewal_that_was_under_way() {
        let lost = drill(DrillKind::NodeLoss, &[2]);
        let two = Rehearsal::new(NodeId(2));
        assert!(two.begin(&lost, SECOND) && !two.is_done_with(lost.id));
        two.end(lost.id);
        assert!(!two.begin(&lost, SECOND) && !two.is_dead() && two.is_done_with(lost.id));
        let next = Drill {
            id: MessageId::new(Timestamp(2), 2),
            ..lost
        };
        assert!(two.begin(&next, SECOND) && two.is_dead());
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_partition_each_side_hears_its_own_and_no_node_is_dead() {
        let parted = drill(DrillKind::Partition, &[2, 3]);
        let two = Rehearsal::new(NodeId(2));
        two.begin(&parted, 60 * SECOND);
        assert!(is_heard(&two, 3).await && !is_heard(&two, 1).await);
        assert!(!two.is_dead());
        assert!(two.pretends());
        two.end(parted.id);
        assert!(is_heard(&two, 1).await && !two.is_on(parted.id) && !two.pretends());
        // Who stays is in the drill, and well.
        let one = Rehearsal::new(NodeId(1));
        one.begin(&parted, 60 * SECOND);
        assert!(one.is_on(parted.id) && !one.pretends());
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_disk_and_a_primary_that_is_down_part_nobody() {
        let two = Rehearsal::new(NodeId(2));
        two.begin(&drill(DrillKind::DiskFull, &[2]), SECOND);
        assert!(two.disk_is_full() && !two.primary_is_down() && is_heard(&two, 1).await);
        two.begin(&drill(DrillKind::PrimaryOutage, &[]), SECOND);
        assert!(!two.disk_is_full() && two.primary_is_down() && is_heard(&two, 1).await);
        tokio::time::advance(SECOND * 2).await;
        assert!(!two.primary_is_down());
    }
}

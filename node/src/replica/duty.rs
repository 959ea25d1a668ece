//! A drained node: it replicates, votes and counts in the quorum, and nothing else depends on it. And a
//! node that is nearly full, which leads only if nobody else can.
//!
//! The flag is in the ledger, so that it survives a restart, and every node leaves a drained one out
//! when it ranks the members. The rooms above follow [`Cluster::drained`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use holdfast_ledger::{Effect, query};
use holdfast_mail::{NodeId, Timestamp};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::handle::Cluster;
use super::{level, membership};

/// How often the flag is read again: what a lost effect costs at most.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long one try to hand leadership over may take; the next one may choose another node.
const HAND_OVER_TIME_MAX: Duration = Duration::from_secs(5);

/// A drained node stands for election only when nobody has led for so many times the longest
/// election time-out: then the others have tried, and only it may have the newest entries.
const SILENCES: u32 = 4;

/// Somebody whom this node serves over a connection, for as long as this lives.
pub struct Served(Arc<AtomicU64>);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What still depends on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Duties {
    pub leads: bool,
    /// Domains that it delivers for.
    pub leases: u64,
    pub has_the_post: bool,
    /// Clients and customers whom it serves; `None`: it does not answer.
    pub served: Option<u64>,
    /// It has not seen yet that it is drained.
    pub unaware: bool,
}

impl Cluster {
    /// Whether this node is drained, as it changes.
    #[must_use]
    pub fn drained(&self) -> watch::Receiver<bool> {
        self.0.drained.subscribe()
    }

    #[must_use]
    pub fn is_drained(&self) -> bool {
        *self.0.drained.borrow()
    }

    /// The members among whom work is shared: those that are not drained.
    #[must_use]
    pub fn on_duty(&self) -> Vec<NodeId> {
        query::on_duty(&self.view()).unwrap_or_else(|error| {
            tracing::error!("cannot read the members: {}", error.0);
            Vec::new()
        })
    }

    /// Since when a node is drained, if it is.
    #[must_use]
    pub fn drained_since(&self, node: NodeId) -> Option<Timestamp> {
        query::drained(&self.view(), node).unwrap_or_else(|error| {
            tracing::error!("cannot read who is drained: {}", error.0);
            None
        })
    }

    /// Counts somebody whom this node serves, so that it is not stopped under them.
    #[must_use]
    pub fn serve_somebody(&self) -> Served {
        self.0.served.fetch_add(1, Ordering::Relaxed);
        Served(Arc::clone(&self.0.served))
    }

    /// What depends on a node, as it and this one know.
    pub async fn duties(&self, node: NodeId) -> Result<Duties, holdfast_ledger::KvError> {
        let standing = if node == self.me().id {
            Ok(self.standing())
        } else {
            self.ask_standing(node.0).await
        };
        let (view, now) = (self.view(), super::now());
        let post = query::post(&view)?;
        Ok(Duties {
            leads: self.leader() == Some(node),
            leases: query::leases_of(&view, node, now)?,
            has_the_post: post.is_some_and(|post| post.node == node && post.until > now),
            unaware: standing.as_ref().is_ok_and(|it| !it.drained),
            served: standing.ok().map(|it| it.served),
        })
    }
}

impl Duties {
    #[must_use]
    pub fn is_free(&self) -> bool {
        let quiet = self.served.unwrap_or(0) == 0 && !self.unaware;
        quiet && !self.leads && self.leases == 0 && !self.has_the_post
    }
}

/// Follows the flag of this node, and keeps leadership away from it while it is set.
pub(crate) async fn follow(cluster: Cluster, fatal: Arc<dyn Fn(String) + Send + Sync>) {
    let mut effects = cluster.effects();
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut leaderless: Option<Instant> = None;
    loop {
        tokio::select! {
            effect = effects.recv() => match effect {
                Ok(Effect::MembersChanged) | Err(RecvError::Lagged(_)) => {}
                Ok(_) => continue,
                Err(RecvError::Closed) => return,
            },
            _ = looks.tick() => {}
        }
        let level = cluster.level();
        if level > level::known() {
            // By a snapshot: an entry that says so is not understood in the first place.
            fatal(level::too_old(level));
            return;
        }
        let drained = look(&cluster);
        let silence = match cluster.has_quorum() {
            true => {
                leaderless = None;
                Duration::ZERO
            }
            false => leaderless.get_or_insert_with(Instant::now).elapsed(),
        };
        let others_failed = silence >= cluster.0.profile.leader_silence_max() * SILENCES;
        let stands = !drained || others_failed;
        cluster.0.raft.runtime_config().elect(stands);
        let heir = if drained {
            Some(None)
        } else {
            relief(&cluster).map(Some)
        };
        if let Some(heir) = heir
            && cluster.leader() == Some(cluster.me().id)
        {
            let why = if drained { "drained" } else { "nearly full" };
            match timeout(HAND_OVER_TIME_MAX, membership::transfer(&cluster, heir)).await {
                Ok(Ok(to)) => tracing::info!(%to, "{why}: leadership handed over"),
                Ok(Err(error)) => tracing::info!("{why}, and leads on for now: {error}"),
                Err(_) => tracing::info!("{why}, and leads on: nobody took over in time"),
            }
        }
    }
}

/// Who leads better while this node's disk is nearly full: a leader has every body before anybody else,
/// so that without room it would stop mail that the others have room for.
fn relief(cluster: &Cluster) -> Option<NodeId> {
    if !cluster.0.room.is_low() {
        return None;
    }
    let on_duty = cluster.on_duty();
    let mut roomy = cluster.0.room.roomy().into_iter();
    roomy.find(|node| *node != cluster.me().id && on_duty.contains(node))
}

/// Reads the flag, and tells the rooms if it has changed.
pub(super) fn look(cluster: &Cluster) -> bool {
    let drained = cluster.drained_since(cluster.me().id).is_some();
    let changed = cluster.0.drained.send_if_modified(|known| {
        let changed = *known != drained;
        *known = drained;
        changed
    });
    if changed && drained {
        tracing::info!(
            "this node is drained: it takes no mail, and gives its duties to the others"
        );
    } else if changed {
        tracing::info!("this node has its duties back");
    }
    drained
}

//! How consensus fares, in numbers for whoever watches this node.

use std::sync::atomic::Ordering;

use holdfast_mail::NodeId;
use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver;

use super::handle::Cluster;
use super::types::LogId;

/// A moment's look.
#[derive(Clone, Debug)]
pub struct Vitals {
    pub term: u64,
    pub leader: Option<NodeId>,
    pub leader_changes: u64,
    /// How often this node was so far behind that it was sent all rows.
    pub snapshots_installed: u64,
    pub last_log: u64,
    /// Entries known to be committed that this node has not applied.
    pub apply_lag: u64,
    pub voters: usize,
    /// Voters that this node, as leader, has heard from lately, itself included.
    pub voters_answering: Option<usize>,
    pub disk_free_bytes: u64,
    pub disk_total_bytes: u64,
    /// Milliseconds that other nodes' clocks are ahead; a leader hears of them.
    pub clocks_ahead: Vec<(NodeId, i64)>,
    /// DER: this node's certificate in the cluster, and those of the authorities it trusts.
    pub certificate: Vec<u8>,
    pub authorities: Vec<Vec<u8>>,
}

impl Cluster {
    #[must_use]
    pub fn vitals(&self) -> Vitals {
        let inner = &self.0;
        let papers = inner.papers.now();
        let metrics = inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let index = |id: &Option<LogId>| id.map_or(0, |id| id.index);
        let applied = index(&metrics.last_applied);
        let silence_max = inner.profile.leader_silence_max() * 2;
        let membership = metrics.membership_config.membership();
        let answers = |voter: &u64| {
            *voter == inner.me.id.0
                || metrics
                    .heartbeat
                    .as_ref()
                    .and_then(|heard| heard.get(voter)?.as_ref())
                    .is_some_and(|at| at.elapsed() < silence_max)
        };
        let leads = metrics.current_leader == Some(inner.me.id.0);
        Vitals {
            term: metrics.current_term,
            leader: metrics.current_leader.map(NodeId),
            leader_changes: inner.leader_changes.load(Ordering::Relaxed),
            snapshots_installed: inner.replaced.load(Ordering::Relaxed),
            last_log: metrics.last_log_index.unwrap_or(0),
            apply_lag: index(&metrics.cluster_committed).saturating_sub(applied),
            voters: membership.voter_ids().count(),
            voters_answering: leads.then(|| membership.voter_ids().filter(answers).count()),
            disk_free_bytes: inner.disk_free.load(Ordering::Relaxed),
            disk_total_bytes: inner.disk_total.load(Ordering::Relaxed),
            clocks_ahead: inner.peers.clock.others(),
            certificate: papers.certificate.clone(),
            authorities: papers.authorities.clone(),
        }
    }
}

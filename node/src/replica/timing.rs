//! Raft's timing, as one choice: how far apart the nodes are.
//!
//! A heartbeat's time-out is its interval, so the interval must exceed a round trip plus a
//! slow fsync at the follower; an election must not begin before several heartbeats are
//! missed. Failover takes at most about `max + uniform(min, max)` plus two round trips.

use crate::config::WanProfile;
use openraft::{Config, SnapshotPolicy, StepDownPolicy};

impl WanProfile {
    /// Milliseconds: heartbeat interval, shortest and longest election time-out.
    fn millis(self) -> (u64, u64, u64) {
        match self {
            Self::Lan => (250, 1000, 1500),
            Self::Regional => (500, 2000, 3000),
            Self::Global => (1000, 4000, 6000),
        }
    }

    /// How long a leader may be silent before this node stops trusting that there is one.
    #[must_use]
    pub fn leader_silence_max(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.millis().2)
    }

    /// After `snapshot_every` entries the state is written down. Half as many are kept behind it, for
    /// followers that lag: a short absence is caught up from the log, without sending the whole state.
    pub(crate) fn raft_config(self, snapshot_every: u64) -> Config {
        let (heartbeat_interval, election_timeout_min, election_timeout_max) = self.millis();
        Config {
            cluster_name: "holdfast".into(),
            heartbeat_interval,
            election_timeout_min,
            election_timeout_max,
            enable_pre_vote: Some(true),
            // A leader cut off from its quorum must fall silent long enough for others to
            // elect; openraft asks for at least twice the longest time-out.
            quorum_loss_probe_interval: Some(election_timeout_max * 5 / 2),
            enable_leader_restore: Some(false),
            removed_leader_step_down: StepDownPolicy::After(election_timeout_min),
            max_payload_entries: 128,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(snapshot_every),
            max_in_snapshot_log_to_keep: snapshot_every / 2,
            purge_batch_size: 1024.min(snapshot_every / 2),
            replication_lag_threshold: 200,
            ..Config::default()
        }
    }
}

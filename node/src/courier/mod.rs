//! Delivers held mail to the customers' primaries.
//!
//! ```text
//!   effects, every 2 s ─► office ── plan ──► AcquireLease, RenewLeases, ReleaseLease
//!                           │ one round for each domain whose lease is ours
//!                           ▼
//!                         round ── window ─► workers: one connection, many messages
//!                           │                   │ what became of them
//!                           ▼                   ▼
//!                         probe              recorder ──► Settle
//! ```
//!
//! One node delivers for a domain at a time: the lease in the ledger says which, and its epoch
//! fences what is recorded. State is the truth: a round begins by reading the held rows, and
//! every effect may be lost. A message that may have been delivered already is never taken
//! again by this node; after a crash those under way may arrive twice, and no others.
//!
//! Beside the rounds there is the *post*, one for the whole cluster: it asks the ledger to review
//! what the time has come for, writes what senders are owed, and sends it to their domains.

mod carrier;
mod counters;
mod desk;
mod fate;
mod lease;
mod office;
mod plan;
mod post;
mod queue;
mod recorder;
mod round;
#[cfg(test)]
mod simulation;
mod window;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

pub use counters::Counters;

use crate::net::dns::Resolver;
use crate::replica::Cluster;
use crate::switchboard::Switchboard;

/// Most connections to one primary. Enough for thousands of messages a second; a primary that
/// allows fewer says so, and gets fewer.
pub const CONNECTIONS_MAX_DEFAULT: usize = 8;

/// How long the messages under way may take when the node stops.
pub const GRACE_DEFAULT: Duration = Duration::from_secs(20);

#[derive(Clone, Debug)]
pub struct Options {
    /// Connections to one primary at a time, for each domain. A change takes effect when the
    /// domain's next round begins.
    connections_max: Arc<AtomicUsize>,
    /// How long messages under way are waited for once `stop` is cancelled.
    pub grace: Duration,
    /// Where notifications, and mail that customers send, go instead of to the mail exchangers of
    /// their domains.
    pub relay_via: Option<(String, u16)>,
    pub counters: Counters,
    /// Where connections wait that customers made.
    pub(crate) switchboard: Switchboard,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connections_max: Arc::new(AtomicUsize::new(CONNECTIONS_MAX_DEFAULT)),
            grace: GRACE_DEFAULT,
            relay_via: None,
            counters: Counters::default(),
            switchboard: Switchboard::default(),
        }
    }
}

impl Options {
    /// Takes effect with each domain's next round.
    pub fn set_connections_max(&self, connections: u32) {
        self.connections_max
            .store(connections as usize, Ordering::Relaxed);
    }
}

/// Delivers until `stop` is cancelled; then lets the messages under way finish for up to
/// `options.grace`, records what became of them and gives the leases back.
pub async fn run(
    options: Options,
    cluster: Cluster,
    resolver: Arc<Resolver>,
    stop: CancellationToken,
) {
    let post = post::Post::new(&options, cluster.clone(), Arc::clone(&resolver));
    let post = AbortOnDropHandle::new(tokio::spawn(post.run(stop.clone())));
    office::Office::new(options, cluster, resolver)
        .run(stop)
        .await;
    drop(post);
}

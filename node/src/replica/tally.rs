//! What the rooms above did since the node started, and when they try domains again: told to
//! whoever asks how the node stands.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use holdfast_mail::{Domain, Timestamp};
use holdfast_proto::cluster as wire;

use super::handle::Cluster;

/// Domains told in one answer, the soonest.
const TRIES_TOLD_MAX: usize = 256;

#[derive(Default)]
pub struct Tally {
    accepted: AtomicU64,
    delivered: AtomicU64,
    tries: Mutex<BTreeMap<Domain, Timestamp>>,
}

impl Tally {
    /// A message came in.
    pub fn accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    /// A message went out, to some of its recipients at least.
    pub fn delivered(&self) {
        self.delivered.fetch_add(1, Ordering::Relaxed);
    }

    /// When the domain is tried again; `None`: it is tried now, or not by this node.
    pub fn next_try(&self, domain: &Domain, at: Option<Timestamp>) {
        let mut tries = self.tries();
        match at {
            Some(at) => {
                tries.insert(domain.clone(), at);
            }
            None => {
                tries.remove(domain);
            }
        }
    }

    pub(super) fn tell(&self, standing: &mut wire::Standing, held: u64, with_tries: bool) {
        standing.tally = Some(wire::Tally {
            accepted: self.accepted.load(Ordering::Relaxed),
            delivered: self.delivered.load(Ordering::Relaxed),
            held,
        });
        if with_tries {
            let of = |(domain, at): (&Domain, &Timestamp)| wire::Try {
                domain: domain.to_string(),
                at_ms: at.0,
            };
            standing.tries = self.tries().iter().map(of).collect();
            standing.tries.sort_by_key(|next| next.at_ms);
            standing.tries.truncate(TRIES_TOLD_MAX);
        }
    }

    fn tries(&self) -> MutexGuard<'_, BTreeMap<Domain, Timestamp>> {
        self.tries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cluster {
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.0.tally
    }
}

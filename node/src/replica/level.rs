//! Which feature level this process knows: how two versions run together is tried with one binary.

use std::sync::atomic::{AtomicU32, Ordering};

use holdfast_ledger::{Batch, KvError, level, query};

use super::StartError;
use super::handle::Cluster;
use crate::store::View;

/// Zero: all that this version knows.
static PRETENDED: AtomicU32 = AtomicU32::new(0);

/// From now on this process does not understand what came after `level`, as an older version would
/// not. Only in a sandbox.
pub(crate) fn pretend(level: u32) {
    PRETENDED.store(level, Ordering::Relaxed);
}

/// The highest level whose commands this process understands.
pub(crate) fn known() -> u32 {
    match PRETENDED.load(Ordering::Relaxed) {
        0 => level::NEWEST,
        pretended => pretended,
    }
}

/// Whether this process understands all of a batch.
pub(crate) fn understands(batch: &Batch) -> bool {
    let known = known();
    known == level::NEWEST
        || batch
            .commands
            .iter()
            .all(|command| command.level() <= known)
}

/// Whether this process may work on what it finds on its disk.
pub(crate) fn check(view: &View) -> Result<(), StartError> {
    let broken = |error: KvError| StartError::Raft(error.0);
    // An empty state is of no level; its first entry says.
    let is_empty = query::cluster(view).map_err(broken)?.is_none();
    match query::level(view).map_err(broken)? {
        level if level > known() && !is_empty => Err(StartError::TooOld(too_old(level))),
        _ => Ok(()),
    }
}

/// What a node says that cannot take part in a cluster of this level.
pub(crate) fn too_old(cluster: u32) -> String {
    format!(
        "this version of Holdfast knows the feature levels up to {}, and the cluster uses level {cluster}; its data \
         is untouched; install the version that the other nodes run",
        known()
    )
}

impl Cluster {
    /// The cluster's feature level, as far as this node has applied it.
    #[must_use]
    pub fn level(&self) -> u32 {
        let view = self.view();
        let level = match query::cluster(&view) {
            // The first entry says; this node may be about to propose it.
            Ok(None) => Ok(known()),
            Ok(Some(_)) => query::level(&view),
            Err(error) => Err(error),
        };
        level.unwrap_or_else(|error| {
            tracing::error!("cannot read the feature level: {}", error.0);
            1
        })
    }
}

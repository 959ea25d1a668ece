//! Applies committed entries to the ledger and announces what they caused.
//!
//! Commit first, then announce: an effect is sent after its entry's rows are in the store.
//! Effects are hints; a receiver that misses some scans the state.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{Stream, StreamExt};
use holdfast_ledger::{Effect, KvError, apply_batch, query};
use holdfast_mail::mutant;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use prost::Message;
use tokio::sync::{broadcast, watch};

use super::clock::{self, Clock};
use super::codec;
use super::snapshot::{Found, SnapshotFile, Snapshots};
use super::types::{LogId, Replies, Snapshot, SnapshotMeta, StoredMembership, Types};
use crate::failpoint;
use crate::store::{Store, View};
use crate::world;
use holdfast_proto::cluster as wire;

pub(super) const APPLIED: &[u8] = b"applied";
pub(super) const MEMBERSHIP: &[u8] = b"membership";

/// The replicated state on this node.
pub(crate) struct StateMachine {
    store: Arc<Store>,
    snapshots: Snapshots,
    effects: broadcast::Sender<Effect>,
    clock: Arc<Clock>,
    applied: watch::Sender<Option<LogId>>,
    membership: StoredMembership,
    /// How often all rows were replaced by another node's.
    replaced: Arc<AtomicU64>,
}

impl StateMachine {
    pub(crate) fn open(
        store: Arc<Store>,
        snapshots: Snapshots,
        effects: broadcast::Sender<Effect>,
        clock: Arc<Clock>,
    ) -> io::Result<Self> {
        let bad = |e: prost::DecodeError| io::Error::new(io::ErrorKind::InvalidData, e);
        let applied = match store.meta(APPLIED)? {
            Some(bytes) => Some(codec::log_id(
                &wire::LogId::decode(&bytes[..]).map_err(bad)?,
            )),
            None => None,
        };
        let membership = match store.meta(MEMBERSHIP)? {
            Some(bytes) => {
                codec::stored_membership(wire::StoredMembership::decode(&bytes[..]).map_err(bad)?)?
            }
            None => StoredMembership::default(),
        };
        Ok(Self {
            store,
            snapshots,
            effects,
            clock,
            applied: watch::Sender::new(applied),
            membership,
            replaced: Arc::default(),
        })
    }

    /// What has been applied, as it grows.
    pub(crate) fn applied(&self) -> watch::Receiver<Option<LogId>> {
        self.applied.subscribe()
    }

    /// How often a snapshot was installed, as it grows.
    pub(crate) fn replaced(&self) -> Arc<AtomicU64> {
        self.replaced.clone()
    }

    pub(super) fn meta_rows(
        applied: LogId,
        membership: Option<&StoredMembership>,
    ) -> Vec<(&'static [u8], Vec<u8>)> {
        let mut rows = vec![(APPLIED, codec::log_id_to_wire(&applied).encode_to_vec())];
        if let Some(membership) = membership {
            let bytes = codec::stored_membership_to_wire(membership).encode_to_vec();
            rows.push((MEMBERSHIP, bytes));
        }
        rows
    }
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((*self.applied.borrow(), self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let mut effects = Vec::new();
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let mut rows = self.store.batch();
            let mut replies = Replies::default();
            let mut changed = None;
            match &entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(proposal) => {
                    let index = entry.log_id.index;
                    let mut batch = proposal.batch.clone();
                    if mutant("apply-by-local-clock") {
                        Arc::make_mut(&mut batch).at = clock::now();
                    }
                    let unreadable = |e: KvError| io::Error::other(e.0);
                    replies.0 =
                        apply_batch(&mut rows, index, &batch, &mut effects).map_err(unreadable)?;
                    // Not the batch's stamp, which may be behind it.
                    self.clock.logged(query::now(&rows).map_err(unreadable)?);
                }
                EntryPayload::Membership(membership) => {
                    changed = Some(StoredMembership::new(
                        Some(entry.log_id),
                        membership.clone(),
                    ));
                    effects.push(Effect::MembersChanged);
                }
            }
            let mut meta_rows = Self::meta_rows(entry.log_id, changed.as_ref());
            if mutant("applied-not-saved") {
                meta_rows.clear();
            }
            failpoint::reach("before-apply");
            self.store.commit(rows, &meta_rows)?;
            failpoint::reach("applied");
            if let Some(changed) = changed {
                failpoint::reach("membership-applied");
                self.membership = changed;
            }
            self.applied.send_replace(Some(entry.log_id));
            if let Some(responder) = responder {
                responder.send(replies);
            }
            for effect in effects.drain(..) {
                // An error means that nobody listens yet; whoever comes scans the state.
                let _unheard = self.effects.send(effect);
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Builder> {
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        // No entry is applied while this runs, so view, log id and membership fit together.
        Builder {
            view: self.store.view(),
            meta: SnapshotMeta {
                last_log_id: *self.applied.borrow(),
                last_membership: self.membership.clone(),
            },
            snapshots: self.snapshots.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotFile,
    ) -> Result<(), io::Error> {
        let (store, snapshots) = (self.store.clone(), self.snapshots.clone());
        let meta_rows = meta
            .last_log_id
            .map(|id| Self::meta_rows(id, Some(&meta.last_membership)))
            .unwrap_or_default();
        world::blocking(move || {
            let snapshot = if snapshots.is_current(&snapshot) {
                snapshot
            } else {
                snapshots.adopt(snapshot.path())?
            };
            let (_, rows) = snapshot.rows()?;
            failpoint::reach("snapshot-adopted");
            store.replace_state(rows, &meta_rows)
        })
        .await??;
        self.replaced.fetch_add(1, Ordering::Relaxed);
        tracing::info!(
            entry = meta.last_log_id.map_or(0, |id| id.index),
            "a snapshot of another node took the place of this node's rows: it was too far behind for the log"
        );
        self.membership = meta.last_membership.clone();
        self.applied.send_replace(meta.last_log_id);
        let _unheard = self.effects.send(Effect::MembersChanged);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let snapshots = self.snapshots.clone();
        match world::blocking(move || snapshots.whole()).await?? {
            Found::Nothing => Ok(None),
            Found::Whole(meta, snapshot) => Ok(Some(Snapshot { meta, snapshot })),
            // openraft has given back the log before it: without one it could help nobody who is behind.
            Found::Damaged => {
                let mut builder = self.get_snapshot_builder().await;
                builder.build_snapshot().await.map(Some)
            }
        }
    }
}

/// A frozen view on its way to a file.
pub(crate) struct Builder {
    view: View,
    meta: SnapshotMeta,
    snapshots: Snapshots,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let (view, meta, snapshots) =
            (self.view.clone(), self.meta.clone(), self.snapshots.clone());
        let file = world::blocking({
            let meta = meta.clone();
            move || snapshots.build(&meta, view.rows())
        })
        .await??;
        Ok(Snapshot {
            meta,
            snapshot: file,
        })
    }
}

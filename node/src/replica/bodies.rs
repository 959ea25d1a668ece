//! Message bodies: written here, streamed to every other member at the same time, fetched from
//! one where they are missing.
//!
//! A body is never in the log. The [gate](super::gate) makes sure that an entry enters a log
//! only where its body is durable; this room moves the bytes.

mod fetch;
#[cfg(test)]
mod pieces;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures::StreamExt;
use holdfast_ledger::{KvRead, query};
use holdfast_mail::{BodyRef, MessageId, Timestamp};
use holdfast_proto::cluster as wire;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tonic::Status;

use self::fetch::{Fetched, Fetches};
use super::peers::Peers;
use super::room::Room;
use super::types::Seat;
use crate::failpoint;
use crate::store::{self, BodyStore, Store};
use crate::world::select;

/// Bytes of a body gathered before they go to the disk and to the peers: one store chunk.
const PIECE_BYTES: usize = 256 << 10;

/// Pieces that may wait for one peer: 16 MiB, about what a gigabit link with 100 ms round trip
/// has under way. Beyond it the sender of the mail is slowed down.
const PEER_QUEUE_PIECES: usize = 64;

/// A peer whose queue takes nothing for this long is left out of a body; it fetches the body
/// when the entry reaches it.
const PEER_PATIENCE: Duration = Duration::from_secs(2);

/// Bodies above this many bytes wait for a quorum of durable copies before they are proposed,
/// so that no follower holds up its log for a long transfer.
const EAGER_BYTES_MAX: u64 = 1 << 20;

/// How long a large body may take to become durable on a quorum after its last byte.
const QUORUM_TIME_MAX: Duration = Duration::from_secs(60);

/// A body on its way here that has not grown for this long is fetched instead.
const ARRIVAL_STALL: Duration = Duration::from_secs(2);

/// How long a body may take to begin to arrive where no other is arriving.
const ARRIVAL_START: Duration = Duration::from_millis(50);

/// A body that nothing refers to any more is kept this long, for followers whose log has not
/// reached its completion.
const RELEASED_KEPT: Duration = Duration::from_secs(60);

/// A body older than this that no envelope refers to was abandoned: an `Accept` that comes
/// later than a day after its id was drawn is refused by the ledger.
const ORPHAN_AGE: Duration = Duration::from_secs(25 * 3600);

/// A node without room for a body asks so often whether it is needed still.
const FULL_PAUSE: Duration = Duration::from_secs(2);

/// Bodies that one peer may have begun to stream here: each has a piece of 256 KiB in memory, 64 MiB
/// together. The one that has not grown for the longest time makes room; it is fetched if its entry
/// comes.
const OPEN_MAX: usize = 256;

/// A body of which nothing has come for this long is let go. A peer that found this node too slow says
/// no more about it. Longer than a sender of mail may be silent.
const OPEN_SILENCE_MAX: Duration = Duration::from_secs(15 * 60);

/// Accept acknowledgements remembered at a time; each is a few dozen bytes.
const ACKS_MAX: usize = 20_000;

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the body of {0} is on no node that answers; the mail is kept, and tried again")]
    Missing(MessageId),
    #[error(
        "the copy of {0} on this disk is damaged; another is fetched from a peer, and delivery tried again"
    )]
    Damaged(MessageId),
    #[error("cannot read a body: {0}")]
    Io(#[from] io::Error),
}

/// How many members hold a message, for the text of its `250`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copies {
    pub holders: u32,
    pub voters: u32,
}

/// The voters as Raft counts them: a quorum of each set is needed (two sets during a change).
pub(crate) type VoterSets = Vec<BTreeSet<u64>>;

/// All bodies, of this node and on their way to others. Clones share it.
#[derive(Clone)]
pub struct Bodies(Arc<Inner>);

struct Inner {
    me: u64,
    store: Arc<BodyStore>,
    state: Arc<Store>,
    peers: Arc<Peers>,
    voters: watch::Receiver<VoterSets>,
    /// The open push streams.
    outbound: Mutex<BTreeMap<u64, mpsc::Sender<wire::BodyPiece>>>,
    /// Which members reported a body durable. Ordered by id, so the oldest is dropped first.
    acks: Mutex<BTreeMap<MessageId, BTreeSet<u64>>>,
    acked: tokio::sync::Notify,
    fetches: Fetches,
    /// Bodies on their way here, and who writes each.
    arrivals: Mutex<HashMap<MessageId, Arrival>>,
    waiting: Mutex<HashMap<MessageId, Vec<oneshot::Sender<()>>>>,
    room: Arc<Room>,
    /// When the youngest body that was streamed here began, milliseconds since the epoch.
    newest: AtomicU64,
    released: Mutex<VecDeque<(Instant, MessageId)>>,
}

/// Somebody waits for a body.
struct Waits<'a>(&'a Bodies, MessageId);

impl Drop for Waits<'_> {
    /// Of who waits no more nothing is kept; most of what is waited for comes but once.
    fn drop(&mut self) {
        let Self(bodies, id) = self;
        if let Entry::Occupied(mut list) = lock(&bodies.0.waiting).entry(*id) {
            list.get_mut().retain(|waiter| !waiter.is_closed());
            if list.get().is_empty() {
                list.remove();
            }
        }
    }
}

struct Arrival {
    writer: u64,
    touched: Instant,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Bodies {
    /// Those on this node's disk.
    pub(super) fn store(&self) -> &BodyStore {
        &self.0.store
    }

    pub(crate) fn new(
        me: u64,
        store: Arc<BodyStore>,
        state: Arc<Store>,
        peers: Arc<Peers>,
        (voters, room): (watch::Receiver<VoterSets>, Arc<Room>),
    ) -> Self {
        Self(Arc::new(Inner {
            me,
            store,
            state,
            peers,
            voters,
            outbound: Mutex::default(),
            acks: Mutex::default(),
            acked: tokio::sync::Notify::new(),
            fetches: Fetches::default(),
            arrivals: Mutex::default(),
            waiting: Mutex::default(),
            room,
            newest: AtomicU64::new(0),
            released: Mutex::default(),
        }))
    }

    /// Starts a body. It goes to this node's disk and, at the same time, to every member that
    /// can be reached.
    #[must_use]
    pub fn begin(&self, id: MessageId) -> BodyWriter {
        let mut acks = lock(&self.0.acks);
        acks.insert(id, BTreeSet::new());
        while acks.len() > ACKS_MAX {
            acks.pop_first();
        }
        drop(acks);
        let targets = lock(&self.0.outbound)
            .iter()
            .map(|(n, q)| (*n, q.clone()))
            .collect();
        BodyWriter {
            bodies: self.clone(),
            id,
            writer: Some(self.0.store.begin(id)),
            targets,
            pending: BytesMut::new(),
            len: 0,
            first: true,
        }
    }

    /// How many members reported `message` durable; asked once, when its `250` is written.
    /// At least a quorum, since the entry is committed.
    #[must_use]
    pub(crate) fn durable_copies(&self, message: MessageId) -> Copies {
        let acked = lock(&self.0.acks).remove(&message).unwrap_or_default();
        let sets = self.0.voters.borrow();
        let voters: BTreeSet<u64> = sets.iter().flatten().copied().collect();
        let majority = voters.len() / 2 + 1;
        let holders = acked.intersection(&voters).count().max(majority);
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Copies {
            holders: count(holders),
            voters: count(voters.len()),
        }
    }

    /// Opens a body, fetching it from a peer where it is not here.
    pub async fn read(&self, body: &BodyRef) -> Result<BodyReader, BodyError> {
        if !self.usable(body)? {
            let deadline = Instant::now() + Duration::from_secs(30);
            self.ensure(body, &[], u64::MAX, deadline)
                .await
                .map_err(|_| BodyError::Missing(body.id))?;
            if !self.present(body.id)? {
                // Its last recipient was settled meanwhile.
                return Err(BodyError::Missing(body.id));
            }
        }
        Ok(BodyReader {
            inner: self.0.store.reader(body.id)?,
            body: *body,
            bodies: self.clone(),
        })
    }

    /// Whether the body is here as its envelope has it. A copy that is another, or damaged, is
    /// forgotten, so that a good one is fetched.
    fn usable(&self, body: &BodyRef) -> io::Result<bool> {
        let store = &self.0.store;
        if !self.present(body.id)? {
            return Ok(false);
        }
        match store.end(body.id) {
            Ok(Some(end)) if end.len == body.len && end.digest == body.digest => return Ok(true),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
            Err(error) => return Err(error),
        }
        tracing::error!(body = %body.id, "the body on this disk is not the one its envelope names");
        store.delete(&[body.id])?;
        Ok(false)
    }

    /// This node's disk has no room for a body more.
    pub(crate) fn has_no_room(&self) -> bool {
        self.0.room.is_full()
    }

    /// Whether the body is here, whole and durable. A copy whose end cannot be read is forgotten: it would
    /// be in the way of a good one for ever.
    pub(crate) fn present(&self, id: MessageId) -> io::Result<bool> {
        match self.0.store.present(id) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::error!(body = %id, "a body on this disk cannot be used: {error}");
                self.0.store.delete(&[id])?;
                Ok(false)
            }
            told => told,
        }
    }

    /// Waits until `body` is durable here, or known to be needed no more: it arrives by itself
    /// (its sender streams it to all), or it is fetched from `sources` and then from any member.
    pub(crate) async fn ensure(
        &self,
        body: &BodyRef,
        sources: &[u64],
        index: u64,
        deadline: Instant,
    ) -> Result<(), Status> {
        let id = body.id;
        // The stream usually brings the body within a round trip of its entry. Where nothing is
        // arriving, or what arrives is younger, this entry is an old one: waiting would be in
        // vain, and a node that catches up would wait for ever.
        let streamed = Timestamp(self.0.newest.load(Ordering::Relaxed));
        let arriving = lock(&self.0.arrivals)
            .values()
            .any(|a| a.touched.elapsed() < ARRIVAL_STALL);
        let mut patience = Instant::now()
            + match (arriving, streamed.since(id.at()) > ARRIVAL_STALL) {
                (_, true) => Duration::ZERO,
                (true, false) => ARRIVAL_STALL,
                (false, false) => ARRIVAL_START,
            };
        let _waits = Waits(self, id);
        loop {
            let arrived = self.wait_for(id);
            // What this node has applied itself it needs to ask nobody.
            if self.present(id).map_err(storage)? || self.is_over(id, index, None)? {
                return Ok(());
            }
            if let Some(arrival) = lock(&self.0.arrivals).get(&id) {
                patience = arrival.touched + ARRIVAL_STALL;
            }
            let now = Instant::now();
            if now >= deadline {
                return Err(Status::unavailable(format!(
                    "the body of {id} has not arrived; the entry waits, nothing is lost"
                )));
            }
            if now < patience {
                let _changed = tokio::time::timeout_at(patience.min(deadline), arrived).await;
                continue;
            }
            if self.0.room.is_full() {
                // The last bytes are for the log: with it end the messages that take the room.
                if self.is_over_elsewhere(id, sources, index).await {
                    return Ok(());
                }
                let look_again = deadline.min(Instant::now() + FULL_PAUSE);
                let _room = tokio::time::timeout_at(look_again, arrived).await;
                continue;
            }
            // What the deadline ends is the waiting: the fetch goes on, and whoever asks next finds more
            // of it here.
            let fetched = select! {
                _arrived = arrived => continue,
                fetched = self.fetched(body, sources, index) => fetched,
                () = tokio::time::sleep_until(deadline) => continue,
            };
            match fetched {
                Fetched::Here => {}
                Fetched::Completed(up_to) if index <= up_to => return Ok(()),
                Fetched::Completed(_) | Fetched::Nowhere => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }

    fn wait_for(&self, id: MessageId) -> oneshot::Receiver<()> {
        let (tx, rx) = oneshot::channel();
        let mut waiting = lock(&self.0.waiting);
        let list = waiting.entry(id).or_default();
        list.retain(|tx: &oneshot::Sender<()>| !tx.is_closed());
        list.push(tx);
        rx
    }

    /// Notes what a peer reported durable.
    fn acknowledged(&self, id: MessageId, by: u64) {
        let mut acks = lock(&self.0.acks);
        if let Some(nodes) = acks.get_mut(&id) {
            nodes.insert(by);
            drop(acks);
            self.0.acked.notify_waiters();
        }
    }

    fn on_quorum(&self, id: MessageId) -> bool {
        let acks = lock(&self.0.acks);
        let Some(nodes) = acks.get(&id) else {
            return false;
        };
        self.0
            .voters
            .borrow()
            .iter()
            .all(|set| set.iter().filter(|voter| nodes.contains(voter)).count() > set.len() / 2)
    }

    /// Called when a body has become durable here.
    fn arrived(&self, id: MessageId) {
        lock(&self.0.arrivals).remove(&id);
        for waiter in lock(&self.0.waiting).remove(&id).unwrap_or_default() {
            let _gone = waiter.send(());
        }
    }

    /// Serves a peer's push stream until it ends.
    pub(crate) fn receive(
        &self,
        mut pieces: tonic::Streaming<wire::BodyPiece>,
        first: wire::BodyPiece,
    ) -> mpsc::Receiver<Result<wire::BodyStored, Status>> {
        let (acks, out) = mpsc::channel(1024);
        let bodies = self.clone();
        tokio::spawn(async move {
            let mut receiver = Receiver::new(bodies);
            let mut next = Some(first);
            while let Some(piece) = next {
                let body = piece.body.clone();
                // The first piece of a stream only opens it.
                if !body.is_empty() {
                    if let (true, Some(id)) = (piece.first, MessageId::from_bytes(&body)) {
                        receiver
                            .bodies
                            .0
                            .newest
                            .fetch_max(id.at().0, Ordering::Relaxed);
                    }
                    match receiver.take_streamed(piece) {
                        Ok(Some(stored)) => {
                            let acks = acks.clone();
                            tokio::spawn(async move {
                                let durable = matches!(stored.await, Ok(Ok(())));
                                let _gone = acks.send(Ok(wire::BodyStored { body, durable })).await;
                            });
                        }
                        Ok(None) => {}
                        Err(status) => {
                            tracing::warn!("a body from a peer was refused: {}", status.message());
                            let reply = wire::BodyStored {
                                body,
                                durable: false,
                            };
                            if acks.send(Ok(reply)).await.is_err() {
                                break;
                            }
                        }
                    }
                }
                next = match pieces.next().await {
                    Some(Ok(piece)) => Some(piece),
                    Some(Err(_)) | None => None,
                };
            }
        });
        out
    }

    /// Whether the entry at `index` needs the body no more: that is only true where the completion is
    /// committed. Either the message has left a mark; or this node has applied the entry, and knows no
    /// envelope for it.
    ///
    /// The mark alone is enough, wherever the entry is. A proposal that is repeated, for its reply was
    /// lost, can enter the log when the message is delivered and its body about to go everywhere: nobody
    /// can apply that entry before it is committed, and without its body no follower would take it.
    fn is_over(&self, id: MessageId, index: u64, applied: Option<u64>) -> Result<bool, Status> {
        let view = self.0.state.view();
        let read = |error: holdfast_ledger::KvError| Status::internal(error.0);
        if query::marked_at(&view, id).map_err(read)?.is_some() {
            return Ok(true);
        }
        Ok(applied.is_some_and(|applied| applied >= index)
            && query::envelope(&view, id).map_err(read)?.is_none())
    }

    /// Answers a peer that fetches a body.
    pub(crate) fn serve(
        &self,
        id: MessageId,
        request: &wire::PullRequest,
        applied: Option<u64>,
    ) -> Result<mpsc::Receiver<Result<wire::BodyPiece, Status>>, Status> {
        if request.ask || !self.present(id).map_err(storage)? {
            return Err(if self.is_over(id, request.index, applied)? {
                Status::failed_precondition(format!("message {id} is completed"))
            } else {
                Status::not_found(format!("no body {id} here"))
            });
        }
        let mut reader = self.0.store.reader(id).map_err(storage)?;
        let end = self.0.store.end(id).map_err(storage)?;
        let end = end.ok_or_else(|| Status::not_found(format!("no body {id} here")))?;
        let offset = request.offset;
        let (tx, rx) = mpsc::channel(8);
        tokio::spawn(async move {
            let body = Bytes::copy_from_slice(&id.to_bytes());
            let mut first = offset == 0;
            let mut passed = 0;
            loop {
                let piece = match reader.next() {
                    // Read all the same: the last chunk comes only if the digest of the whole fits.
                    Ok(Some(mut data)) => {
                        let known = offset.saturating_sub(passed).min(data.len() as u64);
                        passed += data.len() as u64;
                        data.advance(usize::try_from(known).unwrap_or(data.len()));
                        if data.is_empty() {
                            continue;
                        }
                        wire::BodyPiece {
                            body: body.clone(),
                            data,
                            first,
                            ..wire::BodyPiece::default()
                        }
                    }
                    Ok(None) => wire::BodyPiece {
                        body: body.clone(),
                        first,
                        end: Some(wire::BodyEnd {
                            len: end.len,
                            digest: Bytes::copy_from_slice(&end.digest),
                        }),
                        ..wire::BodyPiece::default()
                    },
                    Err(e) => {
                        let _gone = tx.send(Err(Status::data_loss(e.to_string()))).await;
                        return;
                    }
                };
                let last = piece.end.is_some();
                if tx.send(Ok(piece)).await.is_err() || last {
                    return;
                }
                first = false;
            }
        });
        Ok(rx)
    }

    /// Keeps a push stream open to every other member, for as long as it is one.
    pub(crate) async fn push_to_members(self, mut members: watch::Receiver<BTreeMap<u64, Seat>>) {
        let mut streams: BTreeMap<u64, tokio::task::JoinHandle<()>> = BTreeMap::new();
        loop {
            let now: BTreeMap<u64, Seat> = members.borrow_and_update().clone();
            streams.retain(|node, stream| {
                let stays = now.contains_key(node);
                if !stays {
                    stream.abort();
                    lock(&self.0.outbound).remove(node);
                }
                stays
            });
            for (node, seat) in now {
                self.0.peers.learn(node, &seat.cluster_address);
                if node != self.0.me {
                    let bodies = self.clone();
                    streams
                        .entry(node)
                        .or_insert_with(|| tokio::spawn(bodies.push_to(node)));
                }
            }
            if members.changed().await.is_err() {
                return;
            }
        }
    }

    async fn push_to(self, node: u64) {
        let mut pause = Duration::from_millis(100);
        loop {
            match self.push_stream(node).await {
                Ok(()) => pause = Duration::from_millis(100),
                Err(status) => {
                    tracing::debug!(node, "no stream for bodies: {}", status.message());
                }
            }
            lock(&self.0.outbound).remove(&node);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(3));
        }
    }

    async fn push_stream(&self, node: u64) -> Result<(), Status> {
        let Some(mut client) = self.0.peers.bodies(node) else {
            return Err(Status::unavailable("its address is not known"));
        };
        let (queue, pieces) = mpsc::channel(PEER_QUEUE_PIECES);
        let hello = wire::BodyPiece {
            envelope: self.0.peers.envelope(node),
            ..wire::BodyPiece::default()
        };
        let _room = queue.try_send(hello);
        let stream = tokio_stream(pieces);
        let mut replies = client.push(stream).await?.into_inner();
        lock(&self.0.outbound).insert(node, queue);
        while let Some(stored) = replies.next().await {
            let stored = stored?;
            if let (true, Some(id)) = (stored.durable, MessageId::from_bytes(&stored.body)) {
                self.acknowledged(id, node);
            }
        }
        Ok(())
    }

    /// The ledger let go of this body.
    pub(crate) fn release(&self, id: MessageId) {
        lock(&self.0.released).push_back((Instant::now(), id));
    }

    /// Deletes what was released a while ago. Called every few seconds.
    pub(crate) fn sweep_released(&self) -> io::Result<()> {
        let mut due = Vec::new();
        {
            let mut released = lock(&self.0.released);
            while released
                .front()
                .is_some_and(|(at, _)| at.elapsed() >= RELEASED_KEPT)
            {
                due.extend(released.pop_front().map(|(_, id)| id));
            }
        }
        if due.is_empty() {
            Ok(())
        } else {
            self.0.store.delete(&due)?;
            failpoint::reach("body-deleted");
            Ok(())
        }
    }

    /// Deletes bodies that no message refers to and that no message can refer to any more: those that
    /// were abandoned, and those whose release was missed, by a restart or because too much happened
    /// at once.
    /// Stops as soon as `all_applied` says that the log has entries the state does not show: one
    /// of them may need a body that looks abandoned.
    pub(crate) fn sweep_orphans(&self, all_applied: impl Fn() -> bool) -> io::Result<usize> {
        let mut before = None;
        let mut swept = 0;
        loop {
            let ids = self.0.store.ids(before, 512)?;
            let Some(last) = ids.last().copied() else {
                return Ok(swept);
            };
            if !all_applied() {
                return Ok(swept);
            }
            // Taken after the page was listed: whatever was accepted before is shown in it.
            let view = self.0.state.view();
            // Logged time, as `apply` will judge by: a clock of our own that runs ahead must not
            // make a body old that may still be accepted.
            let now = query::now(&view).map_err(|e| io::Error::other(e.0))?;
            let mut orphans = Vec::new();
            for id in ids {
                // One that became durable in this life of the process may be in the gate, on
                // its way into the log.
                let is_old = now.since(id.at()) >= ORPHAN_AGE && !self.0.store.is_recent(id);
                let over = query::marked_at(&view, id).map_err(|e| io::Error::other(e.0))?;
                let is_over = over.is_some_and(|at| now.since(at) >= RELEASED_KEPT);
                if !is_old && !is_over {
                    continue;
                }
                let live = query::envelope(&view, id).map_err(|e| io::Error::other(e.0))?;
                if live.is_none() {
                    orphans.push(id);
                }
            }
            swept += orphans.len();
            self.0.store.delete(&orphans)?;
            before = Some(last);
        }
    }

    /// How many bodies of live messages are not on this disk.
    pub(crate) fn missing(&self, view: &dyn KvRead) -> io::Result<u64> {
        let mut after = None;
        let mut missing = 0;
        loop {
            let live = query::bodies(view, after, 512).map_err(|e| io::Error::other(e.0))?;
            let Some(last) = live.last().map(|body| body.id) else {
                return Ok(missing);
            };
            for body in &live {
                missing += u64::from(!self.present(body.id)?);
            }
            after = Some(last);
        }
    }
}

fn tokio_stream<T>(mut queue: mpsc::Receiver<T>) -> impl futures::Stream<Item = T> {
    futures::stream::poll_fn(move |cx| queue.poll_recv(cx))
}

fn storage(error: impl std::fmt::Display) -> Status {
    Status::internal(format!("the body store failed: {error}"))
}

/// A body being written, here and to the peers. Dropping it abandons the body.
pub struct BodyWriter {
    bodies: Bodies,
    id: MessageId,
    writer: Option<store::Writer>,
    targets: Vec<(u64, mpsc::Sender<wire::BodyPiece>)>,
    pending: BytesMut,
    len: u64,
    first: bool,
}

impl BodyWriter {
    /// Adds to the body. Waits while the peers' queues are full, so a fast sender is slowed to
    /// what the network carries.
    pub async fn write(&mut self, chunk: Bytes) -> io::Result<()> {
        self.len += chunk.len() as u64;
        self.pending.extend_from_slice(&chunk);
        while self.pending.len() >= PIECE_BYTES {
            let piece = self.pending.split_to(PIECE_BYTES).freeze();
            self.send(piece, None).await?;
        }
        Ok(())
    }

    /// Ends the body: durable here on return, and, above [`EAGER_BYTES_MAX`], on a quorum.
    pub async fn finish(mut self) -> io::Result<BodyRef> {
        let rest = self.pending.split().freeze();
        let end = self.send(rest, Some(())).await?;
        let digest = end.ok_or_else(|| io::Error::other("the body was already ended"))?;
        let writer = self
            .writer
            .take()
            .ok_or_else(|| io::Error::other("the body was ended"))?;
        let (done, durable) = oneshot::channel();
        writer.finish(self.len, digest, move |result| {
            let _gone = done.send(result);
        });
        durable
            .await
            .map_err(|_| io::Error::other("the body store stopped"))??;
        self.bodies.acknowledged(self.id, self.bodies.0.me);
        let body = BodyRef {
            id: self.id,
            len: self.len,
            digest,
        };
        if self.len > EAGER_BYTES_MAX {
            self.wait_for_quorum().await?;
        }
        Ok(body)
    }

    async fn wait_for_quorum(&self) -> io::Result<()> {
        let deadline = Instant::now() + QUORUM_TIME_MAX;
        loop {
            let acked = self.bodies.0.acked.notified();
            if self.bodies.on_quorum(self.id) {
                return Ok(());
            }
            tokio::time::timeout_at(deadline, acked)
                .await
                .map_err(|_| {
                    io::Error::new(
                        io::ErrorKind::TimedOut,
                        "no quorum of nodes has the body on disk; nothing was proposed",
                    )
                })?;
        }
    }

    /// Writes one piece and hands it to the peers; with `end`, the last one, and returns the
    /// digest of the whole.
    async fn send(&mut self, data: Bytes, end: Option<()>) -> io::Result<Option<[u8; 32]>> {
        let writer = self
            .writer
            .as_mut()
            .ok_or_else(|| io::Error::other("the body was ended"))?;
        if !data.is_empty() {
            writer.write(&data)?;
        }
        let digest = end.map(|()| writer.digest());
        let piece = wire::BodyPiece {
            body: Bytes::copy_from_slice(&self.id.to_bytes()),
            data,
            first: std::mem::take(&mut self.first),
            end: digest.map(|digest| wire::BodyEnd {
                len: self.len,
                digest: Bytes::copy_from_slice(&digest),
            }),
            ..wire::BodyPiece::default()
        };
        let mut kept = Vec::with_capacity(self.targets.len());
        for (node, queue) in self.targets.drain(..) {
            match queue.try_send(piece.clone()) {
                Ok(()) => kept.push((node, queue)),
                Err(mpsc::error::TrySendError::Closed(_)) => {}
                Err(mpsc::error::TrySendError::Full(piece)) => {
                    match queue.send_timeout(piece, PEER_PATIENCE).await {
                        Ok(()) => kept.push((node, queue)),
                        Err(_) => tracing::info!(
                            node,
                            body = %self.id,
                            "a node takes bodies too slowly; it will fetch this one"
                        ),
                    }
                }
            }
        }
        self.targets = kept;
        Ok(digest)
    }
}

impl Drop for BodyWriter {
    fn drop(&mut self) {
        if self.writer.take().is_some() {
            for (_, queue) in &self.targets {
                // A full queue only means that the peer learns it from the missing end.
                let _full = queue.try_send(wire::BodyPiece {
                    body: Bytes::copy_from_slice(&self.id.to_bytes()),
                    abandoned: true,
                    ..wire::BodyPiece::default()
                });
            }
        }
    }
}

/// A body being read, chunk by chunk. The last chunk is handed out only when the digest of the
/// whole fits.
pub struct BodyReader {
    inner: store::Reader,
    body: BodyRef,
    bodies: Bodies,
}

#[cfg(test)]
impl Bodies {
    /// A whole body, as a peer streams it or as it is fetched; whether it was stored.
    pub(crate) async fn bring(&self, id: MessageId, content: &'static [u8], fetched: bool) -> bool {
        let piece = wire::BodyPiece {
            body: Bytes::copy_from_slice(&id.to_bytes()),
            first: true,
            data: Bytes::from_static(content),
            end: Some(wire::BodyEnd {
                len: content.len() as u64,
                digest: Bytes::copy_from_slice(blake3::hash(content).as_bytes()),
            }),
            ..wire::BodyPiece::default()
        };
        let mut receiver = Receiver::new(self.clone());
        let taken = match fetched {
            true => receiver.take(piece),
            false => receiver.take_streamed(piece),
        };
        match taken {
            Ok(Some(stored)) => matches!(stored.await, Ok(Ok(()))),
            _ => false,
        }
    }

    /// How many of so many bodies that a peer begins are open, and on their way, at once; and how many
    /// a day later, when it begins another.
    pub(crate) fn begin_many(&self, count: u64) -> [(usize, usize); 2] {
        let mut receiver = Receiver::new(self.clone());
        let begin = |receiver: &mut Receiver, number: u64| {
            let id = MessageId::new(super::now(), number.into());
            let piece = wire::BodyPiece {
                body: Bytes::copy_from_slice(&id.to_bytes()),
                first: true,
                data: Bytes::from_static(b"and then silence"),
                ..wire::BodyPiece::default()
            };
            assert!(matches!(receiver.take(piece), Ok(None)));
            (receiver.open.len(), lock(&self.0.arrivals).len())
        };
        let mut at_once = (0, 0);
        for number in 0..count {
            at_once = begin(&mut receiver, number);
        }
        receiver.make_room(Instant::now() + OPEN_SILENCE_MAX);
        [at_once, begin(&mut receiver, count)]
    }

    /// What a disk that lies does to this node's copy.
    pub(crate) fn spoil(&self, id: MessageId) {
        self.0.store.spoil(id);
    }
}

impl BodyReader {
    /// The next chunk; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        match self.inner.next() {
            Ok(chunk) => Ok(chunk),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::error!(body = %self.body.id, "a body on this disk cannot be used: {error}");
                // Forget the bad copy; the next attempt fetches a good one.
                self.bodies.0.store.delete(&[self.body.id])?;
                Err(BodyError::Damaged(self.body.id))
            }
            // A disk that cannot be read now may be read later: the copy stays.
            Err(error) => Err(error.into()),
        }
    }
}

/// The receiving end of one stream of bodies.
struct Receiver {
    bodies: Bodies,
    token: u64,
    open: HashMap<MessageId, Open>,
}

/// A body that is not whole yet.
struct Open {
    writer: store::Writer,
    /// Bytes.
    len: u64,
    touched: Instant,
}

type Stored = oneshot::Receiver<io::Result<()>>;

impl Receiver {
    fn new(bodies: Bodies) -> Self {
        static TOKENS: AtomicU64 = AtomicU64::new(1);
        let token = TOKENS.fetch_add(1, Ordering::Relaxed);
        Self {
            bodies,
            token,
            open: HashMap::new(),
        }
    }

    /// The same for a body that may never be accepted, as most of a flood is not: while the disk is nearly
    /// full it is passed over. If it is accepted, it is fetched when its entry comes.
    fn take_streamed(&mut self, piece: wire::BodyPiece) -> Result<Option<Stored>, Status> {
        // Pieces that follow belong to no open body, and are passed over too.
        if piece.first && self.bodies.0.room.is_low() {
            return Ok(None);
        }
        self.take(piece)
    }

    /// Takes one piece. `Some` when it was a body's last: resolves when the body is durable.
    fn take(&mut self, piece: wire::BodyPiece) -> Result<Option<Stored>, Status> {
        let id = MessageId::from_bytes(&piece.body)
            .ok_or_else(|| Status::invalid_argument("a body's id has 16 bytes"))?;
        if piece.abandoned {
            self.drop_body(id);
            return Ok(None);
        }
        let inner = self.bodies.0.clone();
        if piece.first {
            if self.bodies.present(id).map_err(storage)? {
                // Sent again: what lies here is complete, and stays.
                self.drop_body(id);
                if piece.end.is_none() {
                    return Ok(None);
                }
                let (done, stored) = oneshot::channel();
                let _open = done.send(Ok(()));
                return Ok(Some(stored));
            }
            let mut arrivals = lock(&inner.arrivals);
            let busy = arrivals.get(&id).is_some_and(|other| {
                other.writer != self.token && other.touched.elapsed() < ARRIVAL_STALL
            });
            if busy {
                return Ok(None);
            }
            arrivals.insert(
                id,
                Arrival {
                    writer: self.token,
                    touched: Instant::now(),
                },
            );
            drop(arrivals);
            self.make_room(Instant::now());
            let open = Open {
                writer: inner.store.begin(id),
                len: 0,
                touched: Instant::now(),
            };
            self.open.insert(id, open);
        } else {
            let mut arrivals = lock(&inner.arrivals);
            match arrivals.get_mut(&id) {
                Some(arrival) if arrival.writer == self.token => arrival.touched = Instant::now(),
                // Another stream took over, or this one began before a restart.
                _ => {
                    drop(arrivals);
                    self.open.remove(&id);
                    return Ok(None);
                }
            }
        }
        let Some(open) = self.open.get_mut(&id) else {
            return Ok(None);
        };
        open.touched = Instant::now();
        if !piece.data.is_empty() {
            open.writer.write(&piece.data).map_err(storage)?;
            open.len += piece.data.len() as u64;
        }
        let Some(end) = piece.end else {
            return Ok(None);
        };
        let Some(Open { writer, len, .. }) = self.open.remove(&id) else {
            return Ok(None);
        };
        let digest = writer.digest();
        if len != end.len || digest[..] != end.digest[..] {
            lock(&inner.arrivals).remove(&id);
            return Err(Status::data_loss(format!(
                "the body of {id} was changed on its way"
            )));
        }
        let (done, stored) = oneshot::channel();
        let bodies = self.bodies.clone();
        writer.finish(len, digest, move |result| {
            if result.is_ok() {
                failpoint::reach("peer-body-stored");
                bodies.arrived(id);
            }
            let _gone = done.send(result);
        });
        Ok(Some(stored))
    }

    /// Lets go of bodies that do not grow any more, so that there is room for one.
    fn make_room(&mut self, now: Instant) {
        while let Some((id, touched)) = self
            .open
            .iter()
            .map(|(id, open)| (*id, open.touched))
            .min_by_key(|(id, touched)| (*touched, *id))
            && (self.open.len() >= OPEN_MAX || now.duration_since(touched) >= OPEN_SILENCE_MAX)
        {
            self.drop_body(id);
        }
    }

    /// Bytes that have come of a body that is not whole.
    fn has(&self, id: MessageId) -> u64 {
        self.open.get(&id).map_or(0, |open| open.len)
    }

    fn drop_body(&mut self, id: MessageId) {
        self.open.remove(&id);
        let mut arrivals = lock(&self.bodies.0.arrivals);
        if arrivals
            .get(&id)
            .is_some_and(|arrival| arrival.writer == self.token)
        {
            arrivals.remove(&id);
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut arrivals = lock(&self.bodies.0.arrivals);
        for id in self.open.keys() {
            // Another stream may have taken over a body that did not grow.
            if arrivals
                .get(id)
                .is_some_and(|arrival| arrival.writer == self.token)
            {
                arrivals.remove(id);
            }
        }
    }
}

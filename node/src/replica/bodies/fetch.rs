//! Fetching bodies from peers.
//!
//! A fetch belongs to no request. Whoever waits for a body gives up after some seconds and asks again,
//! and a large body needs minutes on a slow line: a fetch that ended with the request would begin anew for
//! ever. So each goes on in a task of its own, once for all who wait for the same body, and what has come
//! of it is not asked for again.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use holdfast_mail::{BodyRef, MessageId};
use holdfast_proto::cluster as wire;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};

use super::{Bodies, Receiver, lock};

/// Bodies fetched at a time, by everybody together: a node that was away needs many. Each has a piece
/// of 256 KiB in memory.
const FETCHES_MAX: usize = 16;

/// A peer that sends nothing for this long is left for another.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// What has come of a body is kept this long without more: a line that breaks comes back, or a node
/// that has the body does.
const PART_KEPT: Duration = Duration::from_secs(60);

/// Between two rounds among the peers.
const PAUSE: Duration = Duration::from_millis(200);

/// What a fetch came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fetched {
    Here,
    /// No entry up to this one needs it any more.
    Completed(u64),
    /// Not now.
    Nowhere,
}

/// The fetches under way.
pub(super) struct Fetches {
    /// Who waits for each.
    waiting: Mutex<HashMap<MessageId, Vec<oneshot::Sender<Fetched>>>>,
    slots: Arc<Semaphore>,
}

impl Default for Fetches {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            slots: Arc::new(Semaphore::new(FETCHES_MAX)),
        }
    }
}

/// One fetch. Whatever ends it, who waits hears of it, and the next one can begin.
struct UnderWay {
    bodies: Bodies,
    id: MessageId,
    fetched: Fetched,
    _slot: OwnedSemaphorePermit,
}

impl UnderWay {
    fn came_to(&mut self, fetched: Fetched) {
        self.fetched = fetched;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let waiting = lock(&self.bodies.0.fetches.waiting).remove(&self.id);
        for waiter in waiting.unwrap_or_default() {
            let _gone = waiter.send(self.fetched);
        }
    }
}

impl Bodies {
    /// Has a body fetched from `sources`, or from any member, and waits for it. The fetch goes on when
    /// the caller does not.
    pub(super) async fn fetched(&self, body: &BodyRef, sources: &[u64], index: u64) -> Fetched {
        let fetches = &self.0.fetches;
        // Where many wait, they wait here and not in tasks.
        let is_under_way = lock(&fetches.waiting).contains_key(&body.id);
        let slot = if is_under_way {
            None
        } else {
            fetches.slots.clone().acquire_owned().await.ok()
        };
        let (tell, fetched) = oneshot::channel();
        {
            let mut waiting = lock(&fetches.waiting);
            if let Some(others) = waiting.get_mut(&body.id) {
                others.retain(|other| !other.is_closed());
                others.push(tell);
            } else if let Some(slot) = slot {
                waiting.insert(body.id, vec![tell]);
                self.start(body, sources, index, slot);
            } else {
                // It ended just now.
                return Fetched::Nowhere;
            }
        }
        fetched.await.unwrap_or(Fetched::Nowhere)
    }

    fn start(&self, body: &BodyRef, sources: &[u64], index: u64, slot: OwnedSemaphorePermit) {
        let mut under_way = UnderWay {
            bodies: self.clone(),
            id: body.id,
            fetched: Fetched::Nowhere,
            _slot: slot,
        };
        let (body, sources) = (*body, sources.to_vec());
        tokio::spawn(async move {
            let fetched = under_way.bodies.fetch(&body, &sources, index).await;
            under_way.came_to(fetched);
        });
    }

    /// Asks one member after the other, for as long as more of the body comes.
    async fn fetch(&self, body: &BodyRef, sources: &[u64], index: u64) -> Fetched {
        let mut receiver = Receiver::new(self.clone());
        let (mut had, mut grew) = (0, Instant::now());
        loop {
            for source in self.peers_to_ask(sources) {
                match self.fetch_from(source, body, index, &mut receiver).await {
                    Ok(()) => return Fetched::Here,
                    Err(status) if status.code() == Code::FailedPrecondition => {
                        return Fetched::Completed(index);
                    }
                    Err(status) => {
                        tracing::debug!(body = %body.id, source, "cannot fetch a body: {}", status.message());
                        if status.code() == Code::DataLoss {
                            // What it sent is as bad: it must not spoil what the next one has.
                            receiver.drop_body(body.id);
                        }
                    }
                }
            }
            let has = receiver.has(body.id);
            if has > had {
                grew = Instant::now();
            }
            had = has;
            if has == 0 || grew.elapsed() >= PART_KEPT {
                return Fetched::Nowhere;
            }
            sleep(PAUSE).await;
        }
    }

    /// Whether a member knows that the entry at `index` needs the body no more. Nothing is fetched.
    pub(super) async fn is_over_elsewhere(
        &self,
        id: MessageId,
        sources: &[u64],
        index: u64,
    ) -> bool {
        for source in self.peers_to_ask(sources) {
            let Some(mut client) = self.0.peers.bodies(source) else {
                continue;
            };
            let request = wire::PullRequest {
                envelope: self.0.peers.envelope(source),
                body: id.to_bytes().to_vec().into(),
                index,
                ask: true,
                ..wire::PullRequest::default()
            };
            let answer = timeout(SILENCE_MAX, client.pull(request)).await;
            if let Ok(Err(status)) = answer
                && status.code() == Code::FailedPrecondition
            {
                return true;
            }
        }
        false
    }

    /// The sources first, then the other voters.
    fn peers_to_ask(&self, sources: &[u64]) -> Vec<u64> {
        let mut asked = BTreeSet::from([self.0.me]);
        let voters = self.0.voters.borrow();
        let all = sources.iter().chain(voters.iter().flatten());
        all.copied().filter(|peer| asked.insert(*peer)).collect()
    }

    /// What `receiver` has of the body is not sent again.
    async fn fetch_from(
        &self,
        source: u64,
        body: &BodyRef,
        index: u64,
        receiver: &mut Receiver,
    ) -> Result<(), Status> {
        let unknown = || Status::unavailable("its address is not known");
        let silent = |_| Status::unavailable("nothing comes from it");
        let mut client = self.0.peers.bodies(source).ok_or_else(unknown)?;
        let request = wire::PullRequest {
            envelope: self.0.peers.envelope(source),
            body: body.id.to_bytes().to_vec().into(),
            index,
            offset: receiver.has(body.id),
            ask: false,
        };
        let pieces = timeout(SILENCE_MAX, client.pull(request)).await;
        let mut pieces = pieces.map_err(silent)??.into_inner();
        loop {
            let next = timeout(SILENCE_MAX, pieces.next()).await.map_err(silent)?;
            let piece = next.ok_or_else(|| Status::unavailable("the body ended early"))??;
            let is_other = piece
                .end
                .as_ref()
                .is_some_and(|end| end.len != body.len || end.digest[..] != body.digest[..]);
            if is_other {
                receiver.drop_body(body.id);
                return Err(Status::data_loss("it has another body under this id"));
            }
            if let Some(stored) = receiver.take(piece)? {
                return match stored.await {
                    Ok(Ok(())) => Ok(()),
                    _ => Err(Status::unavailable("the body could not be stored")),
                };
            }
            match receiver.has(body.id) {
                0 => return Err(Status::unavailable("it arrives in another way")),
                has if has > body.len => {
                    receiver.drop_body(body.id);
                    return Err(Status::data_loss("it has a longer body under this id"));
                }
                _ => {}
            }
        }
    }
}

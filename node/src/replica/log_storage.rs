//! openraft's log and vote on [`Store`].
//!
//! Appends are readable when they return and durable when their callback fires; votes wait in
//! the same queue, so a vote is never durable before an entry that was appended earlier. The
//! flusher behind [`Store`] keeps the order; nothing here waits for a disk but `save_vote`.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::Stream;
use holdfast_proto::cluster as wire;
use openraft::alias::{LogIdOf, VoteOf};
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use prost::Message;

use super::codec;
use super::types::{Entry, LogId, Types, Vote};
use crate::store::Store;

/// Entries handed to one follower in one request, in bytes of their encoded form: large enough
/// to fill a fast link, small enough that a heartbeat behind it on a slow one is not late.
pub(super) const REPLICATE_BYTES_MAX: usize = 1 << 20;

/// Recent entries kept decoded, in bytes of their encoded form: what followers and the state
/// machine read next, so that an entry is decoded once. Older ones are read from disk. Decoded, an
/// entry of one message takes eight times as much, with the buffer that it arrived in.
const RECENT_BYTES_MAX: usize = 1 << 20;

/// Entries read from disk at a time when many are applied in a row.
const APPLY_CHUNK: u64 = 64;

const VOTE: &[u8] = b"vote";
const PURGED: &[u8] = b"purged";
const COMMITTED: &[u8] = b"committed";

/// The log; clones share it.
#[derive(Clone)]
pub(crate) struct LogStorage {
    store: Arc<Store>,
    recent: Arc<Mutex<Recent>>,
}

/// The tail of the log, decoded. Its indexes have no gap.
#[derive(Default)]
struct Recent {
    entries: VecDeque<(Entry, usize)>,
    bytes: usize,
}

impl LogStorage {
    pub(crate) fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            recent: Arc::default(),
        }
    }

    fn recent(&self) -> std::sync::MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Entries `start..end`, as many as `bytes_max` allows but at least one where there is one.
    fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        if let Some(entries) = self.recent().read(start, end, bytes_max) {
            return Ok(entries);
        }
        self.store
            .log_limited(start, end, bytes_max)?
            .into_iter()
            .map(|(_, bytes)| Ok(codec::entry(Bytes::from(bytes))?))
            .collect()
    }

    fn meta_log_id(&self, key: &[u8]) -> io::Result<Option<LogId>> {
        let Some(bytes) = self.store.meta(key)? else {
            return Ok(None);
        };
        let id = wire::LogId::decode(&bytes[..])
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        Ok(Some(codec::log_id(&id)))
    }
}

impl Recent {
    fn read(&self, start: u64, end: u64, bytes_max: usize) -> Option<Vec<Entry>> {
        let first = self.entries.front()?.0.log_id.index;
        if start < first {
            return None;
        }
        let mut bytes = 0;
        let skip = usize::try_from(start - first).ok()?;
        let wanted = usize::try_from(end.saturating_sub(start)).ok()?;
        let mut found = Vec::new();
        for (entry, len) in self.entries.iter().skip(skip).take(wanted) {
            bytes += len;
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        Some(found)
    }

    fn push(&mut self, entry: Entry, len: usize) {
        let next = self.entries.back().map(|(last, _)| last.log_id.index + 1);
        if next.is_some_and(|next| next != entry.log_id.index) {
            self.entries.clear();
            self.bytes = 0;
        }
        self.bytes += len;
        self.entries.push_back((entry, len));
        while self.bytes > RECENT_BYTES_MAX && self.entries.len() > 1 {
            if let Some((_, len)) = self.entries.pop_front() {
                self.bytes -= len;
            }
        }
    }

    fn truncate_after(&mut self, last: Option<u64>) {
        while self
            .entries
            .back()
            .is_some_and(|(e, _)| last.is_none_or(|l| e.log_id.index > l))
        {
            if let Some((_, len)) = self.entries.pop_back() {
                self.bytes -= len;
            }
        }
    }

    fn purge(&mut self, upto: u64) {
        while self
            .entries
            .front()
            .is_some_and(|(e, _)| e.log_id.index <= upto)
        {
            if let Some((_, len)) = self.entries.pop_front() {
                self.bytes -= len;
            }
        }
    }
}

/// `start..end` of any range; `end` is exclusive and may lie behind the log's last entry.
fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<Types> for LogStorage {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (start, end) = bounds(&range);
        self.read(start, end, usize::MAX)
    }

    async fn read_vote(&mut self) -> Result<Option<VoteOf<Types>>, io::Error> {
        let Some(bytes) = self.store.meta(VOTE)? else {
            return Ok(None);
        };
        let vote = wire::Vote::decode(&bytes[..])
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        Ok(Some(codec::vote(&vote)))
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read(start, end, REPLICATE_BYTES_MAX)
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        let log = self.clone();
        let chunks = futures::stream::try_unfold(start, move |next| {
            let log = log.clone();
            async move {
                if next >= end {
                    return Ok(None);
                }
                let upto = end.min(next.saturating_add(APPLY_CHUNK));
                let entries = log.read(next, upto, REPLICATE_BYTES_MAX)?;
                let indexes = entries.iter().map(|entry| entry.log_id.index);
                // openraft would take a shorter stream for all of it, and what is missing for applied.
                let last = || {
                    log.store
                        .log_bounds()
                        .map(|bounds| bounds.map(|(_, last)| last))
                };
                if !indexes.eq((next..).take(entries.len()))
                    || entries.is_empty() && last()? >= Some(next)
                {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("entry {next} of the log, or one behind it, is missing"),
                    ));
                }
                let Some(last) = entries.last() else {
                    return Ok(None);
                };
                let after = last.log_id.index + 1;
                Ok::<_, io::Error>(Some((
                    futures::stream::iter(entries.into_iter().map(Ok)),
                    after,
                )))
            }
        });
        Box::pin(futures::TryStreamExt::try_flatten(chunks))
    }
}

impl RaftLogStorage<Types> for LogStorage {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let purged = self.meta_log_id(PURGED)?;
        let last = match self.store.log_bounds()? {
            Some((_, last)) => self
                .read(last, last + 1, usize::MAX)?
                .pop()
                .map(|e| e.log_id),
            None => None,
        };
        // Entries at or below the purge mark may still lie there until a background deletion.
        let last = last.max(purged);
        Ok(LogState {
            last_purged_log_id: purged,
            last_log_id: last,
        })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let bytes = codec::vote_to_wire(vote).encode_to_vec();
        self.store.put_meta_durable(VOTE, &bytes).await
    }

    async fn save_committed(&mut self, committed: Option<LogIdOf<Types>>) -> Result<(), io::Error> {
        let bytes = committed
            .as_ref()
            .map(|id| codec::log_id_to_wire(id).encode_to_vec());
        match bytes {
            Some(bytes) => self.store.put_meta(COMMITTED, &bytes),
            None => Ok(()),
        }
    }

    async fn read_committed(&mut self) -> Result<Option<LogIdOf<Types>>, io::Error> {
        self.meta_log_id(COMMITTED)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut rows = Vec::new();
        let mut recent = self.recent();
        for entry in entries {
            let bytes = codec::entry_to_bytes(&entry);
            let len = bytes.len();
            rows.push((entry.log_id.index, bytes));
            recent.push(entry, len);
        }
        drop(recent);
        self.store
            .append(rows, move |result| callback.io_completed(result))
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<Types>>) -> Result<(), io::Error> {
        let last = last.map(|id| id.index);
        self.recent().truncate_after(last);
        self.store.truncate_after(last)
    }

    async fn purge(&mut self, upto: LogIdOf<Types>) -> Result<(), io::Error> {
        self.recent().purge(upto.index);
        self.store
            .put_meta(PURGED, &codec::log_id_to_wire(&upto).encode_to_vec())?;
        self.store.purge(upto.index)
    }
}

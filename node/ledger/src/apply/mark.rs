//! Marks: why an id is never accepted (again).
//!
//! An id whose message was cancelled or completed leaves a mark, so that a late Accept can
//! neither resurrect delivered mail nor take mail whose sender was told `4xx`. Marks cannot be
//! kept for ever; instead [`is_stale`] refuses every id that is too old to be sure about. Both
//! use the id's own time against the logged time, so a mark is only swept once its id is stale:
//! no margin for clocks is needed, however wrong the clock was that made the id.

use holdfast_mail::{MessageId, Timestamp};
use holdfast_proto::ledger::{MarkRow, mark_row::Why};

use super::{Logged, MARK_KEPT};
use crate::row::{self, unreadable};
use crate::{Kv, KvError, KvRead, Seq, tables};

pub(super) enum Mark {
    Cancelled,
    /// Every recipient was delivered to.
    Completed {
        seq: Seq,
    },
}

pub(super) fn get(kv: &dyn KvRead, id: MessageId) -> Result<Option<Mark>, KvError> {
    let key = tables::mark(id);
    let Some(row) = row::get::<MarkRow>(kv, &key)? else {
        return Ok(None);
    };
    match row.why {
        Some(Why::Cancelled(_)) => Ok(Some(Mark::Cancelled)),
        Some(Why::Completed(seq)) => Ok(Some(Mark::Completed { seq: Seq(seq) })),
        None => Err(unreadable(&key, "it does not say why")),
    }
}

/// Leaves a mark, unless the id is stale: then there is nothing to guard against, and the mark
/// would lie where Sweep has already been.
pub(super) fn put(kv: &mut dyn Kv, when: Logged, id: MessageId, mark: &Mark) {
    if is_stale(id, when.at) {
        return;
    }
    let why = match mark {
        Mark::Cancelled => Why::Cancelled(true),
        Mark::Completed { seq } => Why::Completed(seq.0),
    };
    let row = MarkRow {
        at_ms: when.at.0,
        why: Some(why),
    };
    row::put(kv, &tables::mark(id), &row);
}

/// Too old to be accepted, and too old to need a mark. Once true it stays true, for logged
/// time never goes back.
pub(crate) fn is_stale(id: MessageId, now: Timestamp) -> bool {
    id.at().plus(MARK_KEPT) < now
}

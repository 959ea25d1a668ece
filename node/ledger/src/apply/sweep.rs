//! Sweep: forget what is no longer needed, a bounded piece at a time.

use holdfast_proto::ledger as proto;

use super::{Logged, SWEEP_MARKS_MAX, TOKENS_MAX, known, mark, plan, usage};
use crate::{Kv, KvError, Reply, row, tables};

pub(super) fn sweep(kv: &mut dyn Kv, when: Logged) -> Result<Reply, KvError> {
    let more = marks(kv, when)?;
    tokens(kv, when)?;
    known::sweep(kv, when)?;
    let more = usage::sweep(kv, when.at)? || more;
    plan::sweep(kv, when.at)?;
    Ok(Reply::Swept { more })
}

/// Stale marks lie at the front. Starts behind the last one swept: a store may have to step
/// over every row deleted before it, and no new mark is ever put there.
fn marks(kv: &mut dyn Kv, when: Logged) -> Result<bool, KvError> {
    let swept: proto::SweptRow = row::get(kv, tables::SWEPT)?.unwrap_or_default();
    let rows = kv.scan(tables::MARKS, &swept.last, SWEEP_MARKS_MAX)?;
    let mut last = None;
    let mut gone = 0;
    for (key, _) in rows {
        if !mark::is_stale(tables::marked(&key)?, when.at) {
            break;
        }
        kv.delete(&key);
        gone += 1;
        last = Some(key);
    }
    if let Some(last) = last {
        row::put(kv, tables::SWEPT, &proto::SweptRow { last: last.into() });
    }
    Ok(gone == SWEEP_MARKS_MAX)
}

fn tokens(kv: &mut dyn Kv, when: Logged) -> Result<(), KvError> {
    for (key, value) in kv.scan(tables::TOKENS, &[], TOKENS_MAX)? {
        let token: proto::TokenRow = row::decode(&key, &value)?;
        if token.expires_at_ms <= when.at.0 {
            kv.delete(&key);
        }
    }
    Ok(())
}

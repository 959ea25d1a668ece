//! Cancel: the answer to the sender will be `4xx`, so the message must never be accepted.
//!
//! RFC 5321 section 4.2.5 makes a `4xx` after the final dot a promise too: the sender keeps
//! the message, and a copy delivered later would be a second one.

use holdfast_mail::{MessageId, mutant};

use super::mark::{self, Mark};
use super::{Logged, refuse};
use crate::{Effect, Kv, KvError, Refusal, Reply, row, tables};

pub(super) fn cancel(
    kv: &mut dyn Kv,
    when: Logged,
    message: MessageId,
    effects: &mut Vec<Effect>,
) -> Result<Reply, KvError> {
    if row::exists(kv, &tables::message(message))? {
        return Ok(Reply::AlreadyAccepted);
    }
    match mark::get(kv, message)? {
        Some(Mark::Completed { .. }) => return Ok(Reply::AlreadyAccepted),
        Some(Mark::Cancelled) => return Ok(Reply::Cancelled),
        None => {}
    }
    // It may have been accepted and delivered long ago: "cancelled" would be a guess.
    if mark::is_stale(message, when.at) {
        return refuse(Refusal::Stale);
    }
    if !mutant("cancel-leaves-no-mark") {
        mark::put(kv, when, message, &Mark::Cancelled);
    }
    effects.push(Effect::BodyReleased { body: message });
    Ok(Reply::Cancelled)
}

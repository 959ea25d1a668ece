//! A message whose content is nowhere, when a cluster is founded anew: nobody can be given it, and
//! no notification can be written about it.

use holdfast_mail::{Domain, MessageId};
use holdfast_proto::ledger as proto;

use super::Logged;
use super::counts::{self, Change};
use super::place::{in_queue, let_go};
use crate::query::envelope_of;
use crate::row;
use crate::{Kv, KvError, Seq, tables};

/// Owes nothing about the message any more, and lets go of it unless it is in a queue. Returns the
/// domains in whose queues it still is: whoever takes it out of those lets go of it.
pub(crate) fn give_up(
    kv: &mut dyn Kv,
    when: Logged,
    id: MessageId,
) -> Result<Vec<Domain>, KvError> {
    let key = tables::message(id);
    let Some(message) = row::get::<proto::MessageRow>(kv, &key)? else {
        return Ok(Vec::new());
    };
    let seq = Seq(message.seq);
    let envelope = envelope_of(&key, message)?;
    for (owed, _) in kv.scan(&tables::owed_of(id), &[], usize::MAX)? {
        kv.delete(&owed);
    }
    kv.delete(&tables::report(seq));
    let queued = in_queue(kv, &envelope, seq)?;
    if let_go(kv, when, &envelope, seq, &mut Vec::new())? {
        let mut total = Change::default();
        total.take(Change::one_message(envelope.body.len));
        counts::change(kv, tables::TOTAL, total)?;
    }
    Ok(queued)
}

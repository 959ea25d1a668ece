//! Taking over a message from the rows of another survivor, when a cluster is founded anew.

use holdfast_mail::Envelope;
use holdfast_proto::ledger as proto;

use super::Logged;
use super::counts::{self, Change};
use super::place::{domains, rows};
use super::usage::Fate;
use crate::{Kv, KvError, KvRead, Seq, row, tables, wire};

/// Puts the message where the other one has it, recipient by recipient, at a place of its own. Nobody
/// is asked for room: it was acknowledged, and whoever sent it has forgotten it. `was` is its place
/// there.
pub(crate) fn take_over(
    kv: &mut dyn Kv,
    when: Logged,
    seq: Seq,
    envelope: &Envelope,
    other: &dyn KvRead,
    was: Seq,
) -> Result<(), KvError> {
    let arrived = Change::one_message(envelope.body.len);
    for domain in domains(envelope) {
        let mut is_there = false;
        let mut pending = 0;
        let places = rows(domain, was).into_iter().zip(rows(domain, seq));
        for (at, (from, to)) in places.enumerate() {
            if let Some(queued) = other.get(&from)? {
                kv.put(&to, &queued);
                is_there = true;
                // Held is the first of them.
                pending += i64::from(at == 0);
            }
        }
        if is_there {
            let came = [(Fate::Accepted, envelope.body.len)];
            counts::change_domain(kv, when, domain, arrived.and_pending(pending), &came)?;
        }
    }
    for (key, owed) in other.scan(&tables::owed_of(envelope.id), &[], usize::MAX)? {
        kv.put(&key, &owed);
    }
    if let Some(report) = other.get(&tables::report(was))? {
        kv.put(&tables::report(seq), &report);
    }
    let message = proto::MessageRow {
        seq: seq.0,
        envelope: Some(wire::envelope_to(envelope)),
    };
    row::put(kv, &tables::message(envelope.id), &message);
    counts::change(kv, tables::TOTAL, arrived)
}

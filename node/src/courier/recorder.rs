//! Writes down what became of messages, in batches.
//!
//! A message counts as done when its outcome is committed and this node's view shows it: from
//! then on no row that is read can bring it back. Until then it is busy, so that a cluster, or
//! a view, that falls behind slows delivery down instead of repeating it.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use holdfast_ledger::query::Held;
use holdfast_ledger::{Command, Outcome, REPLY_TEXT_OCTETS_MAX, Refusal, Reply, Verdict};
use holdfast_mail::MessageId;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::desk::Desk;
use super::fate;
use super::queue::After;
use crate::failpoint;
use crate::world::select;

/// A batch is proposed when it has this many messages…
const BATCH_MESSAGES: usize = 64;

/// …or when this much time has passed since its first, whichever is sooner.
const BATCH_WAIT: Duration = Duration::from_millis(20);

/// Messages in a batch that had to wait for an earlier one.
const BATCH_MESSAGES_MAX: usize = 256;

/// Bytes of one proposal, about: every answer of a primary may be as long as [`REPLY_TEXT_OCTETS_MAX`],
/// for a thousand recipients of each message. Far below the longest command, a single message's is
/// about half of it.
const PROPOSAL_BYTES_MAX: usize = 1 << 20;

/// Of an outcome besides its reply, about.
const OUTCOME_BYTES: usize = 40;

/// Batches on their way at a time: enough to fill a link between continents.
const BATCHES_MAX: usize = 4;

/// How long one proposal may take before it is made again. Repeating does no harm: outcomes of
/// what is settled are passed over.
const PROPOSAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause between two proposals of the same batch.
const PROPOSE_AGAIN: Duration = Duration::from_millis(200);

/// How long to go on after the lease is lost. It may be nobody else's yet, and every outcome
/// still recorded is a message that does not arrive twice; the epoch fences the others.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long until the view must show what was recorded. A node that is further behind than that is no
/// good to deliver; and a row that somebody changed meanwhile may never look as expected.
const VIEW_TIME_MAX: Duration = Duration::from_secs(10);

/// How often to look whether the view has caught up, at first and at most.
const VIEW_POLL: Duration = Duration::from_millis(2);
const VIEW_POLL_MAX: Duration = Duration::from_millis(100);

/// An attempt that is over.
pub(super) struct Report {
    /// The row as it was when the message was taken.
    pub(super) row: Held,
    pub(super) outcomes: Vec<Outcome>,
    pub(super) after: After,
}

/// Records until all senders are gone and everything is written.
pub(super) async fn run(desk: Arc<Desk>, mut reports: mpsc::Receiver<Report>) {
    let mut batch = Vec::with_capacity(BATCH_MESSAGES);
    let mut flush_at: Option<Instant> = None;
    let mut open = true;
    let mut proposals = FuturesUnordered::new();
    loop {
        let due = !open
            || batch.len() >= BATCH_MESSAGES
            || flush_at.is_some_and(|at| at <= Instant::now());
        if due && !batch.is_empty() && proposals.len() < BATCHES_MAX {
            proposals.push(record(&desk, std::mem::take(&mut batch)));
            flush_at = None;
            continue;
        }
        let room = BATCH_MESSAGES_MAX - batch.len();
        let wake = flush_at.filter(|_| proposals.len() < BATCHES_MAX);
        select! {
            Some(()) = proposals.next(), if !proposals.is_empty() => {}
            count = reports.recv_many(&mut batch, room), if open && room > 0 => {
                open = count > 0;
                if open {
                    flush_at.get_or_insert_with(|| Instant::now() + BATCH_WAIT);
                }
            }
            () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            else => return,
        }
    }
}

async fn record(desk: &Desk, mut batch: Vec<Report>) {
    let tried = tried(&batch);
    failpoint::reach("before-settle");
    for outcomes in proposals(&mut batch) {
        let command = Command::Settle {
            domain: desk.domain().clone(),
            node: desk.me(),
            epoch: desk.lease.epoch,
            outcomes,
        };
        if !commit(desk, command).await {
            desk.counters.unrecorded.inc_by(batch.len() as u64);
            desk.lease.lose();
            return;
        }
    }
    failpoint::reach("recorded");
    if let Some(last) = batch.last()
        && !is_shown(desk, &last.row).await
    {
        // Under the next lease rows are read anew, once the view shows all that was before it.
        tracing::warn!(
            domain = %desk.domain(),
            "this node is far behind with what it recorded: it gives up delivering for a moment"
        );
        desk.lease.lose();
        return;
    }
    fate::note_tried(desk.cluster(), desk.domain(), tried);
    desk.settle(
        batch
            .into_iter()
            .map(|report| (report.row.seq, report.after)),
    );
}

/// The outcomes in the order of the messages, in pieces that a proposal has room for.
fn proposals(batch: &mut [Report]) -> Vec<Vec<Outcome>> {
    let mut pieces: Vec<Vec<Outcome>> = Vec::new();
    let mut bytes = 0;
    for report in batch {
        let outcomes = std::mem::take(&mut report.outcomes);
        let len: usize = outcomes
            .iter()
            .map(|outcome| OUTCOME_BYTES + outcome.reply.len().min(REPLY_TEXT_OCTETS_MAX))
            .sum();
        match pieces.last_mut() {
            Some(piece) if bytes + len <= PROPOSAL_BYTES_MAX => {
                bytes += len;
                piece.extend(outcomes);
            }
            _ => {
                bytes = len;
                pieces.push(outcomes);
            }
        }
    }
    pieces
}

/// The messages, and which of their recipients were refused.
fn tried(batch: &[Report]) -> Vec<(MessageId, Vec<u32>)> {
    let refused = |report: &Report| {
        let refused = report.outcomes.iter();
        refused
            .filter(|outcome| outcome.verdict == Verdict::Refused)
            .map(|outcome| outcome.recipient)
            .collect()
    };
    batch
        .iter()
        .map(|report| (report.row.message, refused(report)))
        .collect()
}

/// Whether the command was committed.
async fn commit(desk: &Desk, command: Command) -> bool {
    let domain = desk.domain();
    let mut lost_at: Option<Instant> = None;
    loop {
        let deadline = Instant::now() + PROPOSAL_TIMEOUT;
        let why = match desk.cluster().propose(command.clone(), deadline).await {
            Ok(Reply::Refused(Refusal::TryAgain)) => Refusal::TryAgain.to_string(),
            Ok(Reply::Refused(why)) => {
                tracing::warn!(%domain, %why, "delivery outcomes were not recorded");
                return false;
            }
            Ok(_) => return true,
            Err(why) => why.to_string(),
        };
        if desk.lease.is_live() {
            lost_at = None;
        } else if lost_at.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
            tracing::warn!(
                %domain, %why,
                "delivery outcomes could not be recorded in time; those messages may be \
                 delivered again"
            );
            return false;
        }
        sleep(PROPOSE_AGAIN).await;
    }
}

/// Whether this node comes to have applied, in time, what was recorded of the message that `row` is.
async fn is_shown(desk: &Desk, row: &Held) -> bool {
    let until = Instant::now() + VIEW_TIME_MAX;
    let mut pause = VIEW_POLL;
    while Instant::now() < until {
        match desk.row(row.seq) {
            Ok(Some(now)) if is_as_taken(row, &now) => {}
            Ok(_) => return true,
            Err(error) => {
                tracing::error!(domain = %desk.domain(), %error, "held mail cannot be listed");
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(VIEW_POLL_MAX);
    }
    false
}

/// Whether nothing has been recorded of the row yet, by what is there now: all for whom it was taken are
/// still to be delivered to, and no attempt has been counted. Others may have come back into the
/// queue meanwhile, and have brought their attempts along.
fn is_as_taken(taken: &Held, now: &Held) -> bool {
    let waits = |recipient: &u32| now.pending.contains(recipient);
    let grown = now.pending.len() > taken.pending.len();
    taken.pending.iter().all(waits) && (now.attempts <= taken.attempts || grown)
}

#[cfg(test)]
mod tests {
    use holdfast_ledger::Seq;

    use super::*;

    fn row(pending: &[u32], attempts: u32) -> Held {
        Held {
            seq: Seq(7),
            message: MessageId(7),
            pending: pending.to_vec(),
            attempts,
            last_reply: String::new(),
            retry_at: None,
            delay_told: false,
            kept_back: false,
            discard_at: None,
        }
    }

    #[test]
    fn a_row_shows_what_was_recorded_whoever_else_came_back_into_it() {
        let taken = row(&[0, 2], 3);
        for (now, as_taken) in [
            (row(&[0, 2], 3), true),
            // Somebody had refused mail tried again before the outcome was applied…
            (row(&[0, 1, 2], 3), true),
            (row(&[0, 1, 2], 9), true),
            // …or after: 0 was delivered, and 1 is back.
            (row(&[1, 2], 3), false),
            (row(&[1], 3), false),
            (row(&[2], 3), false),
            (row(&[0, 2], 4), false),
        ] {
            assert_eq!(is_as_taken(&taken, &now), as_taken, "{now:?}");
        }
    }

    #[test]
    fn long_answers_for_many_recipients_go_into_several_proposals_in_order() {
        let report = |message: u128| Report {
            row: row(&[0], 0),
            outcomes: (0..1000)
                .map(|recipient| Outcome {
                    message: MessageId(message),
                    recipient,
                    verdict: Verdict::Deferred,
                    reply: "4".repeat(REPLY_TEXT_OCTETS_MAX),
                })
                .collect(),
            after: After::Done,
        };
        let mut batch: Vec<Report> = (0..64).map(report).collect();
        let pieces = proposals(&mut batch);
        let all: Vec<u128> = pieces.iter().flatten().map(|o| o.message.0).collect();
        assert_eq!(all.len(), 64_000);
        assert!(all.is_sorted());
        for outcomes in pieces {
            let command = Command::Settle {
                domain: holdfast_mail::Domain::parse("example.org").unwrap(),
                node: holdfast_mail::NodeId(1),
                epoch: u64::MAX,
                outcomes,
            };
            assert!(command.encode().len() < PROPOSAL_BYTES_MAX * 2);
        }
    }
}

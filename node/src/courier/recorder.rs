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
use holdfast_ledger::{Command, Outcome, Refusal, Reply, Verdict};
use holdfast_mail::MessageId;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::desk::Desk;
use super::fate;
use super::queue::After;
use crate::failpoint;

/// A batch is proposed when it has this many messages…
const BATCH_MESSAGES: usize = 64;

/// …or when this much time has passed since its first, whichever is sooner.
const BATCH_WAIT: Duration = Duration::from_millis(20);

/// Messages in a batch that had to wait for an earlier one.
const BATCH_MESSAGES_MAX: usize = 256;

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
        tokio::select! {
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
    let outcomes = batch
        .iter_mut()
        .flat_map(|report| std::mem::take(&mut report.outcomes))
        .collect();
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
    failpoint::reach("recorded");
    if let Some(last) = batch.last() {
        await_view(desk, &last.row).await;
    }
    fate::note_tried(desk.cluster(), desk.domain(), tried);
    desk.settle(
        batch
            .into_iter()
            .map(|report| (report.row.seq, report.after)),
    );
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

/// Returns once this node has applied the batch that `row` was part of. A row with a recorded
/// outcome is gone, has fewer recipients or more attempts.
async fn await_view(desk: &Desk, row: &Held) {
    let mut pause = VIEW_POLL;
    loop {
        match desk.row(row.seq) {
            Ok(Some(now))
                if now.pending.len() >= row.pending.len() && now.attempts <= row.attempts => {}
            Ok(_) => return,
            Err(error) => {
                tracing::error!(domain = %desk.domain(), %error, "held mail cannot be listed");
            }
        }
        // A replica that is stopped never catches up; the round ends with the lease, and this
        // with the round.
        sleep(pause).await;
        pause = (pause * 2).min(VIEW_POLL_MAX);
    }
}

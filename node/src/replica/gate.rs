//! The gate before the log: an entry enters it only where the bodies it needs are durable, or
//! where its message is known to be completed.
//!
//! It stands in front of openraft, never inside its storage: a held-back flush callback would
//! acknowledge entries whose bodies are missing as soon as a vote is saved, and a blocked
//! `append` would stop heartbeats and votes.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use holdfast_ledger::Command;
use holdfast_mail::{BodyRef, mutant};
use openraft::EntryPayload;
use tokio::time::Instant;
use tonic::Status;

use super::bodies::Bodies;
use super::types::{Entry, Proposal};

/// How long one request may wait for bodies; below the sender's `APPEND_TIME_MAX`, so that it
/// hears why, and asks again.
const PATIENCE: Duration = Duration::from_secs(15);

/// The bodies a batch of commands needs.
fn needed(proposal: &Proposal) -> impl Iterator<Item = &BodyRef> {
    proposal
        .batch
        .commands
        .iter()
        .filter_map(|command| match command {
            Command::Accept { envelope }
            | Command::Submit { envelope, .. }
            | Command::Report { envelope, .. } => Some(&envelope.body),
            _ => None,
        })
}

/// Bodies fetched at a time for one request.
const FETCHES_MAX: usize = 16;

/// Waits until every body that `entries` need is durable here. `sender` is asked first: by the
/// same rule it has them.
pub(crate) async fn before_append(
    bodies: &Bodies,
    entries: &[Entry],
    sender: u64,
) -> Result<(), Status> {
    let proposals = entries.iter().filter_map(|entry| match &entry.payload {
        EntryPayload::Normal(proposal) => Some((proposal, entry.log_id.index)),
        _ => None,
    });
    wait(bodies, proposals, sender).await
}

/// The same for a batch that is not in any log yet.
pub(crate) async fn before_proposal(
    bodies: &Bodies,
    proposal: &Proposal,
    sender: u64,
) -> Result<(), Status> {
    // A leader without room hands leadership on; meanwhile nobody waits here for what does not come.
    if bodies.has_no_room() {
        let lacks = |body: &&BodyRef| !bodies.present(body.id).unwrap_or(false);
        if needed(proposal).any(|body| lacks(&body)) {
            return Err(Status::resource_exhausted("the disk of the leader is full"));
        }
    }
    // No node has applied an index beyond every log, so only a mark will do to call the message
    // completed.
    wait(bodies, [(proposal, u64::MAX)].into_iter(), sender).await
}

async fn wait(
    bodies: &Bodies,
    proposals: impl Iterator<Item = (&Proposal, u64)>,
    sender: u64,
) -> Result<(), Status> {
    let mut missing = Vec::new();
    for (proposal, index) in proposals {
        for body in needed(proposal) {
            let present = bodies.present(body.id);
            let present =
                present.map_err(|e| Status::internal(format!("the body store failed: {e}")))?;
            if !present && !mutant("gate-is-open") {
                missing.push((*body, index));
            }
        }
    }
    let deadline = Instant::now() + PATIENCE;
    // A node that was away needs many: they are fetched side by side.
    futures::stream::iter(missing.into_iter().map(|(body, index)| {
        let bodies = bodies.clone();
        async move { bodies.ensure(&body, &[sender], index, deadline).await }
    }))
    .buffer_unordered(FETCHES_MAX)
    .try_collect()
    .await
}

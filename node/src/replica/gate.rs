//! The gate before the log: an entry enters it only where the bodies it needs are durable, or
//! where its message is known to be completed.
//!
//! It stands in front of openraft, never inside its storage: a held-back flush callback would
//! acknowledge entries whose bodies are missing as soon as a vote is saved, and a blocked
//! `append` would stop heartbeats and votes.

use std::time::Duration;

use futures::future::try_join_all;
use holdfast_ledger::Command;
use holdfast_mail::BodyRef;
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
            Command::Accept { envelope } => Some(&envelope.body),
            _ => None,
        })
}

/// Waits until every body that `entries` need is durable here. `sender` is asked first: by the
/// same rule it has them.
pub(crate) async fn before_append(
    bodies: &Bodies,
    entries: &[Entry],
    sender: u64,
) -> Result<(), Status> {
    for entry in entries {
        if let EntryPayload::Normal(proposal) = &entry.payload {
            before_proposal(bodies, proposal, sender, entry.log_id.index).await?;
        }
    }
    Ok(())
}

/// The same for a batch that is not in any log yet (`index` is then beyond every log).
pub(crate) async fn before_proposal(
    bodies: &Bodies,
    proposal: &Proposal,
    sender: u64,
    index: u64,
) -> Result<(), Status> {
    let mut missing = Vec::new();
    for body in needed(proposal) {
        let present = bodies.present(body.id);
        if !present.map_err(|e| Status::internal(format!("the body store failed: {e}")))? {
            missing.push(body);
        }
    }
    let deadline = Instant::now() + PATIENCE;
    let sources = [sender];
    let waits = missing
        .into_iter()
        .map(|body| bodies.ensure(body, &sources, index, deadline));
    try_join_all(waits).await.map(|_| ())
}

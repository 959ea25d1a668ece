//! What the members saw of messages, each from its own history.

use std::time::{Duration, SystemTime};

use holdfast_mail::Timestamp;
use holdfast_proto::cluster::{Happening, TraceReply, TraceRequest};

use super::handle::Cluster;
use crate::history::History;
use crate::observe::Traces;
use crate::world;

/// How long a node may read its history: some hundred megabytes, from a disk that is busy.
const TRACE_TIME_MAX: Duration = Duration::from_secs(20);

/// What one member saw, or why it does not say.
pub struct Seen {
    pub node: String,
    pub reply: Result<TraceReply, String>,
}

impl Cluster {
    /// Once, before anything happens.
    pub fn keep_history(&self, history: History) {
        let _kept_before = self.0.history.set(history);
    }

    /// Once, before anything happens.
    pub fn send_traces(&self, traces: Traces) {
        let _sent_before = self.0.traces.set(traces);
    }

    /// Notes something in this node's history. Never waits; it may be lost.
    pub fn note(&self, happening: Happening) {
        self.note_lasting(happening, Duration::ZERO);
    }

    /// The same of something that took so long.
    pub fn note_lasting(&self, happening: Happening, took: Duration) {
        if let Some(traces) = self.0.traces.get() {
            let at = match happening.at_ms {
                0 => world::now(),
                at_ms => Timestamp(at_ms),
            };
            traces.tell(
                &happening,
                SystemTime::UNIX_EPOCH + Duration::from_millis(at.0),
                took,
            );
        }
        if let Some(history) = self.0.history.get() {
            history.note(happening);
        }
    }

    pub(super) async fn trace_here(&self, asked: TraceRequest) -> Result<TraceReply, String> {
        let history = self.0.history.get().cloned();
        let history = history.ok_or("the node is still starting")?;
        let searched = world::blocking(move || history.search(&asked)).await;
        searched
            .and_then(|found| found)
            .map_err(|error| format!("its history cannot be read: {error}"))
    }

    /// What every member saw.
    pub async fn trace_everywhere(&self, asked: &TraceRequest) -> Vec<Seen> {
        let asks = self.members().into_iter().map(|member| async move {
            let asked = asked.clone();
            let reply = if member.id == self.0.me.id {
                self.trace_here(asked).await
            } else {
                self.trace_at(member.id.0, asked).await
            };
            Seen {
                node: member.name,
                reply,
            }
        });
        futures::future::join_all(asks).await
    }

    async fn trace_at(&self, node: u64, mut asked: TraceRequest) -> Result<TraceReply, String> {
        let peers = &self.0.peers;
        let mut client = peers.members(node).ok_or("its address is not known")?;
        asked.envelope = peers.envelope(node);
        match tokio::time::timeout(TRACE_TIME_MAX, client.trace(asked)).await {
            Ok(Ok(reply)) => Ok(reply.into_inner()),
            Ok(Err(status)) => Err(status.message().to_owned()),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }
}

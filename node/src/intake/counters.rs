//! What intake counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Reason {
    pub(super) reason: &'static str,
}

pub(super) struct Counters {
    pub(super) connections: Counter,
    pub(super) turned_away: Counter,
    pub(super) accepted: Counter,
    pub(super) accepted_bytes: Counter,
    pub(super) refused: Family<Reason, Counter>,
    pub(super) accept_seconds: Histogram,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            connections: Counter::default(),
            turned_away: Counter::default(),
            accepted: Counter::default(),
            accepted_bytes: Counter::default(),
            refused: Family::default(),
            // 1 ms to about 32 s.
            accept_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 16)),
        }
    }
}

impl Counters {
    pub(super) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("mail");
        registry.register(
            "connections",
            "SMTP connections accepted",
            self.connections.clone(),
        );
        registry.register(
            "turned_away",
            "SMTP connections answered 421 for want of room",
            self.turned_away.clone(),
        );
        registry.register("accepted", "Messages answered 250", self.accepted.clone());
        registry.register(
            "accepted_bytes",
            "Bytes of messages answered 250",
            self.accepted_bytes.clone(),
        );
        registry.register(
            "refused",
            "Connections, commands and messages refused, by reason",
            self.refused.clone(),
        );
        registry.register(
            "accept_seconds",
            "From the end of a message to its 250",
            self.accept_seconds.clone(),
        );
    }
}

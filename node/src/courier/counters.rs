//! What the courier counts, for `/metrics`.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Cheap to clone: every clone counts into the same cells.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    pub(super) attempts: Counter,
    pub(super) delivered: Counter,
    pub(super) deferred: Counter,
    pub(super) refused: Counter,
    pub(super) in_doubt: Counter,
    pub(super) unreadable: Counter,
    pub(super) connections: Counter,
    pub(super) unavailable: Counter,
    pub(super) lost: Counter,
    pub(super) probes: Counter,
    pub(super) leases: Gauge,
    pub(super) leases_lost: Counter,
    pub(super) unrecorded: Counter,
    pub(super) reports_written: Counter,
    pub(super) reports_delivered: Counter,
    pub(super) reports_deferred: Counter,
    pub(super) reports_dropped: Counter,
}

impl Counters {
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("holdfast_courier");
        let counters = [
            ("attempts", "Messages offered to a primary", &self.attempts),
            (
                "delivered",
                "Recipients a primary took a message for",
                &self.delivered,
            ),
            ("deferred", "Recipients a primary put off", &self.deferred),
            (
                "refused",
                "Recipients a primary refused; their mail is kept or given back, as the ledger judges",
                &self.refused,
            ),
            (
                "in_doubt",
                "Messages whose primary was lost before it answered their end; they may arrive twice",
                &self.in_doubt,
            ),
            (
                "unreadable",
                "Messages whose body could not be read here",
                &self.unreadable,
            ),
            (
                "connections",
                "Connections to primaries that were ready for mail",
                &self.connections,
            ),
            (
                "unavailable",
                "Connections to primaries that did not come about",
                &self.unavailable,
            ),
            (
                "lost_connections",
                "Connections that broke under a message",
                &self.lost,
            ),
            ("probes", "Probes of primaries that were away", &self.probes),
            (
                "leases_lost",
                "Delivery leases that ended before they were released",
                &self.leases_lost,
            ),
            (
                "unrecorded",
                "Messages attempted whose outcome could not be recorded; they may arrive twice",
                &self.unrecorded,
            ),
        ];
        let reports = [
            (
                "reports_written",
                "Notifications to senders that this node wrote",
                &self.reports_written,
            ),
            (
                "reports_delivered",
                "Notifications that a sender's server took",
                &self.reports_delivered,
            ),
            (
                "reports_deferred",
                "Attempts at notifications that are tried again",
                &self.reports_deferred,
            ),
            (
                "reports_dropped",
                "Notifications that no server took; nobody is told, for they have no sender",
                &self.reports_dropped,
            ),
        ];
        for (name, help, counter) in counters.into_iter().chain(reports) {
            registry.register(name, help, counter.clone());
        }
        registry.register(
            "leases",
            "Domains this node delivers for",
            self.leases.clone(),
        );
    }
}

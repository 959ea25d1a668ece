//! What an operator is woken for, read when Prometheus asks.
//!
//! Labels are bounded: a node's id, a certificate's use, a kind of drill, this build's version. What belongs to a
//! customer's domain is in `holdfast status`, for there may be any number of them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use holdfast_ledger::drill::{Drill, DrillVerdict, drills};
use holdfast_ledger::query;
use holdfast_mail::Domain;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::cast;
use crate::net::authority;
use crate::net::tls::WebServer;
use crate::replica::{self, Cluster, Vitals};
use crate::store::View;

/// Domains read at once.
const DOMAINS_PAGE: usize = 256;

/// What hangs on the wall.
pub struct Board {
    cluster: Cluster,
    /// Whose certificate SMTP presents too.
    web: Arc<ArcSwap<WebServer>>,
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Board")
    }
}

impl Board {
    #[must_use]
    pub fn new(cluster: Cluster, web: Arc<ArcSwap<WebServer>>) -> Self {
        Self { cluster, web }
    }
}

impl Collector for Board {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let vitals = self.cluster.vitals();
        let mut page = Page(&mut encoder);
        page.labelled(
            "build_info",
            "1, with this node's version",
            "version",
            [(env!("CARGO_PKG_VERSION").to_owned(), 1.0)],
        )?;
        page.consensus(&self.cluster, &vitals)?;
        page.gauge(
            "disk_free_bytes",
            "Free bytes of the data directory's disk",
            vitals.disk_free_bytes as f64,
        )?;
        page.gauge(
            "disk_total_bytes",
            "Size of the data directory's disk",
            vitals.disk_total_bytes as f64,
        )?;
        page.gauge(
            "disk_low",
            "1 while new mail is refused because less is free than limits.disk_free_min_bytes",
            f64::from(u8::from(self.cluster.disk_low())),
        )?;
        page.labelled(
            "clock_ahead_seconds",
            "How far a node's clock is ahead of the leader's, which tells this",
            "node",
            vitals
                .clocks_ahead
                .iter()
                .map(|(node, ahead)| (node.to_string(), *ahead as f64 / 1000.0)),
        )?;
        let uses = [
            ("smtp", self.web.load().expires()),
            ("cluster", authority::expires(&vitals.certificate).ok()),
            (
                "cluster_ca",
                // While it is rotated, the one that ends first.
                vitals
                    .authorities
                    .iter()
                    .filter_map(|authority| authority::expires(authority).ok())
                    .min(),
            ),
        ];
        page.labelled(
            "certificate_expiry_timestamp_seconds",
            "When a certificate ends, in Unix time",
            "use",
            uses.into_iter()
                .filter_map(|(name, at)| Some((name.to_owned(), at? as f64))),
        )?;
        let view = self.cluster.view();
        let read = drills(&view).and_then(|drills| Ok((drills, Queue::of(&view)?)));
        match read {
            Ok((drills, queue)) => {
                page.maintenance(&self.cluster, &drills)?;
                page.queue(&queue)
            }
            Err(error) => {
                tracing::error!("held mail and drills cannot be counted: {}", error.0);
                Err(fmt::Error)
            }
        }
    }
}

/// The last drill of each kind that ran to its end, by the kind's name, and whether it has passed. One
/// that was stopped, or whose conductor was lost, says nothing.
fn last_of_each(drills: &[Drill]) -> BTreeMap<&'static str, (&Drill, bool)> {
    let ended = drills.iter().filter_map(|drill| {
        let passed = match drill.report.as_ref()?.verdict() {
            DrillVerdict::Passed => true,
            DrillVerdict::Failed => false,
            DrillVerdict::Stopped | DrillVerdict::Unknown | DrillVerdict::Unspecified => {
                return None;
            }
        };
        Some((cast::kind_name(drill.plan.kind()), (drill, passed)))
    });
    // The newest come last.
    ended.collect()
}

struct Page<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Page<'_, '_> {
    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let encoder = self
            .0
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(value).encode(encoder)
    }

    fn labelled(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (String, f64)>,
    ) -> fmt::Result {
        let mut encoder = self
            .0
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (at, value) in values {
            let labels = [(label, at.as_str())];
            ConstGauge::new(value).encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn consensus(&mut self, cluster: &Cluster, vitals: &Vitals) -> fmt::Result {
        self.gauge(
            "raft_has_quorum",
            "1 while a leader that has a quorum is heard from; without, mail is refused (4xx)",
            f64::from(u8::from(cluster.has_quorum())),
        )?;
        self.gauge(
            "raft_is_leader",
            "1 on the node that leads",
            f64::from(u8::from(vitals.leader == Some(cluster.me().id))),
        )?;
        self.gauge("raft_term", "The term of office", vitals.term as f64)?;
        let encoder = self.0.encode_descriptor(
            "raft_leader_changes",
            "How often another node than before was seen to lead, since this one started",
            None,
            MetricType::Counter,
        )?;
        ConstCounter::new(vitals.leader_changes).encode(encoder)?;
        let encoder = self.0.encode_descriptor(
            "raft_snapshots_installed",
            "Times that this node was too far behind for the log and was sent all rows",
            None,
            MetricType::Counter,
        )?;
        ConstCounter::new(vitals.snapshots_installed).encode(encoder)?;
        self.gauge(
            "raft_last_log_index",
            "The last entry in this node's log",
            vitals.last_log as f64,
        )?;
        self.gauge(
            "raft_apply_lag_entries",
            "Committed entries that this node has not applied yet",
            vitals.apply_lag as f64,
        )?;
        self.gauge("raft_voters", "Nodes that vote", vitals.voters as f64)?;
        self.gauge_if_known(
            "raft_voters_answering",
            "Voters that the leader, which tells this, has heard from lately, itself included",
            vitals.voters_answering.map(|voters| voters as f64),
        )
    }

    /// A gauge that not every node has.
    fn gauge_if_known(&mut self, name: &str, help: &str, value: Option<f64>) -> fmt::Result {
        let encoder = self
            .0
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        value.map_or(Ok(()), |value| ConstGauge::new(value).encode(encoder))
    }

    /// What is not as always because somebody wants it so.
    fn maintenance(&mut self, cluster: &Cluster, drills: &[Drill]) -> fmt::Result {
        self.gauge(
            "drained",
            "1 while this node is drained: it takes no mail and has no duties",
            f64::from(u8::from(cluster.is_drained())),
        )?;
        self.gauge(
            "drill_pretends",
            "1 while this node pretends a failure in a drill",
            f64::from(u8::from(cluster.rehearsal().pretends())),
        )?;
        let last = last_of_each(drills);
        let of_each = |value: &dyn Fn(&Drill, bool) -> f64| -> Vec<(String, f64)> {
            let values = last.iter();
            values
                .map(|(kind, (drill, passed))| ((*kind).to_owned(), value(drill, *passed)))
                .collect()
        };
        self.labelled(
            "drill_last_timestamp_seconds",
            "When the last drill of a kind that ran to its end began, in Unix time",
            "kind",
            of_each(&|drill, _| drill.began_at.0 as f64 / 1000.0),
        )?;
        self.labelled(
            "drill_last_passed",
            "1 if the last drill of a kind that ran to its end has passed, 0 if it failed",
            "kind",
            of_each(&|_, passed| f64::from(u8::from(passed))),
        )
    }

    fn queue(&mut self, queue: &Queue) -> fmt::Result {
        self.gauge(
            "held_messages",
            "Messages that the cluster holds, as this node knows",
            queue.total.messages as f64,
        )?;
        self.gauge(
            "held_bytes",
            "Their bytes, in one copy",
            queue.total.bytes as f64,
        )?;
        self.gauge(
            "held_domains",
            "Domains with mail that waits for delivery",
            queue.domains as f64,
        )?;
        self.gauge(
            "held_oldest_seconds",
            "Age of the message that has waited longest for delivery; 0 if none waits",
            queue.oldest_seconds,
        )
    }
}

/// The mail that waits.
#[derive(Debug, Default)]
struct Queue {
    total: query::Counts,
    domains: usize,
    oldest_seconds: f64,
}

impl Queue {
    /// One read for each domain with held mail, since each has a queue of its own.
    fn of(view: &View) -> Result<Self, holdfast_ledger::KvError> {
        let now = replica::now();
        let mut queue = Self {
            total: query::total(view)?,
            ..Self::default()
        };
        let mut oldest = now;
        let mut last: Option<Domain> = None;
        loop {
            let page = query::held_domains(view, last.as_ref(), DOMAINS_PAGE)?;
            queue.domains += page.len();
            for domain in &page {
                for held in query::held(view, domain, None, 1)? {
                    oldest = oldest.min(held.message.at());
                }
            }
            if page.len() < DOMAINS_PAGE {
                break;
            }
            last = page.into_iter().next_back();
        }
        queue.oldest_seconds = now.0.saturating_sub(oldest.0) as f64 / 1000.0;
        Ok(queue)
    }
}

#[cfg(test)]
mod tests {
    use holdfast_ledger::drill::{DrillKind, DrillPlan, DrillReport};
    use holdfast_mail::{MessageId, Timestamp};

    use super::*;

    #[test]
    fn only_a_drill_that_ran_to_its_end_says_whether_its_kind_passes() {
        let drill = |at: u64, kind: DrillKind, verdict: Option<DrillVerdict>| Drill {
            id: MessageId::new(Timestamp(at), 1),
            plan: DrillPlan {
                kind: kind.into(),
                ..DrillPlan::default()
            },
            began_at: Timestamp(at),
            events: Vec::new(),
            report: verdict.map(|verdict| DrillReport {
                verdict: verdict.into(),
                ..DrillReport::default()
            }),
        };
        let (leader, region) = (DrillKind::LeaderLoss, DrillKind::RegionLoss);
        let drills = [
            drill(1, leader, Some(DrillVerdict::Failed)),
            drill(2, leader, Some(DrillVerdict::Passed)),
            drill(3, region, Some(DrillVerdict::Passed)),
            drill(4, region, Some(DrillVerdict::Failed)),
            drill(5, leader, Some(DrillVerdict::Stopped)),
            drill(6, region, Some(DrillVerdict::Unknown)),
            drill(7, DrillKind::DiskFull, None),
        ];
        let last = last_of_each(&drills);
        let told: Vec<(&str, u64, bool)> = last
            .iter()
            .map(|(kind, (drill, passed))| (*kind, drill.began_at.0, *passed))
            .collect();
        assert_eq!(told, [("leader-loss", 2, true), ("region-loss", 4, false)]);
    }
}

//! On how many nodes a held message is, and when its delivery is tried next: what only the other nodes
//! know.
//!
//! A node has an entry of the log only with the bodies it needs. So who has the entry that accepted
//! a message has the message, and one question to each node answers for all messages.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use holdfast_ledger::Seq;
use holdfast_mail::{Domain, Timestamp};

use super::page::count;
use crate::replica::Cluster;

/// How often the nodes are asked.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// How far each node that answers has come.
#[derive(Clone, Default)]
pub(super) struct Copies(Arc<ArcSwap<Sight>>);

#[derive(Debug, Default)]
struct Sight {
    voters: usize,
    nodes: Vec<Reached>,
    /// By domain, milliseconds of the Unix epoch.
    tries: HashMap<String, u64>,
}

#[derive(Clone, Debug)]
struct Reached {
    region: String,
    last_log: u64,
}

impl Copies {
    /// Asks as long as it is not dropped.
    pub(super) async fn keep(self, cluster: Cluster) {
        loop {
            let standings = cluster.standings_and_tries().await;
            let voters = standings.iter().filter(|(place, ..)| place.voter).count();
            let answers = standings
                .iter()
                .filter_map(|(_, standing, ..)| standing.as_ref().ok());
            let tries = answers.flat_map(|standing| &standing.tries);
            let tries = tries
                .map(|next| (next.domain.clone(), next.at_ms))
                .collect();
            let reached = standings.into_iter().filter_map(|(place, standing, ..)| {
                let last_log = standing.ok()?.last_log?.index;
                let region = place.region;
                Some(Reached { region, last_log })
            });
            let nodes = reached.collect();
            self.0.store(Arc::new(Sight {
                voters,
                nodes,
                tries,
            }));
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// `3 nodes in 3 regions`, of those that answer now; a majority has what is accepted, whoever
    /// answers.
    pub(super) fn of(&self, seq: Seq) -> String {
        words(&self.0.load(), seq)
    }

    /// When the domain's primary is tried again, as the node that delivers for it said.
    pub(super) fn next_try(&self, domain: &Domain, now: Timestamp) -> Option<Timestamp> {
        let at = Timestamp(*self.0.load().tries.get(domain.as_str())?);
        (at > now).then_some(at)
    }
}

fn words(sight: &Sight, seq: Seq) -> String {
    let has_it = |node: &&Reached| node.last_log >= seq.index();
    let holders: Vec<_> = sight.nodes.iter().filter(has_it).collect();
    let regions: BTreeSet<_> = holders.iter().map(|node| &node.region).collect();
    let majority = sight.voters / 2 + 1;
    match (holders.len(), regions.len()) {
        (nodes, _) if nodes < majority => count(majority as u64, "node"),
        (nodes, 1) => count(nodes as u64, "node"),
        (nodes, regions) => format!(
            "{} in {}",
            count(nodes as u64, "node"),
            count(regions as u64, "region")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_the_entry_has_the_message() {
        let node = |region: &str, last_log| Reached {
            region: region.to_owned(),
            last_log,
        };
        let mut sight = Sight {
            voters: 3,
            nodes: vec![node("eu", 10), node("eu", 10), node("us", 9)],
            tries: HashMap::new(),
        };
        assert_eq!(words(&sight, Seq::new(9, 3)), "3 nodes in 2 regions");
        assert_eq!(words(&sight, Seq::new(10, 0)), "2 nodes");
        sight.nodes.truncate(1);
        assert_eq!(
            words(&sight, Seq::new(1, 0)),
            "2 nodes",
            "or it were not accepted"
        );
    }
}

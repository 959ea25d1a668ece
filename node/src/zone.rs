//! A domain's DNS: what it should say, and what all nodes find that it says.

use std::collections::BTreeMap;

use holdfast_ledger::query::{self, DomainRecord};
use holdfast_ledger::{KvError, Member};
use holdfast_mail::Domain;
use holdfast_mail::checkup::{Finding, Zone, hosts_wanted};

use crate::reach;
use crate::replica::Cluster;

/// What was found, each with the nodes that found it, worst first.
pub(crate) struct Found {
    pub(crate) findings: BTreeMap<Finding, Vec<String>>,
    /// Nodes that could not look, and why.
    pub(crate) silent: Vec<(String, String)>,
}

/// The lines to add to the domain's zone. `hosts`: how many of ours; 0: as the plan says.
pub(crate) fn lines(
    cluster: &Cluster,
    record: &DomainRecord,
    hosts: u32,
) -> Result<String, KvError> {
    let view = cluster.view();
    let domain = &record.name;
    let count = hosts_wanted(match hosts {
        0 => query::mx_hosts(&view, domain)?,
        count => count,
    });
    let members = cluster.members();
    let senders: Vec<String> = members.iter().map(|it| it.smtp_name.clone()).collect();
    let by_mx = query::route(&view, domain)?.by_mx;
    let zone = Zone {
        domain,
        primary: (!by_mx).then_some(record.primary.host.as_str()),
        leaves: reach::leaves(&query::policy(&view, domain)?),
        ours: &spread(members, count),
        senders: &senders,
    };
    Ok(zone.lines())
}

/// `count` of the nodes' names, from as many regions as there are.
fn spread(members: Vec<Member>, count: usize) -> Vec<String> {
    let mut regions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for member in members {
        let names = regions.entry(member.region).or_default();
        names.push(member.smtp_name);
    }
    let mut chosen = Vec::new();
    for round in 0.. {
        let before = chosen.len();
        chosen.extend(
            regions
                .values()
                .filter_map(|names| names.get(round).cloned()),
        );
        if chosen.len() >= count || chosen.len() == before {
            break;
        }
    }
    chosen.truncate(count);
    chosen
}

/// Has every node look.
pub(crate) async fn check(cluster: &Cluster, domain: &Domain) -> Found {
    let mut findings: BTreeMap<Finding, Vec<String>> = BTreeMap::new();
    let mut silent = Vec::new();
    for (node, found) in cluster.check_everywhere(domain).await {
        match found {
            Ok(found) => {
                for finding in found {
                    findings.entry(finding).or_default().push(node.clone());
                }
            }
            Err(why) => silent.push((node, why)),
        }
    }
    Found { findings, silent }
}

#[cfg(test)]
mod tests {
    use holdfast_mail::NodeId;

    use super::*;

    #[test]
    fn our_hosts_in_a_zone_are_in_different_regions() {
        let member = |(name, region): &(&str, &str)| Member {
            id: NodeId(1),
            name: String::new(),
            region: (*region).to_owned(),
            cluster_address: String::new(),
            smtp_name: (*name).to_owned(),
            smtp_address: String::new(),
        };
        let all = [("a1", "a"), ("a2", "a"), ("b1", "b"), ("c1", "c")];
        let spread = |count| spread(all.iter().map(member).collect(), count);
        assert_eq!(spread(1), ["a1"]);
        assert_eq!(spread(3), ["a1", "b1", "c1"]);
        assert_eq!(spread(9), ["a1", "b1", "c1", "a2"]);
    }
}

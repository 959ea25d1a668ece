//! A domain's DNS: what it should say, and what all nodes find that it says.

use std::collections::BTreeMap;

use holdfast_ledger::query::{self, DomainRecord};
use holdfast_ledger::{KvError, KvRead, Member, Refusal};
use holdfast_mail::Domain;
use holdfast_mail::checkup::{self, Finding, Weight};
use holdfast_proto::admin as wire;
use tonic::Status;

use super::{Admin, broken, domains, refused};

/// Our hosts in a zone unless somebody, or the domain's plan, says otherwise: one may be down,
/// another cut off.
const HOSTS_DEFAULT: usize = 3;

/// More only lengthen every sender's tries.
const HOSTS_MAX: usize = 10;

fn record(admin: &Admin, name: &str) -> Result<DomainRecord, Status> {
    let record = query::domain(&admin.cluster()?.view(), &domains::parse(name)?);
    record
        .map_err(broken)?
        .ok_or_else(|| refused(&Refusal::UnknownDomain))
}

pub(super) fn lines(
    admin: &Admin,
    request: &wire::DomainZoneRequest,
) -> Result<wire::DomainZoneReply, Status> {
    let record = record(admin, &request.name)?;
    let cluster = admin.cluster()?;
    let count = match request.hosts {
        0 => planned(&cluster.view(), &record.name).map_err(broken)?,
        count => count,
    };
    let count = match count {
        0 => HOSTS_DEFAULT,
        count => (count as usize).min(HOSTS_MAX),
    };
    let ours = spread(cluster.members(), count);
    Ok(wire::DomainZoneReply {
        text: checkup::zone(&record.name, &record.primary.host, &ours),
    })
}

/// As many hosts as the domain's plan says; 0: it says nothing.
fn planned(view: &dyn KvRead, domain: &Domain) -> Result<u32, KvError> {
    let Some((name, _)) = query::subscription(view, domain)? else {
        return Ok(0);
    };
    Ok(query::plan(view, &name)?.map_or(0, |plan| plan.mx_hosts))
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

pub(super) async fn check(admin: &Admin, name: &str) -> Result<wire::DomainCheckReply, Status> {
    let record = record(admin, name)?;
    let mut findings: BTreeMap<Finding, Vec<String>> = BTreeMap::new();
    let mut silent = Vec::new();
    for (node, found) in admin.cluster()?.check_everywhere(&record.name).await {
        match found {
            Ok(found) => {
                for finding in found {
                    findings.entry(finding).or_default().push(node.clone());
                }
            }
            Err(why) => silent.push(wire::Silent { node, why }),
        }
    }
    let told = |(finding, nodes): (Finding, Vec<String>)| wire::Finding {
        weight: match finding.weight {
            Weight::Fault => 0,
            Weight::Warning => 1,
            Weight::Good => 2,
        },
        what: finding.what,
        fix: finding.fix,
        nodes,
    };
    Ok(wire::DomainCheckReply {
        findings: findings.into_iter().map(told).collect(),
        silent,
    })
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

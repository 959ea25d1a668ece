//! The cluster in one answer.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_ledger::KvError;
use holdfast_ledger::query::{self, Held};
use holdfast_mail::{Domain, NodeId, Timestamp};
use holdfast_proto::admin as wire;
use tonic::Status;

use super::{broken, drills, hex, rotation};
use crate::replica::{Cluster, Stands, membership, now};
use crate::store::View;

/// Domains with held mail that are told one by one: those that have waited for the longest time.
const DOMAINS_SHOWN: usize = 20;

/// Domains read from the view at a time.
const DOMAINS_PAGE: usize = 256;

pub(super) async fn status(cluster: &Cluster) -> Result<wire::StatusReply, Status> {
    let members: BTreeMap<NodeId, _> = cluster
        .members()
        .into_iter()
        .map(|member| (member.id, member))
        .collect();
    let standings = cluster.standings_and_tries().await;
    let leader = cluster.leader();
    let newest = standings
        .iter()
        .filter_map(|(_, standing, ..)| standing.as_ref().ok()?.last_log.as_ref())
        .map(|log| log.index)
        .max()
        .unwrap_or(0);
    let mut term = 0;
    let mut nodes = Vec::new();
    for (place, standing, rtt, answered) in &standings {
        let member = members.get(&place.id);
        let mut node = wire::NodeStatus {
            id: place.id.0,
            name: place.name.clone(),
            region: place.region.clone(),
            role: match (leader == Some(place.id), place.voter) {
                (true, _) => "leader",
                (false, true) => "voter",
                (false, false) => "learner",
            }
            .into(),
            smtp_name: member.map(|m| m.smtp_name.clone()).unwrap_or_default(),
            smtp_address: member.map(|m| m.smtp_address.clone()).unwrap_or_default(),
            cluster_address: member
                .map(|m| m.cluster_address.clone())
                .unwrap_or_default(),
            drained: cluster.drained_since(place.id).is_some(),
            ..wire::NodeStatus::default()
        };
        match standing {
            Ok(standing) => {
                term = term.max(standing.term);
                node.reachable = true;
                node.last_log = standing.last_log.as_ref().map_or(0, |log| log.index);
                node.applied = standing.applied.as_ref().map_or(0, |log| log.index);
                node.lag = newest.saturating_sub(node.applied);
                node.rtt_micros = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX);
                node.disk_free_bytes = standing.disk_free_bytes;
                node.disk_total_bytes = standing.disk_total_bytes;
                node.level = standing.level.max(1);
                node.version = standing.version.clone();
                node.bodies_missing = standing.bodies_missing;
                node.certificate_ends_ms = standing.certificate_ends_ms;
                node.certificate_late = standing.certificate_late;
                let tally = standing.tally.unwrap_or_default();
                node.accepted = tally.accepted;
                node.delivered = tally.delivered;
                node.held = tally.held;
                node.disk_low = standing.disk_low;
                node.clock_ahead_ms = clock_ahead(standing.clock_ms, *answered, *rtt);
            }
            Err(why) => node.error = why.clone(),
        }
        nodes.push(node);
    }
    let quorum = cluster.has_quorum();
    let tolerance = Tolerance::of(&nodes);
    let view = cluster.view();
    let total = query::total(&view).map_err(broken)?;
    let mut domains = Vec::new();
    let (longest, domains_more) = longest_held(&view).map_err(broken)?;
    for (oldest, domain) in longest {
        let counts = query::counts(&view, &domain).map_err(broken)?;
        let lease = query::lease(&view, &domain).map_err(broken)?;
        domains.push(wire::DomainStatus {
            domain: domain.to_string(),
            messages: counts.messages,
            bytes: counts.bytes,
            oldest_ms: oldest.message.at().0,
            lease_node: lease.as_ref().map_or(0, |lease| lease.node.0),
            lease_epoch: lease.map_or(0, |lease| lease.epoch),
            next_try_ms: next_try(&standings, lease.map(|lease| lease.node), &domain),
            last_reply: oldest.last_reply,
        });
    }
    let drill = cluster.drill_under_way().map_err(broken)?;
    let rehearsed = drill.map_or_else(String::new, |drill| {
        rehearsed(&drills::told(cluster, drill))
    });
    let rotation = query::rotation(&view).map_err(broken)?;
    let certificates = rotation::health(rotation.as_ref(), &nodes, crate::world::now());
    Ok(wire::StatusReply {
        cluster_id: hex(&cluster.cluster_id()),
        node_id: cluster.me().id.0,
        leader: leader.map_or(0, |node| node.0),
        term,
        quorum,
        nodes_may_fail: tolerance.nodes,
        regions_may_fail: tolerance.regions,
        no_room: lacks_room(&nodes),
        health: [health(quorum, &nodes, tolerance), rehearsed, certificates]
            .into_iter()
            .filter(|sentence| !sentence.is_empty())
            .collect::<Vec<_>>()
            .join(" "),
        rotation: rotation.as_ref().map(rotation::to_wire),
        nodes,
        held_messages: total.messages,
        held_bytes: total.bytes,
        domains,
        domains_more,
        drills: drills::last_of_each(cluster)?,
        placement_safe: tolerance.placement_safe,
        now_ms: now().0,
        level: cluster.level(),
    })
}

/// The domains whose mail has waited for the longest time, with the first of it, and how many more there
/// are.
fn longest_held(view: &View) -> Result<(Vec<(Held, Domain)>, u64), KvError> {
    let mut longest: Vec<(Held, Domain)> = Vec::new();
    let mut all = 0;
    let mut after = None;
    loop {
        let page = query::held_domains(view, after.as_ref(), DOMAINS_PAGE)?;
        after = page.last().cloned();
        let is_last = page.len() < DOMAINS_PAGE;
        for domain in page {
            let Some(oldest) = query::held(view, &domain, None, 1)?.pop() else {
                continue;
            };
            all += 1;
            longest.push((oldest, domain));
        }
        longest.sort_by_key(|(oldest, _)| oldest.message);
        longest.truncate(DOMAINS_SHOWN);
        if is_last {
            let more = u64::saturating_sub(all, DOMAINS_SHOWN as u64);
            return Ok((longest, more));
        }
    }
}

/// When the domain is tried again, says the node that delivers for it; 0: now, or not known.
pub(super) fn next_try(standings: &[Stands], holder: Option<NodeId>, domain: &Domain) -> u64 {
    let holder = standings
        .iter()
        .find(|(place, ..)| Some(place.id) == holder);
    let Some((_, Ok(standing), ..)) = holder else {
        return 0;
    };
    let tries = standing.tries.iter();
    tries
        .filter(|next| next.domain == domain.as_str())
        .map(|next| next.at_ms)
        .next()
        .unwrap_or(0)
}

/// Milliseconds that a clock is ahead which said `theirs` on the way to an answer that came at `at`.
/// Zero, from a version that does not tell, is no time.
fn clock_ahead(theirs: u64, at: Timestamp, rtt: Duration) -> i64 {
    if theirs == 0 {
        return 0;
    }
    let asked = u64::try_from(rtt.as_millis() / 2).unwrap_or(0);
    let ours = at.0.saturating_sub(asked);
    let apart = i64::try_from(theirs.abs_diff(ours)).unwrap_or(i64::MAX);
    if theirs < ours { -apart } else { apart }
}

/// What may fail on top of what has failed already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tolerance {
    nodes: u32,
    regions: u32,
    /// No region has a majority of the voters.
    placement_safe: bool,
}

impl Tolerance {
    fn of(nodes: &[wire::NodeStatus]) -> Self {
        let voters: Vec<&wire::NodeStatus> =
            nodes.iter().filter(|node| node.role != "learner").collect();
        let majority = voters.len() / 2 + 1;
        let alive = voters.iter().filter(|node| node.reachable).count();
        let mut alive_by_region: BTreeMap<&str, usize> = BTreeMap::new();
        let mut all_by_region: BTreeMap<&str, usize> = BTreeMap::new();
        for voter in &voters {
            *all_by_region.entry(&voter.region).or_default() += 1;
            *alive_by_region.entry(&voter.region).or_default() += usize::from(voter.reachable);
        }
        // The largest regions fail first.
        let mut sizes: Vec<usize> = alive_by_region.into_values().collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        let mut left = alive;
        let mut regions = 0;
        for size in sizes {
            if size == 0 || left < majority + size {
                break;
            }
            left -= size;
            regions += 1;
        }
        Self {
            nodes: u32::try_from(alive.saturating_sub(majority)).unwrap_or(0),
            regions,
            placement_safe: all_by_region.values().all(|size| *size < majority),
        }
    }
}

/// No quorum of the voters answers and has room, as the leader judges it: every node says 452.
fn lacks_room(nodes: &[wire::NodeStatus]) -> bool {
    let voters = || nodes.iter().filter(|node| node.role != "learner");
    let with_room = voters().filter(|node| node.reachable && !node.disk_low);
    voters().any(|node| node.disk_low) && with_room.count() <= voters().count() / 2
}

fn health(quorum: bool, nodes: &[wire::NodeStatus], tolerance: Tolerance) -> String {
    let down: Vec<&str> = nodes
        .iter()
        .filter(|n| !n.reachable)
        .map(|n| n.name.as_str())
        .collect();
    if !quorum {
        return format!(
            "No quorum: no mail is accepted (senders keep it and try again), nothing acknowledged is lost. Not answering: {}.",
            if down.is_empty() {
                "none; a leader is being elected".into()
            } else {
                down.join(", ")
            }
        );
    }
    let may_fail = match (tolerance.nodes, tolerance.regions) {
        (0, _) => "No further node may fail; add or bring back one".to_owned(),
        (n, 0) => format!("{n} more node(s) may fail, but no whole region"),
        (n, r) => format!("{n} more node(s) or {r} more region(s) may fail"),
    };
    let placement = if tolerance.placement_safe || nodes.len() < 3 {
        ""
    } else {
        " One region has a majority of the voters: a commit may be on disk in that region only."
    };
    let drained: Vec<&str> = nodes
        .iter()
        .filter(|n| n.drained)
        .map(|n| n.name.as_str())
        .collect();
    let drained = match drained.is_empty() {
        true => String::new(),
        false => format!(" Drained: {}.", drained.join(", ")),
    };
    let low = nodes.iter().filter(|node| node.disk_low);
    let low: Vec<&str> = low.map(|node| node.name.as_str()).collect();
    let low = low.join(", ");
    if lacks_room(nodes) {
        let silent = match down.is_empty() {
            true => String::new(),
            false => format!(" Not answering: {}.", down.join(", ")),
        };
        return format!(
            "No room: no mail is accepted (senders keep it and try again), delivery goes on, nothing acknowledged \
             is lost. The disk is nearly full at {low}.{silent}{placement}{drained}"
        );
    }
    let drained = match low.is_empty() {
        true => drained,
        false => format!("{drained} The disk is nearly full, and no new mail is taken, at {low}."),
    };
    if down.is_empty() {
        format!("Healthy. {may_fail}.{placement}{drained}")
    } else {
        format!(
            "Degraded: {} not answering. {may_fail}.{placement}{drained}",
            down.join(", ")
        )
    }
}

/// That a drill is on: what is not well may be pretended.
fn rehearsed(drill: &wire::Drill) -> String {
    let whom = match drill.nodes.is_empty() {
        true => String::new(),
        false => format!(" of {}", drill.nodes.join(", ")),
    };
    format!(
        "A drill is on, {}{whom}: what fails may only pretend to (holdfast drill stop ends it).",
        drill.kind
    )
}

/// What would be if `node` left, or why it may not: the leader says the same when it is asked to remove it.
pub(super) async fn without(cluster: &Cluster, node: NodeId) -> Result<String, Status> {
    membership::may_go(cluster, node)
        .await
        .map_err(Status::failed_precondition)?;
    let now = status(cluster).await?;
    let nodes: Vec<wire::NodeStatus> = now
        .nodes
        .into_iter()
        .filter(|other| other.id != node.0)
        .collect();
    let tolerance = Tolerance::of(&nodes);
    Ok(format!(
        "dry run: nothing was changed. Without it {} node(s) and {} region(s) may fail",
        tolerance.nodes, tolerance.regions
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(region: &str, reachable: bool) -> wire::NodeStatus {
        wire::NodeStatus {
            region: region.into(),
            reachable,
            role: "voter".into(),
            ..wire::NodeStatus::default()
        }
    }

    #[test]
    fn a_cluster_whose_disks_leave_no_quorum_says_that_no_mail_is_taken() {
        let mut nodes = ["eu", "us", "ap"].map(|region| wire::NodeStatus {
            name: region.into(),
            ..node(region, true)
        });
        let told = |nodes: &[wire::NodeStatus]| health(true, nodes, Tolerance::of(nodes));
        assert!(told(&nodes).starts_with("Healthy. "), "{}", told(&nodes));
        nodes[0].disk_low = true;
        let one = told(&nodes);
        assert!(one.starts_with("Healthy. ") && !lacks_room(&nodes), "{one}");
        assert!(one.ends_with("no new mail is taken, at eu."), "{one}");
        nodes[1].reachable = false;
        let none = told(&nodes);
        assert!(lacks_room(&nodes));
        assert!(none.starts_with("No room: no mail is accepted"), "{none}");
        assert!(
            none.contains("nearly full at eu. Not answering: us."),
            "{none}"
        );
    }

    #[test]
    fn a_drill_that_is_on_is_told_with_whom_it_takes() {
        let drill = |nodes: &[&str]| wire::Drill {
            kind: "node-loss".into(),
            nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
            ..wire::Drill::default()
        };
        let told = rehearsed(&drill(&["n2", "n3"]));
        assert!(
            told.starts_with("A drill is on, node-loss of n2, n3: "),
            "{told}"
        );
        assert!(rehearsed(&drill(&[])).starts_with("A drill is on, node-loss: "));
    }

    #[test]
    fn three_regions_tolerate_one_and_two_regions_none() {
        let three = [node("eu", true), node("us", true), node("ap", true)];
        assert_eq!(
            Tolerance::of(&three),
            Tolerance {
                nodes: 1,
                regions: 1,
                placement_safe: true
            }
        );
        let two = [node("eu", true), node("eu", true), node("us", true)];
        assert_eq!(
            Tolerance::of(&two),
            Tolerance {
                nodes: 1,
                regions: 0,
                placement_safe: false
            }
        );
        let degraded = [node("eu", true), node("us", false), node("ap", true)];
        assert_eq!(
            Tolerance::of(&degraded),
            Tolerance {
                nodes: 0,
                regions: 0,
                placement_safe: true
            }
        );
        assert_eq!(
            Tolerance::of(&[]),
            Tolerance {
                nodes: 0,
                regions: 0,
                placement_safe: true
            }
        );
    }
}

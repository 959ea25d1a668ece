//! Who plays what in a drill, and whether the cluster can afford it.

use std::collections::BTreeSet;
use std::time::Duration;

use holdfast_ledger::drill::{DRILL_RATE_MAX, DRILL_TIME_MAX, Drill, DrillKind, DrillPlan};
use holdfast_mail::NodeId;

use crate::replica::Cluster;

/// Entries that a member may be behind and still count as whole.
const ENTRIES_BEHIND_MAX: u64 = 1_000;

/// What somebody wants to rehearse.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) kind: DrillKind,
    /// That fails; empty: whichever suits.
    pub(crate) region: String,
    /// That fails, by name or number; empty: whichever suits.
    pub(crate) node: String,
    /// How long it fails.
    pub(crate) lasts: Duration,
    /// Canaries a second.
    pub(crate) rate: u32,
}

/// Why there is no drill.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoDrill {
    /// The wish makes no sense.
    #[error("{0}")]
    Senseless(String),
    /// The cluster would not survive it, or what happens on top of it.
    #[error("{0}")]
    Unsafe(String),
}

/// A member as it is now.
#[derive(Clone, Debug)]
struct Actor {
    id: NodeId,
    name: String,
    region: String,
    voter: bool,
    leads: bool,
    /// Why nothing may be asked of it, if so.
    weak: Option<String>,
}

/// Who would fail, and who would conduct it from here.
///
/// # Errors
/// There is to be no drill now.
pub(crate) async fn cast(cluster: &Cluster, wish: &Wish) -> Result<DrillPlan, NoDrill> {
    let leader = cluster.leader();
    if leader.is_none() || !cluster.has_quorum() {
        return Err(NoDrill::Unsafe(
            "the cluster has no quorum now; this is no drill\nfix: see who does not answer: holdfast cluster status"
                .to_owned(),
        ));
    }
    let standings = cluster.standings().await;
    let last = standings
        .iter()
        .filter_map(|(_, standing, ..)| standing.as_ref().ok()?.last_log.as_ref())
        .map(|log| log.index)
        .max()
        .unwrap_or(0);
    let actors: Vec<Actor> = standings
        .into_iter()
        .map(|(place, standing, ..)| Actor {
            weak: match standing {
                Err(why) => Some(format!("does not answer ({why})")),
                Ok(it) if it.retiring => Some("is leaving".to_owned()),
                Ok(it) if it.drained => Some("is drained".to_owned()),
                Ok(it) => {
                    let applied = it.applied.map_or(0, |log| log.index);
                    let behind = last.saturating_sub(applied);
                    (behind > ENTRIES_BEHIND_MAX)
                        .then(|| format!("is still {behind} entries behind"))
                }
            },
            leads: leader == Some(place.id),
            id: place.id,
            name: place.name,
            region: place.region,
            voter: place.voter,
        })
        .collect();
    choose(&actors, cluster.me().id, wish)
}

/// Whether there could be such a drill at all in a cluster with these regions, whatever fails now: what
/// begins by itself is looked at when it is scheduled, while somebody reads the answer.
///
/// # Errors
/// There could not.
pub(crate) fn makes_sense(wish: &Wish, regions: &BTreeSet<&str>) -> Result<(), NoDrill> {
    let senseless = |why: String| Err(NoDrill::Senseless(why));
    let takes_region = matches!(wish.kind, DrillKind::RegionLoss | DrillKind::Partition);
    let takes_node = matches!(wish.kind, DrillKind::NodeLoss | DrillKind::DiskFull);
    if wish.kind == DrillKind::Unspecified {
        return senseless(format!(
            "there is no such kind of drill\nfix: one of {}",
            KINDS.map(|(_, name)| name).join(", ")
        ));
    }
    if wish.lasts.is_zero() || wish.lasts > DRILL_TIME_MAX {
        let minutes = DRILL_TIME_MAX.as_secs() / 60;
        return senseless(format!(
            "a drill lasts from a second to {minutes} minutes\nfix: --duration 5m, and no more than {minutes}m"
        ));
    }
    if !(1..=DRILL_RATE_MAX).contains(&wish.rate) {
        return senseless(format!(
            "a drill sends 1 to {DRILL_RATE_MAX} canaries a second\nfix: --rate 5, and no more than {DRILL_RATE_MAX}"
        ));
    }
    if !wish.region.is_empty() && !takes_region {
        return senseless(
            "only region-loss and partition have a region\nfix: leave out --region, or choose one of them".to_owned(),
        );
    }
    if !wish.node.is_empty() && !takes_node {
        return senseless(
            "only node-loss and disk-full have a node\nfix: leave out --target, or choose one of them".to_owned(),
        );
    }
    if !wish.region.is_empty() && !regions.contains(wish.region.as_str()) {
        let known: Vec<&str> = regions.iter().copied().collect();
        return senseless(format!(
            "there is no node in a region {}\nfix: the regions are {}",
            wish.region,
            known.join(", ")
        ));
    }
    Ok(())
}

fn choose(actors: &[Actor], me: NodeId, wish: &Wish) -> Result<DrillPlan, NoDrill> {
    let unsafe_now = |why: String| Err(NoDrill::Unsafe(why));
    let regions = actors.iter().map(|actor| actor.region.as_str()).collect();
    makes_sense(wish, &regions)?;
    if let Some(weak) = actors.iter().find(|actor| actor.weak.is_some()) {
        return unsafe_now(format!(
            "{name} {}: with one failure there already, a drill would risk the quorum\nfix: mend that first, and then \
             try again; how {name} is: holdfast cluster status",
            weak.weak.as_deref().unwrap_or_default(),
            name = weak.name
        ));
    }
    let failing = failing(actors, me, wish)?;
    let voters = actors.iter().filter(|actor| actor.voter).count();
    let quorum = voters / 2 + 1;
    let left = actors
        .iter()
        .filter(|actor| actor.voter && !failing.contains(&actor.id));
    let left = left.count();
    if left < quorum && wish.kind != DrillKind::DiskFull {
        return unsafe_now(format!(
            "of {voters} voters {left} would be left and {quorum} are needed: no mail would be taken while the \
             drill lasts\nfix: let nodes in other regions join first (holdfast cluster invite), or rehearse the loss \
             of less: holdfast drill run --kind node-loss"
        ));
    }
    let conductor = actors
        .iter()
        .filter(|actor| !failing.contains(&actor.id))
        .min_by_key(|actor| (actor.id != me, !actor.voter, actor.id));
    let Some(conductor) = conductor else {
        return unsafe_now(
            "no node would be left to take mail, or to end the drill\nfix: let another node join first: holdfast \
             cluster invite"
                .to_owned(),
        );
    };
    Ok(DrillPlan {
        kind: wish.kind.into(),
        nodes: failing.iter().map(|node| node.0).collect(),
        region: match wish.kind {
            DrillKind::RegionLoss | DrillKind::Partition => region_of(actors, &failing),
            _ => String::new(),
        },
        conductor: conductor.id.0,
        duration_ms: u64::try_from(wish.lasts.as_millis()).unwrap_or(u64::MAX),
        rate: wish.rate,
    })
}

/// The region of the first of them.
fn region_of(actors: &[Actor], failing: &BTreeSet<NodeId>) -> String {
    let first = actors.iter().find(|actor| failing.contains(&actor.id));
    first.map_or_else(String::new, |actor| actor.region.clone())
}

/// Who fails.
fn failing(actors: &[Actor], me: NodeId, wish: &Wish) -> Result<BTreeSet<NodeId>, NoDrill> {
    let one = |actor: Option<&Actor>| actor.map(|actor| actor.id).into_iter().collect();
    Ok(match wish.kind {
        DrillKind::Unspecified | DrillKind::PrimaryOutage => BTreeSet::new(),
        DrillKind::LeaderLoss => one(actors.iter().find(|actor| actor.leads)),
        DrillKind::NodeLoss | DrillKind::DiskFull if wish.node.is_empty() => {
            // Not the leader: that is a kind of its own. Not this node, if there is another: whoever
            // asks wants to watch.
            let others = actors.iter().filter(|actor| actor.voter);
            one(others.min_by_key(|actor| (actor.leads, actor.id == me, actor.id)))
        }
        DrillKind::NodeLoss | DrillKind::DiskFull => {
            let named = actors
                .iter()
                .find(|actor| actor.name == wish.node || actor.id.to_string() == wish.node);
            if named.is_none() {
                let names: Vec<&str> = actors.iter().map(|actor| actor.name.as_str()).collect();
                return Err(NoDrill::Senseless(format!(
                    "there is no node {}\nfix: the nodes are {}",
                    wish.node,
                    names.join(", ")
                )));
            }
            one(named)
        }
        DrillKind::RegionLoss | DrillKind::Partition => {
            let region = if wish.region.is_empty() {
                smallest_region(actors, me)
            } else {
                wish.region.clone()
            };
            let there = actors.iter().filter(|actor| actor.region == region);
            there.map(|actor| actor.id).collect()
        }
    })
}

/// The region whose loss costs least; not this node's, if there is another.
fn smallest_region(actors: &[Actor], me: NodeId) -> String {
    let here = actors.iter().find(|actor| actor.id == me);
    let here = here.map_or("", |actor| actor.region.as_str());
    let regions: BTreeSet<&str> = actors.iter().map(|actor| actor.region.as_str()).collect();
    let size = |region: &str| actors.iter().filter(|actor| actor.region == region).count();
    let smallest = regions
        .into_iter()
        .min_by_key(|region| (*region == here, size(region)));
    smallest.unwrap_or_default().to_owned()
}

/// The region of a scheduled drill that names none: the one that had its drill longest ago.
pub(crate) fn overdue_region(cluster: &Cluster, wish: &Wish, past: &[Drill]) -> String {
    let takes_region = matches!(wish.kind, DrillKind::RegionLoss | DrillKind::Partition);
    if !wish.region.is_empty() || !takes_region {
        return wish.region.clone();
    }
    let members = cluster.members();
    let last = |region: &str| {
        let there = past.iter().filter(|drill| {
            drill.plan.kind() == wish.kind && drill.plan.region == region && drill.report.is_some()
        });
        there.map(|drill| drill.began_at).max()
    };
    let regions: BTreeSet<&str> = members.iter().map(|m| m.region.as_str()).collect();
    let overdue = regions.into_iter().min_by_key(|region| last(region));
    overdue.unwrap_or_default().to_owned()
}

/// A kind by its name on the command line.
pub(crate) fn kind(name: &str) -> Option<DrillKind> {
    KINDS
        .iter()
        .find(|(_, known)| *known == name)
        .map(|(kind, _)| *kind)
}

pub(crate) fn kind_name(kind: DrillKind) -> &'static str {
    let known = KINDS.iter().find(|(known, _)| *known == kind);
    known.map_or("unknown", |(_, name)| name)
}

const KINDS: [(DrillKind, &str); 6] = [
    (DrillKind::LeaderLoss, "leader-loss"),
    (DrillKind::NodeLoss, "node-loss"),
    (DrillKind::RegionLoss, "region-loss"),
    (DrillKind::Partition, "partition"),
    (DrillKind::PrimaryOutage, "primary-outage"),
    (DrillKind::DiskFull, "disk-full"),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Voters by name and region, of which the first leads.
    fn actors(list: &[(&str, &str)]) -> Vec<Actor> {
        (1..)
            .zip(list)
            .map(|(id, (name, region))| Actor {
                id: NodeId(id),
                name: (*name).to_owned(),
                region: (*region).to_owned(),
                voter: true,
                leads: id == 1,
                weak: None,
            })
            .collect()
    }

    fn three() -> Vec<Actor> {
        actors(&[("n1", "eu"), ("n2", "us"), ("n3", "ap")])
    }

    fn wish(kind: DrillKind) -> Wish {
        Wish {
            kind,
            region: String::new(),
            node: String::new(),
            lasts: Duration::from_secs(60),
            rate: 5,
        }
    }

    fn told(chosen: &Result<DrillPlan, NoDrill>) -> String {
        match chosen {
            Ok(plan) => format!("{:?} fail, {} conducts", plan.nodes, plan.conductor),
            Err(why) => why.to_string(),
        }
    }

    #[test]
    fn whoever_is_asked_conducts_unless_it_is_to_fail() {
        let at = |me, kind| told(&choose(&three(), NodeId(me), &wish(kind)));
        assert_eq!(at(1, DrillKind::LeaderLoss), "[1] fail, 2 conducts");
        assert_eq!(at(3, DrillKind::LeaderLoss), "[1] fail, 3 conducts");
        assert_eq!(at(1, DrillKind::NodeLoss), "[2] fail, 1 conducts");
        assert_eq!(at(2, DrillKind::NodeLoss), "[3] fail, 2 conducts");
        assert_eq!(at(2, DrillKind::RegionLoss), "[3] fail, 2 conducts");
        assert_eq!(at(2, DrillKind::PrimaryOutage), "[] fail, 2 conducts");
        let named = Wish {
            node: "n2".to_owned(),
            ..wish(DrillKind::DiskFull)
        };
        assert_eq!(
            told(&choose(&three(), NodeId(2), &named)),
            "[2] fail, 1 conducts"
        );
    }

    #[test]
    fn what_would_cost_the_quorum_is_refused() {
        let two_regions = actors(&[("n1", "eu"), ("n2", "eu"), ("n3", "us")]);
        let eu = Wish {
            region: "eu".to_owned(),
            ..wish(DrillKind::RegionLoss)
        };
        let why = choose(&two_regions, NodeId(3), &eu).unwrap_err();
        assert!(matches!(why, NoDrill::Unsafe(_)), "{why}");
        assert!(
            why.to_string().contains("1 would be left and 2 are needed"),
            "{why}"
        );
        let alone = actors(&[("n1", "eu")]);
        for (kind, _) in KINDS
            .iter()
            .filter(|(kind, _)| *kind != DrillKind::PrimaryOutage)
        {
            let chosen = choose(&alone, NodeId(1), &wish(*kind));
            assert!(
                matches!(chosen, Err(NoDrill::Unsafe(_))),
                "{}",
                told(&chosen)
            );
            assert!(told(&chosen).contains("\nfix: "), "{}", told(&chosen));
        }
    }

    #[test]
    fn a_cluster_with_a_real_failure_rehearses_none() {
        let mut actors = three();
        actors[2].weak = Some("does not answer".to_owned());
        let why = choose(&actors, NodeId(1), &wish(DrillKind::PrimaryOutage)).unwrap_err();
        assert!(why.to_string().starts_with("n3 does not answer"), "{why}");
    }

    #[test]
    fn what_could_never_be_is_known_whatever_fails_now() {
        let regions = BTreeSet::from(["eu", "us"]);
        let in_region = |kind, region: &str| Wish {
            region: region.to_owned(),
            ..wish(kind)
        };
        let sense = |wish: &Wish| makes_sense(wish, &regions).map_err(|why| why.to_string());
        assert_eq!(sense(&in_region(DrillKind::RegionLoss, "eu")), Ok(()));
        // Each in turn.
        assert_eq!(sense(&wish(DrillKind::Partition)), Ok(()));
        let why = sense(&in_region(DrillKind::RegionLoss, "mars")).unwrap_err();
        assert!(
            why.contains("region mars\nfix: the regions are eu, us"),
            "{why}"
        );
        let why = sense(&in_region(DrillKind::NodeLoss, "eu")).unwrap_err();
        assert!(why.contains("only region-loss and partition"), "{why}");
    }

    #[test]
    fn a_wish_that_makes_no_sense_is_told_so() {
        let region = |kind| Wish {
            region: "mars".to_owned(),
            ..wish(kind)
        };
        for wish in [
            region(DrillKind::RegionLoss),
            region(DrillKind::LeaderLoss),
            wish(DrillKind::Unspecified),
            Wish {
                node: "n9".to_owned(),
                ..wish(DrillKind::NodeLoss)
            },
            Wish {
                lasts: DRILL_TIME_MAX * 2,
                ..wish(DrillKind::NodeLoss)
            },
            Wish {
                rate: 0,
                ..wish(DrillKind::NodeLoss)
            },
        ] {
            let chosen = choose(&three(), NodeId(1), &wish);
            assert!(matches!(chosen, Err(NoDrill::Senseless(_))), "{wish:?}");
            assert!(told(&chosen).contains("\nfix: "), "{}", told(&chosen));
        }
    }
}

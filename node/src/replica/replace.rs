//! A dead member's place is given to another: one joint change of the voters, once the new one has
//! log and bodies, and then the dead one's certificate is worth nothing.
//!
//! Adding first and removing later would need three of four voters meanwhile, one of them dead.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use holdfast_ledger::{Member, query};
use holdfast_mail::NodeId;
use openraft::ChangeMembers;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::handle::Cluster;
use super::membership::{
    CATCH_UP_TIME_MAX, MembershipError, NotDone, Step, at_leader, lock, must_lead, promote_here,
    take_out, voters,
};
use super::types::Seat;

/// How long a command waits for a leader before it says that there is none: longer than an election
/// takes, so that it can be typed again right after the leader died.
const QUORUM_TIME_MAX: Duration = Duration::from_secs(15);

/// How often the operator is told how far it is.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often the leader looks whether another task has made the new node a voter.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Afterwards this region has a majority of the voters, and none has one now.
    OneRegion(String),
    NoLeader,
    NoAnswer(String),
    CatchesUp {
        have: u64,
        all: u64,
    },
    Fetches {
        missing: u64,
    },
    /// The new node votes and the dead one does not.
    Swapped,
    /// Every node refuses the dead one.
    Revoked,
}

/// What would be done.
#[derive(Clone, Debug)]
pub struct Plan {
    pub votes_already: bool,
    pub entries_behind: u64,
    pub bodies_missing: u64,
    pub one_region: Option<String>,
}

/// Looks whether it can be done, and changes nothing.
pub async fn plan(cluster: &Cluster, dead: NodeId, new: NodeId) -> Result<Plan, MembershipError> {
    wait_for_quorum(cluster).await?;
    refusal(cluster, dead, new)
        .await
        .map_err(MembershipError::Refused)?;
    let standing = cluster
        .ask_what_it_lacks(new.0)
        .await
        .map_err(MembershipError::Refused)?;
    let all = cluster.standing().last_log.unwrap_or_default().index;
    let before = voters(cluster);
    Ok(Plan {
        votes_already: before.contains(&new.0),
        entries_behind: all.saturating_sub(standing.last_log.unwrap_or_default().index),
        bodies_missing: standing.bodies_missing,
        one_region: one_region(&cluster.members(), &before, dead, new),
    })
}

/// Does it, from any node; says to `stages` how far it is. Safe to repeat: what is done already is
/// not done again.
pub async fn replace(
    cluster: &Cluster,
    dead: NodeId,
    new: NodeId,
    stages: mpsc::Sender<Stage>,
) -> Result<(), MembershipError> {
    // An operator who has gone away does not stop it.
    let tell = |stage| {
        let _full_or_gone = stages.try_send(stage);
    };
    if let Some(region) = plan(cluster, dead, new).await?.one_region {
        tell(Stage::OneRegion(region));
    }
    let others = cluster.members().iter().map(|m| m.id.0).collect();
    let step = Step::Replace { dead, new };
    let mut work = std::pin::pin!(at_leader(cluster, step, others, CATCH_UP_TIME_MAX));
    let mut swapped = false;
    loop {
        tokio::select! {
            done = &mut work => {
                done?;
                break;
            }
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        if swapped {
            continue;
        }
        let stage = look(cluster, dead, new).await;
        swapped = stage == Stage::Swapped;
        tell(stage);
    }
    if !swapped {
        tell(Stage::Swapped);
    }
    tell(Stage::Revoked);
    Ok(())
}

async fn look(cluster: &Cluster, dead: NodeId, new: NodeId) -> Stage {
    let voters = voters(cluster);
    if voters.contains(&new.0) && !voters.contains(&dead.0) {
        return Stage::Swapped;
    }
    if cluster.leader().is_none() {
        return Stage::NoLeader;
    }
    // The leader has it counted again and again; to show how far it is, the last count will do.
    match cluster.ask_newcomer(new.0).await {
        Err(why) => Stage::NoAnswer(why),
        Ok(standing) if standing.bodies_missing > 0 => Stage::Fetches {
            missing: standing.bodies_missing,
        },
        Ok(standing) => Stage::CatchesUp {
            have: standing.last_log.unwrap_or_default().index,
            all: cluster.standing().last_log.unwrap_or_default().index,
        },
    }
}

async fn wait_for_quorum(cluster: &Cluster) -> Result<(), MembershipError> {
    let deadline = Instant::now() + QUORUM_TIME_MAX;
    while !cluster.has_quorum() {
        if Instant::now() >= deadline {
            return Err(MembershipError::Refused(
                "there is no quorum, and without one nobody can be replaced. What was acknowledged is safe on the \
                 nodes' disks; nothing was changed\nfix: bring back a node; if too many are lost for good: \
                 holdfast cluster recover"
                    .into(),
            ));
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
    Ok(())
}

/// Why it may not be done, as this node sees it.
async fn refusal(cluster: &Cluster, dead: NodeId, new: NodeId) -> Result<(), String> {
    if dead == new {
        return Err(format!(
            "node {dead} cannot replace itself; nothing was changed\nfix: name the new node behind --with"
        ));
    }
    let members = cluster.members();
    let name = |node: NodeId| {
        let known = members.iter().find(|member| member.id == node);
        known.map_or_else(|| format!("node {node}"), |member| member.name.clone())
    };
    // One that plays dead in a drill comes back.
    cluster.must_not_rehearse()?;
    for member in &members {
        cluster.0.peers.learn(member.id.0, &member.cluster_address);
    }
    if members.iter().all(|member| member.id != new) {
        return Err(format!(
            "node {new} is not a member; nothing was changed\nfix: on a member: holdfast cluster invite; on the new \
             node: holdfast cluster join TOKEN"
        ));
    }
    if let Err(why) = answers(cluster, new).await {
        let new = name(new);
        return Err(format!(
            "{new} does not answer ({why}); nothing was changed\nfix: start {new}, or name another node"
        ));
    }
    if is_gone(cluster, dead).map_err(|error| error.0)? {
        return Ok(());
    }
    if answers(cluster, dead).await.is_ok() {
        let dead = name(dead);
        return Err(format!(
            "{dead} answers, so it is not dead; it was not removed\nfix: to take it out for good: holdfast cluster \
             leave {dead}; for work on its machine: holdfast node drain {dead}"
        ));
    }
    Ok(())
}

async fn answers(cluster: &Cluster, node: NodeId) -> Result<(), String> {
    if node == cluster.me().id {
        return Ok(());
    }
    cluster.ask_standing(node.0).await.map(drop)
}

/// Whether nothing of it is left: it was removed from the voters and from the ledger.
fn is_gone(cluster: &Cluster, node: NodeId) -> Result<bool, holdfast_ledger::KvError> {
    let sits = voters(cluster).contains(&node.0);
    Ok(!sits && query::is_removed(&cluster.view(), node)?)
}

/// Whether it was done before.
///
/// # Errors
/// The rows cannot be read.
pub fn is_done(
    cluster: &Cluster,
    dead: NodeId,
    new: NodeId,
) -> Result<bool, holdfast_ledger::KvError> {
    Ok(dead != new && voters(cluster).contains(&new.0) && is_gone(cluster, dead)?)
}

/// The region that gets a majority of the voters where none had one.
fn one_region(
    members: &[Member],
    voters: &BTreeSet<u64>,
    dead: NodeId,
    new: NodeId,
) -> Option<String> {
    let mut after = voters.clone();
    after.remove(&dead.0);
    after.insert(new.0);
    match (majority(members, voters), majority(members, &after)) {
        (None, Some(region)) => Some(region.to_owned()),
        _ => None,
    }
}

fn majority<'a>(members: &'a [Member], voters: &BTreeSet<u64>) -> Option<&'a str> {
    let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
    for member in members.iter().filter(|m| voters.contains(&m.id.0)) {
        *sizes.entry(&member.region).or_default() += 1;
    }
    let majority = voters.len() / 2 + 1;
    let has = sizes.into_iter().find(|(_, size)| *size >= majority);
    has.map(|(region, _)| region)
}

/// Whose place a learner takes as soon as it can vote; known to the leader while it is at it.
struct Planned<'a>(&'a Cluster, NodeId);

impl<'a> Planned<'a> {
    /// None: another task is at the same.
    fn begin(cluster: &'a Cluster, dead: NodeId, new: NodeId) -> Result<Option<Self>, NotDone> {
        let mut replacing = lock(&cluster.0.replacing);
        match replacing.get(&new.0) {
            None => {
                replacing.insert(new.0, dead.0);
                Ok(Some(Self(cluster, new)))
            }
            Some(known) if *known == dead.0 => Ok(None),
            Some(known) => Err(NotDone::Refused(format!(
                "node {new} is taking the place of node {known} just now; nothing was changed"
            ))),
        }
    }
}

impl Drop for Planned<'_> {
    fn drop(&mut self) {
        lock(&self.0.0.replacing).remove(&self.1.0);
    }
}

/// How a learner that has caught up becomes a voter, and whether who goes stays as a learner.
pub(super) async fn admission(cluster: &Cluster, new: NodeId) -> (ChangeMembers<u64, Seat>, bool) {
    let add = ChangeMembers::AddVoterIds(BTreeSet::from([new.0]));
    let dead = lock(&cluster.0.replacing).get(&new.0).copied();
    match dead {
        // It may have come back while the other fetched bodies for hours: both vote then.
        Some(dead) if answers(cluster, NodeId(dead)).await.is_err() => {
            tracing::info!(
                node = new.0,
                dead,
                "it takes the dead one's place in one change"
            );
            let remove = ChangeMembers::RemoveVoters(BTreeSet::from([dead]));
            (ChangeMembers::Batch(vec![add, remove]), false)
        }
        _ => (add, true),
    }
}

pub(crate) async fn replace_here(
    cluster: &Cluster,
    dead: NodeId,
    new: NodeId,
) -> Result<(), NotDone> {
    must_lead(cluster)?;
    let me = cluster.me().id.0;
    refusal(cluster, dead, new)
        .await
        .map_err(NotDone::Refused)?;
    while !voters(cluster).contains(&new.0) {
        let _planned = Planned::begin(cluster, dead, new)?;
        match promote_here(cluster, new).await {
            // Its own join is at it already, and will swap.
            Err(NotDone::AskLeader(Some(leader))) if leader == me => {}
            done => done?,
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
    must_lead(cluster)?;
    if is_gone(cluster, dead).map_err(|error| NotDone::Refused(error.0))? {
        return Ok(());
    }
    refusal(cluster, dead, new)
        .await
        .map_err(NotDone::Refused)?;
    take_out(cluster, dead).await?;
    tracing::info!(%dead, %new, "a dead node was replaced");
    Ok(())
}

/// A joint change is finished by its leader; where that died between its two halves, by the next.
pub(super) async fn finish_joint(cluster: &Cluster) {
    let is_joint = {
        use openraft::async_runtime::watch::WatchReceiver;
        let metrics = cluster.0.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        membership.get_joint_config().len() > 1
    };
    if !is_joint {
        return;
    }
    // Refused while it is not committed: the next round does it.
    let change = ChangeMembers::AddVoterIds(BTreeSet::new());
    match cluster.0.raft.change_membership(change, false).await {
        Ok(_) => tracing::info!("a change of the voters that broke off was finished"),
        Err(error) => tracing::debug!("a change of the voters goes on: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, region: &str) -> Member {
        Member {
            id: NodeId(id),
            name: format!("n{id}"),
            region: region.into(),
            cluster_address: String::new(),
            smtp_name: String::new(),
            smtp_address: String::new(),
        }
    }

    #[test]
    fn a_region_that_gets_the_majority_is_named_and_one_that_had_it_is_not() {
        let spread = [
            member(1, "eu"),
            member(2, "us"),
            member(3, "ap"),
            member(4, "us"),
            member(5, "eu"),
        ];
        let three = BTreeSet::from([1, 2, 3]);
        let region = |voters: &BTreeSet<u64>, dead, new| {
            one_region(&spread, voters, NodeId(dead), NodeId(new))
        };
        assert_eq!(region(&three, 1, 4).as_deref(), Some("us"));
        assert_eq!(region(&three, 1, 5), None);
        // It votes already: three of four are left.
        assert_eq!(
            region(&BTreeSet::from([1, 2, 3, 4]), 3, 4).as_deref(),
            Some("us")
        );
        // us had it before.
        assert_eq!(region(&BTreeSet::from([1, 2, 4]), 1, 5), None);
    }
}

//! Maintenance: draining nodes, giving them their duties back, moving leadership, and finalizing an
//! upgrade.

use std::time::Duration;

use holdfast_ledger::Command;
use holdfast_mail::NodeId;
use holdfast_proto::admin as wire;
use holdfast_proto::cluster::Standing;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tonic::Status;

use super::{Admin, broken, callers, find_node, membership_status};
use crate::replica::{Cluster, Duties, Place, membership};

/// How often it is looked what still depends on a node that is being drained.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How long this node may take to apply what the cluster has committed.
const APPLY_TIME_MAX: Duration = Duration::from_secs(10);

/// How long an undrained node may take to say that it has its duties back.
const BACK_TIME_MAX: Duration = Duration::from_secs(30);

type Steps = mpsc::Receiver<Result<wire::Progress, Status>>;

/// The one who asked, if they still listen.
struct Teller {
    node: NodeId,
    progress: mpsc::Sender<Result<wire::Progress, Status>>,
}

impl Teller {
    fn new(node: NodeId) -> (Self, Steps) {
        let (progress, steps) = mpsc::channel(64);
        (Self { node, progress }, steps)
    }

    /// False once nobody listens.
    async fn tell(&self, step: String, done: bool) -> bool {
        let step = wire::Progress {
            step,
            done,
            node_id: self.node.0,
            ..wire::Progress::default()
        };
        self.progress.send(Ok(step)).await.is_ok()
    }

    async fn end(self, outcome: Result<(), Status>) {
        if let Err(status) = outcome {
            let _gone = self.progress.send(Err(status)).await;
        }
    }
}

pub(super) fn drain(admin: &Admin, request: &wire::NodeRequest) -> Result<Steps, Status> {
    let cluster = admin.cluster()?;
    let node = find_node(&cluster, &request.node)?;
    let (teller, steps) = Teller::new(node);
    let (admin, dry_run) = (admin.clone(), request.dry_run);
    callers::spawn(async move {
        let outcome = drain_it(&admin, &cluster, &teller, dry_run).await;
        teller.end(outcome).await;
    });
    Ok(steps)
}

async fn drain_it(
    admin: &Admin,
    cluster: &Cluster,
    teller: &Teller,
    dry_run: bool,
) -> Result<(), Status> {
    let node = teller.node;
    let name = name_of(cluster, node);
    let members: Vec<Seen> = cluster
        .standings()
        .await
        .into_iter()
        .map(|(place, standing, ..)| Seen::new(cluster, &place, standing.is_ok()))
        .collect();
    let is_drained = cluster.drained_since(node).is_some();
    if !is_drained {
        // First: what looks dead in a drill need not be brought back.
        cluster
            .must_not_rehearse()
            .map_err(Status::failed_precondition)?;
    }
    let left = may_stop(&members, node).map_err(Status::failed_precondition)?;
    if dry_run {
        let says = match is_drained {
            true => format!("{name} is drained already"),
            false => format!(
                "{name} can be drained and stopped: {left} of {} voters go on without it",
                voters(&members).count()
            ),
        };
        teller.tell(says, true).await;
        return Ok(());
    }
    if !is_drained {
        let drained = true;
        admin.propose(Command::SetDrained { node, drained }).await?;
        // The entry is committed, and this node comes to it in a moment.
        let until = Instant::now() + APPLY_TIME_MAX;
        while cluster.drained_since(node).is_none() && Instant::now() < until {
            sleep(LOOK_EVERY).await;
        }
    }
    loop {
        let duties = cluster.duties(node).await.map_err(broken)?;
        if cluster.drained_since(node).is_none() {
            return Err(Status::failed_precondition(format!(
                "somebody gave {name} its duties back meanwhile; it is not drained"
            )));
        }
        if duties.is_free() {
            let silent = match duties.served {
                Some(_) => "",
                None => " (it does not answer)",
            };
            let says = format!("nothing depends on {name} any more{silent}");
            teller.tell(says, true).await;
            return Ok(());
        }
        if !teller.tell(waiting(&duties), false).await {
            // Interrupted: the node goes on by itself.
            return Ok(());
        }
        sleep(LOOK_EVERY).await;
    }
}

/// What is waited for, in words.
fn waiting(duties: &Duties) -> String {
    let mut left = Vec::new();
    if duties.unaware {
        left.push("to learn of it".to_owned());
    }
    if duties.leads {
        left.push("to hand over leadership".to_owned());
    }
    match duties.served {
        None => left.push("until what it had has expired, for it does not answer".to_owned()),
        Some(0) => {}
        Some(1) => left.push("for 1 connection to end".to_owned()),
        Some(count) => left.push(format!("for {count} connections to end")),
    }
    match duties.leases {
        0 => {}
        1 => left.push("to finish delivering for 1 domain".to_owned()),
        count => left.push(format!("to finish delivering for {count} domains")),
    }
    if duties.has_the_post {
        left.push("to lay down the post".to_owned());
    }
    format!("waiting {}", left.join(", "))
}

/// A member, as far as it matters to the quorum.
#[derive(Clone, Debug)]
struct Seen {
    id: NodeId,
    name: String,
    voter: bool,
    answers: bool,
    drained: bool,
}

impl Seen {
    fn new(cluster: &Cluster, place: &Place, answers: bool) -> Self {
        Self {
            id: place.id,
            name: place.name.clone(),
            voter: place.voter,
            answers,
            drained: cluster.drained_since(place.id).is_some(),
        }
    }
}

fn voters(members: &[Seen]) -> impl Iterator<Item = &Seen> {
    members.iter().filter(|member| member.voter)
}

/// Whether the cluster goes on when `node` is stopped, along with those that were drained before; and
/// how many voters are left then. Otherwise: why not, and what to do instead.
fn may_stop(members: &[Seen], node: NodeId) -> Result<usize, String> {
    let all = voters(members).count();
    let quorum = all / 2 + 1;
    let others = || voters(members).filter(|other| other.id != node);
    let left = others().filter(|other| other.answers && !other.drained);
    let left = left.count();
    let is_voter = voters(members).any(|voter| voter.id == node);
    if left >= quorum || !is_voter {
        return Ok(left);
    }
    let named = |wanted: &dyn Fn(&Seen) -> bool| {
        let names: Vec<&str> = others()
            .filter(|other| wanted(other))
            .map(|other| other.name.as_str())
            .collect();
        names.join(", ")
    };
    let (down, drained) = (
        named(&|it| !it.answers),
        named(&|it| it.answers && it.drained),
    );
    let mut why = Vec::new();
    let mut first = Vec::new();
    if !down.is_empty() {
        why.push(format!("{down} does not answer"));
        first.push(format!("bring back {down}"));
    }
    if !drained.is_empty() {
        why.push(format!("{drained} is drained"));
        first.push(format!(
            "give {drained} its duties back (holdfast node undrain NODE)"
        ));
    }
    if why.is_empty() {
        why.push(format!("the cluster has {all} voter(s)"));
        first.push("let another node join (holdfast cluster invite)".to_owned());
    }
    Err(format!(
        "{}: with this node stopped too, {left} of {all} voters would be left, and {quorum} are needed to accept \
         mail. Nothing was changed\nfix: {} first, and then try again",
        why.join(", and "),
        first.join(", or ")
    ))
}

pub(super) fn undrain(admin: &Admin, request: &wire::NodeRequest) -> Result<Steps, Status> {
    let cluster = admin.cluster()?;
    let node = find_node(&cluster, &request.node)?;
    let (teller, steps) = Teller::new(node);
    let (admin, dry_run) = (admin.clone(), request.dry_run);
    callers::spawn(async move {
        let outcome = undrain_it(&admin, &cluster, &teller, dry_run).await;
        teller.end(outcome).await;
    });
    Ok(steps)
}

async fn undrain_it(
    admin: &Admin,
    cluster: &Cluster,
    teller: &Teller,
    dry_run: bool,
) -> Result<(), Status> {
    let node = teller.node;
    let name = name_of(cluster, node);
    let is_drained = cluster.drained_since(node).is_some();
    if dry_run {
        let says = match is_drained {
            true => format!("{name} would take mail again, and its share of the work"),
            false => format!("{name} is not drained"),
        };
        teller.tell(says, true).await;
        return Ok(());
    }
    if is_drained {
        let drained = false;
        admin.propose(Command::SetDrained { node, drained }).await?;
    }
    let deadline = Instant::now() + BACK_TIME_MAX;
    loop {
        let standing = standing(cluster, node).await;
        match &standing {
            Ok(it) if !it.drained => {
                teller.tell(format!("{name} has its duties"), true).await;
                return Ok(());
            }
            _ if Instant::now() < deadline => {}
            _ => {
                let says =
                    format!("{name} does not answer; it takes up its duties when it is back");
                teller.tell(says, true).await;
                return Ok(());
            }
        }
        let says = match standing {
            Ok(_) => "waiting for it to catch up".to_owned(),
            Err(why) => format!("waiting for it to answer: {why}"),
        };
        if !teller.tell(says, false).await {
            return Ok(());
        }
        sleep(LOOK_EVERY).await;
    }
}

async fn standing(cluster: &Cluster, node: NodeId) -> Result<Standing, String> {
    let all = cluster.standings().await;
    let found = all.into_iter().find(|(place, ..)| place.id == node);
    found.map_or_else(
        || Err("it is not in the cluster yet".into()),
        |(_, standing, ..)| standing,
    )
}

pub(super) fn transfer(admin: &Admin, request: &wire::TransferRequest) -> Result<Steps, Status> {
    let cluster = admin.cluster()?;
    let to = match request.node.as_str() {
        "" => None,
        text => Some(find_node(&cluster, text)?),
    };
    let (teller, steps) = Teller::new(to.unwrap_or(NodeId(0)));
    let dry_run = request.dry_run;
    callers::spawn(async move {
        let outcome = transfer_it(&cluster, &teller, to, dry_run).await;
        if outcome.is_ok() && !dry_run {
            let done = "leadership handed over".to_owned();
            callers::caller().notes(&cluster, done).await;
        }
        teller.end(outcome).await;
    });
    Ok(steps)
}

async fn transfer_it(
    cluster: &Cluster,
    teller: &Teller,
    to: Option<NodeId>,
    dry_run: bool,
) -> Result<(), Status> {
    let heir = membership::heir(cluster, to)
        .await
        .map_err(membership_status)?;
    let (from, heir_name) = (cluster.leader(), name_of(cluster, heir));
    let from_name = from.map_or_else(|| "nobody".to_owned(), |node| name_of(cluster, node));
    if dry_run {
        let says = match from == Some(heir) {
            true => format!("{heir_name} leads already"),
            false => format!("{from_name} leads, and would hand over to {heir_name}"),
        };
        teller.tell(says, true).await;
        return Ok(());
    }
    teller
        .tell(format!("{from_name} hands over to {heir_name}"), false)
        .await;
    membership::hand_over(cluster, Some(heir))
        .await
        .map_err(membership_status)?;
    // The last to hear of it is perhaps this node.
    let deadline = Instant::now() + BACK_TIME_MAX;
    while cluster
        .leader()
        .is_none_or(|leader| from == Some(leader) && leader != heir)
    {
        if Instant::now() >= deadline {
            return Err(Status::deadline_exceeded(
                "leadership was handed over, but who leads now is not known here yet; look at `holdfast status`",
            ));
        }
        sleep(LOOK_EVERY / 5).await;
    }
    let leads = cluster
        .leader()
        .map_or_else(String::new, |node| name_of(cluster, node));
    teller.tell(format!("{leads} leads"), true).await;
    Ok(())
}

/// Raises the cluster's feature level to the highest that any member knows, if all do.
pub(super) async fn finalize(
    admin: &Admin,
    request: &wire::FinalizeRequest,
) -> Result<wire::FinalizeReply, Status> {
    let cluster = admin.cluster()?;
    let before = cluster.level();
    let members = cluster.members();
    let standings = cluster.standings().await;
    let known: Vec<(String, Result<u32, String>)> = members
        .iter()
        .map(|member| {
            let found = standings.iter().find(|(place, ..)| place.id == member.id);
            let level = match found {
                Some((_, Ok(standing), ..)) => Ok(standing.level.max(1)),
                Some((_, Err(why), ..)) => Err(why.clone()),
                None => Err("it has joined and is not in the log yet".to_owned()),
            };
            (member.name.clone(), level)
        })
        .collect();
    let level = all_know(&known, before).map_err(Status::failed_precondition)?;
    if level > before && !request.dry_run {
        let command = Command::RaiseLevel {
            level,
            members: members.iter().map(|member| member.id).collect(),
        };
        admin.propose(command).await?;
    }
    Ok(wire::FinalizeReply { before, level })
}

/// The highest level, if every member knows it; otherwise who does not.
fn all_know(members: &[(String, Result<u32, String>)], before: u32) -> Result<u32, String> {
    let newest = members
        .iter()
        .filter_map(|(_, level)| level.as_ref().ok())
        .max()
        .map_or(before, |newest| before.max(*newest));
    let behind: Vec<String> = members
        .iter()
        .filter_map(|(name, level)| match level {
            Ok(level) if *level >= newest => None,
            Ok(level) => Some(format!("{name} knows level {level} only")),
            Err(why) => Some(format!("{name} does not answer ({why})")),
        })
        .collect();
    if behind.is_empty() {
        return Ok(newest);
    }
    Err(format!(
        "not every node knows feature level {newest}: {}. The cluster stays at level {before}, which is safe for as \
         long as it takes\nfix: upgrade or bring back these nodes, and then try again",
        behind.join(", ")
    ))
}

fn name_of(cluster: &Cluster, node: NodeId) -> String {
    let mut members = cluster.members().into_iter();
    let found = members.find(|member| member.id == node);
    found.map_or_else(|| node.to_string(), |member| member.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, answers: bool, drained: bool) -> Seen {
        Seen {
            id: NodeId(id),
            name: format!("n{id}"),
            voter: true,
            answers,
            drained,
        }
    }

    #[test]
    fn a_node_is_drained_only_where_the_others_are_a_quorum_without_it() {
        let well = [1, 2, 3].map(|id| member(id, true, false));
        assert_eq!(may_stop(&well, NodeId(2)), Ok(2));

        let down = [
            member(1, true, false),
            member(2, true, false),
            member(3, false, false),
        ];
        let why = may_stop(&down, NodeId(2)).unwrap_err();
        assert!(why.contains("n3 does not answer"), "{why}");
        assert!(
            why.contains("1 of 3 voters would be left, and 2 are needed"),
            "{why}"
        );
        assert!(why.contains("\nfix: bring back n3 first"), "{why}");
        // The one that is down may be drained itself: it is to stay away.
        assert_eq!(may_stop(&down, NodeId(3)), Ok(2));

        let drained = [
            member(1, true, true),
            member(2, true, false),
            member(3, true, false),
        ];
        let why = may_stop(&drained, NodeId(2)).unwrap_err();
        assert!(why.contains("n1 is drained"), "{why}");
        assert!(why.contains("holdfast node undrain"), "{why}");
        // Again, for who was interrupted.
        assert_eq!(may_stop(&drained, NodeId(1)), Ok(2));

        let two = [member(1, true, false), member(2, true, false)];
        let why = may_stop(&two, NodeId(1)).unwrap_err();
        assert!(why.contains("let another node join"), "{why}");
    }

    #[test]
    fn a_learner_counts_in_no_quorum() {
        let mut members = [1, 2, 3, 4].map(|id| member(id, true, false));
        members[3].voter = false;
        assert_eq!(may_stop(&members, NodeId(4)), Ok(3));
        members[2].answers = false;
        assert!(
            may_stop(&members, NodeId(1)).is_err(),
            "the learner does not vote"
        );
    }

    #[test]
    fn the_level_goes_up_only_when_every_member_knows_it() {
        let of = |levels: &[Result<u32, &str>]| -> Vec<(String, Result<u32, String>)> {
            let known = levels.iter().map(|it| it.map_err(str::to_owned));
            known
                .zip(1..)
                .map(|(level, n)| (format!("n{n}"), level))
                .collect()
        };
        assert_eq!(all_know(&of(&[Ok(3), Ok(3), Ok(3)]), 2), Ok(3));
        assert_eq!(all_know(&of(&[Ok(2), Ok(2)]), 2), Ok(2));
        let why = all_know(&of(&[Ok(3), Ok(2), Err("no route")]), 2).unwrap_err();
        assert!(
            why.contains("n2 knows level 2 only, n3 does not answer (no route)"),
            "{why}"
        );
        assert!(why.contains("stays at level 2"), "{why}");
    }

    #[test]
    fn what_is_waited_for_is_told_in_words() {
        let duties = Duties {
            leads: true,
            leases: 2,
            served: Some(1),
            ..Duties::default()
        };
        assert!(!duties.is_free());
        assert_eq!(
            waiting(&duties),
            "waiting to hand over leadership, for 1 connection to end, to finish delivering for 2 domains"
        );
        let gone = Duties {
            served: None,
            leases: 1,
            ..Duties::default()
        };
        assert_eq!(
            waiting(&gone),
            "waiting until what it had has expired, for it does not answer, to finish delivering for 1 domain"
        );
        assert!(Duties { leases: 0, ..gone }.is_free());
    }
}

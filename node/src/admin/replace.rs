//! `holdfast node replace`: from names to ids, and from stages to sentences.

use holdfast_ledger::query;
use holdfast_mail::NodeId;
use holdfast_proto::admin as wire;
use tokio::sync::mpsc;
use tonic::Status;

use super::{Admin, broken, callers, find_node, membership_status};
use crate::replica::Cluster;
use crate::replica::replace::{self, Plan, Stage};

type Steps = mpsc::Receiver<Result<wire::Progress, Status>>;

impl Admin {
    pub(super) fn replace(&self, request: wire::NodeReplaceRequest) -> Result<Steps, Status> {
        let cluster = self.cluster()?;
        let new = find_node(&cluster, &request.with).map_err(|status| {
            Status::not_found(format!(
                "{}\nfix: on a member: holdfast cluster invite; on the new node: holdfast cluster join TOKEN",
                status.message()
            ))
        })?;
        let dead = find_dead(&cluster, &request.dead)?;
        let (progress, out) = mpsc::channel(64);
        if replace::is_done(&cluster, dead, new).map_err(broken)? {
            let done = wire::Progress {
                step: format!(
                    "{} is no member any more, and {} votes: nothing is left to do",
                    request.dead, request.with
                ),
                done: true,
                node_id: new.0,
                ..wire::Progress::default()
            };
            // There is room for it.
            let _gone = progress.try_send(Ok(done));
            return Ok(out);
        }
        callers::spawn(async move {
            let (from, to) = (request.dead.clone(), request.with.clone());
            let dry_run = request.dry_run;
            let outcome = if request.dry_run {
                replace::plan(&cluster, dead, new)
                    .await
                    .map(|plan| would(&plan, &request.dead, &request.with))
            } else {
                let (stages, told) = mpsc::channel(16);
                let telling = tokio::spawn(tell(told, progress.clone(), request));
                let outcome = replace::replace(&cluster, dead, new, stages).await;
                let _told_all = telling.await;
                outcome.map(|()| String::new())
            };
            if outcome.is_ok() && !dry_run {
                let done = format!("{from} replaced with {to}");
                callers::caller().notes(&cluster, done).await;
            }
            let last = outcome
                .map(|step| wire::Progress {
                    step,
                    done: true,
                    node_id: new.0,
                    ..wire::Progress::default()
                })
                .map_err(membership_status);
            let _gone = progress.send(last).await;
        });
        Ok(out)
    }
}

/// A member; or one that was removed, so that the command may be typed again.
fn find_dead(cluster: &Cluster, text: &str) -> Result<NodeId, Status> {
    let unknown = match find_node(cluster, text) {
        Ok(node) => return Ok(node),
        Err(unknown) => unknown,
    };
    let view = cluster.view();
    if let Ok(id) = text.parse()
        && query::is_removed(&view, NodeId(id)).map_err(broken)?
    {
        return Ok(NodeId(id));
    }
    query::removed_as(&view, text)
        .map_err(broken)?
        .ok_or(unknown)
}

async fn tell(
    mut stages: mpsc::Receiver<Stage>,
    progress: mpsc::Sender<Result<wire::Progress, Status>>,
    request: wire::NodeReplaceRequest,
) {
    let mut missing_most = 0;
    while let Some(stage) = stages.recv().await {
        if let Stage::Fetches { missing } = stage {
            missing_most = missing.max(missing_most);
        }
        let step = sentence(&stage, &request.dead, &request.with, missing_most);
        if progress.send(Ok(step)).await.is_err() {
            return;
        }
    }
}

fn sentence(stage: &Stage, dead: &str, new: &str, missing_most: u64) -> wire::Progress {
    let mut progress = wire::Progress::default();
    progress.step = match stage {
        Stage::OneRegion(region) => concentrated(region),
        Stage::NoLeader => "no node leads just now; it goes on as soon as one does".into(),
        Stage::NoAnswer(why) => format!("{new} does not answer ({why}); it goes on when it does"),
        Stage::CatchesUp { have, all } => {
            (progress.done_units, progress.all_units) = (*have.min(all), *all);
            progress.unit = "entries".into();
            format!("{new} catches up")
        }
        Stage::Fetches { missing } => {
            (progress.done_units, progress.all_units) = (missing_most - missing, missing_most);
            progress.unit = "bodies".into();
            format!("{new} fetches bodies")
        }
        Stage::Swapped => format!("{new} votes, {dead} does not"),
        Stage::Revoked => format!("{dead}'s certificate is refused from now on"),
    };
    progress
}

fn concentrated(region: &str) -> String {
    format!(
        "warning: region {region} then has a majority of the voters: if it fails, the cluster stops, and a commit \
         may be on disk in that region only"
    )
}

fn would(plan: &Plan, dead: &str, new: &str) -> String {
    let first = if plan.votes_already {
        format!("{new} votes already; {dead} would be removed")
    } else {
        format!(
            "{new} lacks {} entries and {} bodies; with them it would vote in the place of {dead}",
            plan.entries_behind, plan.bodies_missing
        )
    };
    let warning = plan.one_region.as_deref().map(concentrated);
    let warning = warning.map(|text| format!("; {text}")).unwrap_or_default();
    format!("{first}, whose certificate would be refused from then on{warning}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stage_is_a_sentence_and_bodies_are_counted_from_the_most_that_lacked() {
        let told = |stage| {
            let it = sentence(&stage, "n1", "n4", 12);
            (it.step, it.done_units, it.all_units, it.unit)
        };
        assert_eq!(
            told(Stage::Fetches { missing: 5 }),
            ("n4 fetches bodies".into(), 7, 12, "bodies".into())
        );
        // It may be ahead of what the asked node has.
        assert_eq!(
            told(Stage::CatchesUp { have: 9, all: 8 }),
            ("n4 catches up".into(), 8, 8, "entries".into())
        );
        assert_eq!(told(Stage::Swapped).0, "n4 votes, n1 does not");
    }

    #[test]
    fn a_dry_run_says_what_would_be() {
        let mut plan = Plan {
            votes_already: true,
            entries_behind: 0,
            bodies_missing: 0,
            one_region: None,
        };
        assert_eq!(
            would(&plan, "n1", "n4"),
            "n4 votes already; n1 would be removed, whose certificate would be refused from then on"
        );
        plan.votes_already = false;
        plan.bodies_missing = 3;
        plan.one_region = Some("eu".into());
        let text = would(&plan, "n1", "n4");
        assert!(
            text.starts_with("n4 lacks 0 entries and 3 bodies;"),
            "{text}"
        );
        assert!(
            text.contains("warning: region eu then has a majority"),
            "{text}"
        );
    }
}

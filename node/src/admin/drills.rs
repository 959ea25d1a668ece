//! Drills, for operators.

use std::time::Duration;

use holdfast_ledger::drill::{
    Drill, DrillKind, DrillPlan, DrillSchedule, SCHEDULE_EVERY_MIN, drills, schedules,
};
use holdfast_ledger::{Command, PLAN_NAME_OCTETS_MAX, Refusal, Reply};
use holdfast_mail::{MessageId, NodeId};
use holdfast_proto::admin as wire;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tonic::Status;

use super::callers::caller;
use super::{Admin, COMMAND_TIME_MAX, broken, done};
use crate::cast::{self, NoDrill, Wish, cast, kind_name};
use crate::replica::{Cluster, DRILL_LEASE, now, random_id};

/// How often a drill that is watched is looked at besides.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How long this node may take to apply what the cluster has committed.
const APPLY_TIME_MAX: Duration = Duration::from_secs(10);

impl Admin {
    /// Begins a drill, or tells what one would be; then every change of it.
    pub(super) async fn drill(
        &self,
        request: wire::DrillRunRequest,
    ) -> Result<mpsc::Receiver<Result<wire::Drill, Status>>, Status> {
        let cluster = self.cluster()?;
        let plan = cast(&cluster, &wish(&request)).await.map_err(no_drill)?;
        let (progress, told) = mpsc::channel(16);
        if request.dry_run {
            let would = wire::Drill {
                rate: plan.rate,
                ..planned(&cluster, &plan)
            };
            // There is room for it.
            let _gone = progress.send(Ok(would)).await;
            return Ok(told);
        }
        let mut effects = cluster.effects();
        let id = MessageId::new(now(), random_id());
        self.propose(Command::BeginDrill { id, plan }).await?;
        tokio::spawn(async move {
            let mut ticks = interval(LOOK_EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut last = None;
            let begun = Instant::now();
            loop {
                let found = find(&cluster, id);
                // The entry is committed, and this node comes to it in a moment.
                if last.is_none() && found.is_err() && begun.elapsed() < APPLY_TIME_MAX {
                    ticks.tick().await;
                    continue;
                }
                let is_over = !matches!(&found, Ok(drill) if drill.under_way);
                if last.as_ref() != found.as_ref().ok() || is_over {
                    last = found.as_ref().ok().cloned();
                    if progress.send(found).await.is_err() || is_over {
                        return;
                    }
                }
                tokio::select! {
                    _ = ticks.tick() => {}
                    effect = effects.recv() => if matches!(effect, Err(broadcast::error::RecvError::Closed)) {
                        return;
                    },
                }
            }
        });
        Ok(told)
    }

    pub(super) fn drills(&self) -> Result<wire::DrillList, Status> {
        let cluster = self.cluster()?;
        let view = cluster.view();
        let all = drills(&view).map_err(broken)?;
        let schedules = schedules(&view).map_err(broken)?.into_iter();
        Ok(wire::DrillList {
            drills: all.into_iter().map(|drill| told(&cluster, drill)).collect(),
            schedules: schedules
                .map(|(name, schedule)| wire::DrillSchedule {
                    name,
                    kind: kind_name(schedule.kind()).to_owned(),
                    region: schedule.region,
                    every_ms: schedule.every_ms,
                    next_at_ms: schedule.next_at_ms,
                    duration_ms: schedule.duration_ms,
                    rate: schedule.rate,
                })
                .collect(),
        })
    }

    /// Ends the failure at every node that answers.
    pub(super) async fn stop_drill(&self) -> Result<wire::Drill, Status> {
        let cluster = self.cluster()?;
        let open = cluster.drill_under_way().map_err(broken)?;
        let drill =
            open.ok_or_else(|| Status::not_found("no drill is under way; nothing was changed"))?;
        let members = cluster.members();
        let asks = members
            .iter()
            .map(|member| cluster.rehearse_at(member.id, drill.id, Duration::ZERO));
        let done = futures::future::join_all(asks).await;
        let failed: Vec<String> = members
            .iter()
            .zip(done)
            .filter_map(|(member, done)| Some(format!("{}: {}", member.name, done.err()?)))
            .collect();
        let stopped = format!("drill {} stopped", kind_name(drill.plan.kind()));
        caller().notes(&cluster, stopped).await;
        if !failed.is_empty() {
            return Err(Status::unavailable(format!(
                "not every node was reached ({}). Each ends its part by itself, {} s after it heard last from the \
                 node that conducts the drill",
                failed.join("; "),
                DRILL_LEASE.as_secs()
            )));
        }
        Ok(told(&cluster, drill))
    }

    pub(super) async fn set_schedule(&self, set: wire::DrillSchedule) -> Result<(), Status> {
        let cluster = self.cluster()?;
        let schedule = match set.every_ms {
            0 => None,
            _ => Some(scheduled(&cluster, &set)?),
        };
        let name = set.name;
        let is_removed = schedule.is_none();
        let command = Command::ScheduleDrill {
            name: name.clone(),
            schedule,
        };
        let until = Instant::now() + COMMAND_TIME_MAX;
        match caller().propose(&cluster, command, until).await {
            // Of a name that none can have, too.
            Ok(Reply::Refused(Refusal::UnknownDrill | Refusal::Malformed)) if is_removed => {
                Err(Status::not_found(format!(
                    "there is no schedule {name}; nothing was changed\nfix: see which there are: holdfast drill \
                     schedule list"
                )))
            }
            outcome => done(outcome).map(drop),
        }
    }
}

/// The same checks as of a drill that is run; who fails is decided each time.
fn scheduled(cluster: &Cluster, set: &wire::DrillSchedule) -> Result<DrillSchedule, Status> {
    check_schedule(&set.name, set.every_ms).map_err(Status::invalid_argument)?;
    let wish = wish(&wire::DrillRunRequest {
        kind: set.kind.clone(),
        region: set.region.clone(),
        duration_ms: set.duration_ms,
        rate: set.rate,
        ..wire::DrillRunRequest::default()
    });
    let members = cluster.members();
    let regions = members.iter().map(|member| member.region.as_str());
    cast::makes_sense(&wish, &regions.collect()).map_err(no_drill)?;
    Ok(DrillSchedule {
        kind: wish.kind.into(),
        region: wish.region,
        every_ms: set.every_ms,
        next_at_ms: match set.next_at_ms {
            0 => now().plus(Duration::from_millis(set.every_ms)).0,
            at => at,
        },
        duration_ms: set.duration_ms,
        rate: set.rate,
    })
}

/// What the ledger would only call malformed.
fn check_schedule(name: &str, every_ms: u64) -> Result<(), String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if !(1..=PLAN_NAME_OCTETS_MAX).contains(&name.len()) || !name.bytes().all(is_plain) {
        return Err(format!(
            "{name:?} is no name for a schedule: take 1 to {PLAN_NAME_OCTETS_MAX} letters, digits and ._-"
        ));
    }
    if u128::from(every_ms) < SCHEDULE_EVERY_MIN.as_millis() {
        return Err(format!(
            "from one drill of a schedule to the next there are {} minutes at least: what a failure did to delivery \
             must be over first\nfix: --every 1h, or more",
            SCHEDULE_EVERY_MIN.as_secs() / 60
        ));
    }
    Ok(())
}

fn wish(request: &wire::DrillRunRequest) -> Wish {
    let kind = cast::kind(&request.kind).unwrap_or(DrillKind::Unspecified);
    Wish {
        kind,
        region: request.region.clone(),
        node: request.node.clone(),
        lasts: Duration::from_millis(request.duration_ms),
        rate: request.rate,
    }
}

fn no_drill(why: NoDrill) -> Status {
    match why {
        NoDrill::Senseless(why) => Status::invalid_argument(why),
        NoDrill::Unsafe(why) => {
            Status::failed_precondition(format!("no drill was begun, nothing was changed: {why}"))
        }
    }
}

fn find(cluster: &Cluster, id: MessageId) -> Result<wire::Drill, Status> {
    let all = drills(&cluster.view()).map_err(broken)?;
    let found = all.into_iter().find(|drill| drill.id == id);
    let found = found.ok_or_else(|| Status::not_found("the drill is not known any more"))?;
    Ok(told(cluster, found))
}

fn planned(cluster: &Cluster, plan: &DrillPlan) -> wire::Drill {
    let members = cluster.members();
    let name = |node: u64| {
        let member = members.iter().find(|member| member.id == NodeId(node));
        member.map_or_else(|| NodeId(node).to_string(), |member| member.name.clone())
    };
    wire::Drill {
        kind: kind_name(plan.kind()).to_owned(),
        nodes: plan.nodes.iter().map(|node| name(*node)).collect(),
        conductor: name(plan.conductor),
        region: plan.region.clone(),
        duration_ms: plan.duration_ms,
        rate: plan.rate,
        ..wire::Drill::default()
    }
}

pub(super) fn told(cluster: &Cluster, drill: Drill) -> wire::Drill {
    let under_way = drill.is_under_way(now());
    let mut events = drill.events;
    // Each is told by itself; what happened first may have been noted last.
    events.sort_by_key(|event| event.at_ms);
    wire::Drill {
        id: drill.id.to_string(),
        began_at_ms: drill.began_at.0,
        under_way,
        events,
        report: drill.report,
        ..planned(cluster, &drill.plan)
    }
}

/// The last drill of each kind and region, for the status.
pub(super) fn last_of_each(cluster: &Cluster) -> Result<Vec<wire::Drill>, Status> {
    let all = drills(&cluster.view()).map_err(broken)?;
    let mut last: Vec<Drill> = Vec::new();
    for drill in all.into_iter().rev() {
        let of = |drill: &Drill| (drill.plan.kind, drill.plan.region.clone());
        if !last.iter().any(|known| of(known) == of(&drill)) {
            last.push(drill);
        }
    }
    Ok(last.into_iter().map(|drill| told(cluster, drill)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_that_the_ledger_would_call_malformed_is_refused_in_words() {
        let hour = 3_600_000;
        assert_eq!(check_schedule("weekly_eu-1.0", hour), Ok(()));
        let why = check_schedule("weekly", hour - 1).unwrap_err();
        assert!(why.contains("60 minutes at least"), "{why}");
        assert!(why.contains("\nfix: --every 1h"), "{why}");
        for name in ["", "every week", "wöchentlich", &"x".repeat(65)] {
            let why = check_schedule(name, hour).unwrap_err();
            assert!(why.contains("is no name for a schedule"), "{why}");
        }
    }
}

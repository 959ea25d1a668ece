//! Drills: rehearses failures, by hand or by the calendar, and tells what they cost.
//!
//! ```text
//!   BeginDrill ─► the conductor, a node that does not fail
//!                   │ canaries to every mail exchanger of ours, and to whoever delivers
//!                   │ Rehearse to every member, again and again: pretend, for some seconds
//!                   │ looks who leads, who delivers, who keeps silent
//!                   │ Rehearse: no more            (each would have stopped by itself)
//!                   ▼ Receipts of every member
//!                 EndDrill with the report
//! ```
//!
//! The failure is pretended by the nodes themselves (`replica/rehearsal.rs`). If the conductor is lost
//! they end it within seconds, and the leader notes that.

mod canary;
mod conductor;
mod sink;
mod tally;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use holdfast_ledger::drill::{Drill, DrillReport, DrillSchedule, DrillVerdict, drills, schedules};
use holdfast_ledger::{Command, Effect, KvError, Reply};
use holdfast_mail::{MessageId, NodeId};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::cast::{self, Wish};
use crate::net::dns::Resolver;
use crate::person::Person;
use crate::replica::{Cluster, now, random_id};
use conductor::Conductor;

/// How often it is looked for drills that are due, or lost.
const TICK: Duration = Duration::from_secs(1);

/// A conductor begins within this time, or never: after a restart it would measure nonsense.
const BEGIN_TIME_MAX: Duration = Duration::from_secs(10);

/// A scheduled drill that would not be safe is tried again after this.
const TRY_AGAIN: Duration = Duration::from_secs(3600);

struct Room {
    cluster: Cluster,
    resolver: Arc<Resolver>,
    /// That this node conducts, or has conducted.
    conducted: HashSet<MessageId>,
    conducting: Option<AbortOnDropHandle<()>>,
}

/// Returns when `stop` is cancelled.
pub(crate) async fn run(cluster: Cluster, resolver: Arc<Resolver>, stop: CancellationToken) {
    let sink = match sink::listen(&cluster) {
        Ok(listener) => tokio::spawn(sink::run(cluster.clone(), listener)),
        Err(error) => {
            tracing::error!("this node can take no canaries, so no drill passes: {error}");
            return;
        }
    };
    let _sink = AbortOnDropHandle::new(sink);
    let mut effects = cluster.effects();
    let mut room = Room {
        cluster,
        resolver,
        conducted: HashSet::new(),
        conducting: None,
    };
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
            effect = effects.recv() => match effect {
                Ok(Effect::DrillChanged) => {}
                Ok(_) | Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return,
            },
        }
        if let Err(error) = room.look().await {
            tracing::error!("the drills cannot be read: {}", error.0);
        }
    }
}

impl Room {
    async fn look(&mut self) -> Result<(), KvError> {
        let view = self.cluster.view();
        let all = drills(&view)?;
        let open = all.iter().filter(|drill| drill.report.is_none());
        for drill in open {
            let is_mine = drill.plan.conductor == self.cluster.me().id.0;
            if is_mine && !self.conducted.contains(&drill.id) {
                self.conducted.insert(drill.id);
                if now().since(drill.began_at) < BEGIN_TIME_MAX {
                    self.conduct(drill.clone());
                } else {
                    self.note_lost(drill);
                }
            } else if self.is_leader()
                && (!drill.is_under_way(now()) || self.is_forsaken(drill).await)
            {
                self.note_lost(drill);
            }
        }
        if self.is_leader() && !all.iter().any(|drill| drill.is_under_way(now())) {
            for (name, schedule) in schedules(&view)? {
                if schedule.next_at_ms <= now().0 {
                    self.begin(&name, schedule, &all).await;
                    break;
                }
            }
        }
        Ok(())
    }

    fn is_leader(&self) -> bool {
        self.cluster.leader() == Some(self.cluster.me().id) && self.cluster.has_quorum()
    }

    /// Whether nobody conducts it any more: this node was not asked to go on, or to stop, and the
    /// conductor does not answer.
    async fn is_forsaken(&self, drill: &Drill) -> bool {
        self.cluster.rehearsal().is_done_with(drill.id) && {
            let standings = self.cluster.standings().await;
            let conductor = NodeId(drill.plan.conductor);
            !standings
                .iter()
                .any(|(place, standing, ..)| place.id == conductor && standing.is_ok())
        }
    }

    fn conduct(&mut self, drill: Drill) {
        let conductor = Conductor::new(self.cluster.clone(), self.resolver.clone(), drill);
        self.conducting =
            conductor.map(|conductor| AbortOnDropHandle::new(tokio::spawn(conductor.conduct())));
    }

    /// Whoever conducted it cannot tell any more.
    fn note_lost(&self, drill: &Drill) {
        let report = DrillReport {
            verdict: DrillVerdict::Unknown.into(),
            why: "the node that conducted it stopped; every other node ended its part by itself"
                .to_owned(),
            ..DrillReport::default()
        };
        let (cluster, drill) = (self.cluster.clone(), drill.clone());
        tokio::spawn(async move { conductor::end(&cluster, &drill, report).await });
    }

    /// A scheduled drill, if it is safe now.
    async fn begin(&self, name: &str, schedule: DrillSchedule, past: &[Drill]) {
        let every = Duration::from_millis(schedule.every_ms);
        let wish = Wish {
            kind: schedule.kind(),
            region: schedule.region.clone(),
            node: String::new(),
            lasts: Duration::from_millis(schedule.duration_ms),
            rate: schedule.rate,
        };
        let region = cast::overdue_region(&self.cluster, &wish, past);
        let wish = Wish { region, ..wish };
        let plan = cast::cast(&self.cluster, &wish).await;
        let next_at = now().plus(if plan.is_ok() { every } else { TRY_AGAIN });
        // First, so that whoever leads next does not begin it again.
        let moved = Command::ScheduleDrill {
            name: name.to_owned(),
            schedule: Some(DrillSchedule {
                next_at_ms: next_at.0,
                ..schedule
            }),
        };
        let begin = plan.map(|plan| Command::BeginDrill {
            id: MessageId::new(now(), random_id()),
            plan,
        });
        let waits = begin.as_ref().err().map(ToString::to_string);
        for command in std::iter::once(moved).chain(begin) {
            let until = Instant::now() + TICK * 10;
            let why = match self.cluster.propose(command, until).await {
                Ok(Reply::Refused(why)) => why.to_string(),
                Ok(_) => continue,
                Err(error) => error.to_string(),
            };
            tracing::warn!(schedule = name, "a scheduled drill does not begin: {why}");
            return;
        }
        if let Some(why) = waits {
            self.note_waiting(name, &why).await;
        }
    }

    /// Where every operator reads it: nobody was there when the drill was due.
    async fn note_waiting(&self, name: &str, why: &str) {
        let schedule = Person {
            who: format!("schedule {name}"),
            from: self.cluster.me().name.clone(),
        };
        let why = why.lines().next().unwrap_or_default();
        let waits = format!("the drill waits for an hour: {why}");
        schedule.notes(&self.cluster, waits).await;
    }
}

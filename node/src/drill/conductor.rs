//! Conducts one drill: canaries fly, the failure is pretended, measured and ended, canaries are
//! counted.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_ledger::drill::{DRILL_DOMAIN, Drill, DrillEvent, DrillKind, DrillReport};
use holdfast_ledger::{Command, Disposal, PolicyChange, Primary, Reply, query};
use holdfast_mail::{Address, Domain, MessageId, NodeId};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::canary::Flock;
use super::tally::{Course, Tally};
use crate::cast;
use crate::net::dns::Resolver;
use crate::replica::{Cluster, DRILL_LEASE, now, random_id};

/// Canaries must fly before anything fails: what does not work on a good day proves nothing.
const WARM_UP_TIME_MAX: Duration = Duration::from_secs(20);
const WARM_UP_CANARIES: usize = 5;

/// How often it is looked who leads and who delivers: the resolution of what is measured.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How often members that do not fail are asked, and how often in a row one may keep silent: a
/// real failure ends the drill.
const CARE_EVERY: Duration = Duration::from_secs(1);
const SILENCES_MAX: u32 = 3;

/// Canaries fly on for so long after the failure.
const AFTERMATH: Duration = Duration::from_secs(3);

/// How long held canaries may take to be delivered afterwards.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(90);

/// How long entries may take that tell of the drill.
const TELL_TIME_MAX: Duration = Duration::from_secs(60);

/// How often members are asked to go on: several times while they would by themselves.
const RENEW_EVERY: Duration = Duration::from_secs(3);

/// How often a member is asked to pretend, or to stop it.
const ASKS: u32 = 5;
const ASK_AGAIN: Duration = Duration::from_millis(300);

/// Canaries that nobody delivered are dropped after this.
const HOLD_MS: u64 = 3_600_000;

pub(super) struct Conductor {
    cluster: Cluster,
    resolver: Arc<Resolver>,
    drill: Drill,
    domain: Domain,
    began: Instant,
    tally: Arc<Mutex<Tally>>,
    course: Course,
    telling: JoinSet<()>,
    /// Commands that the log had applied when the failure ended.
    healed_index: u64,
}

impl Conductor {
    pub(super) fn new(cluster: Cluster, resolver: Arc<Resolver>, drill: Drill) -> Option<Self> {
        Some(Self {
            domain: Domain::parse(DRILL_DOMAIN).ok()?,
            course: Course {
                kind: drill.plan.kind(),
                ..Course::default()
            },
            cluster,
            resolver,
            drill,
            began: Instant::now(),
            tally: Arc::default(),
            telling: JoinSet::new(),
            healed_index: 0,
        })
    }

    pub(super) async fn conduct(mut self) {
        let report = match self.prepare().await {
            Ok(to) => self.play(to).await,
            Err(why) => {
                self.course.stopped = Some(format!("nothing failed: {why}"));
                self.tally().report(&[], &self.course)
            }
        };
        let told = async { while self.telling.join_next().await.is_some() {} };
        let _late = timeout(TELL_TIME_MAX, told).await;
        tracing::info!(
            drill = %self.drill.id,
            verdict = report.verdict().as_str_name(),
            "the drill is over: {}",
            report.why
        );
        end(&self.cluster, &self.drill, report).await;
    }

    /// A domain for canaries, and the address that they go to.
    async fn prepare(&self) -> Result<Address, String> {
        let local = format!("canary-{:016x}", random_id() as u64);
        let to = Address::parse(&format!("{local}@{DRILL_DOMAIN}"), false);
        let to = to.map_err(|error| error.to_string())?;
        let domain = &self.domain;
        let commands = [
            Command::SetDomain {
                domain: domain.clone(),
                primary: Primary {
                    host: DRILL_DOMAIN.to_owned(),
                    port: 25,
                },
                must_be_new: false,
                must_exist: false,
            },
            Command::SetRecipients {
                domain: domain.clone(),
                add: vec![local],
                remove: Vec::new(),
                clear: true,
            },
            Command::SetPolicy {
                domain: domain.clone(),
                change: PolicyChange {
                    hold_ms: Some(HOLD_MS),
                    listed_only: Some(true),
                    ..PolicyChange::default()
                },
            },
        ];
        for command in commands {
            let until = Instant::now() + WARM_UP_TIME_MAX;
            match self.cluster.propose(command, until).await {
                Ok(Reply::Refused(refusal)) => return Err(refusal.to_string()),
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(to)
    }

    async fn play(&mut self, to: Address) -> DrillReport {
        let stop = CancellationToken::new();
        let flock = Flock {
            cluster: self.cluster.clone(),
            resolver: self.resolver.clone(),
            drill: self.drill.id,
            to,
            began: self.began,
            tally: self.tally.clone(),
        };
        let flying = tokio::spawn(flock.fly(self.drill.plan.rate, stop.clone()));
        match self.warm_up().await {
            Ok(()) => {
                self.fail().await;
                self.mend().await;
                let until = Instant::now() + AFTERMATH;
                while Instant::now() < until {
                    self.count_held();
                    sleep(LOOK_EVERY).await;
                }
            }
            Err(why) => self.course.stopped = Some(format!("nothing failed: {why}")),
        }
        stop.cancel();
        if flying.await.is_err() {
            tracing::error!(drill = %self.drill.id, "the canaries' task broke down");
        }
        self.drain(DRAIN_TIME_MAX).await;
        let receipts = self.receipts().await;
        self.tally().report(&receipts, &self.course)
    }

    async fn warm_up(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + WARM_UP_TIME_MAX;
        loop {
            let accepted = self.tally().accepted();
            let held = query::counts(&self.cluster.view(), &self.domain).map_err(|e| e.0)?;
            // Some were delivered.
            if accepted >= WARM_UP_CANARIES && held.messages < accepted as u64 {
                self.tell(format!("{accepted} canaries were taken, and they arrive"));
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(format!(
                    "within {} s {accepted} canaries were taken and {} of them are still held; this is no drill",
                    WARM_UP_TIME_MAX.as_secs(),
                    held.messages
                ));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Until its time is over, or there is a reason to end it.
    async fn fail(&mut self) {
        let failing: Vec<NodeId> = self.drill.plan.nodes.iter().copied().map(NodeId).collect();
        let fails = |node: &NodeId| failing.contains(node);
        let lasts = Duration::from_millis(self.drill.plan.duration_ms);
        self.course.leader_failed = match self.course.kind {
            DrillKind::DiskFull | DrillKind::PrimaryOutage => false,
            _ => self.cluster.leader().is_some_and(|leader| fails(&leader)),
        };
        let lease = query::lease(&self.cluster.view(), &self.domain)
            .ok()
            .flatten();
        let holder = lease.map(|lease| lease.node).filter(|node| fails(node));
        let holder = holder.filter(|_| self.course.kind != DrillKind::DiskFull);
        // Those that stay first: they know what comes, whoever else does.
        let (lost, stay): (Vec<_>, Vec<_>) = self
            .members()
            .into_iter()
            .partition(|(node, _)| fails(node));
        let injected = Instant::now();
        for nodes in [&stay, &lost] {
            if let Err(why) = self.rehearse(nodes, lasts.min(DRILL_LEASE)).await {
                self.course.stopped = Some(format!("the failure could not be pretended: {why}"));
                return;
            }
        }
        let all = stay.iter().chain(&lost).map(|(node, _)| *node).collect();
        let renewing = renew(self.cluster.clone(), self.drill.id, all, injected + lasts);
        let _renewing = AbortOnDropHandle::new(tokio::spawn(renewing));
        self.course.injected = Some(self.elapsed());
        self.tell(self.begins(&lost));
        let mut silences = vec![0_u32; stay.len()];
        let mut care_at = Instant::now() + CARE_EVERY;
        while injected.elapsed() < lasts {
            sleep(LOOK_EVERY).await;
            self.look(&failing, holder);
            if !self.cluster.rehearsal().is_on(self.drill.id)
                && injected.elapsed() + CARE_EVERY < lasts
            {
                self.course.stopped = Some("it was ended by hand".to_owned());
                return;
            }
            if Instant::now() < care_at {
                continue;
            }
            care_at = Instant::now() + CARE_EVERY;
            let silent = self.silent(&stay).await;
            for ((count, is_silent), (_, name)) in silences.iter_mut().zip(silent).zip(&stay) {
                *count = if is_silent { *count + 1 } else { 0 };
                if *count == SILENCES_MAX {
                    let why = format!("{name} does not answer, and that is real");
                    self.course.stopped = Some(why);
                    return;
                }
            }
        }
    }

    fn begins(&self, lost: &[(NodeId, String)]) -> String {
        let names: Vec<&str> = lost.iter().map(|(_, name)| name.as_str()).collect();
        let names = names.join(", ");
        match self.course.kind {
            DrillKind::PrimaryOutage => "the canaries' server is down".to_owned(),
            DrillKind::DiskFull => format!("{names}: its disk counts as full"),
            DrillKind::Partition => {
                format!("{names}: cut off from the other nodes, not from senders")
            }
            _ => format!("{names}: cut off from everything"),
        }
    }

    /// Who leads, and who delivers.
    fn look(&mut self, failing: &[NodeId], holder: Option<NodeId>) {
        if self.course.leader_failed
            && self.course.led.is_none()
            && let Some(leader) = self.cluster.leader()
            && !failing.contains(&leader)
            && self.cluster.has_quorum()
        {
            self.course.led = Some(self.elapsed());
            self.tell(format!("{} leads", self.name(leader)));
        }
        if holder.is_some() && self.course.taken_over.is_none() {
            let lease = query::lease(&self.cluster.view(), &self.domain)
                .ok()
                .flatten();
            if let Some(lease) = lease
                && !failing.contains(&lease.node)
                && lease.until > now()
            {
                self.course.taken_over = Some(self.elapsed());
                self.tell(format!("{} delivers canaries", self.name(lease.node)));
            }
        }
    }

    /// Whether each of them is.
    async fn silent(&self, nodes: &[(NodeId, String)]) -> Vec<bool> {
        let standings = timeout(CARE_EVERY * 3, self.cluster.standings()).await;
        let standings = standings.unwrap_or_default();
        let answers = |node: &NodeId| {
            standings
                .iter()
                .any(|(place, standing, ..)| place.id == *node && standing.is_ok())
        };
        nodes.iter().map(|(node, _)| !answers(node)).collect()
    }

    async fn mend(&mut self) {
        let members = self.members();
        if let Err(why) = self.rehearse(&members, Duration::ZERO).await {
            tracing::warn!("a node ends its part of the drill by itself, in time: {why}");
        }
        if self.course.injected.is_some() {
            self.course.healed = Some(self.elapsed());
            let applied = self.cluster.standing().applied;
            self.healed_index = applied.map_or(0, |log| log.index);
            self.tell("the failure is over".to_owned());
        }
    }

    /// Waits until no canary is held, for so long.
    async fn drain(&mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        // A canary that was acknowledged a moment ago may not be held in this node's view yet: it would
        // count as lost.
        self.cluster.see_what_is_committed().await;
        while self.count_held() > 0 && Instant::now() < deadline {
            sleep(LOOK_EVERY).await;
        }
    }

    /// How many canaries are held; notes when those are gone that were held when the failure ended.
    fn count_held(&mut self) -> u64 {
        let view = self.cluster.view();
        let first = query::held(&view, &self.domain, None, 1).unwrap_or_default();
        let is_later = |held: &query::Held| held.seq.index() > self.healed_index;
        if self.course.healed.is_some()
            && self.course.drained.is_none()
            && first.first().is_none_or(is_later)
        {
            self.course.drained = Some(self.elapsed());
        }
        let counts = query::counts(&view, &self.domain);
        self.course.held = counts.map_or(0, |counts| counts.messages);
        self.course.held
    }

    /// Number and time of every canary that came.
    async fn receipts(&mut self) -> Vec<(u64, u64)> {
        let mut came = Vec::new();
        for (node, name) in self.members() {
            match self.cluster.receipts_at(node, self.drill.id).await {
                Ok(receipts) => came.extend(receipts.into_iter().map(|receipt| {
                    let since = receipt.at_ms.saturating_sub(self.drill.began_at.0);
                    (receipt.canary, since)
                })),
                Err(why) => {
                    tracing::warn!(node = name, "which canaries came there is not known: {why}");
                    self.course.silent.push(name);
                }
            }
        }
        came
    }

    async fn rehearse(&self, nodes: &[(NodeId, String)], lasts: Duration) -> Result<(), String> {
        let asks = nodes.iter().map(|(node, name)| async move {
            let mut why = String::new();
            for _ in 0..ASKS {
                match self.cluster.rehearse_at(*node, self.drill.id, lasts).await {
                    Ok(()) => return Ok(()),
                    Err(error) => why = error,
                }
                sleep(ASK_AGAIN).await;
            }
            Err(format!("{name}: {why}"))
        });
        let done = futures::future::join_all(asks).await;
        done.into_iter().collect()
    }

    fn members(&self) -> Vec<(NodeId, String)> {
        let members = self.cluster.members().into_iter();
        members.map(|member| (member.id, member.name)).collect()
    }

    fn name(&self, node: NodeId) -> String {
        let named = self.members().into_iter().find(|(id, _)| *id == node);
        named.map_or_else(|| node.to_string(), |(_, name)| name)
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn tally(&self) -> std::sync::MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets everybody know, once there is a quorum.
    fn tell(&mut self, what: String) {
        tracing::info!(drill = %self.drill.id, kind = cast::kind_name(self.course.kind), "{what}");
        let event = DrillEvent {
            at_ms: self.elapsed(),
            what,
        };
        let (cluster, id) = (self.cluster.clone(), self.drill.id);
        self.telling.spawn(async move {
            let until = Instant::now() + TELL_TIME_MAX;
            let told = cluster
                .propose(Command::TellDrill { id, event }, until)
                .await;
            if let Err(error) = told {
                tracing::warn!(drill = %id, "an event of the drill was not noted: {error}");
            }
        });
    }
}

/// Has every member go on pretending until then.
async fn renew(cluster: Cluster, drill: MessageId, nodes: Vec<NodeId>, until: Instant) {
    loop {
        sleep(RENEW_EVERY).await;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        let asks = nodes.iter().map(|node| {
            let asked = cluster.rehearse_at(*node, drill, left.min(DRILL_LEASE));
            async move { (*node, asked.await) }
        });
        for (node, done) in futures::future::join_all(asks).await {
            if let Err(why) = done {
                tracing::info!(%node, %drill, "it may end its part of the drill early: {why}");
            }
        }
    }
}

/// Ends a drill, drops the canaries that are left and removes their domain.
pub(super) async fn end(cluster: &Cluster, drill: &Drill, report: DrillReport) {
    let id = drill.id;
    let propose = async |command: Command| {
        let verb = command.verb();
        let until = Instant::now() + TELL_TIME_MAX;
        match cluster.propose(command, until).await {
            Ok(Reply::Refused(refusal)) => tracing::debug!(drill = %id, verb, "{refusal}"),
            Ok(Reply::Disposed { more, .. }) => return more,
            Ok(_) => {}
            Err(error) => tracing::warn!(drill = %id, verb, "{error}"),
        }
        false
    };
    propose(Command::EndDrill { id, report }).await;
    let Ok(domain) = Domain::parse(DRILL_DOMAIN) else {
        return;
    };
    while propose(Command::Dispose {
        domain: domain.clone(),
        how: Disposal::Discard,
        messages: Vec::new(),
        held: true,
        by: format!("drill {id}"),
    })
    .await
    {}
    propose(Command::RemoveDomain { domain }).await;
}

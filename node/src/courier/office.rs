//! Decides which domains this node delivers for, and keeps their leases.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_ledger::query::{self, held_domains};
use holdfast_ledger::{Command, Effect, KvError, Reply};
use holdfast_mail::Domain;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::Options;
use super::desk::Desk;
use super::lease::Lease;
use super::plan::{self, Decision, LEASE_TTL, Plan, RENEW_INTERVAL, Sight};
use super::round::{self, Finish};
use crate::destination::Destination;
use crate::failpoint;
use crate::net::dns::Resolver;
use crate::rank;
use crate::replica::Cluster;
use crate::world::select;

/// How often all domains with mail are walked: what a lost effect costs at most.
const SCAN_INTERVAL: Duration = Duration::from_secs(2);

/// How often domains without a deliverer are looked at again.
const PLAN_INTERVAL: Duration = Duration::from_millis(250);

/// Domains read from the view at a time.
const DOMAINS_PAGE: usize = 256;

/// Domains this node delivers for at a time. Each costs a task, a lease renewal and, while its
/// primary is away, a probe every few seconds.
const DOMAINS_MAX: usize = 4096;

/// Of these, domains that are no customer's. Whoever has a login can make up names whose servers put
/// everything off: they must not keep customers' mail from being delivered.
const STRANGERS_MAX: usize = DOMAINS_MAX / 2;

/// Leases asked for at a time.
const ACQUIRING_MAX: usize = 64;

/// Effects looked at in one go; they are told apart by domain before anything is done.
const EFFECTS_MAX: usize = 1024;

/// How long a proposal about leases may take. Later than this the answer is worth little.
const PROPOSAL_TIMEOUT: Duration = Duration::from_secs(3);

/// How often to look whether the view shows the lease just granted.
const VIEW_POLL: Duration = Duration::from_millis(5);

pub(super) struct Office {
    options: Options,
    cluster: Cluster,
    resolver: Arc<Resolver>,
    plan: Plan,
    rounds: HashMap<Domain, Arc<Desk>>,
    /// Those of the rounds that are for domains of nobody's.
    strangers: HashSet<Domain>,
    acquiring: HashSet<Domain>,
    tasks: JoinSet<Done>,
    /// Tells the rounds to finish.
    stop: CancellationToken,
}

/// What a task of the office came to.
enum Done {
    Acquired {
        domain: Domain,
        lease: Option<Lease>,
    },
    Renewed,
    Round {
        domain: Domain,
        /// `None`: it failed.
        finish: Option<Finish>,
    },
}

/// What the effects since the last look ask for.
#[derive(Default)]
struct News {
    /// Everything may have changed: some effects were missed.
    all: bool,
    look: HashSet<Domain>,
    flush: HashSet<Domain>,
    /// Of these, domains about which something is new.
    changed: HashSet<Domain>,
    /// Mail is back at its old place in the queue.
    again: HashSet<Domain>,
}

impl Office {
    pub(super) fn new(options: Options, cluster: Cluster, resolver: Arc<Resolver>) -> Self {
        Self {
            options,
            cluster,
            resolver,
            plan: Plan::default(),
            rounds: HashMap::new(),
            strangers: HashSet::new(),
            acquiring: HashSet::new(),
            tasks: JoinSet::new(),
            stop: CancellationToken::new(),
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut effects = self.cluster.effects();
        let mut effects_open = true;
        let [mut scan, mut plan, mut renew] =
            [SCAN_INTERVAL, PLAN_INTERVAL, RENEW_INTERVAL].map(|period| {
                let mut ticks = interval(period);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                ticks
            });
        let mut drained = self.cluster.drained();
        self.follow(*drained.borrow_and_update());
        loop {
            select! {
                () = stop.cancelled() => break,
                Ok(()) = drained.changed() => self.follow(*drained.borrow_and_update()),
                effect = effects.recv(), if effects_open => {
                    effects_open = !matches!(effect, Err(RecvError::Closed));
                    let news = News::gather(effect, &mut effects);
                    self.read(news);
                }
                _ = scan.tick() => self.scan(),
                _ = plan.tick() => {
                    for domain in self.plan.due(Instant::now()) {
                        self.consider(&domain);
                    }
                }
                _ = renew.tick() => self.renew(),
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    self.done(done);
                }
            }
        }
        self.finish().await;
    }

    /// A drained node lets its rounds end, gives their leases back, and begins none.
    fn follow(&mut self, drained: bool) {
        if drained {
            self.stop.cancel();
        } else if self.stop.is_cancelled() {
            self.stop = CancellationToken::new();
            self.scan();
        }
    }

    /// Lets the rounds end, and keeps their leases until they have.
    async fn finish(mut self) {
        self.stop.cancel();
        let deadline = Instant::now() + self.options.grace;
        let mut renew = interval(RENEW_INTERVAL);
        while !self.rounds.is_empty() {
            select! {
                () = tokio::time::sleep_until(deadline) => {
                    tracing::warn!(
                        domains = self.rounds.len(),
                        "messages under way did not finish in time and were cut off; they are kept"
                    );
                    break;
                }
                _ = renew.tick() => self.renew(),
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    self.done(done);
                }
            }
        }
        self.tasks.shutdown().await;
        self.options.counters.leases.set(0);
    }

    fn read(&mut self, news: News) {
        if news.all {
            self.scan();
        }
        for domain in &news.flush {
            match self.rounds.get(domain) {
                Some(desk) if news.changed.contains(domain) => desk.changed(),
                Some(desk) => desk.flush(),
                None => self.plan.ask_now(domain, Instant::now()),
            }
        }
        for domain in &news.again {
            if let Some(desk) = self.rounds.get(domain) {
                desk.again();
            }
        }
        for domain in news.look.union(&news.flush).chain(&news.again) {
            self.consider(domain);
        }
    }

    /// Walks every domain with mail to deliver.
    fn scan(&mut self) {
        let mut after = None;
        loop {
            let page = match held_domains(&self.cluster.view(), after.as_ref(), DOMAINS_PAGE) {
                Ok(page) => page,
                Err(error) => {
                    tracing::error!(%error, "the domains with held mail cannot be listed");
                    return;
                }
            };
            for domain in &page {
                self.consider(domain);
            }
            if page.len() < DOMAINS_PAGE {
                return;
            }
            after = page.into_iter().next_back();
        }
    }

    fn consider(&mut self, domain: &Domain) {
        if let Some(desk) = self.rounds.get(domain) {
            desk.more();
            return;
        }
        let full = self.rounds.len() + self.acquiring.len() >= DOMAINS_MAX
            || self.acquiring.len() >= ACQUIRING_MAX;
        if full || self.acquiring.contains(domain) || self.stop.is_cancelled() {
            return;
        }
        match self.decide(domain) {
            Ok(true) => self.acquire(domain.clone()),
            Ok(false) => {}
            Err(error) => tracing::error!(%domain, %error, "the lease cannot be read"),
        }
    }

    /// Whether to ask for the lease now.
    fn decide(&mut self, domain: &Domain) -> Result<bool, KvError> {
        let view = self.cluster.view();
        let me = self.cluster.me().id;
        let members = self.cluster.on_duty();
        let rank = rank::rank(domain, me, &members);
        let held = !query::held(&view, domain, None, 1)?.is_empty();
        // Over a customer's connection only the node that has it delivers, and at once.
        let attended = query::attended(&view, domain)?;
        let over = attended
            .filter(|a| self.cluster.time() < a.until)
            .and_then(|a| a.over);
        let rank = match over {
            Some(node) if node == me => rank.map(|_| 0),
            Some(_) => None,
            None => rank,
        };
        let Some(rank) = rank.filter(|_| held) else {
            self.plan.forget(domain);
            self.plan.reached(domain);
            return Ok(false);
        };
        if self.strangers.len() >= STRANGERS_MAX && query::is_strangers(&view, domain)? {
            return Ok(false);
        }
        let sight = Sight {
            rank,
            lease: query::lease(&view, domain)?,
            me,
            clock: self.cluster.time(),
            domain,
        };
        let decision = self.plan.decide(sight, Instant::now());
        Ok(decision == Decision::Acquire && self.cluster.has_quorum())
    }

    fn acquire(&mut self, domain: Domain) {
        self.acquiring.insert(domain.clone());
        let cluster = self.cluster.clone();
        self.tasks.spawn(async move {
            let lease = acquire(&cluster, &domain).await;
            Done::Acquired { domain, lease }
        });
    }

    fn begin(&mut self, domain: Domain, lease: Lease) {
        let destination = Destination {
            cluster: self.cluster.clone(),
            resolver: Arc::clone(&self.resolver),
            domain: domain.clone(),
            switchboard: self.options.switchboard.clone(),
            relay: self.options.relay_via.clone(),
        };
        let is_strangers = destination.is_strangers().unwrap_or_else(|error| {
            tracing::error!(%domain, %error, "whose domain it is cannot be read");
            false
        });
        // A relay is one host for all of them, and its operator's own.
        let is_strangers = is_strangers && destination.relay.is_none();
        if is_strangers {
            self.strangers.insert(domain.clone());
        }
        let desk = Arc::new(Desk::new(
            destination,
            is_strangers,
            lease,
            self.options.counters.clone(),
            self.options.connections_max.load(Ordering::Relaxed),
        ));
        self.rounds.insert(domain.clone(), Arc::clone(&desk));
        self.options.counters.leases.inc();
        let stop = self.stop.child_token();
        self.tasks.spawn(async move {
            // A task of its own, so that a panic ends the round and not the domain's delivery.
            let round = tokio::spawn(round::run(Arc::clone(&desk), stop));
            let finish = AbortOnDropHandle::new(round).await;
            match &finish {
                Ok(Finish::Done | Finish::Elsewhere | Finish::Resting) => release(&desk).await,
                Ok(Finish::LeaseLost) => {}
                Err(error) => tracing::error!(%domain, %error, "a round failed"),
            }
            Done::Round {
                domain,
                finish: finish.ok(),
            }
        });
    }

    /// One command for all domains of this node. One that is slow does not hold up the next.
    fn renew(&mut self) {
        if self.rounds.is_empty() {
            return;
        }
        let cluster = self.cluster.clone();
        let leases: Vec<_> = self
            .rounds
            .iter()
            .map(|(domain, desk)| (domain.clone(), desk.lease.clone()))
            .collect();
        self.tasks.spawn(async move {
            renew(&cluster, leases).await;
            Done::Renewed
        });
    }

    fn done(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(Done::Renewed) => {}
            Ok(Done::Acquired { domain, lease }) => {
                self.acquiring.remove(&domain);
                match lease {
                    Some(lease) => {
                        self.plan.forget(&domain);
                        self.begin(domain, lease);
                    }
                    None => self.plan.refused(&domain, Instant::now()),
                }
            }
            Ok(Done::Round { domain, finish }) => {
                self.rounds.remove(&domain);
                self.strangers.remove(&domain);
                self.options.counters.leases.dec();
                match finish {
                    Some(Finish::Elsewhere) => self.plan.pass(domain.clone(), Instant::now()),
                    Some(Finish::Resting) => self.plan.rest(domain.clone(), Instant::now()),
                    Some(Finish::Done) => self.plan.reached(&domain),
                    Some(Finish::LeaseLost) | None => {}
                }
                // Something may have come while the lease was given back.
                self.consider(&domain);
            }
            Err(error) => {
                // Which lease was asked for is not known any more; to ask again does no harm.
                tracing::error!(%error, "a delivery task failed");
                self.acquiring.clear();
            }
        }
    }
}

impl News {
    /// The effect just received and those behind it.
    fn gather(first: Result<Effect, RecvError>, effects: &mut broadcast::Receiver<Effect>) -> Self {
        let mut news = Self::default();
        match first {
            Ok(effect) => news.add(effect),
            Err(RecvError::Lagged(_)) => news.all = true,
            Err(RecvError::Closed) => return news,
        }
        for _ in 0..EFFECTS_MAX {
            match effects.try_recv() {
                Ok(effect) => news.add(effect),
                Err(TryRecvError::Lagged(_)) => news.all = true,
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        news
    }

    fn add(&mut self, effect: Effect) {
        match effect {
            Effect::MailHeld { domain } | Effect::LeaseChanged { domain } => {
                self.look.insert(domain);
            }
            Effect::FlushRequested { domain } => {
                self.flush.insert(domain);
            }
            // A changed primary is tried as if it had come back.
            Effect::DomainChanged { domain } => {
                self.changed.insert(domain.clone());
                self.flush.insert(domain);
            }
            Effect::Requeued { domain } => {
                self.again.insert(domain);
            }
            Effect::MembersChanged => self.all = true,
            Effect::BodyReleased { .. }
            | Effect::PolicyChanged { .. }
            | Effect::ReportDue
            | Effect::DrillChanged => {}
        }
    }
}

/// Asks for the lease, and waits until this node's view shows it: then everything that was
/// recorded under earlier leases is shown too, and no row that is read is out of date.
async fn acquire(cluster: &Cluster, domain: &Domain) -> Option<Lease> {
    // Renewing the lease while it cannot deliver, it would keep the others from delivering.
    if !cluster.is_current() {
        return None;
    }
    let me = cluster.me().id;
    let asked = Instant::now();
    let command = Command::AcquireLease {
        domain: domain.clone(),
        node: me,
        ttl_ms: LEASE_TTL.as_millis() as u64,
    };
    let epoch = match cluster.propose(command, asked + PROPOSAL_TIMEOUT).await {
        Ok(Reply::Lease { epoch, .. }) => epoch,
        Ok(Reply::LeaseHeld { node, .. }) => {
            tracing::debug!(%domain, %node, "another node delivers");
            return None;
        }
        Ok(reply) => {
            tracing::debug!(%domain, ?reply, "the lease was not granted");
            return None;
        }
        Err(why) => {
            tracing::debug!(%domain, %why, "the lease could not be asked for");
            return None;
        }
    };
    let lease = Lease::new(epoch, plan::deliver_until(asked));
    while lease.is_live() {
        match query::lease(&cluster.view(), domain) {
            Ok(Some(seen)) if seen.node == me && seen.epoch == epoch => {
                tracing::info!(%domain, epoch, "delivering");
                failpoint::reach("lease-acquired");
                return Some(lease);
            }
            Ok(Some(seen)) if seen.epoch > epoch => return None,
            Ok(_) => sleep(VIEW_POLL).await,
            Err(error) => {
                tracing::error!(%domain, %error, "the lease cannot be read");
                return None;
            }
        }
    }
    None
}

/// Extends the leases that are still this node's, and ends the others.
async fn renew(cluster: &Cluster, leases: Vec<(Domain, Lease)>) {
    let asked = Instant::now();
    let command = Command::RenewLeases {
        node: cluster.me().id,
        leases: leases
            .iter()
            .map(|(domain, lease)| (domain.clone(), lease.epoch))
            .collect(),
        ttl_ms: LEASE_TTL.as_millis() as u64,
    };
    match cluster.propose(command, asked + PROPOSAL_TIMEOUT).await {
        Ok(Reply::Renewed { epochs }) => {
            let ours: HashSet<u64> = epochs.into_iter().collect();
            for (_, lease) in leases {
                if ours.contains(&lease.epoch) {
                    lease.extend(plan::deliver_until(asked));
                } else {
                    lease.lose();
                }
            }
        }
        // Not a member any more.
        Ok(reply) => {
            tracing::warn!(?reply, "no lease was renewed");
            for (_, lease) in leases {
                lease.lose();
            }
        }
        Err(why) => tracing::warn!(%why, "leases could not be renewed yet"),
    }
}

/// Gives the lease back, so that the next node need not wait for its end. Worth one try.
async fn release(desk: &Desk) {
    let command = Command::ReleaseLease {
        domain: desk.domain().clone(),
        node: desk.me(),
        epoch: desk.lease.epoch,
    };
    let deadline = Instant::now() + PROPOSAL_TIMEOUT;
    let proposed = timeout(PROPOSAL_TIMEOUT, desk.cluster().propose(command, deadline)).await;
    if let Ok(Err(why)) = proposed {
        tracing::debug!(domain = %desk.domain(), %why, "the lease was left to end by itself");
    }
}

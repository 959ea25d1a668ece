//! The post: the one node that writes what senders are owed, and sends it.
//!
//! ```text
//!   every second, ReportDue ─► turn ──► Review         what the time has come for
//!                               │──► write ──► Report  owed: written and accepted
//!                               └──► send ──► SettleReports
//! ```
//!
//! The post is a lease of the whole cluster, taken only while there is something to do. State is
//! the truth: each turn begins by reading what is owed and what is due.

mod review;
mod route;
mod send;
mod write;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use holdfast_ledger::query::{self, Owed, PendingReport};
use holdfast_ledger::{Command, Effect, KvError, Reply};
use holdfast_mail::{Domain, MessageId, NodeId};
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::Options;
use super::counters::Counters;
use super::fate;
use super::lease::Lease;
use super::plan::{self, LEASE_TTL, RANK_DELAY, RENEW_INTERVAL};
use crate::net::dns::Resolver;
use crate::replica::Cluster;
use crate::world::select;

/// How often to look for work: what a lost effect costs at most.
const TURN_INTERVAL: Duration = Duration::from_secs(1);

/// Notifications written in one turn, so that what is to be sent need not wait for all of them.
const WRITTEN_MAX: usize = 64;

/// Notifications read from the view at a time.
const PAGE: usize = 256;

/// Domains that notifications are sent to at a time: many, since some servers of strangers take
/// minutes to say nothing, and must not hold up the others.
const DOMAINS_MAX: usize = 64;

/// Notifications sent to one domain in a row.
const IN_A_ROW_MAX: usize = 20;

/// How long one proposal may take. What it was about is found again in the next turn.
const PROPOSAL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait until the view shows what was committed, and how often to look.
const VIEW_TIME_MAX: Duration = Duration::from_secs(5);
const VIEW_POLL: Duration = Duration::from_millis(10);

/// What every part of the post needs.
pub(super) struct Desk {
    cluster: Cluster,
    resolver: Arc<Resolver>,
    counters: Counters,
    via: Option<(String, u16)>,
}

pub(super) struct Post {
    desk: Arc<Desk>,
    reviewer: review::Reviewer,
    /// Found by the last look, and not proposed yet: there is work until somebody has done it, or a
    /// node that waits for its turn would take it for done and wait for ever.
    reviews: Vec<Command>,
    lease: Option<Lease>,
    renewed_at: Instant,
    /// Since when there has been work and nobody to do it.
    unattended: Option<Instant>,
    sending: JoinSet<Domain>,
    /// Domains that are being sent to.
    busy: HashSet<Domain>,
}

impl Post {
    pub(super) fn new(options: &Options, cluster: Cluster, resolver: Arc<Resolver>) -> Self {
        let counters: Counters = options.counters.clone();
        Self {
            desk: Arc::new(Desk {
                cluster,
                resolver,
                counters,
                via: options.relay_via.clone(),
            }),
            reviewer: review::Reviewer::default(),
            reviews: Vec::new(),
            lease: None,
            renewed_at: Instant::now(),
            unattended: None,
            sending: JoinSet::new(),
            busy: HashSet::new(),
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut effects = self.desk.cluster.effects();
        let mut effects_open = true;
        let mut ticks = interval(TURN_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            select! {
                () = stop.cancelled() => return,
                effect = effects.recv(), if effects_open => match effect {
                    Ok(Effect::ReportDue | Effect::PolicyChanged { .. })
                    | Err(RecvError::Lagged(_)) => {}
                    Ok(_) => continue,
                    Err(RecvError::Closed) => {
                        effects_open = false;
                        continue;
                    }
                },
                Some(sent) = self.sending.join_next(), if !self.sending.is_empty() => {
                    self.sent(sent);
                }
                _ = ticks.tick() => {}
            }
            if let Err(error) = self.turn().await {
                tracing::error!(%error, "what senders are owed cannot be read");
            }
        }
    }

    async fn turn(&mut self) -> Result<(), KvError> {
        let cluster = self.desk.cluster.clone();
        if !cluster.is_current() || !cluster.has_quorum() {
            return Ok(());
        }
        if cluster.is_drained() {
            // What is under way is let finish, and recorded; then the post ends by itself.
            if !self.sending.is_empty() {
                self.holds_the_post().await?;
            }
            return Ok(());
        }
        if let Some(found) = self.reviewer.due(&cluster.view(), cluster.time())? {
            self.reviews = found;
        }
        let (owed, due) = (self.owed()?, self.due()?);
        let idle = self.reviews.is_empty() && owed.is_empty() && due.is_empty();
        if idle && self.sending.is_empty() {
            self.unattended = None;
            return Ok(());
        }
        let epoch = self.lease.as_ref().map(|lease| lease.epoch);
        if !self.holds_the_post().await? {
            return Ok(());
        }
        // Whoever had the post before may have sent some of it since it was read.
        let (owed, due) = match self.lease.as_ref().map(|lease| lease.epoch) == epoch {
            true => (owed, due),
            false => (self.owed()?, self.due()?),
        };
        self.send(due)?;
        for command in std::mem::take(&mut self.reviews) {
            let before = match &command {
                Command::Review { domain, seqs } => fate::before(&cluster.view(), domain, seqs)?,
                _ => Vec::new(),
            };
            match self.desk.propose(command).await {
                Ok(_) => {
                    let cluster = cluster.clone();
                    tokio::spawn(async move { fate::note_reviewed(&cluster, before).await });
                }
                // Whatever is not done is found again.
                Err(why) => tracing::debug!(%why, "a review was not committed"),
            }
        }
        for owed in owed {
            self.write(&owed).await;
        }
        Ok(())
    }

    /// What is to be written now.
    fn owed(&self) -> Result<Vec<Owed>, KvError> {
        let view = self.desk.cluster.view();
        let now = self.desk.cluster.time();
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let page = query::owed(&view, after, PAGE)?;
            after = page.last().map(|owed| (owed.about, owed.kind));
            let full = page.len() == PAGE;
            found.extend(page.into_iter().filter(|owed| owed.not_before <= now));
            if !full || found.len() >= WRITTEN_MAX {
                found.truncate(WRITTEN_MAX);
                return Ok(found);
            }
        }
    }

    /// What is to be sent now.
    fn due(&self) -> Result<Vec<PendingReport>, KvError> {
        let view = self.desk.cluster.view();
        let now = self.desk.cluster.time();
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let page = query::reports(&view, after, PAGE)?;
            after = page.last().map(|report| report.seq);
            let full = page.len() == PAGE;
            found.extend(page.into_iter().filter(|report| report.next_at <= now));
            if !full || found.len() >= PAGE {
                return Ok(found);
            }
        }
    }

    /// Takes the post, or keeps it. The members ask in turn, each a little later than the one
    /// before it, as for a domain.
    async fn holds_the_post(&mut self) -> Result<bool, KvError> {
        let cluster = self.desk.cluster.clone();
        if let Some(lease) = self.lease.as_ref().filter(|lease| lease.is_live())
            && self.renewed_at.elapsed() < RENEW_INTERVAL
        {
            return Ok(lease.is_live());
        }
        let me = cluster.me().id;
        let held = query::post(&cluster.view())?;
        let epoch = self
            .lease
            .as_ref()
            .filter(|lease| lease.is_live())
            .map_or(0, |lease| lease.epoch);
        if epoch == 0 {
            self.lease = None;
            if held.is_some_and(|held| held.node != me && held.until > cluster.time()) {
                self.unattended = None;
                return Ok(false);
            }
            let waited = self.unattended.get_or_insert_with(Instant::now).elapsed();
            let members = cluster.on_duty();
            let Some(rank) = rank(me, &members) else {
                return Ok(false);
            };
            if waited < RANK_DELAY.saturating_mul(u32::try_from(rank).unwrap_or(u32::MAX)) {
                return Ok(false);
            }
        }
        let asked = Instant::now();
        let command = Command::TakePost {
            node: me,
            ttl_ms: LEASE_TTL.as_millis() as u64,
            epoch,
        };
        match self.desk.propose(command).await {
            Ok(Reply::Lease { epoch: granted, .. }) => {
                self.unattended = None;
                self.renewed_at = asked;
                let until = plan::deliver_until(asked);
                match &self.lease {
                    Some(lease) if granted == epoch => lease.extend(until),
                    _ => {
                        let lease = Lease::new(granted, until);
                        // Then all that was recorded under earlier leases is shown too.
                        let is_shown = self.desk.await_view(|view| {
                            let post = query::post(view)?;
                            Ok(post.is_some_and(|post| post.epoch >= granted))
                        });
                        if is_shown.await {
                            tracing::info!(epoch = granted, "this node has the post");
                            self.lease = Some(lease);
                        } else {
                            self.lose();
                        }
                    }
                }
            }
            Ok(Reply::LeaseHeld { node, .. }) => {
                tracing::debug!(%node, "another node has the post");
                self.lose();
            }
            Ok(reply) => {
                tracing::debug!(?reply, "the post was not granted");
                self.lose();
            }
            Err(why) => tracing::debug!(%why, "the post could not be asked for"),
        }
        Ok(self.lease.as_ref().is_some_and(Lease::is_live))
    }

    fn lose(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.lose();
        }
        self.unattended = None;
    }

    async fn write(&mut self, owed: &Owed) {
        let Some(lease) = self.lease.clone().filter(Lease::is_live) else {
            return;
        };
        let command = match write::write(&self.desk, owed, lease.epoch).await {
            Ok(Some(command)) => command,
            Ok(None) => return,
            Err(why) => {
                tracing::warn!(msg = %owed.about, %why, "a notification could not be written yet");
                return;
            }
        };
        let written = match &command {
            Command::Report { envelope, .. } => Some(fate::written(owed, envelope)),
            _ => None,
        };
        match self.desk.propose(command).await {
            Ok(Reply::Accepted { .. }) => {
                if let Some(written) = written {
                    self.desk.cluster.note(written);
                }
                self.desk.counters.reports_written.inc();
                tracing::info!(
                    msg = %owed.about,
                    kind = ?owed.kind,
                    recipients = owed.recipients.len(),
                    "the sender will be told"
                );
            }
            Ok(reply) => {
                // Nothing is changed, so that no view will show it: it is looked at again.
                tracing::debug!(msg = %owed.about, ?reply, "not told");
                return;
            }
            Err(why) => tracing::info!(msg = %owed.about, %why, "a notification is tried again"),
        }
        let is_shown = self
            .desk
            .await_view(|view| {
                let before = owed.about.0.checked_sub(1).map(MessageId);
                let before = before.map(|id| (id, holdfast_mail::dsn::Kind::Delayed));
                Ok(!query::owed(view, before, 2)?
                    .iter()
                    .any(|now| now.about == owed.about && now.version == owed.version))
            })
            .await;
        if !is_shown {
            self.lose();
        }
    }

    /// Sends what is due, each domain's in a task of its own.
    fn send(&mut self, due: Vec<PendingReport>) -> Result<(), KvError> {
        let Some(lease) = self.lease.clone() else {
            return Ok(());
        };
        let view = self.desk.cluster.view();
        let mut by_domain: std::collections::BTreeMap<Domain, Vec<send::Letter>> =
            std::collections::BTreeMap::new();
        for report in due {
            let Some(envelope) = query::envelope(&view, report.message)? else {
                continue;
            };
            let Some(domain) = envelope
                .recipients
                .first()
                .and_then(|to| to.address.domain())
                .cloned()
            else {
                continue;
            };
            let letters = by_domain.entry(domain).or_default();
            if letters.len() < IN_A_ROW_MAX {
                letters.push(send::Letter {
                    report,
                    envelope: Arc::new(envelope),
                });
            }
        }
        for (domain, letters) in by_domain {
            if self.sending.len() >= DOMAINS_MAX {
                break;
            }
            if self.busy.insert(domain.clone()) {
                let (desk, lease) = (Arc::clone(&self.desk), lease.clone());
                self.sending.spawn(async move {
                    send::send(&desk, &lease, &domain, letters).await;
                    domain
                });
            }
        }
        Ok(())
    }

    /// One domain's turn is over.
    fn sent(&mut self, sent: Result<Domain, tokio::task::JoinError>) {
        match sent {
            Ok(domain) => {
                self.busy.remove(&domain);
            }
            Err(error) => {
                tracing::error!(%error, "sending notifications failed");
                self.busy.clear();
            }
        }
    }
}

impl Desk {
    async fn propose(&self, command: Command) -> Result<Reply, String> {
        let deadline = Instant::now() + PROPOSAL_TIMEOUT;
        let proposed = self.cluster.propose(command, deadline).await;
        proposed.map_err(|why| why.to_string())
    }

    /// Waits until this node's view shows what was committed, so that nothing is done twice. Says whether
    /// it does: a node that is further behind must not have the post.
    async fn await_view(
        &self,
        shown: impl Fn(&crate::store::View) -> Result<bool, KvError>,
    ) -> bool {
        let deadline = Instant::now() + VIEW_TIME_MAX;
        while Instant::now() < deadline {
            if matches!(shown(&self.cluster.view()), Ok(true)) {
                return true;
            }
            sleep(VIEW_POLL).await;
        }
        tracing::info!(
            "this node's view does not show yet what was committed: it gives the post up"
        );
        false
    }
}

/// This node's place among those who may have the post.
fn rank(me: NodeId, members: &[NodeId]) -> Option<usize> {
    /// Stands for no domain: nobody can register it (RFC 2606).
    const POST: &str = "post.invalid";
    Domain::parse(POST)
        .ok()
        .and_then(|post| crate::rank::rank(&post, me, members))
}

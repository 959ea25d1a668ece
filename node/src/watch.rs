//! Looks at every domain's primary from time to time, whether mail is held or not: so that the
//! cluster knows, and can say, which are up.
//!
//! One node looks at a primary, the first in rank; another does if that one has not told in time.
//! While mail is held, whoever delivers it looks every few seconds besides.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use holdfast_ledger::query::{self, DomainRecord};
use holdfast_ledger::{KvError, SEEN_MAX, Seen};
use holdfast_mail::{Domain, Timestamp};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::destination::Destination;
use crate::net::dns::Resolver;
use crate::rank::rank;
use crate::reach;
use crate::replica::{Cluster, now};
use crate::switchboard::Switchboard;

/// How often it is looked for primaries that are due: half of the shortest interval.
const TICK: Duration = Duration::from_secs(5);

/// How much longer each rank waits: longer than a look takes, and the other nodes' that it asks.
const RANK_DELAY: Duration = Duration::from_secs(60);

/// A primary that was up is called down only after it failed twice, this far apart: a restart, or
/// a line that hiccups, is none of anybody's business.
const SECOND_LOOK: Duration = Duration::from_secs(10);

/// Primaries looked at at a time. Each costs a connection, and most answer within a second.
const LOOKS_MAX: usize = 64;

/// Domains read from the view at a time.
const PAGE: usize = 256;

struct Watch {
    cluster: Cluster,
    resolver: Arc<Resolver>,
    looks: JoinSet<Seen>,
    under_way: HashSet<Domain>,
    /// Not told to the cluster yet.
    seen: Vec<Seen>,
}

/// Returns when `stop` is cancelled.
pub async fn run(cluster: Cluster, resolver: Arc<Resolver>, stop: CancellationToken) {
    let mut watch = Watch {
        cluster,
        resolver,
        looks: JoinSet::new(),
        under_way: HashSet::new(),
        seen: Vec::new(),
    };
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => watch.tick().await,
            Some(look) = watch.looks.join_next(), if !watch.looks.is_empty() => match look {
                Ok(seen) => watch.seen.push(seen),
                Err(error) => tracing::error!(%error, "a look at a primary failed"),
            },
        }
    }
}

impl Watch {
    async fn tick(&mut self) {
        while !self.seen.is_empty() {
            let rest = self.seen.split_off(self.seen.len().min(SEEN_MAX));
            let seen = std::mem::replace(&mut self.seen, rest);
            reach::note(&self.cluster, seen).await;
        }
        if self.looks.is_empty() {
            // What was told, or failed, may be looked at again.
            self.under_way.clear();
        }
        if self.cluster.is_current()
            && self.cluster.has_quorum()
            && let Err(error) = self.start()
        {
            tracing::error!(%error, "the domains cannot be listed");
        }
    }

    fn start(&mut self) -> Result<(), KvError> {
        let view = self.cluster.view();
        let members = self.cluster.on_duty();
        let me = self.cluster.me().id;
        let mut after = None;
        loop {
            let page = query::domains(&view, after.as_ref(), PAGE)?;
            for record in &page {
                if self.looks.len() >= LOOKS_MAX {
                    return Ok(());
                }
                let Some(rank) = rank(&record.name, me, &members) else {
                    return Ok(());
                };
                if !self.under_way.contains(&record.name)
                    && due(&view, record, rank)?.is_some_and(|due| due <= now())
                {
                    self.look(record.name.clone(), query::reach(&view, &record.name)?);
                }
            }
            if page.len() < PAGE {
                return Ok(());
            }
            after = page.into_iter().next_back().map(|record| record.name);
        }
    }

    fn look(&mut self, domain: Domain, last: Option<query::Reach>) {
        self.under_way.insert(domain.clone());
        let destination = Destination {
            cluster: self.cluster.clone(),
            resolver: Arc::clone(&self.resolver),
            domain,
            switchboard: Switchboard::default(),
            relay: None,
        };
        self.looks.spawn(async move {
            let mut found = reach::reached(&destination).await;
            if found.is_err() && last.is_some_and(|last| last.down.is_none()) {
                sleep(SECOND_LOOK).await;
                found = reach::reached(&destination).await;
            }
            match found {
                Ok(()) => Seen {
                    domain: destination.domain,
                    down: None,
                },
                Err(why) => reach::judged(&destination, why.into()).await.0,
            }
        });
    }
}

/// When a node of this rank looks at the domain's primary; `None`: there is none to look at.
fn due(
    view: &dyn holdfast_ledger::KvRead,
    record: &DomainRecord,
    rank: usize,
) -> Result<Option<Timestamp>, KvError> {
    let policy = query::policy(view, &record.name)?;
    if policy.attended {
        return Ok(None);
    }
    let patience = RANK_DELAY.saturating_mul(u32::try_from(rank).unwrap_or(u32::MAX));
    let due = match query::reach(view, &record.name)? {
        Some(reach) => reach.at.plus(policy.probe),
        None => record.created_at,
    };
    Ok(Some(due.plus(patience)))
}

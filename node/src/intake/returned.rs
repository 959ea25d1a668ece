//! A primary that connects to us is up: its mail is started (RFC 5321 section 4.5.4.2).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::StreamExt;
use holdfast_ledger::{KvError, query};
use holdfast_mail::Domain;

use crate::dial;
use crate::net::dns::Resolver;
use crate::replica::Cluster;

/// How often the addresses of primaries are looked up again. The resolver keeps answers for as
/// long as their TTL says, so most of this costs nothing.
const LOOK_UP_EVERY: Duration = Duration::from_secs(15);

/// One name server that does not answer must not keep the others' addresses from us.
const LOOK_UP_TIME_MAX: Duration = Duration::from_secs(5);

/// Names looked up at a time.
const LOOK_UPS_AT_ONCE: usize = 16;

/// Domains with held mail whose primaries are known by address. Others wait for the next probe.
const DOMAINS_MAX: usize = 2_000;

/// Where mail is held for, by address.
#[derive(Clone, Default)]
pub(super) struct Primaries(Arc<ArcSwap<HashMap<IpAddr, Vec<Domain>>>>);

impl Primaries {
    /// The domains with held mail whose primary has this address.
    pub(super) fn at(&self, client: IpAddr) -> Vec<Domain> {
        let known = self.0.load();
        known
            .get(&client.to_canonical())
            .cloned()
            .unwrap_or_default()
    }

    /// Keeps the addresses fresh, for ever.
    pub(super) async fn keep(self, cluster: Cluster, resolver: Resolver) {
        let mut every = tokio::time::interval(LOOK_UP_EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            match look_up(&cluster, &resolver).await {
                Ok(known) => self.0.store(Arc::new(known)),
                Err(error) => tracing::error!("{error}"),
            }
        }
    }
}

async fn look_up(
    cluster: &Cluster,
    resolver: &Resolver,
) -> Result<HashMap<IpAddr, Vec<Domain>>, KvError> {
    let view = cluster.view();
    let mut primaries = Vec::new();
    for domain in query::held_domains(&view, None, DOMAINS_MAX)? {
        if let Some(record) = query::domain(&view, &domain)? {
            let by_mx = query::route(&view, &domain)?.by_mx;
            primaries.push((domain, (!by_mx).then_some(record.primary.host)));
        }
    }
    let mut found = futures::stream::iter(primaries)
        .map(async |(domain, host)| {
            let addresses = addresses(cluster, resolver, &domain, host);
            let addresses = tokio::time::timeout(LOOK_UP_TIME_MAX, addresses).await;
            (domain, addresses)
        })
        .buffer_unordered(LOOK_UPS_AT_ONCE);
    let mut known: HashMap<IpAddr, Vec<Domain>> = HashMap::new();
    while let Some((domain, addresses)) = found.next().await {
        // A name that has no address now is the courier's to report.
        for address in addresses.into_iter().flatten() {
            if names_one_host(address) {
                let domains = known.entry(address.to_canonical()).or_default();
                domains.push(domain.clone());
            }
        }
    }
    Ok(known)
}

/// Of the host, or of whoever the MX records name before us.
async fn addresses(
    cluster: &Cluster,
    resolver: &Resolver,
    domain: &Domain,
    host: Option<String>,
) -> Vec<IpAddr> {
    let hosts = match host {
        Some(host) => vec![host],
        // The order is of no matter.
        None => dial::exchangers(cluster, resolver, domain, 0)
            .await
            .unwrap_or_default(),
    };
    let mut all = Vec::new();
    for host in hosts {
        all.extend(resolver.addresses(&host).await.unwrap_or_default());
    }
    all
}

/// Every program on this machine connects from these two.
fn names_one_host(address: IpAddr) -> bool {
    address != Ipv4Addr::LOCALHOST && address != Ipv6Addr::LOCALHOST
}

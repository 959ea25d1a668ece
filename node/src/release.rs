//! Asking for the mail that is held for a domain: who may, how often, and how.
//!
//! Any node answers for the whole cluster, and the counts are the cluster's. Mail goes only to the
//! configured primary, so a stranger gains nothing; but each request for a domain with mail costs a log
//! entry and a connection, and its answer tells how much waits. So a domain's owner says who may ask, a domain
//! is started once in a while, and a client may ask only so often. What is not configured and what
//! one may not ask for are answered alike.

use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use futures::future::join_all;
use holdfast_ledger::{Command, KvError, Refusal, Reply, query};
use holdfast_mail::{Domain, Network};
use tokio::time::Instant;

use crate::recent::Recent;
use crate::replica::Cluster;

/// RFC 1985 section 5.2: the server answers at once.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

/// Domains below one `@domain` that are started by one command.
const DOMAINS_MAX: usize = 100;

/// Configured domains read at a time in the search for those below one.
const PAGE: usize = 512;

/// A domain that was started is not started again within this time: its primary is being tried.
const DOMAIN_PERIOD: Duration = Duration::from_secs(5);

/// One client may ask this often within [`CLIENT_PERIOD`], by whatever protocol. A customer has
/// one host that asks, for a handful of domains.
const CLIENT_REQUESTS_MAX: u32 = 30;
const CLIENT_PERIOD: Duration = Duration::from_secs(60);

/// One for a node, so that who asks by two protocols does not ask twice as often.
#[derive(Default)]
pub struct Desk {
    clients: Mutex<Recent<Network>>,
    domains: Mutex<Recent<Domain>>,
}

/// What somebody asks to be delivered.
#[derive(Clone, Debug)]
pub enum Wanted {
    Domain(Domain),
    /// A configured domain and all below it.
    Below(Domain),
    /// A name that no domain has.
    Nothing,
}

/// How much mail waits, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    Known(u64),
    /// It was started a moment ago, and is on its way.
    Started,
    /// So much was asked for that only the first domains were started, and not all was counted.
    Uncounted,
}

/// Why nothing was started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotStarted {
    #[error("you ask too often")]
    TooOften,
    /// No domain of ours, or not for this client.
    #[error("this server delivers it for nobody at your address")]
    NotAllowed,
    #[error("{0}")]
    Unable(String),
}

impl Desk {
    /// Starts what `client` asks for.
    pub async fn ask(
        &self,
        cluster: &Cluster,
        client: IpAddr,
        wanted: Wanted,
        via: &'static str,
    ) -> Result<Pending, NotStarted> {
        if !self.may_ask(client) {
            return Err(NotStarted::TooOften);
        }
        let domains = allowed(cluster, client, wanted).map_err(|error| {
            tracing::error!("{error}");
            NotStarted::Unable("the list of domains cannot be read".into())
        })?;
        if domains.is_empty() {
            return Err(NotStarted::NotAllowed);
        }
        let is_cut = domains.len() >= DOMAINS_MAX;
        // At once: one after the other, a hundred would keep the client waiting.
        let started = domains
            .into_iter()
            .map(|domain| self.start(cluster, domain, via));
        let mut pending = Pending::Known(0);
        for started in join_all(started).await {
            pending = match (pending, started?) {
                (Pending::Known(sum), Pending::Known(more)) => Pending::Known(sum + more),
                _ => Pending::Started,
            };
        }
        Ok(if is_cut { Pending::Uncounted } else { pending })
    }

    /// Starts a domain for somebody at `client` who has shown that it is theirs.
    pub async fn order(
        &self,
        cluster: &Cluster,
        client: IpAddr,
        domain: Domain,
        via: &'static str,
    ) -> Result<Pending, NotStarted> {
        if !self.may_ask(client) {
            return Err(NotStarted::TooOften);
        }
        self.start(cluster, domain, via).await
    }

    fn may_ask(&self, client: IpAddr) -> bool {
        Recent::client_within(&self.clients, client, CLIENT_PERIOD, CLIENT_REQUESTS_MAX)
    }

    /// Starts a domain. Nobody asked: there are signs that its primary is back.
    pub async fn start(
        &self,
        cluster: &Cluster,
        domain: Domain,
        via: &'static str,
    ) -> Result<Pending, NotStarted> {
        let unable = |why: &dyn std::fmt::Display| NotStarted::Unable(why.to_string());
        let now = Instant::now();
        let (is_empty, counted) = counted(cluster, &domain).map_err(|error| unable(&error))?;
        // No log entry for nothing.
        if is_empty && cluster.is_current() {
            return Ok(Pending::Known(0));
        }
        if !Recent::within(&self.domains, counted.clone(), DOMAIN_PERIOD, 1) {
            return Ok(match is_empty {
                true => Pending::Known(0),
                false => Pending::Started,
            });
        }
        let via = via.to_owned();
        match cluster
            .propose(Command::Flush { domain, via }, now + ANSWER_TIME_MAX)
            .await
        {
            Ok(Reply::Flushed { messages }) => Ok(Pending::Known(messages)),
            // It was removed a moment ago, with nothing held.
            Ok(Reply::Refused(Refusal::UnknownDomain)) => Ok(Pending::Known(0)),
            Ok(other) => {
                Recent::forget(&self.domains, &counted);
                Err(NotStarted::Unable(format!("unexpected: {other:?}")))
            }
            Err(error) => {
                // Nothing was started: who asks again at once is right to.
                Recent::forget(&self.domains, &counted);
                Err(unable(&error))
            }
        }
    }
}

/// Whether a domain holds nothing, as far as this node knows, and under whose name it is started only
/// once in a while: a host of which nothing is known may be made up, and shares its domain's.
fn counted(cluster: &Cluster, domain: &Domain) -> Result<(bool, Domain), KvError> {
    let view = cluster.view();
    let is_empty = query::held(&view, domain, None, 1)?.is_empty();
    let keeper = match is_empty {
        true => query::keeper(&view, domain)?,
        false => None,
    };
    Ok((is_empty, keeper.unwrap_or_else(|| domain.clone())))
}

/// The configured domains that are wanted and that `client` may ask for.
fn allowed(cluster: &Cluster, client: IpAddr, wanted: Wanted) -> Result<Vec<Domain>, KvError> {
    let view = cluster.view();
    let may = |domain: &Domain| Ok(query::askers(&view, domain)?.include(client));
    match wanted {
        Wanted::Domain(domain) => {
            let is_ours = query::domain(&view, &domain)?.is_some()
                || query::keeper(&view, &domain)?.is_some();
            let is_allowed = is_ours && may(&domain)?;
            Ok(is_allowed.then_some(domain).into_iter().collect())
        }
        Wanted::Nothing => Ok(Vec::new()),
        // `@com` would start everybody's.
        Wanted::Below(above) if query::domain(&view, &above)?.is_none() => Ok(Vec::new()),
        Wanted::Below(above) => {
            let suffix = format!(".{above}");
            let is_below = |name: &Domain| *name == above || name.as_str().ends_with(&suffix);
            let mut found = Vec::new();
            let mut after = None;
            loop {
                let page = query::domains(&view, after.as_ref(), PAGE)?;
                let Some(last) = page.last() else {
                    break;
                };
                after = Some(last.name.clone());
                for name in page.into_iter().map(|record| record.name) {
                    if is_below(&name) && may(&name)? {
                        found.push(name);
                    }
                    if found.len() == DOMAINS_MAX {
                        return Ok(found);
                    }
                }
            }
            // Hosts have no record: what they hold is all there is of them.
            let mut after = None;
            loop {
                let page = query::held_domains(&view, after.as_ref(), PAGE)?;
                let Some(last) = page.last() else {
                    return Ok(found);
                };
                after = Some(last.clone());
                for name in page {
                    let is_host = is_below(&name) && query::keeper(&view, &name)?.is_some();
                    if is_host && may(&name)? {
                        found.push(name);
                    }
                    if found.len() == DOMAINS_MAX {
                        return Ok(found);
                    }
                }
            }
        }
    }
}

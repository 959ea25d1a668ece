//! ETRN (RFC 1985): a customer asks for the mail held for a domain. Any node answers for the
//! whole cluster, and the counts are the cluster's.
//!
//! Anybody may ask, and mail goes only to the configured primary, so a stranger gains nothing;
//! but each request costs a log entry and a connection. So a domain is started once in a while,
//! and a client may ask only so often.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use holdfast_ledger::{Command, KvError, Refusal, Reply as LedgerReply, query};
use holdfast_mail::Domain;
use holdfast_smtp::reply::Reply;
use holdfast_smtp::request::Etrn;
use tokio::time::Instant;

use super::guests::network;
use crate::replica::Cluster;

/// RFC 1985 section 5.2: the server answers at once.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

/// Domains below one `@domain` that are started by one command.
const DOMAINS_MAX: usize = 100;

/// Configured domains read at a time in the search for those below one.
const PAGE: usize = 512;

/// A domain that was started is not started again within this time: its primary is being tried.
const DOMAIN_PERIOD: Duration = Duration::from_secs(5);

/// One client may ask this often within [`CLIENT_PERIOD`]. A customer has one host that asks,
/// for a handful of domains.
const CLIENT_REQUESTS_MAX: u32 = 30;
const CLIENT_PERIOD: Duration = Duration::from_secs(60);

/// Clients and domains remembered at a time, about 100 bytes each. Beyond it the oldest are
/// forgotten.
const REMEMBERED_MAX: usize = 10_000;

/// What was asked lately.
#[derive(Default)]
pub(super) struct Desk {
    clients: Mutex<Recent<IpAddr>>,
    domains: Mutex<Recent<Domain>>,
}

/// How much mail waits, as far as it is known.
enum Pending {
    Known(u64),
    /// It was started a moment ago, and is on its way.
    Started,
}

impl Desk {
    pub(super) async fn flush(&self, cluster: &Cluster, client: IpAddr, etrn: Etrn) -> Reply {
        let name = match &etrn {
            Etrn::Domain(domain) => domain.to_string(),
            Etrn::Below(domain) => format!("@{domain}"),
            Etrn::Queue(queue) => queue.clone(),
        };
        let unable = |why: &str| {
            Reply::new(
                458,
                3,
                2,
                format!("unable to queue messages for node {name}: {why}"),
            )
        };
        if !within(
            &self.clients,
            network(client),
            Instant::now(),
            CLIENT_PERIOD,
            CLIENT_REQUESTS_MAX,
        ) {
            return unable("you ask too often");
        }
        let domains = match asked_for(cluster, etrn) {
            Ok(domains) => domains,
            Err(error) => {
                tracing::error!("{error}");
                return unable("the list of domains cannot be read");
            }
        };
        if domains.is_empty() {
            let text = format!("node {name} not allowed: it is no domain of this server");
            return Reply::new(459, 7, 1, text);
        }
        let mut pending = Pending::Known(0);
        for domain in domains {
            pending = match (pending, self.start(cluster, domain).await) {
                (Pending::Known(sum), Ok(Pending::Known(more))) => Pending::Known(sum + more),
                (_, Ok(_)) => Pending::Started,
                (_, Err(why)) => return unable(&why),
            };
        }
        let text = match pending {
            Pending::Known(0) => {
                return Reply::new(
                    251,
                    0,
                    0,
                    format!("OK, no messages waiting for node {name}"),
                );
            }
            Pending::Known(count) => {
                return Reply::new(
                    253,
                    0,
                    0,
                    format!("OK, {count} pending messages for node {name} started"),
                );
            }
            Pending::Started => format!("OK, pending messages for node {name} started"),
        };
        Reply::new(252, 0, 0, text)
    }

    async fn start(&self, cluster: &Cluster, domain: Domain) -> Result<Pending, String> {
        if !within(
            &self.domains,
            domain.clone(),
            Instant::now(),
            DOMAIN_PERIOD,
            1,
        ) {
            return match query::held(&cluster.view(), &domain, None, 1) {
                Ok(held) if held.is_empty() => Ok(Pending::Known(0)),
                Ok(_) => Ok(Pending::Started),
                Err(error) => Err(error.to_string()),
            };
        }
        let command = Command::Flush {
            domain,
            via: "etrn".into(),
        };
        let deadline = Instant::now() + ANSWER_TIME_MAX;
        match cluster.propose(command, deadline).await {
            Ok(LedgerReply::Flushed { messages }) => Ok(Pending::Known(messages)),
            // It was removed a moment ago, with nothing held.
            Ok(LedgerReply::Refused(Refusal::UnknownDomain)) => Ok(Pending::Known(0)),
            Ok(other) => Err(format!("unexpected: {other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// The configured domains that are meant; none where nothing is configured.
fn asked_for(cluster: &Cluster, etrn: Etrn) -> Result<Vec<Domain>, KvError> {
    let one = |domain: Domain| -> Result<Vec<Domain>, KvError> {
        let known = query::domain(&cluster.view(), &domain)?;
        Ok(known.map(|record| record.name).into_iter().collect())
    };
    match etrn {
        Etrn::Domain(domain) => one(domain),
        // Our queues have the names of their domains.
        Etrn::Queue(queue) => Domain::parse(&queue).map_or_else(|_| Ok(Vec::new()), one),
        Etrn::Below(domain) => below(cluster, &domain),
    }
}

/// The configured domains that are `domain` or lie below it.
fn below(cluster: &Cluster, domain: &Domain) -> Result<Vec<Domain>, KvError> {
    let suffix = format!(".{domain}");
    let view = cluster.view();
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let page = query::domains(&view, after.as_ref(), PAGE)?;
        let Some(last) = page.last() else {
            return Ok(found);
        };
        after = Some(last.name.clone());
        let fits = |name: &Domain| name == domain || name.as_str().ends_with(&suffix);
        found.extend(page.into_iter().map(|record| record.name).filter(fits));
        if found.len() >= DOMAINS_MAX {
            found.truncate(DOMAINS_MAX);
            return Ok(found);
        }
    }
}

/// How often each was seen since its period began.
struct Recent<K>(HashMap<K, (Instant, u32)>);

impl<K> Default for Recent<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

/// Whether `key` may come once more within its period.
fn within<K: Eq + Hash + Clone>(
    recent: &Mutex<Recent<K>>,
    key: K,
    now: Instant,
    period: Duration,
    max: u32,
) -> bool {
    let mut recent = recent.lock().unwrap_or_else(PoisonError::into_inner);
    if recent.0.len() >= REMEMBERED_MAX {
        recent
            .0
            .retain(|_, (since, _)| now.duration_since(*since) < period);
    }
    if recent.0.len() >= REMEMBERED_MAX {
        recent.0.clear();
    }
    let (since, count) = recent.0.entry(key).or_insert((now, 0));
    if now.duration_since(*since) >= period {
        (*since, *count) = (now, 0);
    }
    *count = count.saturating_add(1);
    *count <= max
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_may_ask_again_when_its_period_is_over() {
        let recent = Mutex::new(Recent::default());
        let begin = Instant::now();
        let period = Duration::from_secs(60);
        let ask = |key: &str, after| {
            let now = begin + Duration::from_secs(after);
            within(&recent, key.to_owned(), now, period, 2)
        };
        assert_eq!(
            [ask("a", 0), ask("a", 1), ask("a", 59), ask("b", 59)],
            [true, true, false, true]
        );
        assert!(ask("a", 60));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let recent = Mutex::new(Recent::default());
        for key in 0..3 * REMEMBERED_MAX {
            within(&recent, key, Instant::now(), Duration::from_secs(60), 1);
        }
        assert!(recent.into_inner().unwrap().0.len() <= REMEMBERED_MAX);
    }
}

//! ETRN (RFC 1985): a customer asks for the mail held for a domain. Any node answers for the
//! whole cluster, and the counts are the cluster's.

use std::time::Duration;

use holdfast_ledger::{Command, Refusal, Reply as LedgerReply, query};
use holdfast_mail::Domain;
use holdfast_smtp::reply::Reply;
use holdfast_smtp::request::Etrn;
use tokio::time::Instant;

use crate::replica::Cluster;

/// RFC 1985 section 5.2: the server answers at once.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

/// Domains below one `@domain` that are started by one command.
const DOMAINS_MAX: usize = 100;

pub(super) async fn flush(cluster: &Cluster, etrn: Etrn) -> Reply {
    let (name, domains) = match etrn {
        Etrn::Domain(domain) => (domain.to_string(), vec![domain]),
        Etrn::Queue(queue) => {
            let domains = Domain::parse(&queue).into_iter().collect();
            (queue, domains)
        }
        Etrn::Below(domain) => {
            let below = below(cluster, &domain);
            (format!("@{domain}"), below)
        }
    };
    let not_allowed = || {
        Reply::new(
            459,
            7,
            1,
            format!("node {name} not allowed: it is no domain of this server"),
        )
    };
    if domains.is_empty() {
        return not_allowed();
    }
    let mut pending = 0;
    for domain in domains {
        // What is not configured is not worth a log entry, and anybody may ask.
        if !matches!(query::domain(&cluster.view(), &domain), Ok(Some(_))) {
            return not_allowed();
        }
        let command = Command::Flush {
            domain,
            via: "etrn".into(),
        };
        match cluster
            .propose(command, Instant::now() + ANSWER_TIME_MAX)
            .await
        {
            Ok(LedgerReply::Flushed { messages }) => pending += messages,
            Ok(LedgerReply::Refused(Refusal::UnknownDomain)) => return not_allowed(),
            Ok(_) | Err(_) => {
                return Reply::new(
                    458,
                    3,
                    2,
                    format!("unable to queue messages for node {name}"),
                );
            }
        }
    }
    if pending == 0 {
        Reply::new(
            251,
            0,
            0,
            format!("OK, no messages waiting for node {name}"),
        )
    } else {
        Reply::new(
            253,
            0,
            0,
            format!("OK, {pending} pending messages for node {name} started"),
        )
    }
}

/// The configured domains that are `domain` or lie below it.
fn below(cluster: &Cluster, domain: &Domain) -> Vec<Domain> {
    let suffix = format!(".{domain}");
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let page = match query::domains(&cluster.view(), after.as_ref(), 512) {
            Ok(page) => page,
            Err(error) => {
                tracing::error!("{error}");
                return Vec::new();
            }
        };
        let Some(last) = page.last() else {
            return found;
        };
        after = Some(last.name.clone());
        let fits = |name: &Domain| name == domain || name.as_str().ends_with(&suffix);
        found.extend(page.into_iter().map(|record| record.name).filter(fits));
        if found.len() >= DOMAINS_MAX {
            found.truncate(DOMAINS_MAX);
            return found;
        }
    }
}

//! One certificate for the names of all nodes, ordered by ACME (RFC 8555) and renewed.
//!
//! ```text
//!   leader ── Try ─► ledger               of two leaders one orders, and a crash counts as a try
//!     │ order.rs ── Account, Answer ─► ledger ─► any node ◄─ the authority asks (challenge.rs)
//!     ▼ certificate, key ── Issued ─► ledger ─► every node presents it (certificate_files.rs)
//! ```
//!
//! What failed is tried again more and more rarely: authorities count failures, and lock out whoever
//! has too many. How often it was tried is in the ledger, so that no leader begins anew.

mod challenge;
mod http;
mod order;

use std::sync::Arc;
use std::time::Duration;

use holdfast_ledger::acme::{ACME_NAMES_MAX, ACME_WHY_OCTETS_MAX, AcmeChange, AcmeIssued};
use holdfast_ledger::query::{self, Acme};
use holdfast_ledger::{Command, KvError, KvRead, Reply};
use holdfast_mail::Timestamp;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::net::dns::Resolver;
use crate::net::tls::Identity;
use crate::replica::{Cluster, now};

pub(crate) use challenge::run as answer;

/// How often the leader looks whether an order is due.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// For one order. Shorter than the shortest of [`wait`]s, so that the next leader's does not overlap
/// with that of one that was lost; authorities need seconds.
const ORDER_TIME_MAX: Duration = Duration::from_secs(240);

/// How long the ledger may take to take in something of an order.
const ENTER_TIME_MAX: Duration = Duration::from_secs(20);

/// After a try that failed, twice as long after each more. Five failures an hour for one name are what
/// the largest authority allows.
const WAIT: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(12 * 3600));

/// Between two certificates, unless an operator asks. Nodes that join one after another are one change,
/// and a certificate with senseless dates is not ordered for ever.
const APART: Duration = Duration::from_secs(600);

/// Orders when it is due and this node leads. Returns when `stop` is cancelled.
pub(crate) async fn run(cluster: Cluster, resolver: Arc<Resolver>, stop: CancellationToken) {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let leads = cluster.leader() == Some(cluster.me().id) && cluster.has_quorum();
        if !leads || !cluster.is_current() {
            continue;
        }
        let plan = match Plan::of(&cluster.view()) {
            Ok(Some(plan)) => plan,
            Ok(None) => continue,
            Err(error) => {
                tracing::error!(
                    "it cannot be read whether a certificate is to be ordered: {error}"
                );
                continue;
            }
        };
        if plan.due_at > now() {
            continue;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = try_to_order(&cluster, &resolver, plan) => {}
        }
    }
}

/// What the certificate is to be, and when it is to be ordered.
pub(crate) struct Plan {
    pub(crate) acme: Acme,
    /// Those of the members, sorted.
    pub(crate) names: Vec<String>,
    /// The next order, if all stays as it is.
    pub(crate) due_at: Timestamp,
}

impl Plan {
    /// `None`: nothing is ordered.
    pub(crate) fn of(kv: &dyn KvRead) -> Result<Option<Self>, KvError> {
        let Some(acme) = query::acme(kv)? else {
            return Ok(None);
        };
        let names = names(kv)?;
        let ordered = query::ordered(kv)?;
        let due_at = due_at(&acme, ordered.as_ref(), &names);
        Ok(Some(Self {
            acme,
            names,
            due_at,
        }))
    }
}

fn names(kv: &dyn KvRead) -> Result<Vec<String>, KvError> {
    let members = query::members(kv)?.into_iter();
    let mut names: Vec<_> = members
        .map(|member| member.smtp_name.to_ascii_lowercase())
        .collect();
    names.sort();
    names.dedup();
    Ok(names)
}

/// When a certificate ends, in milliseconds of Unix time; `None`: it cannot be read.
pub(crate) fn ends_at(issued: &AcmeIssued) -> Option<Timestamp> {
    let ends = Identity::parse(&issued.chain, &issued.key).ok()?.ends()?;
    Some(Timestamp(u64::try_from(ends).ok()?.saturating_mul(1000)))
}

fn due_at(acme: &Acme, ordered: Option<&(AcmeIssued, Timestamp)>, names: &[String]) -> Timestamp {
    let wanted_at = match ordered {
        Some((issued, at)) if issued.directory == acme.directory.url => {
            let earliest = if acme.since > *at {
                Timestamp(0)
            } else {
                at.plus(APART)
            };
            let ends = ends_at(issued).filter(|_| issued.names == names);
            // With a third of its life left, as authorities want it.
            let renewal = ends.map_or(Timestamp(0), |ends| at.plus(ends.since(*at) / 3 * 2));
            renewal.max(earliest)
        }
        _ => Timestamp(0),
    };
    match acme.tried_at {
        Some(at) if acme.tries > 0 => wanted_at.max(at.plus(wait(acme.tries))),
        _ => wanted_at,
    }
}

/// How long after so many tries without a certificate.
fn wait(tries: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(tries.saturating_sub(1));
    WAIT.0.saturating_mul(doubled).min(WAIT.1)
}

async fn try_to_order(cluster: &Cluster, resolver: &Arc<Resolver>, plan: Plan) {
    let tries = plan.acme.tries;
    if let Err(why) = enter(cluster, AcmeChange::Try { tries }).await {
        tracing::info!("no certificate is ordered now: {why}");
        return;
    }
    let directory = plan.acme.directory.url.clone();
    tracing::info!(
        directory,
        names = plan.names.join(" "),
        "a certificate is ordered"
    );
    let issued = if plan.names.len() > ACME_NAMES_MAX {
        Err(format!("the nodes have more than {ACME_NAMES_MAX} names"))
    } else {
        timeout(ORDER_TIME_MAX, order::order(cluster, resolver, &plan))
            .await
            .unwrap_or_else(|_| Err("the authority did not get done in time".to_owned()))
    };
    let entered = match issued {
        Ok(issued) => enter(cluster, AcmeChange::Issued(issued)).await,
        Err(why) => Err(why),
    };
    match entered {
        Ok(()) => tracing::info!(
            directory,
            "the certificate has come; every node presents it"
        ),
        Err(why) => {
            let wait = wait(tries.saturating_add(1)).as_secs();
            tracing::warn!(
                directory,
                "no certificate was got, trying again in {wait} s; the one before stays: {why}"
            );
            let why = cut(why);
            if let Err(why) = enter(cluster, AcmeChange::Failed { why }).await {
                tracing::warn!("the other nodes do not know why: {why}");
            }
        }
    }
}

/// One line that fits into the ledger.
fn cut(why: String) -> String {
    let mut why: String = why
        .chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect();
    why.truncate(why.floor_char_boundary(ACME_WHY_OCTETS_MAX));
    why
}

async fn enter(cluster: &Cluster, change: AcmeChange) -> Result<(), String> {
    let until = Instant::now() + ENTER_TIME_MAX;
    match cluster.propose(Command::Acme { change }, until).await {
        Ok(Reply::Refused(refusal)) => Err(refusal.to_string()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use holdfast_ledger::acme::AcmeDirectory;

    use super::*;
    use crate::net::{authority, pass};

    const DAY: Duration = Duration::from_secs(86_400);

    fn acme(tries: u32, tried_at: u64) -> Acme {
        Acme {
            directory: AcmeDirectory {
                url: "https://ca.example".to_owned(),
                ..AcmeDirectory::default()
            },
            credentials: None,
            since: Timestamp(5),
            tries,
            tried_at: Some(Timestamp(tried_at)),
            why: String::new(),
        }
    }

    fn issued(life: Duration) -> AcmeIssued {
        let ca = authority::Authority::create([1; 16]).unwrap();
        let (key, request) = authority::request().unwrap();
        let certificate = ca.sign_person(&request, "mx", [1; 16], life).unwrap();
        AcmeIssued {
            directory: "https://ca.example".to_owned(),
            chain: pass::block("CERTIFICATE", &certificate),
            key: pass::block("PRIVATE KEY", &key),
            names: vec!["mx1.example".to_owned()],
        }
    }

    #[test]
    fn a_certificate_is_renewed_when_a_third_of_its_life_is_left_or_other_names_are_wanted() {
        let (now, names) = (now(), ["mx1.example".to_owned()]);
        let of =
            |issued: AcmeIssued, names: &[String]| due_at(&acme(0, 0), Some(&(issued, now)), names);
        let renewed = of(issued(DAY * 90), &names).since(now);
        assert!(renewed > DAY * 59 && renewed < DAY * 61, "{renewed:?}");
        let other = AcmeIssued {
            directory: "https://other.example".to_owned(),
            ..issued(DAY * 90)
        };
        assert_eq!(of(other, &names), Timestamp(0), "at once");
        // Not for each node that joins, and not for ever.
        assert_eq!(of(issued(DAY * 90), &[]), now.plus(APART));
        assert_eq!(of(issued(Duration::ZERO), &names), now.plus(APART));
        let again = Acme {
            since: now.plus(DAY),
            ..acme(0, 0)
        };
        let asked = due_at(&again, Some(&(issued(DAY * 90), now)), &[]);
        assert_eq!(asked, Timestamp(0), "an operator asks");
        assert_eq!(due_at(&acme(0, 0), None, &names), Timestamp(0));
    }

    #[test]
    fn an_authority_is_never_asked_more_often_than_it_bears() {
        let failed = |tries| due_at(&acme(tries, 1_000), None, &[]).since(Timestamp(1_000));
        assert_eq!(failed(1), Duration::from_secs(300));
        assert_eq!(failed(2), Duration::from_secs(600));
        assert_eq!(failed(5), Duration::from_secs(4800));
        assert_eq!(failed(20), WAIT.1);
        assert_eq!(failed(u32::MAX), WAIT.1);
        let in_an_hour = (1..).scan(Duration::ZERO, |at, tries| {
            *at += failed(tries);
            Some(*at)
        });
        let hour = Duration::from_secs(3600);
        assert!(in_an_hour.take_while(|at| *at < hour).count() < 5);
        assert!(WAIT.0 > ORDER_TIME_MAX);
    }

    #[test]
    fn why_it_failed_is_one_line_that_fits() {
        assert_eq!(cut("a\nb\u{7}".to_owned()), "a b ");
        let long = cut("ü".repeat(ACME_WHY_OCTETS_MAX));
        assert_eq!(long.len(), ACME_WHY_OCTETS_MAX);
    }
}

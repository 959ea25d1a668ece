//! Whether a domain's primary can be reached: as one node sees it, and as the cluster says.
//!
//! One node's broken line is no reason to call a primary down, so whoever finds it so asks the
//! others first. Deciding about mail is left to whoever tries to deliver it.

use std::net::IpAddr;
use std::time::Duration;

use holdfast_ledger::query::Reach;
use holdfast_ledger::{Command, Policy, Seen, query};
use holdfast_mail::checkup::Leaves;
use holdfast_mail::{Domain, Timestamp};
use tokio::time::Instant;

use crate::destination::{Destination, Unreachable};
use crate::net::ping;
use crate::replica::Cluster;

/// How long a primary may take for each step until its EHLO is answered. One that takes longer is
/// slow, and mail for it better waits than is deferred.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the cluster may take to note what was found. Later than this it is found again.
const NOTE_TIME_MAX: Duration = Duration::from_secs(5);

/// How long a primary must have been up before senders are sent there: one that comes and goes is
/// none to rely on.
const UP_AT_LEAST: Duration = Duration::from_secs(60);

/// Whether senders are asked to go to the primary. What nobody has looked at for long may be down by
/// now, and where mail goes to whoever is signed in there is no primary to go to.
pub(crate) fn puts_off(policy: &Policy, reach: &Reach, now: Timestamp) -> bool {
    policy.defer
        && !policy.attended
        && reach.down.is_none()
        && now.since(reach.since) >= UP_AT_LEAST
        && now.since(reach.at) < policy.probe * 2 + UP_AT_LEAST
}

/// Whether the primary has to be reachable from here at all.
pub(crate) fn leaves(policy: &Policy) -> Leaves {
    if policy.attended && policy.at_host {
        Leaves::AttendedAtHost
    } else if policy.attended {
        Leaves::Attended
    } else if policy.atrn {
        Leaves::DeliveredOrFetched
    } else {
        Leaves::Delivered
    }
}

/// An attempt at a session.
pub(crate) struct Failed {
    pub(crate) why: String,
    /// The machine that was tried last.
    pub(crate) host: Option<IpAddr>,
}

impl From<Unreachable> for Failed {
    fn from(why: Unreachable) -> Self {
        Self {
            host: why.host(),
            why: why.to_string(),
        }
    }
}

/// Whether the primary takes this node's EHLO.
///
/// # Errors
/// Why not.
pub(crate) async fn reached(destination: &Destination) -> Result<(), Unreachable> {
    let connection = destination.open(PATIENCE).await?;
    connection.quit().await;
    Ok(())
}

/// What the cluster is to say of a primary that this node does not reach, and whether another node
/// does that can deliver.
pub(crate) async fn judged(destination: &Destination, failed: Failed) -> (Seen, bool) {
    let domain = &destination.domain;
    let other = destination.cluster.reached_elsewhere(domain).await;
    let policy = query::policy(&destination.cluster.view(), domain);
    let mut why = failed.why;
    if let Some(host) = failed.host
        && other.is_none()
        && policy.is_ok_and(|policy| policy.ping)
    {
        let kept = "; mail is kept";
        why = format!("{}; {}{kept}", why.trim_end_matches(kept), hint(host).await);
    }
    if let Some(other) = &other {
        tracing::warn!(%domain, %why, by = %other.by, "the primary is reached by another node, not from here");
    }
    let seen = Seen {
        domain: domain.clone(),
        down: other.is_none().then_some(why),
    };
    (seen, other.is_some_and(|other| other.delivers))
}

/// What a ping says of a host that took no session. Only a hint: firewalls answer for others, or let
/// nothing through.
async fn hint(host: IpAddr) -> String {
    match ping::answers(host).await {
        Ok(true) => format!("{host} answers ping, so its mail server may be down, not its line"),
        Ok(false) => {
            format!("{host} does not answer ping either: its machine or its line may be down")
        }
        Err(error) => format!(
            "{host} could not be pinged: {error}; the sysctl net.ipv4.ping_group_range allows it"
        ),
    }
}

/// Tells the cluster.
pub(crate) async fn note(cluster: &Cluster, seen: Vec<Seen>) {
    let command = Command::Observe {
        node: cluster.me().id,
        seen,
    };
    let noted = cluster.propose(command, Instant::now() + NOTE_TIME_MAX);
    if let Err(error) = noted.await {
        tracing::debug!(%error, "what was found of primaries was not noted");
    }
}

/// The primary has just taken a session: if the cluster says otherwise, it is told.
pub(crate) fn is_up(cluster: &Cluster, domain: &Domain) {
    let known = query::reach(&cluster.view(), domain);
    if !known.is_ok_and(|reach| reach.is_some_and(|reach| reach.down.is_some())) {
        return;
    }
    let seen = Seen {
        domain: domain.clone(),
        down: None,
    };
    let cluster = cluster.clone();
    tokio::spawn(async move { note(&cluster, vec![seen]).await });
}

#[cfg(test)]
mod tests {
    use holdfast_mail::NodeId;

    use super::*;

    #[test]
    fn senders_are_asked_to_go_to_a_primary_that_has_been_up_and_was_seen_lately() {
        let minute = |minutes: u64| Timestamp(minutes * 60_000);
        let policy = Policy {
            defer: true,
            probe: Duration::from_secs(300),
            ..Policy::default()
        };
        let reach = Reach {
            down: None,
            since: minute(100),
            at: minute(110),
            node: NodeId(1),
        };
        let down = Reach {
            down: Some("refused".to_owned()),
            ..reach.clone()
        };
        let attended = Policy {
            attended: true,
            ..policy
        };
        for (policy, reach, now, is_asked) in [
            (&policy, &reach, minute(112), true),
            (&policy, &reach, minute(121), false),
            (&policy, &down, minute(112), false),
            (&attended, &reach, minute(112), false),
            (&Policy::default(), &reach, minute(112), false),
        ] {
            assert_eq!(puts_off(policy, reach, now), is_asked, "{now:?}");
        }
        let fresh = Reach {
            at: minute(100),
            ..reach
        };
        assert!(!puts_off(&policy, &fresh, Timestamp(minute(101).0 - 1)));
        assert!(puts_off(&policy, &fresh, minute(101)));
    }
}

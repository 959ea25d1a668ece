//! Certificates are renewed, and authorities replaced, without anybody's doing.
//!
//! A node whose certificate has less than a third of its life left makes a new key and asks
//! another member to sign it: by that one's clock, for a node whose own clock is wrong would give
//! itself a certificate that is not valid yet, and be locked out. While an authority is replaced,
//! each node first trusts the new one too, says so in the ledger, and once all have said so asks
//! for a certificate of the new one.

use std::time::Duration;

use holdfast_ledger::query::{self, Rotation};
use holdfast_ledger::{Command, Reply};
use holdfast_mail::{NodeId, Timestamp};
use holdfast_proto::cluster as wire;
use tokio::time::Instant;
use tonic::Status;

use super::handle::Cluster;
use super::random;
use crate::net::authority::{self, Authority};
use crate::net::tls::Credentials;
use crate::world;

/// How often a node looks whether its certificate or its authorities are to change.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Between two tries to renew: a small part of what is left, within these.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(3600));

/// Signing takes milliseconds; the rest is for a slow line.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

/// Runs until the process ends.
pub(crate) async fn run(cluster: Cluster) {
    // No TLS in a simulation, and its time is not that of certificates.
    #[cfg(test)]
    if crate::net::simulated::switch().is_some() {
        return;
    }
    // Nodes that were made together do not all renew in the same minute.
    let jitter = f64::from(u16::from_be_bytes(random())) / f64::from(u16::MAX);
    let mut next_try = Instant::now();
    let mut last = String::new();
    let mut every = tokio::time::interval(LOOK_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        match follow_rotation(&cluster).await {
            Err(why) if why != last => {
                tracing::warn!(
                    "the rotation of the certificate authority waits for this node: {why}"
                );
                last = why;
            }
            Err(_) => {}
            Ok(()) => last.clear(),
        }
        if Instant::now() < next_try {
            continue;
        }
        let left = match due(&cluster, jitter) {
            Ok(Some(left)) => left,
            Ok(None) => continue,
            Err(why) => {
                tracing::error!("this node cannot tell whether its certificate ends: {why}");
                continue;
            }
        };
        match renew(&cluster).await {
            Ok(()) => next_try = Instant::now(),
            Err(why) => {
                next_try = Instant::now() + (left / 100).clamp(RETRY.0, RETRY.1);
                if left.is_zero() {
                    tracing::error!(
                        "this node's certificate in the cluster has ended and others refuse it: {why}. They hold \
                         the mail. Let a new node join and take its place: holdfast node replace {} --with NEW, on \
                         another node",
                        cluster.me().name
                    );
                    continue;
                }
                tracing::warn!(
                    seconds_left = left.as_secs(),
                    "this node's certificate was not renewed, trying again: {why}"
                );
            }
        }
    }
}

/// Who signs certificates now, and whether that is an authority's successor.
struct Signer {
    authority: Authority,
    cluster_id: [u8; 16],
    cross: Option<Vec<u8>>,
    older: Option<Vec<u8>>,
}

fn signer(cluster: &Cluster) -> Result<Signer, String> {
    let view = cluster.view();
    let known = query::cluster(&view).map_err(|e| e.0)?;
    let known = known.ok_or("this node is still catching up")?;
    let rotation = query::rotation(&view).map_err(|e| e.0)?;
    let cluster_id = known.id;
    let old = Authority {
        certificate: known.ca_certificate,
        key: known.ca_key,
    };
    Ok(match rotation {
        Some(rotation) if rotation.not_trusting.is_empty() => Signer {
            authority: Authority {
                certificate: rotation.certificate,
                key: rotation.key,
            },
            cluster_id,
            cross: Some(rotation.cross),
            older: Some(old.certificate),
        },
        _ => Signer {
            authority: old,
            cluster_id,
            cross: None,
            older: None,
        },
    })
}

impl Signer {
    /// What is sent behind a certificate that it signed.
    fn above(&self) -> Vec<Vec<u8>> {
        match (&self.cross, &self.older) {
            (Some(cross), Some(older)) => vec![cross.clone(), older.clone()],
            _ => vec![self.authority.certificate.clone()],
        }
    }
}

/// How long this node's certificate is still good, if it is to be renewed.
fn due(cluster: &Cluster, jitter: f64) -> Result<Option<Duration>, String> {
    let mine = cluster.0.papers.now();
    if query::cluster(&cluster.view()).map_err(|e| e.0)?.is_none() {
        // It has just joined, with a new certificate.
        return Ok(None);
    }
    let signer = signer(cluster)?;
    let (begins, ends) = authority::life(&mine.certificate).map_err(|e| e.to_string())?;
    let left = Duration::from_secs(u64::try_from(ends - seconds(world::now())).unwrap_or(0));
    if left <= renew_below(begins, ends, jitter) {
        return Ok(Some(left));
    }
    // A node that crashed may see the ledger as it was before; it does not go back.
    let place = |authority: &Vec<u8>| {
        let mut known = mine.authorities.iter();
        known.position(|known| known == authority)
    };
    let ours = mine
        .authorities
        .iter()
        .find(|authority| authority::is_issued_by(&mine.certificate, authority));
    let moves_on = place(&signer.authority.certificate) > ours.and_then(place);
    Ok(moves_on.then_some(left))
}

/// Less than a sixth of its life is left: it should have been renewed long ago.
pub(crate) fn is_late(certificate: &[u8]) -> bool {
    let now = seconds(world::now());
    authority::life(certificate).is_ok_and(|(begins, ends)| ends - now < (ends - begins) / 6)
}

/// A third of its life, or a tenth of that more.
fn renew_below(begins: i64, ends: i64, jitter: f64) -> Duration {
    let life = Duration::from_secs(u64::try_from(ends - begins).unwrap_or(0));
    (life / 3).mul_f64(1.0 + jitter / 10.0)
}

fn seconds(at: Timestamp) -> i64 {
    i64::try_from(at.0 / 1000).unwrap_or(i64::MAX)
}

/// Has a new key certified by another member, and presents it from then on.
async fn renew(cluster: &Cluster) -> Result<(), String> {
    let (key, request) = authority::request().map_err(|e| e.to_string())?;
    let certificate = certified(cluster, request).await?;
    let me = (cluster.me().id, cluster.cluster_id());
    if authority::named_node(&certificate) != Some(me) {
        return Err("the certificate that was signed is another node's".into());
    }
    let mine = cluster.0.papers.now();
    let issuer = mine
        .authorities
        .iter()
        .find(|authority| authority::is_issued_by(&certificate, authority))
        .ok_or("an authority has signed that this node does not know")?
        .clone();
    let signer = signer(cluster)?;
    let above = if signer.authority.certificate == issuer {
        signer.above()
    } else {
        vec![issuer]
    };
    let (_, ends) = authority::life(&certificate).map_err(|e| e.to_string())?;
    let renewed = Credentials {
        certificate,
        key,
        above,
        authorities: mine.authorities.clone(),
    };
    let kept = cluster.0.papers.change(renewed, &cluster.0.peers).await;
    kept.map_err(|error| format!("the new certificate could not be kept: {error}"))?;
    tracing::info!(ends, "this node has a new certificate in the cluster");
    Ok(())
}

/// Asks one member after another, the leader first; only a sole member signs for itself.
async fn certified(cluster: &Cluster, request: Vec<u8>) -> Result<Vec<u8>, String> {
    let me = cluster.me().id;
    let leader = cluster.leader();
    let mut others: Vec<NodeId> = cluster
        .members()
        .into_iter()
        .map(|member| member.id)
        .filter(|id| *id != me)
        .collect();
    others.sort_by_key(|id| (leader != Some(*id), *id));
    if others.is_empty() {
        return sign_for(cluster, me, &request).map_err(|status| status.message().to_owned());
    }
    let mut why = String::new();
    for other in others {
        let Some(mut client) = cluster.0.peers.members(other.0) else {
            why = format!("the address of node {other} is not known");
            continue;
        };
        let asked = wire::RenewRequest {
            envelope: cluster.0.peers.envelope(other.0),
            certificate_request: request.clone().into(),
        };
        match tokio::time::timeout(ANSWER_TIME_MAX, client.renew(asked)).await {
            Ok(Ok(reply)) => return Ok(reply.into_inner().certificate.to_vec()),
            Ok(Err(status)) => why = format!("node {other}: {}", status.message()),
            Err(_) => why = format!("node {other} did not answer in time"),
        }
    }
    Err(why)
}

/// Signs the request of a member.
pub(crate) fn sign_for(cluster: &Cluster, node: NodeId, request: &[u8]) -> Result<Vec<u8>, Status> {
    if cluster.members().iter().all(|member| member.id != node) {
        return Err(Status::permission_denied(format!(
            "node {node} is not a member of this cluster"
        )));
    }
    let signer = signer(cluster).map_err(Status::unavailable)?;
    signer
        .authority
        .sign_node(request, node, signer.cluster_id)
        .map_err(|e| Status::invalid_argument(e.to_string()))
}

/// Trusts whom the ledger says is to be trusted, and tells the ledger.
async fn follow_rotation(cluster: &Cluster) -> Result<(), String> {
    let view = cluster.view();
    let Some(known) = query::cluster(&view).map_err(|e| e.0)? else {
        return Ok(());
    };
    let rotation = query::rotation(&view).map_err(|e| e.0)?;
    drop(view);
    let mine = cluster.0.papers.now();
    let authorities = trusted(&mine.authorities, known.ca_certificate, rotation.as_ref());
    if authorities != mine.authorities {
        let retired = authorities.len() < mine.authorities.len();
        let changed = Credentials {
            above: if retired {
                authorities.clone()
            } else {
                mine.above.clone()
            },
            authorities,
            ..(*mine).clone()
        };
        let kept = cluster.0.papers.change(changed, &cluster.0.peers).await;
        kept.map_err(|error| format!("the new authority could not be kept: {error}"))?;
        if retired {
            tracing::info!("the old certificate authority is trusted no more");
        } else {
            tracing::info!("a new certificate authority is trusted too");
        }
    }
    match rotation {
        Some(rotation) => tell(cluster, &rotation).await,
        None => Ok(()),
    }
}

/// The authorities to trust, oldest first. One goes only when a later one has taken its place: a
/// node that crashed may see the ledger as it was before, and must not forget whom it trusts.
fn trusted(mine: &[Vec<u8>], current: Vec<u8>, rotation: Option<&Rotation>) -> Vec<Vec<u8>> {
    let mut list = match mine.iter().position(|authority| *authority == current) {
        Some(place) => mine[place..].to_vec(),
        // It was away for longer than a rotation; only a token brings it back.
        None => mine.to_vec(),
    };
    if let Some(rotation) = rotation
        && !list.contains(&rotation.certificate)
    {
        list.push(rotation.certificate.clone());
    }
    list
}

/// Says in the ledger how far this node is with `rotation`.
async fn tell(cluster: &Cluster, rotation: &Rotation) -> Result<(), String> {
    let me = cluster.me().id;
    let is_me = |members: &[holdfast_ledger::Member]| members.iter().any(|m| m.id == me);
    let mine = cluster.0.papers.now();
    let used = authority::is_issued_by(&mine.certificate, &rotation.certificate);
    let told = if used {
        !is_me(&rotation.not_using)
    } else {
        !is_me(&rotation.not_trusting)
    };
    // A node that joins is no member before its entry is applied here too.
    if told || cluster.members().iter().all(|member| member.id != me) {
        return Ok(());
    }
    let command = Command::TrustAuthority {
        node: me,
        authority: rotation.authority,
        // Not before all trust it; until then this is refused.
        used: used && rotation.not_trusting.is_empty(),
    };
    let deadline = Instant::now() + ANSWER_TIME_MAX;
    match cluster.propose(command, deadline).await {
        Ok(Reply::Refused(refusal)) => Err(refusal.to_string()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_when_a_third_of_its_life_is_left_and_not_everywhere_at_once() {
        assert_eq!(renew_below(1000, 1090, 0.0), Duration::from_secs(30));
        assert_eq!(renew_below(1000, 1090, 1.0), Duration::from_secs(33));
        assert_eq!(renew_below(10, 5, 1.0), Duration::ZERO, "it makes no sense");
    }

    fn rotation(to: u8) -> Rotation {
        Rotation {
            authority: [to; 32],
            certificate: vec![to],
            key: vec![],
            cross: vec![],
            since: Timestamp(0),
            not_trusting: vec![],
            not_using: vec![],
        }
    }

    #[test]
    fn both_authorities_are_trusted_until_the_old_one_is_retired() {
        let (old, new) = (vec![1], vec![2]);
        let both = vec![old.clone(), new.clone()];
        let begun = trusted(std::slice::from_ref(&old), old.clone(), Some(&rotation(2)));
        assert_eq!(begun, both);
        assert_eq!(trusted(&both, old.clone(), Some(&rotation(2))), both);
        assert_eq!(trusted(&both, new.clone(), None), [new]);
    }

    /// Otherwise it could not speak to those who present certificates of the new one, and would
    /// never learn of it.
    #[test]
    fn a_node_that_sees_the_ledger_as_it_was_does_not_forget_the_new_authority() {
        let both = vec![vec![1], vec![2]];
        assert_eq!(trusted(&both, vec![1], None), both);
    }
}

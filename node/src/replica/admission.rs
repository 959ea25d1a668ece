//! A stranger asks to be let in. Nothing is proposed for whoever has no invitation: anybody may ask.

use std::time::Duration;

use holdfast_ledger::{Command, Member, Refusal, Reply, query};
use holdfast_mail::NodeId;
use holdfast_proto::cluster as wire;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;

use super::handle::Cluster;
use super::membership::{STEP_TIME_MAX, hash, member_to_wire};
use crate::net::authority;

/// The longest request to join, bytes: some names and addresses, and a certificate request of a few
/// hundred bytes.
pub(super) const JOIN_BYTES_MAX: usize = 8 << 10;

/// Each name and address in it, octets: those of the DNS are no longer (RFC 1035 section 2.3.4).
const TEXT_OCTETS_MAX: usize = 255 + 6;

/// An invitation that another node gave a moment ago may not have come here yet.
const INVITATION_WAIT: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Callers that may wait for one at a time. Anybody can make up an invitation; whoever has one that is known
/// here needs no place.
pub(super) const WAITING_MAX: usize = 8;

/// How long a node that was let in may wait until this one has seen it: it has nearly always.
const SEEN_TIME_MAX: Duration = Duration::from_secs(15);

/// Answers a join request: checks and consumes the token, allocates an id, signs the
/// certificate. Any member can.
pub(crate) async fn admit(
    cluster: &Cluster,
    waiting: &Semaphore,
    request: wire::JoinRequest,
) -> Result<wire::JoinReply, Status> {
    let token_id: [u8; 16] = request.token_id[..]
        .try_into()
        .map_err(|_| Status::invalid_argument("a token id has 16 bytes"))?;
    // Whoever is told so asks another node, with an invitation that is still good.
    known(cluster)?;
    let (level, theirs) = (cluster.level(), request.level.max(1));
    if theirs < level {
        return Err(Status::failed_precondition(format!(
            "the node's version of Holdfast knows the feature levels up to {theirs}, and this cluster uses level \
             {level}: install the version that the other nodes run; the invitation is still good"
        )));
    }
    let member = Member {
        id: NodeId(0),
        name: request.name,
        region: request.region,
        cluster_address: request.cluster_address,
        smtp_name: request.smtp_name,
        smtp_address: request.smtp_address,
    };
    let texts = [
        &member.name,
        &member.region,
        &member.cluster_address,
        &member.smtp_name,
        &member.smtp_address,
    ];
    if texts.iter().any(|text| text.len() > TEXT_OCTETS_MAX) {
        return Err(Status::invalid_argument(format!(
            "a name or address of the node is longer than {TEXT_OCTETS_MAX} octets; the invitation is still good"
        )));
    }
    let secret_hash = hash(&request.secret);
    if !is_invited(cluster, waiting, &token_id, &secret_hash).await? {
        return Err(Status::permission_denied(Refusal::BadToken.to_string()));
    }
    // Before the token is spent; and for nobody who has none.
    authority::check_request(&request.certificate_request)
        .map_err(|e| Status::invalid_argument(format!("{e}; the invitation is still good")))?;
    let deadline = Instant::now() + STEP_TIME_MAX;
    let command = Command::Redeem {
        token_id,
        secret_hash,
        member: member.clone(),
    };
    let reply = cluster.propose(command, deadline).await;
    let node = match reply {
        Ok(Reply::Member(node)) => node,
        Ok(Reply::Refused(Refusal::BadToken)) => {
            return Err(Status::permission_denied(Refusal::BadToken.to_string()));
        }
        Ok(Reply::Refused(Refusal::TryAgain)) => {
            return Err(Status::unavailable(Refusal::TryAgain.to_string()));
        }
        Ok(Reply::Refused(refusal)) => {
            return Err(Status::failed_precondition(refusal.to_string()));
        }
        Ok(other) => return Err(Status::internal(format!("{other:?}"))),
        Err(error) => return Err(Status::unavailable(error.to_string())),
    };
    // What was known before may be an authority that has been retired since.
    let known = known_since(cluster, node).await?;
    let certificate = authority::sign(
        &known.ca_certificate,
        &known.ca_key,
        &request.certificate_request,
        node,
        known.id,
    )
    .map_err(|e| Status::invalid_argument(e.to_string()))?;
    tracing::info!(%node, name = member.name, region = member.region, "a node joined");
    let members = cluster.members().iter().map(member_to_wire).collect();
    Ok(wire::JoinReply {
        cluster_id: known.id.to_vec().into(),
        node_id: node.0,
        certificate: certificate.into(),
        ca_certificate: known.ca_certificate.into(),
        members,
    })
}

fn known(cluster: &Cluster) -> Result<query::Cluster, Status> {
    let known = query::cluster(&cluster.view()).map_err(|e| Status::internal(e.0))?;
    known.ok_or_else(|| Status::unavailable("this node is still catching up"))
}

/// The cluster as it was when it let the node in, or later: the id is the index of the entry that did. From then
/// on no authority is retired before the node has a certificate of the next one.
async fn known_since(cluster: &Cluster, node: NodeId) -> Result<query::Cluster, Status> {
    let mut applied = cluster.0.applied.clone();
    let seen = applied.wait_for(|id| id.is_some_and(|id| id.index >= node.0));
    let is_seen = timeout(SEEN_TIME_MAX, seen)
        .await
        .is_ok_and(|seen| seen.is_ok());
    if is_seen {
        return known(cluster);
    }
    Err(Status::deadline_exceeded(format!(
        "the cluster let it in as node {node}, but this node has not seen that yet and cannot give it a certificate\n\
         fix: remove it (holdfast cluster leave {node}), and join with a new token, at another node"
    )))
}

/// Whether the cluster, as far as this node knows or hears soon, gave that invitation.
async fn is_invited(
    cluster: &Cluster,
    waiting: &Semaphore,
    token_id: &[u8; 16],
    secret_hash: &[u8; 32],
) -> Result<bool, Status> {
    if let Some(invited) = invited(cluster, token_id, secret_hash)? {
        return Ok(invited);
    }
    let Ok(_place) = waiting.try_acquire() else {
        return Err(Status::resource_exhausted(
            "too many others ask to be let in at this node just now; the invitation is still good, try again in a \
             minute",
        ));
    };
    let until = Instant::now() + INVITATION_WAIT;
    while Instant::now() < until {
        sleep(LOOK_EVERY).await;
        if let Some(invited) = invited(cluster, token_id, secret_hash)? {
            return Ok(invited);
        }
    }
    Ok(false)
}

/// Whether an invitation is the one that is known here; `None`: there is none of that name.
fn invited(
    cluster: &Cluster,
    token_id: &[u8; 16],
    secret_hash: &[u8; 32],
) -> Result<Option<bool>, Status> {
    let found = query::invitation(&cluster.view(), token_id);
    let found = found.map_err(|e| Status::internal(e.0))?;
    Ok(found.map(|kept| kept[..] == secret_hash[..]))
}

#[cfg(test)]
mod tests {
    use super::super::clock;
    use super::super::tests::Alone;
    use super::*;

    fn request(token_id: [u8; 16]) -> wire::JoinRequest {
        let (_, certificate_request) = authority::request().unwrap();
        wire::JoinRequest {
            token_id: token_id.to_vec().into(),
            secret: b"secret".to_vec().into(),
            name: "new".into(),
            region: "there".into(),
            cluster_address: "127.0.0.1:1".into(),
            smtp_name: "mx2.example".into(),
            smtp_address: "127.0.0.1:25".into(),
            certificate_request: certificate_request.into(),
            level: u32::MAX,
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_has_no_invitation_waits_in_few_places_and_who_has_one_needs_none() {
        let alone = Alone::start().await;
        let cluster = &alone.cluster;
        let waiting = Semaphore::new(WAITING_MAX);
        let taken = u32::try_from(WAITING_MAX).unwrap();
        let others = waiting.acquire_many(taken).await.unwrap();
        let refused = admit(cluster, &waiting, request([1; 16]))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);

        let invite = Command::Invite {
            token_id: [2; 16],
            secret_hash: hash(b"secret"),
            expires_at: clock::now().plus(Duration::from_secs(60)),
        };
        let invited = cluster.propose(invite, Instant::now() + STEP_TIME_MAX);
        assert!(matches!(invited.await, Ok(Reply::Done)));
        let joined = admit(cluster, &waiting, request([2; 16])).await.unwrap();
        let named = authority::named_node(&joined.certificate);
        assert_eq!(named, Some((NodeId(joined.node_id), cluster.cluster_id())));

        drop(others);
        let refused = admit(cluster, &waiting, request([1; 16]))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), tonic::Code::PermissionDenied);
        alone.close().await;
    }
}

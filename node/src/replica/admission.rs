//! A stranger asks to be let in. Nothing is proposed for whoever has no invitation: anybody may ask.

use std::time::Duration;

use holdfast_ledger::{Command, Member, Refusal, Reply, query};
use holdfast_mail::NodeId;
use holdfast_proto::cluster as wire;
use tokio::time::{Instant, sleep};
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

/// Answers a join request: checks and consumes the token, allocates an id, signs the
/// certificate. Any member can.
pub(crate) async fn admit(
    cluster: &Cluster,
    request: wire::JoinRequest,
) -> Result<wire::JoinReply, Status> {
    let token_id: [u8; 16] = request.token_id[..]
        .try_into()
        .map_err(|_| Status::invalid_argument("a token id has 16 bytes"))?;
    let known = query::cluster(&cluster.view()).map_err(|e| Status::internal(e.0))?;
    let known = known.ok_or_else(|| Status::unavailable("this node is still catching up"))?;
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
    // Before the token is spent.
    authority::check_request(&request.certificate_request)
        .map_err(|e| Status::invalid_argument(format!("{e}; the invitation is still good")))?;
    let secret_hash = hash(&request.secret);
    if !is_invited(cluster, &token_id, &secret_hash).await? {
        return Err(Status::permission_denied(Refusal::BadToken.to_string()));
    }
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

/// Whether the cluster, as far as this node knows or hears soon, gave that invitation.
async fn is_invited(
    cluster: &Cluster,
    token_id: &[u8; 16],
    secret_hash: &[u8; 32],
) -> Result<bool, Status> {
    let until = Instant::now() + INVITATION_WAIT;
    loop {
        let found = query::invitation(&cluster.view(), token_id);
        if let Some(kept) = found.map_err(|e| Status::internal(e.0))? {
            return Ok(kept[..] == secret_hash[..]);
        }
        if Instant::now() >= until {
            return Ok(false);
        }
        sleep(LOOK_EVERY).await;
    }
}

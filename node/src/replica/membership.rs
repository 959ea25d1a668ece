//! Members come and go: invite, admit, promote, leave, hand over leadership.
//!
//! A member becomes one in three steps: the ledger allocates its id (the log index of its
//! `Redeem`), Raft adds it as a learner, and once it has caught up, bodies included, it votes.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use holdfast_ledger::{Command, Member, Refusal, Reply, query};
use holdfast_mail::NodeId;
use holdfast_proto::cluster as wire;
use openraft::ChangeMembers;
use prost::Message;
use tokio::time::Instant;
use tonic::Status;

use super::handle::{Cluster, ProposeError};
use super::types::Seat;
use super::{Identity, random};
use super::{clock, level, replace};
use crate::net::{authority, grpc};

const TOKEN_PREFIX: &str = "holdfast1.";

/// How long a membership step may take before the operator is told that it did not happen.
const STEP_TIME_MAX: Duration = Duration::from_secs(30);

/// How long a learner may take to catch up. It fetches every held body, so this is a matter of
/// bandwidth; the operator may interrupt and resume.
pub(super) const CATCH_UP_TIME_MAX: Duration = Duration::from_secs(6 * 3600);

/// How far behind a learner may be to become a voter, and a voter to be handed leadership: what it
/// lacks is fetched within a moment, and mail that flows meanwhile never lets it be level.
const ENTRIES_BEHIND_MAX: u64 = 64;

/// How often the leader looks for joins that broke off.
const RESUME_EVERY: Duration = Duration::from_secs(5);

/// Why a member could not join or leave.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    #[error("{0}")]
    Refused(String),
    #[error("not a join token: it must begin with {TOKEN_PREFIX} and be copied whole")]
    NotAToken,
    #[error(
        "no node of the cluster answers at {addresses}: {why}. Nothing was changed; check the network and try again"
    )]
    Unreachable { addresses: String, why: String },
    #[error("cannot make a certificate request: {0}")]
    Certificate(String),
}

/// A fresh single-use token; the cluster keeps only its hash.
pub async fn invite(
    cluster: &Cluster,
    ttl: Duration,
    given_by: impl FnOnce(Command) -> Command,
) -> Result<(String, holdfast_mail::Timestamp), MembershipError> {
    let (token_id, secret): ([u8; 16], [u8; 32]) = (random(), random());
    let expires_at = clock::now().plus(ttl);
    let command = Command::Invite {
        token_id,
        secret_hash: hash(&secret),
        expires_at,
    };
    propose(cluster, given_by(command)).await?;
    let pin = |ca: &[u8]| {
        authority::fingerprint(ca).map_err(|e| MembershipError::Certificate(e.to_string()))
    };
    let view = cluster.view();
    let unread = |e: holdfast_ledger::KvError| MembershipError::Refused(e.0);
    let known = query::cluster(&view).map_err(unread)?;
    let known =
        known.ok_or_else(|| MembershipError::Refused("this node is still catching up".into()))?;
    // Made while the authority is rotated, it is good before and after.
    let next = query::rotation(&view).map_err(unread)?;
    let next = next.map(|rotation| rotation.authority.to_vec());
    let token = wire::Token {
        cluster_id: cluster.cluster_id().to_vec().into(),
        ca_fingerprint: pin(&known.ca_certificate)?.to_vec().into(),
        next_ca_fingerprint: next.unwrap_or_default().into(),
        token_id: token_id.to_vec().into(),
        secret: secret.to_vec().into(),
        addresses: cluster
            .members()
            .into_iter()
            .map(|m| m.cluster_address)
            .collect(),
    };
    Ok((
        format!(
            "{TOKEN_PREFIX}{}",
            URL_SAFE_NO_PAD.encode(token.encode_to_vec())
        ),
        expires_at,
    ))
}

fn hash(secret: &[u8]) -> [u8; 32] {
    *blake3::hash(secret).as_bytes()
}

async fn propose(cluster: &Cluster, command: Command) -> Result<Reply, MembershipError> {
    match cluster
        .propose(command, Instant::now() + STEP_TIME_MAX)
        .await
    {
        Ok(Reply::Refused(refusal)) => Err(MembershipError::Refused(refusal.to_string())),
        Ok(reply) => Ok(reply),
        Err(ProposeError::NotProposed(why)) => Err(MembershipError::Refused(format!(
            "{why}; nothing was changed, try again"
        ))),
        Err(ProposeError::Unknown(why)) => Err(MembershipError::Refused(format!(
            "{why}; it may or may not have happened: look at the status before trying again"
        ))),
    }
}

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
    let deadline = Instant::now() + STEP_TIME_MAX;
    let command = Command::Redeem {
        token_id,
        secret_hash: hash(&request.secret),
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

pub(crate) fn member_to_wire(member: &Member) -> wire::Member {
    wire::Member {
        id: member.id.0,
        name: member.name.clone(),
        region: member.region.clone(),
        cluster_address: member.cluster_address.clone(),
        smtp_name: member.smtp_name.clone(),
        smtp_address: member.smtp_address.clone(),
    }
}

/// Redeems a token: talks to nobody whose CA is not the one the token names.
/// `member.id` is ignored; the cluster allocates it. Returns this node's identity and where
/// the other members are.
pub async fn redeem(
    token: &str,
    member: &Member,
) -> Result<(Identity, Vec<wire::Member>), MembershipError> {
    let token = token
        .trim()
        .strip_prefix(TOKEN_PREFIX)
        .and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
        .and_then(|bytes| wire::Token::decode(&bytes[..]).ok())
        .ok_or(MembershipError::NotAToken)?;
    let fingerprint: [u8; 32] = token.ca_fingerprint[..]
        .try_into()
        .map_err(|_| MembershipError::NotAToken)?;
    let cluster_id: [u8; 16] = token.cluster_id[..]
        .try_into()
        .map_err(|_| MembershipError::NotAToken)?;
    let (key, certificate_request) =
        authority::request().map_err(|e| MembershipError::Certificate(e.to_string()))?;
    let pins = std::iter::once(fingerprint).chain(token.next_ca_fingerprint[..].try_into());
    let client = crate::net::tls::pinned_client(pins.collect())
        .map_err(|e| MembershipError::Certificate(e.to_string()))?;
    let request = wire::JoinRequest {
        token_id: token.token_id.clone(),
        secret: token.secret.clone(),
        name: member.name.clone(),
        region: member.region.clone(),
        cluster_address: member.cluster_address.clone(),
        smtp_name: member.smtp_name.clone(),
        smtp_address: member.smtp_address.clone(),
        certificate_request: certificate_request.into(),
        level: level::known(),
    };
    let mut why = String::from("the token names no address");
    let mut in_doubt = false;
    for address in &token.addresses {
        let channel = grpc::channel(address, "join.holdfast.internal", &client);
        let mut members = wire::members_client::MembersClient::new(channel);
        let reply = tokio::time::timeout(STEP_TIME_MAX * 2, members.join(request.clone())).await;
        match reply {
            Ok(Ok(reply)) => {
                let reply = reply.into_inner();
                if reply.cluster_id[..] != cluster_id[..] {
                    return Err(MembershipError::Refused(
                        "the node that answered belongs to another cluster than the token".into(),
                    ));
                }
                let identity = Identity {
                    cluster_id,
                    node_id: NodeId(reply.node_id),
                    incarnation: random(),
                    certificate: reply.certificate.to_vec(),
                    key,
                    ca_certificate: reply.ca_certificate.to_vec(),
                };
                return Ok((identity, reply.members));
            }
            Ok(Err(status)) => match status.code() {
                tonic::Code::Unavailable | tonic::Code::Unknown => why = status.message().into(),
                tonic::Code::PermissionDenied if in_doubt => {
                    return Err(MembershipError::Refused(format!(
                        "{}. An earlier request of this join was not answered and may have used it: if \
                         `holdfast cluster status` shows {} as joining, remove it with `holdfast cluster leave {}` \
                         and join with a new token",
                        status.message(),
                        member.name,
                        member.name
                    )));
                }
                _ => return Err(MembershipError::Refused(status.message().into())),
            },
            Err(_) => {
                in_doubt = true;
                why = format!("{address} did not answer in time");
            }
        }
    }
    Err(MembershipError::Unreachable {
        addresses: token.addresses.join(", "),
        why,
    })
}

/// A membership step that only the leader can do.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Promote(NodeId),
    Remove(NodeId),
    /// Let that node lead, or whoever is most up to date.
    HandOver(Option<NodeId>),
    Replace {
        dead: NodeId,
        new: NodeId,
    },
}

/// Makes a joined node a learner and then a voter. Called on the node itself, which knows no
/// leader yet: it asks the `members` it was told of.
pub async fn promote(cluster: &Cluster, members: &[wire::Member]) -> Result<(), MembershipError> {
    for member in members {
        cluster.0.peers.learn(member.id, &member.cluster_address);
    }
    let others = members
        .iter()
        .map(|m| m.id)
        .filter(|id| *id != cluster.me().id.0)
        .collect();
    at_leader(
        cluster,
        Step::Promote(cluster.me().id),
        others,
        CATCH_UP_TIME_MAX,
    )
    .await
}

/// Removes a member: its leadership and leases move first.
pub async fn leave(cluster: &Cluster, node: NodeId) -> Result<(), MembershipError> {
    let others = cluster.members().iter().map(|m| m.id.0).collect();
    at_leader(cluster, Step::Remove(node), others, STEP_TIME_MAX * 4).await
}

pub(super) async fn at_leader(
    cluster: &Cluster,
    step: Step,
    others: Vec<u64>,
    limit: Duration,
) -> Result<(), MembershipError> {
    let deadline = Instant::now() + limit;
    let mut turn = 0;
    let mut next = cluster.leader().map(|node| node.0);
    loop {
        let target = next.unwrap_or_else(|| {
            turn += 1;
            others
                .get(turn % others.len().max(1))
                .copied()
                .unwrap_or(cluster.me().id.0)
        });
        let outcome = if target == cluster.me().id.0 {
            match step {
                Step::Promote(node) => promote_here(cluster, node).await,
                Step::Remove(node) => remove_here(cluster, node).await,
                Step::HandOver(to) => hand_over_here(cluster, to).await,
                Step::Replace { dead, new } => replace::replace_here(cluster, dead, new).await,
            }
        } else {
            ask(cluster, step, target).await
        };
        let why = match outcome {
            Ok(()) => return Ok(()),
            Err(NotDone::Refused(why)) => return Err(MembershipError::Refused(why)),
            Err(NotDone::AskLeader(leader)) => {
                next = leader;
                "no node leads".to_owned()
            }
            Err(NotDone::NoAnswer(why)) => {
                next = None;
                why
            }
        };
        if Instant::now() >= deadline {
            return Err(MembershipError::Refused(format!(
                "{why}; nothing was changed, try again when the cluster has a leader"
            )));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// Why a step was not done here.
pub(crate) enum NotDone {
    Refused(String),
    AskLeader(Option<u64>),
    NoAnswer(String),
}

async fn ask(cluster: &Cluster, step: Step, target: u64) -> Result<(), NotDone> {
    let no_address = || NotDone::NoAnswer(format!("the address of node {target} is not known"));
    let mut client = cluster.0.peers.members(target).ok_or_else(no_address)?;
    let envelope = cluster.0.peers.envelope(target);
    let reply = match step {
        Step::Promote(node) => {
            client
                .promote(wire::PromoteRequest {
                    envelope,
                    node_id: node.0,
                })
                .await
        }
        Step::Remove(node) => {
            client
                .leave(wire::LeaveRequest {
                    envelope,
                    node_id: node.0,
                })
                .await
        }
        Step::HandOver(to) => {
            client
                .hand_over(wire::LeaveRequest {
                    envelope,
                    node_id: to.map_or(0, |node| node.0),
                })
                .await
        }
        Step::Replace { dead, new } => {
            client
                .replace(wire::ReplaceRequest {
                    envelope,
                    dead: dead.0,
                    new: new.0,
                })
                .await
        }
    };
    match reply.map(tonic::Response::into_inner) {
        Ok(reply) if reply.not_leader => Err(NotDone::AskLeader(
            (reply.leader != 0).then_some(reply.leader),
        )),
        Ok(reply) if reply.refused.is_empty() => Ok(()),
        Ok(reply) => Err(NotDone::Refused(reply.refused)),
        Err(status) if status.code() == tonic::Code::PermissionDenied => {
            Err(NotDone::Refused(status.message().into()))
        }
        Err(status) if status.code() == tonic::Code::Unimplemented => {
            Err(NotDone::Refused(format!(
                "node {target} leads and runs an older version that cannot do this; nothing was changed. Upgrade it first"
            )))
        }
        Err(status) => Err(NotDone::NoAnswer(format!(
            "node {target}: {}",
            status.message()
        ))),
    }
}

/// How a step that was asked for over the network is answered.
pub(crate) fn reply(outcome: Result<(), NotDone>) -> wire::MembershipReply {
    match outcome {
        Ok(()) => wire::MembershipReply::default(),
        Err(NotDone::Refused(refused)) => wire::MembershipReply {
            refused,
            ..wire::MembershipReply::default()
        },
        Err(NotDone::AskLeader(leader)) => wire::MembershipReply {
            not_leader: true,
            leader: leader.unwrap_or(0),
            ..wire::MembershipReply::default()
        },
        Err(NotDone::NoAnswer(_)) => wire::MembershipReply {
            not_leader: true,
            ..wire::MembershipReply::default()
        },
    }
}

pub(super) fn must_lead(cluster: &Cluster) -> Result<(), NotDone> {
    match cluster.leader() {
        Some(leader) if leader == cluster.me().id => Ok(()),
        leader => Err(NotDone::AskLeader(leader.map(|node| node.0))),
    }
}

pub(super) fn voters(cluster: &Cluster) -> BTreeSet<u64> {
    cluster.0.raft.voter_ids().collect()
}

/// Finishes joins that broke off: the request to become a voter dies with the node that sent it
/// and with the leader that served it, but the ledger knows who joined.
pub(crate) async fn resume_promotions(cluster: Cluster) {
    loop {
        tokio::time::sleep(RESUME_EVERY).await;
        if must_lead(&cluster).is_err() {
            continue;
        }
        replace::finish_joint(&cluster).await;
        let voters = voters(&cluster);
        let joined = cluster.members().into_iter();
        for member in joined.filter(|member| !voters.contains(&member.id.0)) {
            let node = member.id;
            cluster.0.peers.learn(node.0, &member.cluster_address);
            // One that does not answer may never have started; one that retires is leaving.
            if !cluster
                .ask_standing(node.0)
                .await
                .is_ok_and(|it| !it.retiring)
            {
                continue;
            }
            let cluster = cluster.clone();
            tokio::spawn(async move {
                if let Err(NotDone::Refused(why)) = promote_here(&cluster, node).await {
                    tracing::warn!(%node, "it does not become a voter: {why}");
                }
            });
        }
    }
}

/// A node being made a voter: one task at a time.
struct Promoting<'a>(&'a Cluster, NodeId);

impl<'a> Promoting<'a> {
    fn begin(cluster: &'a Cluster, node: NodeId) -> Option<Self> {
        let mut promoting = lock(&cluster.0.promoting);
        // Lazily: one made in vain would undo the other's entry when it is dropped.
        promoting.insert(node.0).then(|| Self(cluster, node))
    }
}

impl Drop for Promoting<'_> {
    fn drop(&mut self) {
        lock(&self.0.0.promoting).remove(&self.1.0);
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) async fn promote_here(cluster: &Cluster, node: NodeId) -> Result<(), NotDone> {
    must_lead(cluster)?;
    if voters(cluster).contains(&node.0) {
        return Ok(());
    }
    let Some(_alone) = Promoting::begin(cluster, node) else {
        return Err(NotDone::AskLeader(Some(cluster.me().id.0)));
    };
    let find = || cluster.members().into_iter().find(|m| m.id == node);
    let member = find().ok_or_else(|| {
        NotDone::Refused(format!(
            "node {node} is not a member; it must join with a token first"
        ))
    })?;
    let seat = Seat {
        name: member.name,
        region: member.region,
        cluster_address: member.cluster_address,
    };
    let raft = &cluster.0.raft;
    let unfinished = |e: &dyn std::fmt::Display| {
        tracing::info!(%node, "promotion interrupted: {e}");
        NotDone::AskLeader(None)
    };
    raft.add_learner(node.0, seat, false)
        .await
        .map_err(|e| unfinished(&e))?;
    let deadline = Instant::now() + CATCH_UP_TIME_MAX;
    loop {
        let all = cluster.standing().last_log.unwrap_or_default().index;
        match cluster.ask_newcomer(node.0).await {
            Ok(standing) => {
                let have = standing.last_log.unwrap_or_default().index;
                if have + ENTRIES_BEHIND_MAX >= all && standing.bodies_missing == 0 {
                    break;
                }
                tracing::debug!(%node, have, all, missing = standing.bodies_missing, "a learner catches up");
            }
            Err(why) => tracing::info!(%node, "a learner does not answer: {why}"),
        }
        must_lead(cluster)?;
        if find().is_none() {
            return Err(NotDone::Refused(format!("node {node} left meanwhile")));
        }
        if Instant::now() >= deadline {
            return Err(NotDone::Refused(format!(
                "node {node} did not catch up in time; it goes on, and votes as soon as it has"
            )));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let (change, retain) = replace::admission(cluster, node).await;
    raft.change_membership(change, retain)
        .await
        .map_err(|e| unfinished(&e))?;
    tracing::info!(%node, "a node votes now");
    Ok(())
}

pub(crate) async fn remove_here(cluster: &Cluster, node: NodeId) -> Result<(), NotDone> {
    must_lead(cluster)?;
    cluster.must_not_rehearse().map_err(NotDone::Refused)?;
    let raft = &cluster.0.raft;
    let all = voters(cluster);
    let learner = raft.learner_ids().any(|id| id == node.0);
    let known = cluster.members().iter().any(|m| m.id == node);
    let name = name_of(cluster, node);
    if !all.contains(&node.0) && !learner && !known {
        return Err(NotDone::Refused(format!(
            "{name} is not a member; nothing was changed\nfix: see who is: holdfast cluster status"
        )));
    }
    let remaining: Vec<u64> = all.iter().copied().filter(|id| *id != node.0).collect();
    if remaining.is_empty() {
        return Err(NotDone::Refused(
            "it is the only node: without it no mail could be held; nothing was changed\nfix: let another node join \
             first: holdfast cluster invite"
                .into(),
        ));
    }
    let answers = remaining.iter().map(|id| async move {
        *id == cluster.me().id.0 || cluster.ask_standing(*id).await.is_ok()
    });
    let answers = futures::future::join_all(answers).await;
    let silent: Vec<String> = remaining
        .iter()
        .zip(answers)
        .filter(|(_, answers)| !answers)
        .map(|(id, _)| name_of(cluster, NodeId(*id)))
        .collect();
    let alive = remaining.len() - silent.len();
    let quorum = remaining.len() / 2 + 1;
    if alive < quorum {
        let silent = silent.join(", ");
        return Err(NotDone::Refused(format!(
            "{silent} does not answer: without {name} only {alive} of {} voters would answer, and {quorum} are needed \
             to accept mail. Nothing was changed\nfix: bring back {silent} first, and then try again",
            remaining.len()
        )));
    }
    if node == cluster.me().id {
        // The next leader removes us; the caller asks it.
        transfer(cluster, None)
            .await
            .map_err(|e| NotDone::Refused(e.to_string()))?;
        return Err(NotDone::AskLeader(cluster.leader().map(|leader| leader.0)));
    }
    retire(cluster, node).await;
    take_out(cluster, node).await
}

/// The voters do without it, and then every node refuses it.
pub(super) async fn take_out(cluster: &Cluster, node: NodeId) -> Result<(), NotDone> {
    let raft = &cluster.0.raft;
    let learner = raft.learner_ids().any(|id| id == node.0);
    let unfinished = |e: &dyn std::fmt::Display| {
        tracing::info!(%node, "removal interrupted: {e}");
        NotDone::AskLeader(None)
    };
    if voters(cluster).contains(&node.0) {
        let change = ChangeMembers::RemoveVoters(BTreeSet::from([node.0]));
        raft.change_membership(change, false)
            .await
            .map_err(|e| unfinished(&e))?;
    } else if learner {
        let change = ChangeMembers::RemoveNodes(BTreeSet::from([node.0]));
        raft.change_membership(change, false)
            .await
            .map_err(|e| unfinished(&e))?;
    }
    propose(cluster, Command::RemoveMember { node })
        .await
        .map_err(|e| NotDone::Refused(e.to_string()))?;
    tracing::info!(%node, "a node left");
    Ok(())
}

/// Asks a node to hand back its leases, and waits a little for it. A node that does not answer
/// loses them when they expire.
async fn retire(cluster: &Cluster, node: NodeId) {
    let Some(mut client) = cluster.0.peers.members(node.0) else {
        return;
    };
    let request = wire::StandingRequest {
        envelope: cluster.0.peers.envelope(node.0),
        ..wire::StandingRequest::default()
    };
    let limit = Duration::from_secs(15);
    match tokio::time::timeout(limit, client.retire(request)).await {
        Ok(Ok(_)) => {}
        Ok(Err(status)) => tracing::info!(%node, "it does not retire: {}", status.message()),
        Err(_) => tracing::info!(%node, "it takes too long to retire; its leases expire"),
    }
}

/// Lets `to` lead, or the voter that has most of the log. Any node can be asked.
pub async fn hand_over(cluster: &Cluster, to: Option<NodeId>) -> Result<(), MembershipError> {
    let others = cluster.members().iter().map(|m| m.id.0).collect();
    at_leader(cluster, Step::HandOver(to), others, STEP_TIME_MAX).await
}

pub(crate) async fn hand_over_here(cluster: &Cluster, to: Option<NodeId>) -> Result<(), NotDone> {
    must_lead(cluster)?;
    let handed = transfer(cluster, to).await;
    handed
        .map(drop)
        .map_err(|e| NotDone::Refused(e.to_string()))
}

/// Who would lead after the leader: `to`, or the voter that has most of the log. A drained node never, and
/// none that could not win at once: whoever hands over takes nothing more until somebody is elected, so
/// that a dead heir would be a gap of our own making.
pub async fn heir(cluster: &Cluster, to: Option<NodeId>) -> Result<NodeId, MembershipError> {
    let refuse = |why: String| Err(MembershipError::Refused(why));
    let leader = cluster.leader();
    if let Some(node) = to {
        let name = name_of(cluster, node);
        if !voters(cluster).contains(&node.0) {
            return refuse(format!(
                "{name} is no voter; nothing was changed\nfix: {OTHER_HEIR}"
            ));
        }
        if cluster.drained_since(node).is_some() {
            return refuse(format!(
                "{name} is drained; nothing was changed\nfix: {OTHER_HEIR}; or give it its duties back first: \
                 holdfast node undrain {name}"
            ));
        }
        if leader == to {
            return Ok(node);
        }
    }
    let standings = cluster.standings().await;
    let last = |standing: &wire::Standing| standing.last_log.as_ref().map_or(0, |log| log.index);
    let newest = standings
        .iter()
        .filter_map(|(_, standing, ..)| standing.as_ref().ok().map(last))
        .max()
        .unwrap_or(0);
    let on_duty = cluster.on_duty();
    let (mut best, mut weak) = (None, Vec::new());
    for (place, standing, ..) in &standings {
        let is_asked_for = to.is_none_or(|node| node == place.id);
        let may = place.voter && Some(place.id) != leader && on_duty.contains(&place.id);
        if !is_asked_for || !may {
            continue;
        }
        match (weakness(standing, newest), standing) {
            (None, Ok(standing)) => best = best.max(Some((last(standing), place.id))),
            (why, _) => weak.push(format!("{} {}", place.name, why.unwrap_or_default())),
        }
    }
    match (best, to) {
        (Some((_, node)), _) => Ok(node),
        (None, Some(_)) => refuse(format!(
            "{}, and no mail would be taken until somebody else is elected; nothing was changed\nfix: {OTHER_HEIR}",
            weak.join(", ")
        )),
        (None, None) if weak.is_empty() => refuse(
            "there is no other voter that is not drained; nothing was changed\nfix: let another node join \
             (holdfast cluster invite), or give one its duties back (holdfast node undrain NODE)"
                .into(),
        ),
        (None, None) => refuse(format!(
            "no other voter can lead now: {}; nothing was changed\nfix: bring them back, and wait until they are \
             level: holdfast cluster status",
            weak.join(", ")
        )),
    }
}

/// What to do where a node cannot lead.
const OTHER_HEIR: &str =
    "name another node, or none: `holdfast cluster transfer-leader` then chooses one that can";

/// Why a voter had better not lead now, if so.
fn weakness(standing: &Result<wire::Standing, String>, newest: u64) -> Option<String> {
    match standing {
        Err(why) => Some(format!("does not answer ({why})")),
        Ok(it) if it.retiring => Some("is leaving".to_owned()),
        Ok(it) => {
            let applied = it.applied.as_ref().map_or(0, |log| log.index);
            let behind = newest.saturating_sub(applied);
            (behind > ENTRIES_BEHIND_MAX).then(|| format!("is still {behind} entries behind"))
        }
    }
}

fn name_of(cluster: &Cluster, node: NodeId) -> String {
    let mut members = cluster.members().into_iter();
    let known = members.find(|member| member.id == node);
    known.map_or_else(|| format!("node {node}"), |member| member.name)
}

/// Hands leadership to `to`, or to the voter that has most of the log. Only the leader can.
pub async fn transfer(cluster: &Cluster, to: Option<NodeId>) -> Result<NodeId, MembershipError> {
    let me = cluster.me().id.0;
    let refuse = |why: String| Err(MembershipError::Refused(why));
    if cluster.leader() != Some(NodeId(me)) {
        return refuse("this node does not lead; nothing was changed".into());
    }
    let target = heir(cluster, to).await?.0;
    if target == me {
        return Ok(NodeId(me));
    }
    let stopped = |e: &dyn std::fmt::Display| MembershipError::Refused(e.to_string());
    cluster
        .0
        .raft
        .trigger()
        .transfer_leader(target)
        .await
        .map_err(|e| stopped(&e))?;
    let deadline = Instant::now() + STEP_TIME_MAX;
    while cluster.leader().is_none_or(|leader| leader.0 == me) {
        if Instant::now() >= deadline {
            return refuse("leadership did not move; the cluster goes on as it was".into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(cluster.leader().unwrap_or(NodeId(target)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_handed_leadership_who_could_not_take_it_at_once() {
        let at = |applied: u64| {
            let applied = Some(wire::LogId {
                index: applied,
                ..wire::LogId::default()
            });
            let standing = wire::Standing {
                applied,
                ..wire::Standing::default()
            };
            weakness(&Ok(standing), 1_000)
        };
        assert_eq!(at(1_000), None);
        // Mail flows meanwhile.
        assert_eq!(at(1_000 - ENTRIES_BEHIND_MAX), None);
        assert_eq!(at(500).as_deref(), Some("is still 500 entries behind"));
        let leaving = wire::Standing {
            retiring: true,
            ..wire::Standing::default()
        };
        assert_eq!(weakness(&Ok(leaving), 0).as_deref(), Some("is leaving"));
        let silent = Err("no answer within 2 s".to_owned());
        assert_eq!(
            weakness(&silent, 0).as_deref(),
            Some("does not answer (no answer within 2 s)")
        );
    }
}

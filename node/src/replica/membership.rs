//! Members come and go: invite, admit, promote, leave, hand over leadership.
//!
//! A member becomes one in three steps: the ledger allocates its id (the log index of its
//! `Redeem`), Raft adds it as a learner, and once it has caught up, bodies included, it votes.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use holdfast_ledger::{Command, Member, Reply, query};
use holdfast_mail::NodeId;
use holdfast_proto::cluster as wire;
use openraft::ChangeMembers;
use prost::Message;
use tokio::time::Instant;

use super::handle::{Cluster, ProposeError, Stands};
use super::types::Seat;
use super::{Identity, random};
use super::{clock, level, replace};
use crate::net::{authority, grpc};

const TOKEN_PREFIX: &str = "holdfast1.";

/// How long a membership step may take before the operator is told that it did not happen.
pub(super) const STEP_TIME_MAX: Duration = Duration::from_secs(30);

/// How long a learner may take to catch up. It fetches every held body, so this is a matter of
/// bandwidth; the operator may interrupt and resume.
pub(super) const CATCH_UP_TIME_MAX: Duration = Duration::from_secs(6 * 3600);

/// How far behind a learner may be to become a voter, and a voter to be handed leadership or to be counted on
/// when another leaves: what it lacks is fetched within a moment, and mail that flows meanwhile never lets it be
/// level.
const ENTRIES_BEHIND_MAX: u64 = 64;

/// How often the leader looks for joins that broke off.
const RESUME_EVERY: Duration = Duration::from_secs(5);

/// For so long a node asks again to be let in where too many others ask, with pauses.
const TURNED_AWAY_TIME_MAX: Duration = Duration::from_secs(60);
const TURNED_AWAY_PAUSE: Duration = Duration::from_secs(1);

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
    /// A request was sent, and not answered.
    #[error("{0}")]
    InDoubt(String),
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

pub(super) fn hash(secret: &[u8]) -> [u8; 32] {
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
    let mut turned_away = None;
    let ask_again_until = Instant::now() + TURNED_AWAY_TIME_MAX;
    let mut addresses: VecDeque<&String> = token.addresses.iter().collect();
    while let Some(address) = addresses.pop_front() {
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
                tonic::Code::ResourceExhausted => {
                    turned_away = Some(status.message().to_owned());
                    if Instant::now() < ask_again_until {
                        addresses.push_back(address);
                        tokio::time::sleep(TURNED_AWAY_PAUSE).await;
                    }
                }
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
    if in_doubt {
        return Err(MembershipError::InDoubt(format!(
            "{why}; the token may be used up\nfix: where `holdfast cluster status` shows {name} as joining, remove it \
             with `holdfast cluster leave {name}`; then join with a new token",
            name = member.name
        )));
    }
    if let Some(why) = turned_away {
        return Err(MembershipError::Refused(why));
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
    // A node was asked and did not say what came of it.
    let mut in_doubt = false;
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
            Err(NotDone::Refused(_)) if in_doubt && is_removed(cluster, step) => return Ok(()),
            Err(NotDone::Refused(why)) => return Err(MembershipError::Refused(why)),
            Err(NotDone::AskLeader(leader)) => {
                next = leader;
                "no node leads".to_owned()
            }
            Err(NotDone::NotAsked(why)) => {
                next = None;
                why
            }
            Err(NotDone::NoAnswer(why)) => {
                next = None;
                in_doubt = true;
                why
            }
        };
        if Instant::now() >= deadline && in_doubt {
            return Err(MembershipError::InDoubt(format!(
                "{why}; it may still be done, and nothing is lost\nfix: look at `holdfast cluster status` before \
                 trying again"
            )));
        }
        if Instant::now() >= deadline {
            return Err(MembershipError::Refused(format!(
                "{why}; nothing was changed, try again when the cluster has a leader"
            )));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// Whether it was a removal, and is done.
fn is_removed(cluster: &Cluster, step: Step) -> bool {
    let known = |node| cluster.members().iter().any(|member| member.id == node);
    matches!(step, Step::Remove(node) if !known(node) && !voters(cluster).contains(&node.0))
}

/// Why a step was not done here.
pub(crate) enum NotDone {
    Refused(String),
    AskLeader(Option<u64>),
    /// Nothing was sent.
    NotAsked(String),
    NoAnswer(String),
}

async fn ask(cluster: &Cluster, step: Step, target: u64) -> Result<(), NotDone> {
    let no_address = || NotDone::NotAsked(format!("the address of node {target} is not known"));
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
        Err(NotDone::NotAsked(_) | NotDone::NoAnswer(_)) => wire::MembershipReply {
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
        take_out_removed(&cluster).await;
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

/// Takes learners out that the ledger knows as removed. A leader that had not applied the removal yet may have
/// added one again when it asked; it is no member, so that no command reaches it.
async fn take_out_removed(cluster: &Cluster) {
    let removed = removed_learners(cluster);
    if removed.is_empty() {
        return;
    }
    let nodes = format!("{removed:?}");
    let change = ChangeMembers::RemoveNodes(removed);
    // Refused while another change is under way: the next round does it.
    match cluster.0.raft.change_membership(change, false).await {
        Ok(_) => tracing::info!(nodes, "removed nodes are no learners any more"),
        Err(error) => tracing::debug!(nodes, "removed nodes are still learners: {error}"),
    }
}

fn removed_learners(cluster: &Cluster) -> BTreeSet<u64> {
    let view = cluster.view();
    let is_removed = |id: &u64| {
        query::is_removed(&view, NodeId(*id)).unwrap_or_else(|error| {
            tracing::error!("cannot read who was removed: {}", error.0);
            false
        })
    };
    cluster.0.raft.learner_ids().filter(is_removed).collect()
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
        must_lead(cluster)?;
        // What was logged before the learner's own entry is applied by now: a removal, too, that a leader
        // before this one left behind.
        if find().is_none() {
            return Err(NotDone::Refused(format!("node {node} left meanwhile")));
        }
        match has_caught_up(cluster, node).await {
            Ok(true) => break,
            Ok(false) => {}
            Err(why) => tracing::info!(%node, "a learner does not answer: {why}"),
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

/// Whether a learner has what a voter needs: nearly all of the log, and every body.
async fn has_caught_up(cluster: &Cluster, node: NodeId) -> Result<bool, String> {
    // Bodies are counted only then: it takes long.
    if !is_level(cluster, node).await? {
        return Ok(false);
    }
    let missing = cluster.ask_what_it_lacks(node.0).await?.bodies_missing;
    if missing > 0 {
        tracing::debug!(%node, missing, "a learner fetches bodies");
        return Ok(false);
    }
    // The others may have gone on meanwhile.
    is_level(cluster, node).await
}

async fn is_level(cluster: &Cluster, node: NodeId) -> Result<bool, String> {
    let all = last_index(&cluster.standing());
    let have = last_index(&cluster.ask_newcomer(node.0).await?);
    tracing::debug!(%node, have, all, "a learner catches up");
    Ok(have + ENTRIES_BEHIND_MAX >= all)
}

pub(crate) async fn remove_here(cluster: &Cluster, node: NodeId) -> Result<(), NotDone> {
    must_lead(cluster)?;
    cluster.must_not_rehearse().map_err(NotDone::Refused)?;
    let learner = cluster.0.raft.learner_ids().any(|id| id == node.0);
    let known = cluster.members().iter().any(|m| m.id == node);
    if !voters(cluster).contains(&node.0) && !learner && !known {
        return Err(NotDone::Refused(format!(
            "{} is not a member; nothing was changed\nfix: see who is: holdfast cluster status",
            name_of(cluster, node)
        )));
    }
    may_go(cluster, node).await.map_err(NotDone::Refused)?;
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

/// Whether the cluster can do without a node; why not, and what to do first. A change of the voters cannot be
/// taken back: whoever is left has to commit it.
pub(crate) async fn may_go(cluster: &Cluster, node: NodeId) -> Result<(), String> {
    let standings = cluster.standings().await;
    let newest = newest(&standings);
    let votes = voters(cluster).contains(&node.0);
    // One that could not be counted on itself is no loss, whoever else cannot.
    let is_sound = standings.iter().any(|(place, standing, ..)| {
        place.id == node && Trouble::of(&place.name, standing, newest).is_none()
    });
    let left = standings
        .iter()
        .filter(|(place, ..)| place.voter && place.id != node);
    let left: Vec<Option<Trouble>> = left
        .map(|(place, standing, ..)| {
            // One that does not vote leaves as many as there were, be they slow.
            let matters = votes && is_sound || standing.is_err();
            Trouble::of(&place.name, standing, newest).filter(|_| matters)
        })
        .collect();
    can_go_on(&name_of(cluster, node), &left)
}

/// Why a voter cannot be counted on, and what mends that.
struct Trouble {
    what: String,
    mend: String,
}

impl Trouble {
    fn of(name: &str, standing: &Result<wire::Standing, String>, newest: u64) -> Option<Self> {
        let (what, mend) = match (standing, weakness(standing, newest)) {
            // One that is full waits with its log, so that it is behind, too.
            (Ok(it), _) if it.disk_low => (
                format!("{name}'s disk is nearly full"),
                format!("make room on {name}"),
            ),
            (_, None) => return None,
            (Err(_), Some(why)) => (format!("{name} {why}"), format!("bring back {name}")),
            (Ok(it), Some(why)) if it.retiring => (
                format!("{name} {why}"),
                format!("wait until {name} has left, or takes part again"),
            ),
            (Ok(_), Some(why)) => (
                format!("{name} {why}"),
                format!("wait until {name} has caught up (holdfast cluster status)"),
            ),
        };
        Some(Self { what, mend })
    }
}

/// Whether the voters that are `left` are a quorum of themselves, without those that have a trouble.
fn can_go_on(without: &str, left: &[Option<Trouble>]) -> Result<(), String> {
    if left.is_empty() {
        return Err(
            "it is the only node: without it no mail could be held; nothing was changed\nfix: let another node join \
             first: holdfast cluster invite"
                .to_owned(),
        );
    }
    let troubles: Vec<&Trouble> = left.iter().flatten().collect();
    let (all, quorum) = (left.len(), left.len() / 2 + 1);
    let good = all - troubles.len();
    if good >= quorum {
        return Ok(());
    }
    let what: Vec<&str> = troubles.iter().map(|it| it.what.as_str()).collect();
    let mend: Vec<&str> = troubles.iter().map(|it| it.mend.as_str()).collect();
    Err(format!(
        "{}: without {without} only {good} of {all} voters could be counted on, and {quorum} are needed to accept \
         mail. Nothing was changed\nfix: {}; then try again",
        what.join(", "),
        mend.join(", ")
    ))
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
    let newest = newest(&standings);
    let on_duty = cluster.on_duty();
    let (mut best, mut weak) = (None, Vec::new());
    for (place, standing, ..) in &standings {
        let is_asked_for = to.is_none_or(|node| node == place.id);
        let may = place.voter && Some(place.id) != leader && on_duty.contains(&place.id);
        if !is_asked_for || !may {
            continue;
        }
        match (weakness(standing, newest), standing) {
            (None, Ok(standing)) => best = best.max(Some((last_index(standing), place.id))),
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

fn last_index(standing: &wire::Standing) -> u64 {
    standing.last_log.as_ref().map_or(0, |log| log.index)
}

/// The last entry that any of them has.
fn newest(standings: &[Stands]) -> u64 {
    let told = standings
        .iter()
        .filter_map(|(_, standing, ..)| standing.as_ref().ok());
    told.map(last_index).max().unwrap_or(0)
}

/// Why a voter had better not lead now, nor be counted on, if so.
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
    use super::super::tests::Alone;
    use super::*;

    fn standing(applied: u64) -> wire::Standing {
        wire::Standing {
            applied: Some(wire::LogId {
                index: applied,
                ..wire::LogId::default()
            }),
            ..wire::Standing::default()
        }
    }

    #[test]
    fn nobody_leaves_whose_going_would_stop_the_cluster_and_it_is_said_what_to_do_first() {
        let left = |n3: Result<wire::Standing, String>| {
            let both = [("n2", Ok(standing(990))), ("n3", n3)];
            can_go_on("n1", &both.map(|(name, it)| Trouble::of(name, &it, 1_000)))
        };
        assert_eq!(left(Ok(standing(1_000))), Ok(()));
        let low = wire::Standing {
            disk_low: true,
            ..standing(500)
        };
        let leaving = wire::Standing {
            retiring: true,
            ..standing(1_000)
        };
        for (n3, what, mend) in [
            (
                Err("no answer".to_owned()),
                "n3 does not answer",
                "bring back n3",
            ),
            (
                Ok(standing(500)),
                "n3 is still 500 entries behind",
                "wait until n3 has caught up",
            ),
            (Ok(low), "n3's disk is nearly full", "make room on n3"),
            (Ok(leaving), "n3 is leaving", "wait until n3 has left"),
        ] {
            let why = left(n3).unwrap_err();
            assert!(why.starts_with(what), "{why}");
            assert!(
                why.contains("without n1 only 1 of 2 voters could be counted on, and 2 are needed"),
                "{why}"
            );
            assert!(why.contains(&format!("\nfix: {mend}")), "{why}");
        }
        let why = can_go_on("n1", &[]).unwrap_err();
        assert!(why.contains("\nfix: let another node join"), "{why}");
        // Two of three are enough.
        let dead = Trouble::of("n4", &Err(String::new()), 0);
        assert_eq!(can_go_on("n1", &[None, None, dead]), Ok(()));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_removed_node_does_not_stay_a_learner_by_a_leader_that_did_not_know_it_yet() {
        let alone = Alone::start().await;
        let cluster = &alone.cluster;
        let (token_id, secret_hash) = ([1; 16], hash(b"secret"));
        let invite = Command::Invite {
            token_id,
            secret_hash,
            expires_at: clock::now().plus(Duration::from_secs(60)),
        };
        propose(cluster, invite).await.unwrap();
        let member = Member {
            name: "gone".into(),
            cluster_address: "127.0.0.1:1".into(),
            ..cluster.me().clone()
        };
        let redeem = Command::Redeem {
            token_id,
            secret_hash,
            member,
        };
        let joined = propose(cluster, redeem).await.unwrap();
        let Reply::Member(node) = joined else {
            panic!("it was let in: {joined:?}");
        };
        propose(cluster, Command::RemoveMember { node })
            .await
            .unwrap();
        let raft = &cluster.0.raft;
        let seat = Seat {
            cluster_address: "127.0.0.1:1".into(),
            ..Seat::default()
        };
        raft.add_learner(node.0, seat, false).await.unwrap();
        assert_eq!(removed_learners(cluster), BTreeSet::from([node.0]));
        take_out_removed(cluster).await;
        assert_eq!(raft.learner_ids().next(), None);
        alone.close().await;
    }

    #[test]
    fn nobody_is_handed_leadership_who_could_not_take_it_at_once() {
        let at = |applied: u64| weakness(&Ok(standing(applied)), 1_000);
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

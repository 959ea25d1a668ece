//! What this node answers to the others.
//!
//! Every request but a join carries who it is from, whom it is for and which cluster it
//! belongs to; the certificate must say the same. A removed node, another cluster's node and a
//! request that reached the wrong node are refused before anything is read.

use std::io;
use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use holdfast_ledger::query;
use holdfast_mail::{BodyRef, Domain, MessageId, NodeId, mutant};
use holdfast_proto::cluster as wire;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest,
};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use super::admission::{self, JOIN_BYTES_MAX, WAITING_MAX};
use super::doorman::Doorman;
use super::handle::{Cluster, Inner};
use super::peers::MESSAGE_BYTES_MAX;
use super::snapshot::{SnapshotFile, Snapshots};
use super::types::{Entry, Snapshot};
use super::{clock, codec, gate, knock, lookout, membership, propose, renewal, replace};
use crate::failpoint;
use crate::net::grpc::ConnectInfo;
use crate::world;

/// Metadata key on the refusal of a removed node.
pub(crate) const REMOVED: &str = "holdfast-removed";

/// Requests under way on one connection: several for each message that comes in anywhere.
const STREAMS_MAX: u32 = 4096;

/// Entries and bodies that a snapshot's live messages need are fetched this many at a time.
const FETCHES_MAX: usize = 8;

/// The services of this node; clones share it.
#[derive(Clone)]
pub(crate) struct Service {
    cluster: Arc<Inner>,
    snapshots: Snapshots,
    /// Places of those who ask to be let in with an invitation that is not known here.
    waiting: Arc<Semaphore>,
}

type Reply<T> = Result<Response<T>, Status>;
type ReplyStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Service {
    pub(crate) fn new(cluster: Arc<Inner>, snapshots: Snapshots) -> Self {
        Self {
            cluster,
            snapshots,
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
        }
    }

    pub(crate) fn router(self) -> tonic::transport::server::Router {
        tonic::transport::Server::builder()
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(16 << 20)
            .http2_keepalive_interval(Some(std::time::Duration::from_secs(10)))
            .http2_keepalive_timeout(Some(std::time::Duration::from_secs(20)))
            .max_concurrent_streams(STREAMS_MAX)
            .add_service(Doorman::before(
                wire::raft_server::RaftServer::new(self.clone())
                    .max_decoding_message_size(MESSAGE_BYTES_MAX),
                None,
            ))
            .add_service(Doorman::before(
                wire::bodies_server::BodiesServer::new(self.clone())
                    .max_decoding_message_size(MESSAGE_BYTES_MAX),
                None,
            ))
            .add_service(Doorman::before(
                wire::members_server::MembersServer::new(self.clone())
                    .max_decoding_message_size(MESSAGE_BYTES_MAX),
                Some(
                    wire::members_server::MembersServer::new(self)
                        .max_decoding_message_size(JOIN_BYTES_MAX),
                ),
            ))
    }

    /// Who sent this, once it is certain; otherwise why it is refused.
    async fn sender<T: Sync>(
        &self,
        request: &Request<T>,
        envelope: Option<&wire::Envelope>,
    ) -> Result<u64, Status> {
        let node = self.certain(request, envelope)?;
        self.cluster.rehearsal.hears(NodeId(node)).await?;
        Ok(node)
    }

    /// The same; a drill cuts nobody off from what ends it.
    fn certain<T>(
        &self,
        request: &Request<T>,
        envelope: Option<&wire::Envelope>,
    ) -> Result<u64, Status> {
        let peer = request
            .extensions()
            .get::<ConnectInfo>()
            .and_then(|info| info.peer);
        self.check(peer, envelope).inspect_err(|status| {
            tracing::warn!(
                "a request from another node was refused: {}",
                status.message()
            );
        })
    }

    fn check(
        &self,
        peer: Option<(NodeId, [u8; 16])>,
        envelope: Option<&wire::Envelope>,
    ) -> Result<u64, Status> {
        let node = caller(
            peer,
            envelope,
            self.cluster.identity.cluster_id,
            self.cluster.me.id,
        )?;
        let view = self.cluster.store.view();
        if query::is_removed(&view, node).map_err(|e| Status::internal(e.0))? {
            let mut status = Status::permission_denied(format!(
                "node {node} was removed from this cluster. Its mail is held by the other nodes; to bring the \
                 machine back, empty its data directory and join with a new token"
            ));
            status
                .metadata_mut()
                .insert(REMOVED, tonic::metadata::MetadataValue::from_static("1"));
            return Err(status);
        }
        Ok(node.0)
    }

    fn heard_leader(&self) {
        let mut heard = self
            .cluster
            .heard
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *heard = Some(Instant::now());
    }
}

/// Who a request is from, where certificate and envelope agree and it was meant for this node.
pub(super) fn caller(
    peer: Option<(NodeId, [u8; 16])>,
    envelope: Option<&wire::Envelope>,
    ours: [u8; 16],
    me: NodeId,
) -> Result<NodeId, Status> {
    let Some((node, cluster_id)) = peer else {
        return Err(Status::unauthenticated(
            "the caller has no certificate of this cluster",
        ));
    };
    let envelope = envelope
        .ok_or_else(|| Status::invalid_argument("the request does not say whom it is for"))?;
    let strange = cluster_id != ours || envelope.cluster_id[..] != ours[..];
    if strange && !mutant("cluster-id-not-checked") {
        return Err(Status::permission_denied(
            "the caller belongs to another cluster; check the addresses in its configuration",
        ));
    }
    if envelope.from != node.0 {
        return Err(Status::permission_denied(format!(
            "the caller says it is node {} but its certificate is node {node}'s",
            envelope.from
        )));
    }
    if envelope.to != me.0 {
        return Err(Status::permission_denied(format!(
            "this is node {me}, not node {}: an address is used by another node now",
            envelope.to
        )));
    }
    Ok(node)
}

fn drill_id(bytes: &[u8]) -> Result<MessageId, Status> {
    MessageId::from_bytes(bytes)
        .ok_or_else(|| Status::invalid_argument("a drill's id has 16 bytes"))
}

fn broken(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}

#[tonic::async_trait]
impl wire::raft_server::Raft for Service {
    async fn append(&self, request: Request<wire::AppendRequest>) -> Reply<wire::AppendReply> {
        let from = self
            .sender(&request, request.get_ref().envelope.as_ref())
            .await?;
        let request = request.into_inner();
        let entries: Vec<Entry> = request
            .entries
            .into_iter()
            .map(codec::entry)
            .collect::<Result<_, _>>()
            .map_err(broken)?;
        let is_heartbeat = entries.is_empty();
        if !is_heartbeat {
            failpoint::reach("append-received");
        }
        gate::before_append(&self.cluster.bodies, &entries, from).await?;
        if !is_heartbeat {
            failpoint::reach("gate-passed");
        }
        let rpc = AppendEntriesRequest {
            vote: codec::some_vote(request.vote.as_ref()).map_err(broken)?,
            prev_log_id: request.prev.as_ref().map(codec::log_id),
            entries,
            leader_commit: request.leader_commit.as_ref().map(codec::log_id),
        };
        let response = self
            .cluster
            .raft
            .append_entries(rpc)
            .await
            .map_err(broken)?;
        if !is_heartbeat {
            failpoint::reach("before-append-reply");
        }
        use wire::append_reply::Outcome;
        let outcome = match response {
            AppendEntriesResponse::Success => Outcome::Success(true),
            AppendEntriesResponse::PartialSuccess(id) => {
                Outcome::Partial(id.as_ref().map(codec::log_id_to_wire).unwrap_or_default())
            }
            AppendEntriesResponse::Conflict => Outcome::Conflict(true),
            AppendEntriesResponse::HigherVote(vote) => {
                Outcome::HigherVote(codec::vote_to_wire(&vote))
            }
        };
        if !matches!(outcome, Outcome::HigherVote(_)) {
            self.heard_leader();
            self.cluster.room.told(request.no_room);
        }
        Ok(Response::new(wire::AppendReply {
            outcome: Some(outcome),
            clock_ms: clock::now().0,
            disk_low: self.cluster.room.is_low(),
        }))
    }

    async fn vote(&self, request: Request<wire::VoteRequest>) -> Reply<wire::VoteReply> {
        self.sender(&request, request.get_ref().envelope.as_ref())
            .await?;
        let request = request.into_inner();
        let vote = codec::some_vote(request.vote.as_ref()).map_err(broken)?;
        let mut rpc = VoteRequest::new(vote, request.last.as_ref().map(codec::log_id));
        rpc.leadership_transfer = request.leadership_transfer;
        let response = if request.pre_vote {
            self.cluster.raft.pre_vote(rpc).await
        } else {
            self.cluster.raft.vote(rpc).await
        }
        .map_err(broken)?;
        Ok(Response::new(wire::VoteReply {
            vote: Some(codec::vote_to_wire(&response.vote)),
            granted: response.vote_granted,
            last: response.last_log_id.as_ref().map(codec::log_id_to_wire),
        }))
    }

    async fn transfer_leader(
        &self,
        request: Request<wire::TransferRequest>,
    ) -> Reply<wire::TransferReply> {
        self.sender(&request, request.get_ref().envelope.as_ref())
            .await?;
        let request = request.into_inner();
        let from = codec::some_vote(request.from_leader.as_ref()).map_err(broken)?;
        let last = request.last.as_ref().map(codec::log_id);
        let rpc = TransferLeaderRequest::new(from, request.to_node, last);
        use wire::transfer_reply::Outcome;
        let outcome = match self
            .cluster
            .raft
            .handle_transfer_leader(rpc)
            .await
            .map_err(broken)?
        {
            Ok(()) => Outcome::Accepted(true),
            Err(refused) => Outcome::Refused(refused.to_string()),
        };
        Ok(Response::new(wire::TransferReply {
            outcome: Some(outcome),
        }))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<wire::SnapshotPart>>,
    ) -> Reply<wire::SnapshotReply> {
        let peer = request
            .extensions()
            .get::<ConnectInfo>()
            .and_then(|info| info.peer);
        let mut parts = request.into_inner();
        let early = || Status::invalid_argument("the snapshot ended before it began");
        let head = parts.message().await?.ok_or_else(early)?;
        let from = self.check(peer, head.envelope.as_ref())?;
        let vote = codec::some_vote(head.vote.as_ref()).map_err(broken)?;
        let name = MessageId::new(clock::now(), from.into());
        let snapshot = self.snapshots.stage(&format!("incoming-{name}"));
        let snapshot = snapshot.map_err(broken)?;
        while let Some(part) = parts.message().await? {
            snapshot.append(&part.data).map_err(broken)?;
        }
        snapshot.sync().map_err(broken)?;
        let (meta, live) = self.verify(snapshot.clone()).await.map_err(broken)?;
        // The state names bodies: they must be here before it is the state.
        tracing::info!(
            bodies = live.len(),
            "a snapshot arrived; fetching the bodies it needs"
        );
        let index = meta.last_log_id.map_or(0, |id| id.index);
        let mut fetches = futures::stream::iter(live.into_iter().map(|body| {
            let bodies = self.cluster.bodies.clone();
            async move {
                let deadline = Instant::now() + std::time::Duration::from_secs(60);
                bodies.ensure(&body, &[from], index, deadline).await
            }
        }))
        .buffer_unordered(FETCHES_MAX);
        while let Some(fetched) = fetches.next().await {
            fetched?;
        }
        let response = self
            .cluster
            .raft
            .install_full_snapshot(vote, Snapshot { meta, snapshot })
            .await
            .map_err(broken)?;
        Ok(Response::new(wire::SnapshotReply {
            vote: Some(codec::vote_to_wire(&response.vote)),
        }))
    }
}

impl Service {
    /// Reads a whole snapshot file once: its digest fits, and which bodies it needs that are
    /// not here.
    async fn verify(
        &self,
        snapshot: SnapshotFile,
    ) -> io::Result<(super::types::SnapshotMeta, Vec<BodyRef>)> {
        let bodies = self.cluster.bodies.clone();
        world::blocking(move || {
            let (meta, rows) = snapshot.rows()?;
            let mut live = Vec::new();
            for row in rows {
                let (key, value) = row?;
                let body = query::body_of_row(&key, &value).map_err(|e| io::Error::other(e.0))?;
                if let Some(body) = body
                    && !bodies.present(body.id)?
                {
                    live.push(body);
                }
            }
            Ok((meta, live))
        })
        .await?
    }
}

#[tonic::async_trait]
impl wire::bodies_server::Bodies for Service {
    type PushStream = ReplyStream<wire::BodyStored>;
    type PullStream = ReplyStream<wire::BodyPiece>;

    async fn push(&self, request: Request<Streaming<wire::BodyPiece>>) -> Reply<Self::PushStream> {
        let peer = request
            .extensions()
            .get::<ConnectInfo>()
            .and_then(|info| info.peer);
        let mut pieces = request.into_inner();
        let early = || Status::invalid_argument("the stream ended before it began");
        let first = pieces.message().await?.ok_or_else(early)?;
        self.check(peer, first.envelope.as_ref())?;
        Ok(Response::new(stream(
            self.cluster.bodies.receive(pieces, first),
        )))
    }

    async fn pull(&self, request: Request<wire::PullRequest>) -> Reply<Self::PullStream> {
        self.sender(&request, request.get_ref().envelope.as_ref())
            .await?;
        let request = request.into_inner();
        let id = MessageId::from_bytes(&request.body)
            .ok_or_else(|| Status::invalid_argument("a body's id has 16 bytes"))?;
        let applied = self.cluster.applied.borrow().map(|id| id.index);
        Ok(Response::new(stream(
            self.cluster.bodies.serve(id, &request, applied)?,
        )))
    }
}

fn stream<T: Send + 'static>(mut queue: mpsc::Receiver<Result<T, Status>>) -> ReplyStream<T> {
    Box::pin(futures::stream::poll_fn(move |cx| queue.poll_recv(cx)))
}

#[tonic::async_trait]
impl wire::members_server::Members for Service {
    async fn propose(&self, request: Request<wire::ProposeRequest>) -> Reply<wire::ProposeReply> {
        let from = self
            .sender(&request, request.get_ref().envelope.as_ref())
            .await?;
        let batch = request.into_inner().batch;
        // The caller may give up; what has entered the log must still be answered for.
        let cluster = self.cluster.clone();
        let answer = tokio::spawn(async move { propose::answer(&cluster, batch, from).await });
        Ok(Response::new(answer.await.map_err(broken)?))
    }

    async fn join(&self, request: Request<wire::JoinRequest>) -> Reply<wire::JoinReply> {
        let cluster = Cluster(self.cluster.clone());
        admission::admit(&cluster, &self.waiting, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn standing(&self, request: Request<wire::StandingRequest>) -> Reply<wire::Standing> {
        self.sender(&request, request.get_ref().envelope.as_ref())
            .await?;
        for member in &request.get_ref().members {
            self.cluster.peers.learn(member.id, &member.cluster_address);
        }
        let cluster = Cluster(self.cluster.clone());
        let asked = request.get_ref();
        let mut standing = cluster.standing_for(asked);
        if !standing.voter {
            let missing = cluster.bodies_missing(asked.with_missing).await;
            standing.bodies_missing = missing.map_err(broken)?;
        }
        Ok(Response::new(standing))
    }

    async fn check(&self, request: Request<wire::CheckRequest>) -> Reply<wire::CheckReply> {
        self.sender(&request, request.get_ref().envelope.as_ref())
            .await?;
        let domain = Domain::parse(&request.get_ref().domain)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let cluster = Cluster(self.cluster.clone());
        Ok(Response::new(lookout::to_wire(
            cluster.check_here(domain).await,
        )))
    }

    async fn reach(&self, request: Request<wire::ReachRequest>) -> Reply<wire::ReachReply> {
        self.sender(&request, request.get_ref().envelope.as_ref())
            .await?;
        let domain = Domain::parse(&request.get_ref().domain)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let reached = Cluster(self.cluster.clone()).reach_here(domain).await;
        Ok(Response::new(wire::ReachReply {
            error: reached.err().unwrap_or_default(),
        }))
    }

    async fn trace(&self, request: Request<wire::TraceRequest>) -> Reply<wire::TraceReply> {
        self.sender(&request, request.get_ref().envelope.as_ref())
            .await?;
        let cluster = Cluster(self.cluster.clone());
        let found = cluster.trace_here(request.into_inner()).await;
        found.map(Response::new).map_err(Status::unavailable)
    }

    async fn knocks(&self, request: Request<wire::KnocksRequest>) -> Reply<wire::KnocksReply> {
        self.sender(&request, request.get_ref().envelope.as_ref())
            .await?;
        knock::heard(&self.cluster, request.into_inner().knocks);
        Ok(Response::new(wire::KnocksReply {}))
    }

    async fn rehearse(
        &self,
        request: Request<wire::RehearseRequest>,
    ) -> Reply<wire::RehearseReply> {
        let caller = self.certain(&request, request.get_ref().envelope.as_ref())?;
        let request = request.into_inner();
        let lasts = std::time::Duration::from_millis(request.for_ms);
        let drill = drill_id(&request.drill)?;
        let does = Cluster(self.cluster.clone()).rehearse_here(NodeId(caller), drill, lasts);
        Ok(Response::new(wire::RehearseReply {
            refused: does.err().unwrap_or_default(),
        }))
    }

    async fn receipts(
        &self,
        request: Request<wire::ReceiptsRequest>,
    ) -> Reply<wire::ReceiptsReply> {
        self.certain(&request, request.get_ref().envelope.as_ref())?;
        let drill = drill_id(&request.get_ref().drill)?;
        Ok(Response::new(wire::ReceiptsReply {
            receipts: Cluster(self.cluster.clone()).receipts_here(drill),
        }))
    }

    async fn promote(
        &self,
        request: Request<wire::PromoteRequest>,
    ) -> Reply<wire::MembershipReply> {
        self.sender(&request, request.get_ref().envelope.as_ref())
            .await?;
        let node = NodeId(request.into_inner().node_id);
        let cluster = Cluster(self.cluster.clone());
        let done = tokio::spawn(async move { membership::promote_here(&cluster, node).await });
        Ok(Response::new(membership::reply(
            done.await.map_err(broken)?,
        )))
    }

    async fn leave(&self, request: Request<wire::LeaveRequest>) -> Reply<wire::MembershipReply> {
        self.sender(&request, request.get_ref().envelope.as_ref())
            .await?;
        let node = NodeId(request.into_inner().node_id);
        let cluster = Cluster(self.cluster.clone());
        let done = tokio::spawn(async move { membership::remove_here(&cluster, node).await });
        Ok(Response::new(membership::reply(
            done.await.map_err(broken)?,
        )))
    }

    async fn renew(&self, request: Request<wire::RenewRequest>) -> Reply<wire::RenewReply> {
        let from = self
            .sender(&request, request.get_ref().envelope.as_ref())
            .await?;
        let cluster = Cluster(self.cluster.clone());
        let asked = &request.get_ref().certificate_request;
        let certificate = renewal::sign_for(&cluster, NodeId(from), asked)?;
        Ok(Response::new(wire::RenewReply {
            certificate: certificate.into(),
        }))
    }

    async fn hand_over(
        &self,
        request: Request<wire::LeaveRequest>,
    ) -> Reply<wire::MembershipReply> {
        self.sender(&request, request.get_ref().envelope.as_ref())
            .await?;
        let node = request.into_inner().node_id;
        let to = (node != 0).then_some(NodeId(node));
        let cluster = Cluster(self.cluster.clone());
        Ok(Response::new(membership::reply(
            membership::hand_over_here(&cluster, to).await,
        )))
    }

    async fn replace(
        &self,
        request: Request<wire::ReplaceRequest>,
    ) -> Reply<wire::MembershipReply> {
        self.sender(&request, request.get_ref().envelope.as_ref())
            .await?;
        let request = request.into_inner();
        let (dead, new) = (NodeId(request.dead), NodeId(request.new));
        let cluster = Cluster(self.cluster.clone());
        // The caller may go away: what has begun is finished.
        let done = tokio::spawn(async move { replace::replace_here(&cluster, dead, new).await });
        Ok(Response::new(membership::reply(
            done.await.map_err(broken)?,
        )))
    }

    async fn retire(
        &self,
        request: Request<wire::StandingRequest>,
    ) -> Reply<wire::MembershipReply> {
        self.sender(&request, request.get_ref().envelope.as_ref())
            .await?;
        Cluster(self.cluster.clone()).retire().await;
        Ok(Response::new(wire::MembershipReply::default()))
    }
}

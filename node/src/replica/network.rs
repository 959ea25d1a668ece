//! openraft's calls to other nodes, as gRPC.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_mail::Timestamp;
use holdfast_proto::cluster as wire;
use openraft::alias::VoteOf;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use tonic::{Code, Request, Status};

use super::codec;
use super::peers::{Peers, Purpose};
use super::room::Room;
use super::snapshot::SnapshotFile;
use super::types::{Seat, Snapshot, Types};
use crate::failpoint;
use crate::world::select;

/// Bytes of a snapshot file in one message.
const SNAPSHOT_PIECE_BYTES: usize = 1 << 20;

/// A follower that must fetch bodies before it may store the entries is given this long for
/// one request; then the leader asks again. Longer than the gate's own patience.
const APPEND_TIME_MAX: Duration = Duration::from_secs(20);

/// How long a follower is left alone that lost what it had acknowledged: openraft would ask it for the
/// same again at once, for ever.
const LOST_PAUSE: Duration = Duration::from_secs(1);

/// Makes connections for openraft.
pub(crate) struct Network {
    pub(crate) peers: Arc<Peers>,
    pub(crate) room: Arc<Room>,
}

/// openraft's view of one peer, for one purpose.
pub(crate) struct Connection {
    peers: Arc<Peers>,
    room: Arc<Room>,
    target: u64,
    purpose: Purpose,
    /// The last entry that the follower said it has.
    stored: Option<u64>,
    /// An operator was told that it lost some.
    told: bool,
}

impl Network {
    fn connection(&self, target: u64, seat: &Seat, purpose: Purpose) -> Connection {
        self.peers.learn(target, &seat.cluster_address);
        Connection {
            peers: self.peers.clone(),
            room: self.room.clone(),
            target,
            purpose,
            stored: None,
            told: false,
        }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, seat: &Seat) -> Connection {
        self.connection(target, seat, Purpose::Log)
    }

    async fn new_heartbeat_client(&mut self, target: u64, seat: &Seat) -> Connection {
        self.connection(target, seat, Purpose::Pulse)
    }

    async fn new_snapshot_client(&mut self, target: u64, seat: &Seat) -> Connection {
        self.connection(target, seat, Purpose::Bulk)
    }
}

impl Connection {
    fn client(
        &self,
    ) -> Result<wire::raft_client::RaftClient<tonic::transport::Channel>, RPCError<Types>> {
        // Votes share the heartbeats' connection: neither may wait behind entries.
        self.peers.raft(self.target, self.purpose).ok_or_else(|| {
            RPCError::Unreachable(Unreachable::from_string(format!(
                "the address of node {} is not known yet",
                self.target
            )))
        })
    }

    /// The follower has no entry at `prev`. Before it has said what it has, that is how a leader finds
    /// out; afterwards its disk lied when it said that entries were on it.
    async fn lacks(&mut self, prev: Option<u64>) {
        let (Some(prev), Some(stored)) = (prev, self.stored) else {
            return;
        };
        if prev > stored {
            return;
        }
        if !self.told {
            self.told = true;
            tracing::error!(
                node = self.target,
                "the node lost entries of the log that it had acknowledged up to {stored}: its disk says \
                 that data is on it which is not. It can take part no more, and whatever only a \
                 minority besides has is in danger. Do not restart other nodes; replace this one: \
                 holdfast node replace, with another disk"
            );
        }
        tokio::time::sleep(LOST_PAUSE).await;
    }

    fn failed(&self, status: &Status) -> RPCError<Types> {
        let text = format!(
            "node {}: {} ({:?})",
            self.target,
            status.message(),
            status.code()
        );
        match status.code() {
            Code::Unavailable | Code::PermissionDenied | Code::Unauthenticated => {
                RPCError::Unreachable(Unreachable::from_string(text))
            }
            _ => RPCError::Network(NetworkError::from_string(text)),
        }
    }
}

fn timed<T>(message: T, limit: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}

impl RaftNetworkV2<Types> for Connection {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let limit = if rpc.entries.is_empty() {
            option.hard_ttl()
        } else {
            APPEND_TIME_MAX
        };
        let prev = rpc.prev_log_id.as_ref().map(|id| id.index);
        let last = rpc.entries.last().map(|entry| entry.log_id.index).or(prev);
        let request = wire::AppendRequest {
            envelope: self.peers.envelope(self.target),
            vote: Some(codec::vote_to_wire(&rpc.vote)),
            prev: rpc.prev_log_id.as_ref().map(codec::log_id_to_wire),
            entries: rpc.entries.iter().map(codec::entry_to_bytes).collect(),
            leader_commit: rpc.leader_commit.as_ref().map(codec::log_id_to_wire),
            no_room: self.room.tell(),
        };
        if !rpc.entries.is_empty() {
            failpoint::reach("before-send");
        }
        let reply = self
            .client()?
            .append(timed(request, limit))
            .await
            .map_err(|s| self.failed(&s))?
            .into_inner();
        self.peers
            .clock
            .heard(self.target, Timestamp(reply.clock_ms));
        self.room.heard(self.target, reply.disk_low);
        use wire::append_reply::Outcome;
        match reply.outcome {
            Some(Outcome::Success(_)) => {
                self.stored = self.stored.max(last);
                Ok(AppendEntriesResponse::Success)
            }
            Some(Outcome::Partial(id)) => {
                let id = (id != wire::LogId::default()).then(|| codec::log_id(&id));
                self.stored = self.stored.max(id.as_ref().map(|id| id.index));
                Ok(AppendEntriesResponse::PartialSuccess(id))
            }
            Some(Outcome::Conflict(_)) => {
                self.lacks(prev).await;
                Ok(AppendEntriesResponse::Conflict)
            }
            Some(Outcome::HigherVote(v)) => Ok(AppendEntriesResponse::HigherVote(codec::vote(&v))),
            None => Err(RPCError::Network(NetworkError::from_string(
                "an append reply without outcome",
            ))),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_vote(rpc, option, false).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_vote(rpc, option, true).await
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Types>,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + openraft::OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let head = wire::SnapshotPart {
            envelope: self.peers.envelope(self.target),
            vote: Some(codec::vote_to_wire(&vote)),
            last: snapshot
                .meta
                .last_log_id
                .as_ref()
                .map(codec::log_id_to_wire),
            membership: Some(codec::stored_membership_to_wire(
                &snapshot.meta.last_membership,
            )),
            data: Bytes::new(),
        };
        let file = snapshot.snapshot;
        let pieces = futures::stream::unfold((Some(head), 0u64), move |(head, offset)| {
            let file = file.clone();
            async move {
                if let Some(head) = head {
                    return Some((head, (None, offset)));
                }
                // A read that fails ends the stream early; the receiver sees the missing end.
                let data = file.read_at(offset, SNAPSHOT_PIECE_BYTES).ok()?;
                let next = offset + data.len() as u64;
                (!data.is_empty()).then(|| {
                    (
                        wire::SnapshotPart {
                            data,
                            ..wire::SnapshotPart::default()
                        },
                        (None, next),
                    )
                })
            }
        });
        let mut client = self.client()?;
        select! {
            reply = client.install_snapshot(pieces) => {
                let reply = reply.map_err(|s| self.failed(&s))?.into_inner();
                let vote = codec::some_vote(reply.vote.as_ref()).map_err(|e| {
                    StreamingError::Network(NetworkError::new(&e))
                })?;
                Ok(SnapshotResponse::new(vote))
            }
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let request = wire::TransferRequest {
            envelope: self.peers.envelope(self.target),
            from_leader: Some(codec::vote_to_wire(rpc.from_leader())),
            to_node: *rpc.to_node_id(),
            last: rpc.last_log_id().map(codec::log_id_to_wire),
        };
        let reply = self
            .client()?
            .transfer_leader(timed(request, option.hard_ttl()))
            .await
            .map_err(|s| self.failed(&s))?
            .into_inner();
        match reply.outcome {
            Some(wire::transfer_reply::Outcome::Accepted(_)) => Ok(Ok(())),
            Some(wire::transfer_reply::Outcome::Refused(why)) => {
                Err(RPCError::Network(NetworkError::from_string(why)))
            }
            None => Err(RPCError::Network(NetworkError::from_string(
                "a transfer reply without outcome",
            ))),
        }
    }
}

impl Connection {
    async fn ask_vote(
        &self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
        pre_vote: bool,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let request = wire::VoteRequest {
            envelope: self.peers.envelope(self.target),
            vote: Some(codec::vote_to_wire(&rpc.vote)),
            last: rpc.last_log_id.as_ref().map(codec::log_id_to_wire),
            leadership_transfer: rpc.leadership_transfer,
            pre_vote,
        };
        let reply = self
            .client()?
            .vote(timed(request, option.hard_ttl()))
            .await
            .map_err(|s| self.failed(&s))?
            .into_inner();
        let vote = codec::some_vote(reply.vote.as_ref())
            .map_err(|e| RPCError::Network(NetworkError::new(&e)))?;
        Ok(VoteResponse::new(
            vote,
            reply.last.as_ref().map(codec::log_id),
            reply.granted,
        ))
    }
}

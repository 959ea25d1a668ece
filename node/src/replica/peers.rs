//! Connections to the other members, one per purpose, so that a 50 MB body never delays a
//! heartbeat: each purpose has its own TCP connection.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use holdfast_proto::cluster as wire;
use tonic::transport::Channel;

use super::Identity;
use super::clock::Clock;
use crate::net::tls::ClusterClient;

/// The largest message a peer may send in one piece, bytes: an append request of
/// `REPLICATE_BYTES_MAX` and one entry more, or a piece of a body.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    /// Heartbeats and votes.
    Pulse,
    /// Log entries and proposals.
    Log,
    /// Bodies and snapshots.
    Bulk,
}

/// This node's way to the others.
pub(crate) struct Peers {
    identity: Arc<Identity>,
    client: ClusterClient,
    addresses: Mutex<HashMap<u64, String>>,
    channels: Mutex<HashMap<(u64, Purpose), (String, Channel)>>,
    pub(crate) clock: Arc<Clock>,
}

impl Peers {
    pub(crate) fn new(identity: Arc<Identity>, client: ClusterClient) -> Self {
        Self {
            identity,
            client,
            addresses: Mutex::default(),
            channels: Mutex::default(),
            clock: Arc::default(),
        }
    }

    /// Remembers where a member's cluster listener is.
    pub(crate) fn learn(&self, node: u64, address: &str) {
        let mut addresses = self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if addresses.get(&node).is_none_or(|known| known != address) {
            addresses.insert(node, address.to_owned());
        }
    }

    /// The connection to `node`, made when first used; `None` where its address is not known.
    pub(crate) fn channel(&self, node: u64, purpose: Purpose) -> Option<Channel> {
        let address = self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&node)?
            .clone();
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, channel)) = channels.get(&(node, purpose))
            && *known == address
        {
            return Some(channel.clone());
        }
        let name =
            crate::net::authority::node_name(holdfast_mail::NodeId(node), self.identity.cluster_id);
        let channel = crate::net::grpc::channel(&address, &name, &self.client);
        channels.insert((node, purpose), (address, channel.clone()));
        Some(channel)
    }

    /// From here on connections are made anew, as this node presents itself otherwise. What is
    /// under way on the old ones goes on.
    pub(crate) fn connect_anew(&self) {
        self.channels
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    pub(crate) fn raft(
        &self,
        node: u64,
        purpose: Purpose,
    ) -> Option<wire::raft_client::RaftClient<Channel>> {
        Some(
            wire::raft_client::RaftClient::new(self.channel(node, purpose)?)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(usize::MAX),
        )
    }

    pub(crate) fn bodies(&self, node: u64) -> Option<wire::bodies_client::BodiesClient<Channel>> {
        Some(
            wire::bodies_client::BodiesClient::new(self.channel(node, Purpose::Bulk)?)
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
        )
    }

    pub(crate) fn members(
        &self,
        node: u64,
    ) -> Option<wire::members_client::MembersClient<Channel>> {
        Some(
            wire::members_client::MembersClient::new(self.channel(node, Purpose::Log)?)
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
        )
    }

    /// What every request to `node` begins with.
    pub(crate) fn envelope(&self, node: u64) -> Option<wire::Envelope> {
        Some(wire::Envelope {
            cluster_id: self.identity.cluster_id.to_vec().into(),
            group_id: 0,
            from: self.identity.node_id.0,
            to: node,
        })
    }
}

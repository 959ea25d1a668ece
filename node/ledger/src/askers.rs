//! Who may ask for a domain's held mail to be delivered.

use std::net::IpAddr;

use holdfast_mail::Network;
use holdfast_proto::ledger as proto;

use crate::Undecodable;

/// Networks of one domain. A customer has a handful.
pub const NETWORKS_MAX: usize = 64;

/// Mail goes to the configured primary whoever asks, so asking gives nothing away; it costs the
/// primary a connection, and tells how much waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Askers {
    #[default]
    Anybody,
    /// Clients in these; empty: nobody.
    Networks(Vec<Network>),
}

impl Askers {
    #[must_use]
    pub fn include(&self, client: IpAddr) -> bool {
        match self {
            Self::Anybody => true,
            Self::Networks(networks) => networks.iter().any(|network| network.contains(client)),
        }
    }

    pub(crate) fn to_proto(&self) -> proto::Askers {
        match self {
            Self::Anybody => proto::Askers {
                anybody: true,
                networks: Vec::new(),
            },
            Self::Networks(networks) => proto::Askers {
                anybody: false,
                networks: networks.iter().map(ToString::to_string).collect(),
            },
        }
    }

    pub(crate) fn from_proto(askers: &proto::Askers) -> Result<Self, Undecodable> {
        if askers.anybody {
            return Ok(Self::Anybody);
        }
        let networks = askers.networks.iter();
        networks
            .map(|text| Network::parse(text).map_err(|_| Undecodable::field("network")))
            .collect::<Result<_, _>>()
            .map(Self::Networks)
    }
}

//! Somebody who is there for a domain's mail: signed in at the machine that takes it, or with a
//! connection over which it goes.

use std::net::SocketAddr;
use std::time::Duration;

use holdfast_ledger::{Command, Refusal, Reply};
use holdfast_mail::{Domain, NodeId};
use tokio::time::Instant;

use crate::replica::Cluster;

/// How long it lasts without a sign of life: what a node's death costs.
const TTL: Duration = Duration::from_secs(10);

/// How often there is one. Each is a log entry.
pub(crate) const RENEW_EVERY: Duration = Duration::from_secs(3);

/// How long a renewal may take before it would be too late.
const RENEW_TIME_MAX: Duration = Duration::from_secs(6);

/// Lasts until it is dropped.
pub(crate) struct Attendance {
    pub(crate) cluster: Cluster,
    pub(crate) domain: Domain,
    id: [u8; 16],
    pub(crate) account: String,
    pub(crate) to: SocketAddr,
    over: Option<NodeId>,
}

/// Why nobody is, or stays, there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotThere {
    #[error("{0}")]
    Refused(Refusal),
    #[error("{0}")]
    Unable(String),
}

impl Attendance {
    /// `over`: mail goes over a connection that this node has with them.
    pub(crate) async fn begin(
        cluster: Cluster,
        domain: Domain,
        account: &str,
        to: SocketAddr,
        over: Option<NodeId>,
    ) -> Result<Self, NotThere> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|error| NotThere::Unable(error.to_string()))?;
        let attendance = Self {
            cluster,
            domain,
            id,
            account: account.to_owned(),
            to,
            over,
        };
        attendance.renew().await?;
        Ok(attendance)
    }

    /// A sign of life.
    pub(crate) async fn renew(&self) -> Result<(), NotThere> {
        let command = Command::Attend {
            domain: self.domain.clone(),
            session: self.id,
            account: self.account.clone(),
            to: self.to,
            over: self.over,
            ttl_ms: u64::try_from(TTL.as_millis()).unwrap_or(u64::MAX),
        };
        let until = Instant::now() + RENEW_TIME_MAX;
        match self.cluster.propose(command, until).await {
            Ok(Reply::Refused(refusal)) => Err(NotThere::Refused(refusal)),
            Ok(_) => Ok(()),
            Err(error) => Err(NotThere::Unable(error.to_string())),
        }
    }
}

impl Drop for Attendance {
    fn drop(&mut self) {
        let (cluster, domain, session) = (self.cluster.clone(), self.domain.clone(), self.id);
        tracing::info!(%domain, to = %self.to, "mail is held again: its owner is gone");
        tokio::spawn(async move {
            let until = Instant::now() + TTL;
            let command = Command::Leave { domain, session };
            // Where it cannot be told, it ends by itself as late as that.
            if let Err(error) = cluster.propose(command, until).await {
                tracing::debug!("the end of a session was not told: {error}");
            }
        });
    }
}

//! Asking every node to look at a domain from where it stands.
//!
//! What it looks at is the affair of a room above, which leaves its looker here.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use holdfast_mail::Domain;
use holdfast_mail::checkup::{Finding, Weight};
use holdfast_proto::cluster as wire;

use super::handle::Cluster;

/// How long a node may look: DNS servers that do not answer take most of it.
const LOOK_TIME_MAX: Duration = Duration::from_secs(40);

/// Finds out about a domain, or says why not.
pub type Looker = Arc<dyn Fn(Domain) -> Looking + Send + Sync>;
pub(super) type Looking = Pin<Box<dyn Future<Output = Result<Vec<Finding>, String>> + Send>>;

impl Cluster {
    /// Once, before anybody asks.
    pub fn set_looker(&self, looker: Looker) {
        let _set_before = self.0.looker.set(looker);
    }

    /// What this node finds.
    pub(crate) async fn check_here(&self, domain: Domain) -> Result<Vec<Finding>, String> {
        let looker = self.0.looker.get().ok_or("the node is still starting")?;
        let looking = tokio::time::timeout(LOOK_TIME_MAX, looker(domain));
        looking
            .await
            .unwrap_or_else(|_| Err("the DNS did not answer in time".to_owned()))
    }

    /// What every member finds, by its name.
    pub async fn check_everywhere(
        &self,
        domain: &Domain,
    ) -> Vec<(String, Result<Vec<Finding>, String>)> {
        let asks = self.members().into_iter().map(|member| async move {
            let found = if member.id == self.0.me.id {
                self.check_here(domain.clone()).await
            } else {
                self.check_at(member.id.0, domain).await
            };
            (member.name, found)
        });
        futures::future::join_all(asks).await
    }

    async fn check_at(&self, node: u64, domain: &Domain) -> Result<Vec<Finding>, String> {
        let peers = &self.0.peers;
        let mut client = peers.members(node).ok_or("its address is not known")?;
        let request = wire::CheckRequest {
            envelope: peers.envelope(node),
            domain: domain.to_string(),
        };
        let asked = tokio::time::timeout(LOOK_TIME_MAX, client.check(request)).await;
        match asked {
            Ok(Ok(reply)) => from_wire(reply.into_inner()),
            Ok(Err(status)) => Err(status.message().to_owned()),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }
}

pub(super) fn to_wire(found: Result<Vec<Finding>, String>) -> wire::CheckReply {
    let finding = |finding: Finding| wire::Finding {
        weight: match finding.weight {
            Weight::Fault => 0,
            Weight::Warning => 1,
            Weight::Good => 2,
        },
        what: finding.what,
        fix: finding.fix,
    };
    match found {
        Ok(found) => wire::CheckReply {
            findings: found.into_iter().map(finding).collect(),
            error: String::new(),
        },
        Err(error) => wire::CheckReply {
            findings: Vec::new(),
            error,
        },
    }
}

fn from_wire(reply: wire::CheckReply) -> Result<Vec<Finding>, String> {
    if !reply.error.is_empty() {
        return Err(reply.error);
    }
    let finding = |finding: wire::Finding| Finding {
        weight: match finding.weight {
            0 => Weight::Fault,
            1 => Weight::Warning,
            _ => Weight::Good,
        },
        what: finding.what,
        fix: finding.fix,
    };
    Ok(reply.findings.into_iter().map(finding).collect())
}

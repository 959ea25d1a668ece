//! Asking other nodes to look at a domain from where they stand.
//!
//! What they look at is the affair of a room above, which leaves its lookout here.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use holdfast_ledger::Primary;
use holdfast_mail::Domain;
use holdfast_mail::checkup::{Finding, Weight};
use holdfast_proto::cluster as wire;

use super::handle::Cluster;

/// How long a node may look: DNS servers that do not answer take most of it.
const LOOK_TIME_MAX: Duration = Duration::from_secs(40);

/// How long somebody who sets a domain up waits for the DNS to say where its primary is.
const LOOP_TIME_MAX: Duration = Duration::from_secs(5);

/// Finds out about a domain, or says why not.
pub trait Lookout: Send + Sync {
    /// What is right and wrong in its DNS and with its primary.
    fn check(&self, domain: Domain) -> Looking<Vec<Finding>>;
    /// Whether its primary can be reached.
    fn reach(&self, domain: Domain) -> Looking<()>;
    /// Whether mail for a primary would come back to one of our nodes; `None`: for whom the MX records
    /// of the domain name.
    fn leads_to_us(&self, domain: Domain, primary: Option<Primary>) -> Looking<bool>;
}

/// Another node that reaches a primary.
pub struct Reached {
    pub by: String,
    /// It takes the domain's mail over, if it is left to it: it is not drained.
    pub delivers: bool,
}

pub type Looking<T> = Pin<Box<dyn Future<Output = Result<T, String>> + Send>>;

impl Cluster {
    /// Once, before anybody asks.
    pub fn set_lookout(&self, lookout: Arc<dyn Lookout>) {
        let _set_before = self.0.lookout.set(lookout);
    }

    /// What this node finds.
    pub(super) async fn check_here(&self, domain: Domain) -> Result<Vec<Finding>, String> {
        look(self.lookout()?.check(domain)).await
    }

    /// Whether this node reaches a domain's primary.
    pub(super) async fn reach_here(&self, domain: Domain) -> Result<(), String> {
        look(self.lookout()?.reach(domain)).await
    }

    /// Whether mail for a primary would come back to us. What cannot be found out now does not: it is
    /// looked at again whenever it is delivered to.
    pub async fn leads_to_us(&self, domain: &Domain, primary: Option<&Primary>) -> bool {
        let Ok(lookout) = self.lookout() else {
            return false;
        };
        let looking = lookout.leads_to_us(domain.clone(), primary.cloned());
        let looked = tokio::time::timeout(LOOP_TIME_MAX, looking).await;
        matches!(looked, Ok(Ok(true)))
    }

    fn lookout(&self) -> Result<&Arc<dyn Lookout>, String> {
        let lookout = self.0.lookout.get();
        lookout.ok_or_else(|| "the node is still starting".to_owned())
    }

    /// Whether another member reaches a domain's primary: the first on duty that says so, or else one
    /// that is drained.
    pub async fn reached_elsewhere(&self, domain: &Domain) -> Option<Reached> {
        let on_duty = self.on_duty();
        let mut drained = None;
        let mut asks: FuturesUnordered<_> = self
            .members()
            .into_iter()
            .filter(|member| member.id != self.0.me.id)
            .map(|member| async move {
                let reached = self.reach_at(member.id.0, domain).await;
                reached.is_ok().then_some(member)
            })
            .collect();
        while let Some(answer) = asks.next().await {
            let Some(member) = answer else { continue };
            let delivers = on_duty.contains(&member.id);
            let reached = Reached {
                by: member.name,
                delivers,
            };
            if delivers {
                return Some(reached);
            }
            drained = Some(reached);
        }
        drained
    }

    async fn reach_at(&self, node: u64, domain: &Domain) -> Result<(), String> {
        let peers = &self.0.peers;
        let mut client = peers.members(node).ok_or("its address is not known")?;
        let request = wire::ReachRequest {
            envelope: peers.envelope(node),
            domain: domain.to_string(),
        };
        let asked = tokio::time::timeout(LOOK_TIME_MAX, client.reach(request)).await;
        let reply = asked.map_err(|_| "no answer in time")?;
        let reply = reply.map_err(|status| status.message().to_owned())?;
        match reply.into_inner().error {
            error if error.is_empty() => Ok(()),
            error => Err(error),
        }
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

async fn look<T>(looking: Looking<T>) -> Result<T, String> {
    let looked = tokio::time::timeout(LOOK_TIME_MAX, looking).await;
    looked.unwrap_or_else(|_| Err("it took too long".to_owned()))
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

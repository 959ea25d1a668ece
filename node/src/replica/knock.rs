//! Telling other nodes of senders that were turned away and came back.
//!
//! Who counts them is the affair of a room above, which leaves its ear here. Nothing of it is kept
//! for long or decides about mail that is held, so it does not go through the log; what is lost is
//! told again with the sender's next try.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use holdfast_mail::Domain;
use holdfast_proto::cluster as wire;

use super::Inner;
use super::handle::Cluster;

/// Told in one message, about 100 octets each; the rest is told later.
pub const KNOCKS_MAX: usize = 2_000;

/// A node that does not answer for longer is told the next time.
const TELL_TIME_MAX: Duration = Duration::from_secs(5);

/// What is known of one sender and one domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Knock {
    pub network: IpAddr,
    pub domain: Domain,
    /// How often it tried, at any node.
    pub tries: u32,
    /// Since the first of the tries. No time of day: nodes' clocks differ.
    pub span: Duration,
}

pub type Ear = Arc<dyn Fn(Knock) + Send + Sync>;

impl Cluster {
    /// Once: who hears what other nodes tell.
    pub fn hear_knocks(&self, ear: Ear) {
        let _set_before = self.0.ear.set(ear);
    }

    /// Tells every other member, as far as they can be reached.
    pub async fn tell_knocks(&self, knocks: &[Knock]) {
        let told: Vec<wire::Knock> = knocks.iter().take(KNOCKS_MAX).map(to_wire).collect();
        let members = self.members().into_iter();
        let others = members.filter(|member| member.id != self.0.me.id);
        let tells = others.map(|member| {
            let (node, knocks) = (member.id.0, told.clone());
            async move {
                let Some(mut client) = self.0.peers.members(node) else {
                    return;
                };
                let envelope = self.0.peers.envelope(node);
                let telling = client.knocks(wire::KnocksRequest { envelope, knocks });
                let told = tokio::time::timeout(TELL_TIME_MAX, telling).await;
                if !matches!(told, Ok(Ok(_))) {
                    tracing::debug!(node, "it was not told which senders came back");
                }
            }
        });
        futures::future::join_all(tells).await;
    }
}

/// Passes on what another node told.
pub(super) fn heard(inner: &Inner, knocks: Vec<wire::Knock>) {
    let Some(ear) = inner.ear.get() else {
        return;
    };
    knocks
        .into_iter()
        .take(KNOCKS_MAX)
        .filter_map(from_wire)
        .for_each(|knock| ear(knock));
}

fn to_wire(knock: &Knock) -> wire::Knock {
    wire::Knock {
        network: match knock.network {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        }
        .into(),
        domain: knock.domain.to_string(),
        tries: knock.tries,
        span_ms: u64::try_from(knock.span.as_millis()).unwrap_or(u64::MAX),
    }
}

fn from_wire(knock: wire::Knock) -> Option<Knock> {
    let network = &knock.network[..];
    let network = match (<[u8; 4]>::try_from(network), <[u8; 16]>::try_from(network)) {
        (Ok(v4), _) => IpAddr::from(v4),
        (_, Ok(v6)) => IpAddr::from(v6),
        _ => return None,
    };
    Some(Knock {
        network,
        domain: Domain::parse(&knock.domain).ok()?,
        tries: knock.tries,
        span: Duration::from_millis(knock.span_ms),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_what_is_heard() {
        for network in ["192.0.2.0", "2001:db8::"] {
            let knock = Knock {
                network: network.parse().unwrap(),
                domain: Domain::parse("a.example").unwrap(),
                tries: 2,
                span: Duration::from_secs(300),
            };
            assert_eq!(from_wire(to_wire(&knock)), Some(knock.clone()));
            let mut wrong = to_wire(&knock);
            wrong.network = vec![1, 2, 3].into();
            assert_eq!(from_wire(wrong), None);
        }
    }
}

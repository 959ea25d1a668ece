//! Senders that are asked to go to a primary that is up, and come back.
//!
//! A sender may be cut off from a primary that we reach. So whoever keeps trying is taken at his
//! word, and his mail is accepted. Senders try node after node, so nodes tell each other how often
//! each has come: the greatest number that any of them knows counts, so that one try that several
//! nodes saw is one, and what a restarted node has forgotten it hears again.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_mail::{Domain, Timestamp};
use tokio::time::MissedTickBehavior;

use crate::replica::{Cluster, KNOCKS_MAX, Knock, now};

/// Tries after which a sender is believed, and the time that they must span: what a mail server
/// comes to within a quarter of an hour, and a program that sends spam seldom does.
const TRIES: u32 = 3;
const SPAN: Duration = Duration::from_secs(5 * 60);

/// Tries closer together are one: a sender tries all our nodes, and all its messages, at once.
const APART: Duration = Duration::from_secs(30);

/// How long a sender is remembered after its last try: mail for the same domain soon follows.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);

/// Senders remembered, about 150 bytes each. Beyond it the oldest of those that came once make room:
/// whoever comes from many networks must not keep honest senders from being remembered. Where all
/// came back, further ones are not remembered, and asked to go to the primary as long as it is up.
const SENDERS_MAX: usize = 20_000;

/// How often other nodes are told.
const TELL_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Knocks {
    senders: HashMap<(IpAddr, Domain), Tries>,
    /// What other nodes have not been told yet: [`KNOCKS_MAX`] at most. What does not fit they hear
    /// with the sender's next try.
    news: Vec<(IpAddr, Domain)>,
}

#[derive(Debug)]
struct Tries {
    first: Timestamp,
    last: Timestamp,
    tries: u32,
}

impl Knocks {
    /// Notes a try, and says whether the sender is believed.
    pub(super) fn believes(&mut self, client: IpAddr, domain: &Domain, now: Timestamp) -> bool {
        let key = (network(client), domain.clone());
        if !self.has_place(&key, now) {
            return false;
        }
        let none = Tries {
            first: now,
            last: now,
            tries: 0,
        };
        let knock = self.senders.entry(key.clone()).or_insert(none);
        if now.since(knock.last) >= REMEMBERED {
            (knock.first, knock.tries) = (now, 0);
        }
        let is_new = knock.tries == 0 || now.since(knock.last) >= APART;
        if is_new {
            knock.last = now;
            knock.tries = knock.tries.saturating_add(1);
        }
        let believed = knock.tries >= TRIES && now.since(knock.first) >= SPAN;
        if is_new && self.news.len() < KNOCKS_MAX {
            self.news.push(key);
        }
        believed
    }

    /// What another node knows.
    fn hear(&mut self, knock: Knock, now: Timestamp) {
        // A try counts as one of now: it was told within a second or two.
        let first = Timestamp(now.0.saturating_sub(millis(knock.span)));
        let key = (knock.network, knock.domain);
        if !self.has_place(&key, now) {
            return;
        }
        let known = self.senders.entry(key).or_insert(Tries {
            first,
            last: now,
            tries: 0,
        });
        if now.since(known.last) >= REMEMBERED {
            (known.first, known.tries) = (first, 0);
        }
        known.first = known.first.min(first);
        known.last = now;
        known.tries = known.tries.max(knock.tries);
    }

    /// Whether there is room for it, or it is there.
    fn has_place(&mut self, key: &(IpAddr, Domain), now: Timestamp) -> bool {
        if !self.senders.contains_key(key) && self.senders.len() >= SENDERS_MAX {
            self.senders
                .retain(|_, knock| now.since(knock.last) < REMEMBERED);
            if self.senders.len() >= SENDERS_MAX {
                self.forget_who_came_once();
            }
            return self.senders.len() < SENDERS_MAX;
        }
        true
    }

    /// The older half of them, so that not every try of a flood walks over all.
    fn forget_who_came_once(&mut self) {
        let once = self.senders.values().filter(|knock| knock.tries == 1);
        let mut since: Vec<Timestamp> = once.map(|knock| knock.last).collect();
        if since.is_empty() {
            return;
        }
        let middle = since.len() / 2;
        let (_, &mut middle, _) = since.select_nth_unstable(middle);
        self.senders
            .retain(|_, knock| knock.tries > 1 || knock.last > middle);
    }

    /// What other nodes are to be told.
    fn take_news(&mut self, now: Timestamp) -> Vec<Knock> {
        let news = std::mem::take(&mut self.news);
        let knock = |key: (IpAddr, Domain)| {
            let known = self.senders.get(&key)?;
            let (network, domain) = key;
            Some(Knock {
                network,
                domain,
                tries: known.tries,
                span: now.since(known.first),
            })
        };
        news.into_iter().filter_map(knock).collect()
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Tells other nodes, and hears what they tell, until the task is aborted.
pub(super) async fn share(knocks: Arc<Mutex<Knocks>>, cluster: Cluster) {
    let heard = knocks.clone();
    cluster.hear_knocks(Arc::new(move |knock| {
        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.hear(knock, now());
    }));
    let mut ticks = tokio::time::interval(TELL_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let news = {
            let mut knocks = knocks.lock().unwrap_or_else(PoisonError::into_inner);
            knocks.take_news(now())
        };
        if !news.is_empty() {
            cluster.tell_knocks(&news).await;
        }
    }
}

/// Large senders come back from another address of the same network.
fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(ip) => Ipv4Addr::from(u32::from(ip) & 0xffff_ff00).into(),
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip) & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senders_from_many_networks_do_not_keep_an_honest_one_from_being_believed() {
        let mut knocks = Knocks::default();
        let domain = Domain::parse("a.example").unwrap();
        let at = |seconds: u64| Timestamp(1_800_000_000_000 + seconds * 1000);
        let flood = |knocks: &mut Knocks, seconds: u64| {
            for network in 0..2 * SENDERS_MAX as u32 {
                let client = Ipv4Addr::from((10 << 24) + (network << 8)).into();
                knocks.believes(client, &domain, at(seconds));
            }
        };
        let honest = "192.0.2.1".parse().unwrap();
        flood(&mut knocks, 0);
        assert!(!knocks.believes(honest, &domain, at(60)));
        assert!(!knocks.believes(honest, &domain, at(120)));
        flood(&mut knocks, 200);
        assert!(knocks.believes(honest, &domain, at(400)));
        assert!(knocks.senders.len() <= SENDERS_MAX);
    }

    #[test]
    fn a_sender_that_comes_back_is_believed_wherever_in_its_network_it_is() {
        let mut knocks = Knocks::default();
        let domain = Domain::parse("a.example").unwrap();
        let other = Domain::parse("b.example").unwrap();
        let mut knock = |client: &str, domain: &Domain, seconds: u64| {
            let now = Timestamp(1_800_000_000_000 + seconds * 1000);
            knocks.believes(client.parse().unwrap(), domain, now)
        };
        for burst in 0..10 {
            assert!(!knock("192.0.2.1", &domain, burst));
        }
        assert!(!knock("192.0.2.1", &domain, 300), "twice");
        assert!(knock("192.0.2.200", &domain, 900), "three times");
        assert!(knock("192.0.2.1", &domain, 901), "and so it stays");
        assert!(!knock("192.0.2.1", &other, 902), "for this domain");
        assert!(!knock("198.51.100.1", &domain, 903), "and this network");
        assert!(!knock("192.0.2.1", &domain, 2 * 24 * 3600), "for a day");
        // Three tries in a row are no proof.
        for seconds in [0, 40, 80, 120] {
            assert!(!knock("2001:db8::1", &domain, seconds));
        }
        assert!(knock("2001:db8::ffff:1", &domain, 300));
    }

    #[test]
    fn a_sender_that_tries_node_after_node_is_believed_and_one_try_at_all_of_them_is_one() {
        let domain = Domain::parse("a.example").unwrap();
        let client = "192.0.2.1".parse().unwrap();
        let at = |seconds: u64| Timestamp(1_800_000_000_000 + seconds * 1000);
        let mut nodes = [Knocks::default(), Knocks::default(), Knocks::default()];
        let tell = |nodes: &mut [Knocks; 3], seconds| {
            for from in 0..3 {
                for knock in nodes[from].take_news(at(seconds)) {
                    for to in (0..3).filter(|to| *to != from) {
                        nodes[to].hear(knock.clone(), at(seconds));
                    }
                }
            }
        };
        // Each attempt is made at all nodes, before they can tell each other.
        for (attempt, seconds) in [0, 150].into_iter().enumerate() {
            for node in &mut nodes {
                assert!(!node.believes(client, &domain, at(seconds)), "{attempt}");
            }
            tell(&mut nodes, seconds + 1);
        }
        assert!(
            nodes
                .iter()
                .all(|node| { node.senders.values().all(|tries| tries.tries == 2) })
        );
        // One that has forgotten everything hears it with the next try at another.
        nodes[0] = Knocks::default();
        assert!(nodes[2].believes(client, &domain, at(301)));
        tell(&mut nodes, 302);
        assert!(nodes[0].believes(client, &domain, at(303)));
        // One try at each node in turn is enough as well.
        let mut nodes = [Knocks::default(), Knocks::default(), Knocks::default()];
        for (turn, seconds) in [0, 150].into_iter().enumerate() {
            assert!(!nodes[turn].believes(client, &domain, at(seconds)));
            tell(&mut nodes, seconds + 1);
        }
        assert!(nodes[2].believes(client, &domain, at(301)));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut knocks = Knocks::default();
        let domain = Domain::parse("a.example").unwrap();
        for number in 0..2 * SENDERS_MAX as u32 {
            let client = IpAddr::from(Ipv4Addr::from(number << 8));
            knocks.believes(client, &domain, Timestamp(u64::from(number)));
        }
        assert!(knocks.senders.len() <= SENDERS_MAX);
        assert_eq!(knocks.news.len(), KNOCKS_MAX);
    }
}

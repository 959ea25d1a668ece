//! Senders that are asked to go to a primary that is up, and come back.
//!
//! A sender may be cut off from a primary that we reach. So whoever keeps trying is taken at his
//! word, and his mail is accepted. Each node counts for itself: a sender that tries several of them
//! waits a little longer.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use holdfast_mail::{Domain, Timestamp};

/// Tries after which a sender is believed, and the time that they must span: what a mail server
/// comes to within a quarter of an hour, and a program that sends spam seldom does.
const TRIES: u32 = 3;
const SPAN: Duration = Duration::from_secs(5 * 60);

/// Tries closer together are one: a sender tries all our nodes, and all its messages, at once.
const APART: Duration = Duration::from_secs(30);

/// How long a sender is remembered after its last try: mail for the same domain soon follows.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);

/// Senders remembered, about 150 bytes each. Beyond it the ones that came last are not, and are
/// asked to go to the primary as long as it is up.
const SENDERS_MAX: usize = 20_000;

#[derive(Debug, Default)]
pub(super) struct Knocks(HashMap<(IpAddr, Domain), Knock>);

#[derive(Debug)]
struct Knock {
    first: Timestamp,
    last: Timestamp,
    tries: u32,
}

impl Knocks {
    /// Notes a try, and says whether the sender is believed.
    pub(super) fn believes(&mut self, client: IpAddr, domain: &Domain, now: Timestamp) -> bool {
        let key = (network(client), domain.clone());
        if !self.0.contains_key(&key) && self.0.len() >= SENDERS_MAX {
            self.0.retain(|_, knock| now.since(knock.last) < REMEMBERED);
            if self.0.len() >= SENDERS_MAX {
                return false;
            }
        }
        let first = || Knock {
            first: now,
            last: now,
            tries: 1,
        };
        let knock = self.0.entry(key).or_insert_with(first);
        if now.since(knock.last) >= REMEMBERED {
            *knock = first();
        } else if now.since(knock.last) >= APART {
            knock.last = now;
            knock.tries = knock.tries.saturating_add(1);
        }
        knock.tries >= TRIES && now.since(knock.first) >= SPAN
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
    fn what_is_remembered_is_bounded() {
        let mut knocks = Knocks::default();
        let domain = Domain::parse("a.example").unwrap();
        for number in 0..2 * SENDERS_MAX as u32 {
            let client = IpAddr::from(Ipv4Addr::from(number << 8));
            knocks.believes(client, &domain, Timestamp(u64::from(number)));
        }
        assert_eq!(knocks.0.len(), SENDERS_MAX);
    }
}

//! Who fails too often is not listened to for a while.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

/// Failed handshakes within [`PERIOD`]: somebody with an outdated file, who tries again and again,
/// is told why; a search for a way in is not.
const FAILURES_MAX: u32 = 10;

const PERIOD: Duration = Duration::from_secs(60);

/// Addresses remembered at once. Beyond it the oldest periods are forgotten.
const ADDRESSES_MAX: usize = 10_000;

/// Failures, by address: an IPv6 network of 64 bits counts as one.
#[derive(Default)]
pub(super) struct Strikes {
    failures: HashMap<IpAddr, (u32, Instant)>,
}

impl Strikes {
    /// Whether a connection from there is dropped unheard.
    pub(super) fn is_out(&self, address: IpAddr, now: Instant) -> bool {
        self.failures
            .get(&network(address))
            .is_some_and(|(count, since)| *count >= FAILURES_MAX && now < *since + PERIOD)
    }

    pub(super) fn failed(&mut self, address: IpAddr, now: Instant) {
        let address = network(address);
        if self.failures.len() >= ADDRESSES_MAX && !self.failures.contains_key(&address) {
            self.failures.retain(|_, (_, since)| now < *since + PERIOD);
            // All within one period: an attack from everywhere, and remembering nobody is all right.
            if self.failures.len() >= ADDRESSES_MAX {
                self.failures.clear();
            }
        }
        let (count, since) = self.failures.entry(address).or_insert((0, now));
        if now >= *since + PERIOD {
            (*count, *since) = (0, now);
        }
        *count += 1;
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => ip.into(),
            None => std::net::Ipv6Addr::from(u128::from(ip) >> 64 << 64).into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_ten_failures_within_a_minute_an_address_is_not_heard_for_that_minute() {
        let mut strikes = Strikes::default();
        let (from, other) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let now = Instant::now();
        for _ in 0..FAILURES_MAX {
            assert!(!strikes.is_out(from, now));
            strikes.failed(from, now);
        }
        assert!(strikes.is_out(from, now) && !strikes.is_out(other, now));
        assert!(!strikes.is_out(from, now + PERIOD), "it may try again");
        strikes.failed(from, now + PERIOD);
        assert!(!strikes.is_out(from, now + PERIOD), "and begins anew");
    }

    #[test]
    fn who_has_a_whole_network_of_ipv6_is_one() {
        let mut strikes = Strikes::default();
        let now = Instant::now();
        for host in 0..FAILURES_MAX {
            let ip = std::net::Ipv6Addr::from(0x2001_0db8 << 96 | u128::from(host));
            strikes.failed(ip.into(), now);
        }
        assert!(strikes.is_out("2001:db8::ffff".parse().unwrap(), now));
        assert!(!strikes.is_out("2001:db8:0:1::1".parse().unwrap(), now));
    }

    #[test]
    fn however_many_addresses_there_are_few_are_remembered() {
        let mut strikes = Strikes::default();
        let now = Instant::now();
        for host in 0..u32::try_from(ADDRESSES_MAX).unwrap() * 2 {
            strikes.failed(std::net::Ipv4Addr::from(host).into(), now);
        }
        assert!(strikes.failures.len() <= ADDRESSES_MAX);
    }
}

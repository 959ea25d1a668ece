//! Who fails too often is not listened to for a while.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use holdfast_mail::Network;
use holdfast_mail::network::circles;
use tokio::time::Instant;

/// Failed handshakes within [`PERIOD`]: somebody with an outdated file, who tries again and again,
/// is told why; a search for a way in is not.
const FAILURES_MAX: u32 = 10;

const PERIOD: Duration = Duration::from_secs(60);

/// Networks remembered at once. Beyond it the oldest periods are forgotten.
const NETWORKS_MAX: usize = 10_000;

/// Forgotten at once, so that looking for the oldest is not done for each that comes. Never all: then
/// whoever has many addresses would be heard again for the asking.
const FORGOTTEN_AT_ONCE: usize = NETWORKS_MAX / 10;

/// Failures, by the networks that an address counts for.
#[derive(Default)]
pub(super) struct Strikes {
    failures: HashMap<Network, (u32, Instant)>,
}

impl Strikes {
    /// Whether a connection from there is dropped unheard.
    pub(super) fn is_out(&self, address: IpAddr, now: Instant) -> bool {
        circles(address).any(|(network, room)| {
            let failed = self.failures.get(&network);
            failed.is_some_and(|(count, since)| {
                *count >= FAILURES_MAX * room && now < *since + PERIOD
            })
        })
    }

    pub(super) fn failed(&mut self, address: IpAddr, now: Instant) {
        for (network, _) in circles(address) {
            if self.failures.len() >= NETWORKS_MAX && !self.failures.contains_key(&network) {
                self.make_room(now);
            }
            let (count, since) = self.failures.entry(network).or_insert((0, now));
            if now >= *since + PERIOD {
                (*count, *since) = (0, now);
            }
            *count += 1;
        }
    }

    fn make_room(&mut self, now: Instant) {
        self.failures.retain(|_, (_, since)| now < *since + PERIOD);
        if self.failures.len() < NETWORKS_MAX {
            return;
        }
        let mut begun: Vec<Instant> = self.failures.values().map(|(_, since)| *since).collect();
        let (_, last, _) = begun.select_nth_unstable(FORGOTTEN_AT_ONCE - 1);
        let last = *last;
        let mut left = FORGOTTEN_AT_ONCE;
        self.failures.retain(|_, (_, since)| {
            let is_old = *since <= last && left > 0;
            left -= usize::from(is_old);
            !is_old
        });
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
    fn however_many_addresses_there_are_few_are_remembered_and_the_last_are_not_forgotten() {
        let mut strikes = Strikes::default();
        let now = Instant::now();
        let hosts = u32::try_from(NETWORKS_MAX).unwrap();
        for host in 0..hosts {
            strikes.failed(std::net::Ipv4Addr::from(host).into(), now);
        }
        let (later, from) = (now + PERIOD / 2, [192, 0, 2, 1].into());
        for _ in 0..FAILURES_MAX {
            strikes.failed(from, later);
        }
        strikes.failed([192, 0, 2, 2].into(), later);
        assert!(strikes.failures.len() <= NETWORKS_MAX);
        assert!(strikes.is_out(from, later));
    }

    #[test]
    fn who_has_many_networks_of_ipv6_is_out_with_all_of_them() {
        let mut strikes = Strikes::default();
        let now = Instant::now();
        let ip =
            |site: u16, network| std::net::Ipv6Addr::new(0x2001, 0xdb8, site, network, 0, 0, 0, 1);
        for network in 0..2 * u16::try_from(FAILURES_MAX).unwrap() {
            strikes.failed(ip(1, network).into(), now);
        }
        assert!(strikes.is_out(ip(1, 0xff).into(), now), "of the same /56");
        assert!(!strikes.is_out(ip(1, 0x100).into(), now) && !strikes.is_out(ip(2, 0).into(), now));
    }
}

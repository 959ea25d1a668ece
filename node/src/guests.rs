//! Who is connected, and how often: the caps on connections.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use holdfast_mail::Network;
use holdfast_mail::network::circles;

/// Counts connections, in all and for each network that they come from.
#[derive(Clone, Default)]
pub(crate) struct Guests(Arc<Mutex<Now>>);

/// How many connections there may be.
#[derive(Clone, Copy)]
pub(crate) struct Places {
    pub(crate) all_max: usize,
    /// From one client; from a wider network of IPv6 a few times as many.
    pub(crate) each_max: usize,
}

#[derive(Default)]
struct Now {
    all: usize,
    by_network: HashMap<Network, usize>,
}

/// A place that is given back when dropped.
pub(crate) struct Guest {
    guests: Guests,
    address: IpAddr,
}

impl Guests {
    fn now(&self) -> MutexGuard<'_, Now> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place, or why there is none.
    pub(crate) fn enter(&self, address: IpAddr, places: Places) -> Result<Guest, &'static str> {
        let mut now = self.now();
        if now.all >= places.all_max {
            return Err("too many connections");
        }
        let is_full = |(network, room): (Network, u32)| {
            let there = now.by_network.get(&network).copied().unwrap_or_default();
            there >= places.each_max * room as usize
        };
        if circles(address).any(is_full) {
            return Err("too many connections from your address");
        }
        for (network, _) in circles(address) {
            *now.by_network.entry(network).or_default() += 1;
        }
        now.all += 1;
        Ok(Guest {
            guests: self.clone(),
            address,
        })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut now = self.guests.now();
        now.all -= 1;
        for (network, _) in circles(self.address) {
            if let Some(there) = now.by_network.get_mut(&network) {
                *there -= 1;
                if *there == 0 {
                    now.by_network.remove(&network);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_limited_in_all_and_per_client_and_given_back() {
        let guests = Guests::default();
        let places = Places {
            all_max: 3,
            each_max: 2,
        };
        let a: IpAddr = "192.0.2.1".parse().unwrap();
        let b: IpAddr = "2001:db8::1".parse().unwrap();
        let b2: IpAddr = "2001:db8::2".parse().unwrap();
        let first = guests.enter(a, places).unwrap();
        let _second = guests.enter(a, places).unwrap();
        assert!(guests.enter(a, places).is_err());
        let _third = guests.enter(b, places).unwrap();
        assert_eq!(guests.enter(b2, places).err(), Some("too many connections"));
        drop(first);
        let _fourth = guests.enter(b2, places).unwrap();
        assert_eq!(guests.enter(a, places).err(), Some("too many connections"));
    }

    #[test]
    fn who_has_many_networks_of_ipv6_takes_the_places_of_a_few() {
        let guests = Guests::default();
        let places = Places {
            all_max: 1_000,
            each_max: 2,
        };
        let from = |site: u16, network: u16| {
            let ip = std::net::Ipv6Addr::new(0x2001, 0xdb8, site, network, 0, 0, 0, 1);
            guests.enter(ip.into(), places)
        };
        let neighbours: Vec<_> = (0..100).filter_map(|n| from(1, n).ok()).collect();
        assert_eq!(neighbours.len(), 4, "of one /56, twice as many as of one");
        let site: Vec<_> = (1..100).filter_map(|n| from(1, n << 8).ok()).collect();
        assert_eq!(site.len(), 4, "of one /48, four times as many");
        assert!(from(2, 0).is_ok(), "another site is none of theirs");
        drop((neighbours, site));
        assert!(from(1, 0).is_ok(), "and what was given back is free");
        assert!(guests.now().by_network.is_empty());
    }
}

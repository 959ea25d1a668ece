//! Who is connected, and how often: the caps on sessions.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts sessions, in all and per address.
#[derive(Clone)]
pub(super) struct Guests(Arc<Inner>);

struct Inner {
    all_max: usize,
    each_max: usize,
    now: Mutex<Now>,
}

#[derive(Default)]
struct Now {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// A place that is given back when dropped.
pub(super) struct Guest {
    guests: Guests,
    address: IpAddr,
}

impl Guests {
    pub(super) fn new(all_max: usize, each_max: usize) -> Self {
        Self(Arc::new(Inner {
            all_max,
            each_max,
            now: Mutex::default(),
        }))
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.0.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place, or why there is none.
    pub(super) fn enter(&self, address: IpAddr) -> Result<Guest, &'static str> {
        let address = network(address);
        let mut now = self.now();
        if now.all >= self.0.all_max {
            return Err("too many connections");
        }
        let mine = now.by_address.entry(address).or_default();
        if *mine >= self.0.each_max {
            return Err("too many connections from your address");
        }
        *mine += 1;
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
        if let Some(mine) = now.by_address.get_mut(&self.address) {
            *mine -= 1;
            if *mine == 0 {
                now.by_address.remove(&self.address);
            }
        }
    }
}

/// What counts as one client. An IPv6 customer has at least a /64: counting single addresses would
/// count nothing.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => v4.into(),
            None => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
        },
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_limited_in_all_and_per_client_and_given_back() {
        let guests = Guests::new(3, 2);
        let a: IpAddr = "192.0.2.1".parse().unwrap();
        let b: IpAddr = "2001:db8::1".parse().unwrap();
        let b2: IpAddr = "2001:db8::2".parse().unwrap();
        let first = guests.enter(a).unwrap();
        let _second = guests.enter(a).unwrap();
        assert!(guests.enter(a).is_err());
        let _third = guests.enter(b).unwrap();
        assert_eq!(guests.enter(b2).err(), Some("too many connections"));
        drop(first);
        let _fourth = guests.enter(b2).unwrap();
        assert_eq!(guests.enter(a).err(), Some("too many connections"));
    }
}

//! Who is connected, and how often: the caps on sessions.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use holdfast_mail::network::client;

/// Counts sessions, in all and per address.
#[derive(Clone, Default)]
pub(super) struct Guests(Arc<Mutex<Now>>);

/// How many sessions there may be.
#[derive(Clone, Copy)]
pub(super) struct Places {
    pub(super) all_max: usize,
    pub(super) each_max: usize,
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
    fn now(&self) -> MutexGuard<'_, Now> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place, or why there is none.
    pub(super) fn enter(&self, address: IpAddr, places: Places) -> Result<Guest, &'static str> {
        let address = client(address);
        let mut now = self.now();
        if now.all >= places.all_max {
            return Err("too many connections");
        }
        let mine = now.by_address.entry(address).or_default();
        if *mine >= places.each_max {
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
}

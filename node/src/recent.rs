//! How often each of many did something lately, in bounded memory.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_mail::Network;
use holdfast_mail::network::circles;
use tokio::time::Instant;

/// Remembered at a time, about 100 bytes each. Beyond it the oldest are forgotten.
const REMEMBERED_MAX: usize = 10_000;

/// Forgotten at once, so that looking for the oldest is not done for each that comes. Never all: whoever
/// can come under many names would reset everybody's count, and first of all their own.
const FORGOTTEN_AT_ONCE: usize = REMEMBERED_MAX / 10;

/// How often each was seen since its period began.
pub struct Recent<K>(HashMap<K, (Instant, u32)>);

impl<K> Default for Recent<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

fn lock<K>(recent: &Mutex<Recent<K>>) -> MutexGuard<'_, Recent<K>> {
    recent.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recent<Network> {
    /// Whether a client may come once more within its period. Wider networks of IPv6 have room for a few
    /// clients.
    pub fn client_within(
        recent: &Mutex<Self>,
        address: IpAddr,
        period: Duration,
        max: u32,
    ) -> bool {
        lock(recent).client_at(address, Instant::now(), period, max)
    }

    fn client_at(&mut self, address: IpAddr, now: Instant, period: Duration, max: u32) -> bool {
        // Who is refused does not count: a host that is too busy is not to use up its neighbours' room.
        let has_room = |(network, room)| self.count(&network, now, period) < max * room;
        if !circles(address).all(has_room) {
            return false;
        }
        for (network, _) in circles(address) {
            self.note(network, now, period);
        }
        true
    }
}

impl<K: Eq + Hash> Recent<K> {
    /// Whether `key` may come once more within its period.
    pub fn within(recent: &Mutex<Self>, key: K, period: Duration, max: u32) -> bool {
        lock(recent).at(key, Instant::now(), period, max)
    }

    /// As if `key` had not been seen.
    pub fn forget(recent: &Mutex<Self>, key: &K) {
        lock(recent).0.remove(key);
    }

    fn at(&mut self, key: K, now: Instant, period: Duration, max: u32) -> bool {
        let has_room = self.count(&key, now, period) < max;
        if has_room {
            self.note(key, now, period);
        }
        has_room
    }

    fn count(&self, key: &K, now: Instant, period: Duration) -> u32 {
        let seen = self.0.get(key);
        let seen = seen.filter(|(since, _)| now.duration_since(*since) < period);
        seen.map_or(0, |(_, count)| *count)
    }

    fn note(&mut self, key: K, now: Instant, period: Duration) {
        if self.0.len() >= REMEMBERED_MAX && !self.0.contains_key(&key) {
            self.make_room(now, period);
        }
        let (since, count) = self.0.entry(key).or_insert((now, 0));
        if now.duration_since(*since) >= period {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
    }

    fn make_room(&mut self, now: Instant, period: Duration) {
        self.0
            .retain(|_, (since, _)| now.duration_since(*since) < period);
        if self.0.len() < REMEMBERED_MAX {
            return;
        }
        let mut begun: Vec<Instant> = self.0.values().map(|(since, _)| *since).collect();
        let (_, last, _) = begun.select_nth_unstable(FORGOTTEN_AT_ONCE - 1);
        let last = *last;
        let mut left = FORGOTTEN_AT_ONCE;
        self.0.retain(|_, (since, _)| {
            let is_old = *since <= last && left > 0;
            left -= usize::from(is_old);
            !is_old
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(60);

    #[test]
    fn a_client_may_ask_again_when_its_period_is_over() {
        let mut recent = Recent::default();
        let begin = Instant::now();
        let mut ask = |key: &str, after| {
            let now = begin + Duration::from_secs(after);
            recent.at(key.to_owned(), now, PERIOD, 2)
        };
        assert_eq!(
            [ask("a", 0), ask("a", 1), ask("a", 59), ask("b", 59)],
            [true, true, false, true]
        );
        assert!(ask("a", 60));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_oldest_goes_first() {
        let mut recent = Recent::default();
        let begin = Instant::now();
        assert!(recent.at(usize::MAX, begin, PERIOD, 1));
        let later = begin + Duration::from_secs(1);
        assert!(recent.at(usize::MAX - 1, later, PERIOD, 1));
        for key in 0..REMEMBERED_MAX {
            let now = begin + Duration::from_millis(u64::try_from(key).unwrap().min(999));
            recent.at(key, now, PERIOD, 1);
        }
        assert!(recent.0.len() <= REMEMBERED_MAX);
        assert!(
            recent.at(usize::MAX, later, PERIOD, 1),
            "the oldest is forgotten"
        );
        assert!(
            !recent.at(usize::MAX - 1, later, PERIOD, 1),
            "who came last is not"
        );
    }

    #[test]
    fn a_flood_of_names_within_one_moment_resets_few() {
        let mut recent = Recent::default();
        let now = Instant::now();
        for key in 0..REMEMBERED_MAX + 1 {
            recent.at(key, now, PERIOD, 1);
        }
        assert!(recent.0.len() > REMEMBERED_MAX / 2, "{}", recent.0.len());
    }

    #[test]
    fn who_has_many_networks_of_ipv6_is_a_few_clients() {
        let mut recent = Recent::default();
        let now = Instant::now();
        let mut ask = |site: u16, network: u16| {
            let ip = std::net::Ipv6Addr::new(0x2001, 0xdb8, site, network, 0, 0, 0, 1);
            recent.client_at(ip.into(), now, PERIOD, 2)
        };
        let went = (0..100).filter(|network| ask(1, *network)).count();
        assert_eq!(went, 4, "of one /56, twice as many as of one");
        let went = (1..100).filter(|network| ask(1, network << 8)).count();
        assert_eq!(went, 4, "of one /48, four times as many");
        assert!(ask(2, 0), "another site is none of theirs");
    }

    #[test]
    fn a_host_that_is_too_busy_does_not_use_up_the_room_of_its_neighbours() {
        let mut recent = Recent::default();
        let now = Instant::now();
        let busy: IpAddr = "2001:db8::1".parse().unwrap();
        let neighbour: IpAddr = "2001:db8:0:1::1".parse().unwrap();
        for _ in 0..100 {
            recent.client_at(busy, now, PERIOD, 2);
        }
        assert!(recent.client_at(neighbour, now, PERIOD, 2));
    }
}

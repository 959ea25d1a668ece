//! Ports for servers that come and go.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::{Mutex, PoisonError};

use crate::random::Random;

/// Below those that `holdfast dev` looks for its own among, which begin at 15000: a server of a test may be
/// down for long, and its port is not to be taken for free. And below 32768, where Linux takes the ports of
/// outgoing connections from.
const FIRST: u64 = 10_000;
const LAST: u64 = 14_900;

/// What this process was given: of two tests at once neither listens yet.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// The first of `count` consecutive ports that nobody listens on now, and that nobody in this process was
/// given before. Not from the run's seed: two runs with one seed may run at the same time.
pub(crate) fn free(count: u16) -> u16 {
    let clock = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos() as u64);
    let mut random = Random::new(clock ^ u64::from(std::process::id()) << 32);
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let first = random.between(FIRST, LAST) as u16;
        let mut ports = first..first + count;
        let is_free = |port| TcpListener::bind(("0.0.0.0", port)).is_ok();
        if ports
            .clone()
            .all(|port| !given.contains(&port) && is_free(port))
        {
            given.extend(&mut ports);
            return first;
        }
    }
}

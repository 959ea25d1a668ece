//! Ports for servers that come and go.

use std::net::TcpListener;

use crate::random::Random;

/// Below 32768, where Linux takes the ports of outgoing connections from: one from there could be
/// taken while its server is down.
const FIRST: u64 = 15_000;
const LAST: u64 = 32_000;

/// The first of `count` consecutive ports that nobody listens on now. Not from the run's seed:
/// two runs with one seed may run at the same time.
pub(crate) fn free(count: u16) -> u16 {
    let clock = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos() as u64);
    let mut random = Random::new(clock ^ u64::from(std::process::id()) << 32);
    loop {
        let first = random.between(FIRST, LAST) as u16;
        if (first..first + count).all(|port| TcpListener::bind(("0.0.0.0", port)).is_ok()) {
            return first;
        }
    }
}

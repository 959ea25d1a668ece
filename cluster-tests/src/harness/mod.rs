//! The world around the cluster: node processes, senders, and the primaries of two domains.

mod disk;
mod faulty_disk;
mod flood;
mod letter;
mod machines;
mod memory;
mod network;
mod newcomer;
mod ports;
mod primary;
mod relay;
mod run;
mod sandbox;
mod sender;
mod turn;
mod watch;
mod wire;
mod world;

pub use disk::Disk;
pub use faulty_disk::{Calls, FaultyDisk, Lapse};
pub use flood::{Flood, PESTS, Pest};
pub use letter::Letter;
pub use machines::{DISK_BYTES, DISK_FREE_MIN_BYTES, Machine, Size};
pub use memory::Memory;
pub use network::Network;
pub use newcomer::Newcomer;
pub use primary::{Mood, Primary};
pub use relay::Quality;
pub use run::{DOMAINS, Run};
pub use sandbox::{Node, Sandbox, binary as node_binary};
pub use sender::{Load, Session, Unfinished};
pub use turn::{alone, beside_others};
pub use world::{
    apart, enter, have_address, in_a_new_world, in_its_own_world, is_inside, obstacle,
};

use std::time::{Duration, Instant};

/// A port that nobody listens on now.
#[must_use]
pub fn free_port() -> u16 {
    ports::free(1)
}

/// Waits until `done` gives something.
///
/// # Panics
/// If it does not within `limit`; `what` says what was waited for.
pub fn wait_for<T>(what: &str, limit: Duration, mut done: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = done() {
            return found;
        }
        assert!(
            begun.elapsed() < limit,
            "{what} did not come within {limit:?}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

//! The world around the cluster: node processes, senders, and the primaries of two domains.

mod letter;
mod ports;
mod primary;
mod run;
mod sandbox;
mod sender;
mod wire;

pub use letter::Letter;
pub use primary::Primary;
pub use run::{DOMAINS, Run};
pub use sandbox::{Node, Sandbox};
pub use sender::{Load, Session, Unfinished};

use std::time::{Duration, Instant};

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

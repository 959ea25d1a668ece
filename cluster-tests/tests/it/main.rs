//! Real nodes under real kills. One binary, one test at a time: each has three nodes of its own,
//! and two at once would take each other's time.

mod disks;
mod floods;
mod kills;
mod members;
mod partitions;
mod power;
mod primaries;
mod quorum;
mod strangers;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long faults go on in a test: `seconds`, or what the soak asks for.
fn test_time(seconds: u64) -> Duration {
    let asked = std::env::var("HOLDFAST_TEST_SECONDS");
    Duration::from_secs(asked.map_or(seconds, |text| {
        text.parse().expect("HOLDFAST_TEST_SECONDS is a number")
    }))
}

/// The rules that every run with mail tries.
const ALWAYS_TRIED: &[&str] = &[
    "acknowledged mail lost",
    "unexpected mail",
    "bytes changed",
    "envelope changed",
    "delivered to someone else",
    "refused for good",
    "duplicates",
];

//! Real nodes under real kills. One binary, one test at a time: each has three nodes of its own,
//! and two at once would take each other's time.

mod kills;
mod partitions;
mod power;
mod quorum;
mod strangers;

use std::sync::{Mutex, MutexGuard, PoisonError};

static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The rules that every run with mail tries.
const ALWAYS_TRIED: &[&str] = &[
    "acknowledged mail lost",
    "unexpected mail",
    "bytes changed",
    "delivered to someone else",
    "refused for good",
    "duplicates",
];

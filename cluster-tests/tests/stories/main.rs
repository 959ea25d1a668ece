//! What customers bought, from their side: each story plays against a cluster of three nodes. One
//! at a time: each has nodes of its own, and two at once would take each other's time.

mod portal;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long a cluster may take for what it does in seconds.
const SOON: Duration = Duration::from_secs(60);

//! Steps at which a test halts the process, to kill it or cut its power exactly there.
//!
//! With the feature `failpoints` the environment variable `HOLDFAST_FAILPOINT` names a step and how
//! often it is passed before, as `entry-written*20`; without the feature nothing of this is left.
//! `cluster-tests/tests/it/failpoints.rs` lists the steps.

/// This process has come to `step`.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub const fn reach(_step: &str) {}

/// This process has come to `step`. Does not return if it is the one where it halts.
#[cfg(feature = "failpoints")]
pub fn reach(step: &str) {
    use std::process::{Command, id};
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static CHOSEN: LazyLock<Option<(String, AtomicU64)>> = LazyLock::new(|| {
        let text = std::env::var("HOLDFAST_FAILPOINT").ok()?;
        let (step, before) = text.split_once('*')?;
        Some((step.to_owned(), AtomicU64::new(before.parse().ok()?)))
    });
    let Some((chosen, before)) = &*CHOSEN else {
        return;
    };
    if chosen != step {
        return;
    }
    let count_down = |left: u64| left.checked_sub(1);
    if before
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, count_down)
        .is_ok()
    {
        return;
    }
    tracing::warn!(step, "halted here");
    // All threads stand still, so that nothing happens any more before the kill or the cut.
    let halted = Command::new("kill")
        .args(["-STOP", &id().to_string()])
        .status();
    if let Err(error) = halted {
        tracing::error!("kill cannot be run: {error}");
        std::process::abort();
    }
    // Should somebody let the process go on: this step is never passed.
    loop {
        std::thread::park();
    }
}

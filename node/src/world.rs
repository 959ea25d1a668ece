//! The machine around the program: its clock, its dice, its spare threads.
//!
//! One door to what no code decides by itself, so that the simulation can stand behind it: a
//! test thread that has a simulated machine gets that one's time and chance, every other the
//! real ones. Elapsed time is tokio's clock, which the simulation holds still by itself.

use std::io;

use holdfast_mail::Timestamp;

/// The wall clock. Only what is logged or told to people may depend on it.
#[must_use]
pub fn now() -> Timestamp {
    #[cfg(test)]
    if let Some(now) = simulated::now() {
        return now;
    }
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp(since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)))
}

/// Random bytes from the system. Failing to get any would make ids and secrets guessable, so
/// there is nothing to go on with.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    #[cfg(test)]
    if simulated::fill(&mut bytes) {
        return bytes;
    }
    if let Err(error) = getrandom::fill(&mut bytes) {
        tracing::error!("the system gives no random numbers: {error}");
        std::process::abort();
    }
    bytes
}

/// Runs work that waits for a disk where it holds up nobody.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    #[cfg(test)]
    if simulated::is_here() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)
}

/// `tokio::select!`, which takes one of several ready branches by chance; in tests the first,
/// so that a simulated run can be repeated.
macro_rules! select {
    ($($branches:tt)*) => {{
        #[cfg(not(test))]
        {
            tokio::select! { $($branches)* }
        }
        #[cfg(test)]
        {
            tokio::select! { biased; $($branches)* }
        }
    }};
}
pub(crate) use select;

/// The machines of a simulation, which all live on one thread and are stepped in turn.
#[cfg(test)]
pub(crate) mod simulated {
    use std::cell::RefCell;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

    use holdfast_mail::Timestamp;
    use tokio::time::Instant;

    thread_local! {
        static HERE: RefCell<Option<Arc<Machine>>> = const { RefCell::new(None) };
    }

    /// One simulated machine, in one life between two crashes.
    #[derive(Debug)]
    pub(crate) struct Machine {
        /// The host's number in the simulation.
        pub(crate) host: usize,
        /// tokio's clock when the machine was started, and the wall clock then, in milliseconds.
        started: Instant,
        wall: u64,
        /// How wrong its wall clock is, milliseconds.
        skew: AtomicI64,
        dice: AtomicU64,
        disk_fails: AtomicBool,
    }

    impl Machine {
        pub(crate) fn new(host: usize, started: Instant, wall: u64, seed: u64) -> Self {
            Self {
                host,
                started,
                wall,
                skew: AtomicI64::new(0),
                dice: AtomicU64::new(seed),
                disk_fails: AtomicBool::new(false),
            }
        }

        /// The next flush to the disk fails.
        pub(crate) fn fail_disk(&self) {
            self.disk_fails.store(true, Ordering::Relaxed);
        }

        pub(crate) fn take_disk_failure(&self) -> bool {
            self.disk_fails.swap(false, Ordering::Relaxed)
        }

        pub(crate) fn set_skew(&self, millis: i64) {
            self.skew.store(millis, Ordering::Relaxed);
        }

        /// The next 64 bits (SplitMix64).
        pub(crate) fn roll(&self) -> u64 {
            const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
            mix(self
                .dice
                .fetch_add(STEP, Ordering::Relaxed)
                .wrapping_add(STEP))
        }
    }

    /// The finalizer of SplitMix64.
    pub(crate) fn mix(z: u64) -> u64 {
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From now on this thread's code runs on `machine`.
    pub(crate) fn enter(machine: Option<Arc<Machine>>) {
        HERE.with_borrow_mut(|here| *here = machine);
    }

    pub(crate) fn here() -> Option<Arc<Machine>> {
        HERE.with_borrow(Clone::clone)
    }

    pub(super) fn is_here() -> bool {
        HERE.with_borrow(Option::is_some)
    }

    pub(super) fn now() -> Option<Timestamp> {
        let machine = here()?;
        let since = u64::try_from(machine.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let skew = machine.skew.load(Ordering::Relaxed);
        Some(Timestamp(
            (machine.wall + since).saturating_add_signed(skew),
        ))
    }

    /// Fills `bytes` from the machine's dice, if this thread has one.
    pub(super) fn fill(bytes: &mut [u8]) -> bool {
        let Some(machine) = here() else {
            return false;
        };
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&machine.roll().to_le_bytes()[..chunk.len()]);
        }
        true
    }
}

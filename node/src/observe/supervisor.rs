//! What systemd is told (sd_notify(3)); nothing where it did not start this process.

use std::time::Duration;

use sd_notify::NotifyState;

/// The node answers. Whether it belongs to a cluster is another question.
pub fn started() {
    tell(NotifyState::Ready);
}

/// The node ends in order; that takes a while.
pub fn stops() {
    tell(NotifyState::Stopping);
}

/// Tells as long as the process lives that it lives, where that is asked for (`WatchdogSec`). A
/// runtime whose threads are all stuck tells nothing, and is started again.
pub fn keep_watch() {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return;
    };
    tokio::spawn(async move {
        let mut every = tokio::time::interval(beat(limit));
        loop {
            every.tick().await;
            tell(NotifyState::Watchdog);
        }
    });
}

/// Three within the limit: one that is late does no harm.
fn beat(limit: Duration) -> Duration {
    (limit / 3).max(Duration::from_millis(100))
}

fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!("systemd was not told: {error}");
    }
}

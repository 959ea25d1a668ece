//! When to try a destination again.

use std::time::Duration;

/// First wait after a failed attempt. Short, because a customer watches for the return; a
/// probe costs one connection.
pub const RETRY_DELAY_MIN: Duration = Duration::from_secs(2);

/// Longest wait between two attempts at a message the primary deferred (RFC 5321 section
/// 4.5.4.1 asks for at least 30 minutes "in general", and welcomes finer strategies; a
/// customer's own primary is one well-known host, so ten minutes burden nobody).
pub const RETRY_DELAY_MAX: Duration = Duration::from_secs(600);

/// Wait before attempt number `attempt` (the first retry is 1): doubling from
/// [`RETRY_DELAY_MIN`] to [`RETRY_DELAY_MAX`], the last quarter of it drawn by `jitter`, so
/// that messages deferred together are not all retried in the same second.
#[must_use]
pub fn delay(attempt: u32, jitter: u32) -> Duration {
    let doubled = RETRY_DELAY_MIN.saturating_mul(1 << attempt.saturating_sub(1).min(16));
    let full = doubled.min(RETRY_DELAY_MAX);
    full * 3 / 4 + full / 4 * (jitter % 1024) / 1024
}

/// First wait before a stranger's server is tried again, and longest. RFC 5321 section 4.5.4.1
/// asks for "at least 30 minutes" in general, and for two tries in the first hour.
const STRANGER_DELAY_MIN: Duration = Duration::from_secs(5 * 60);
const STRANGER_DELAY_MAX: Duration = Duration::from_secs(4 * 3600);

/// Wait before attempt number `attempt` (the first retry is 1) at a server that is no customer's:
/// 5, 10, 20, 40 minutes and so on. Without a draw, for every replica must come to the same.
#[must_use]
pub fn stranger_delay(attempt: u32) -> Duration {
    STRANGER_DELAY_MIN
        .saturating_mul(1 << attempt.saturating_sub(1).min(16))
        .min(STRANGER_DELAY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_below_the_longest() {
        let mut last = Duration::ZERO;
        for attempt in 1..40 {
            let wait = delay(attempt, 0);
            assert!(
                wait >= last && delay(attempt, u32::MAX) <= RETRY_DELAY_MAX,
                "{attempt}"
            );
            last = wait;
        }
        assert_eq!(last, RETRY_DELAY_MAX * 3 / 4);
    }
}

//! How often each of many did something lately, in bounded memory.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Remembered at a time, about 100 bytes each. Beyond it the oldest are forgotten.
const REMEMBERED_MAX: usize = 10_000;

/// How often each was seen since its period began.
pub struct Recent<K>(HashMap<K, (Instant, u32)>);

impl<K> Default for Recent<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> Recent<K> {
    /// Whether `key` may come once more within its period.
    pub fn within(recent: &Mutex<Self>, key: K, period: Duration, max: u32) -> bool {
        let mut recent = recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.at(key, Instant::now(), period, max)
    }

    /// As if `key` had not been seen.
    pub fn forget(recent: &Mutex<Self>, key: &K) {
        let mut recent = recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.0.remove(key);
    }

    fn at(&mut self, key: K, now: Instant, period: Duration, max: u32) -> bool {
        if self.0.len() >= REMEMBERED_MAX {
            self.0
                .retain(|_, (since, _)| now.duration_since(*since) < period);
        }
        if self.0.len() >= REMEMBERED_MAX {
            self.0.clear();
        }
        let (since, count) = self.0.entry(key).or_insert((now, 0));
        if now.duration_since(*since) >= period {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        *count <= max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_may_ask_again_when_its_period_is_over() {
        let mut recent = Recent::default();
        let begin = Instant::now();
        let period = Duration::from_secs(60);
        let mut ask = |key: &str, after| {
            let now = begin + Duration::from_secs(after);
            recent.at(key.to_owned(), now, period, 2)
        };
        assert_eq!(
            [ask("a", 0), ask("a", 1), ask("a", 59), ask("b", 59)],
            [true, true, false, true]
        );
        assert!(ask("a", 60));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut recent = Recent::default();
        for key in 0..3 * REMEMBERED_MAX {
            recent.at(key, Instant::now(), Duration::from_secs(60), 1);
        }
        assert!(recent.0.len() <= REMEMBERED_MAX);
    }
}

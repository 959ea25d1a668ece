//! How many bodies a node lacks that has joined and does not vote yet.
//!
//! To count them, every message that is held is looked at, which takes long where there are many. So they are
//! counted for whoever decides by the answer whether the node may vote, once at a time, and who asks meanwhile
//! shares the next count. Whoever only shows the number hears what the last count found.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::membership::lock;
use crate::world;

/// After that even somebody who only shows the number has it counted again.
const KNOWN_FOR: Duration = Duration::from_secs(10);

/// How long they wait for it: a count of few is there at once.
const QUICK: Duration = Duration::from_millis(250);

/// Told while nobody has just counted. Never none: a leader of a version that cannot ask for a count lets a node
/// vote that says so.
const UNKNOWN: u64 = 1;

#[derive(Default)]
pub(crate) struct Lacking {
    /// Whoever has it counts.
    turn: tokio::sync::Mutex<()>,
    last: Mutex<Option<Count>>,
}

#[derive(Clone, Copy)]
struct Count {
    missing: u64,
    began: Instant,
    ended: Instant,
}

impl Count {
    /// Whether it will do for somebody who asked then. That nothing is lacking must have been so after the
    /// question. That something is, is believed for as long as it took to find out: meanwhile the disk is
    /// there for the bodies that come.
    fn answers(&self, asked: Instant) -> bool {
        let took = self.ended - self.began;
        self.began >= asked || (self.missing > 0 && self.ended.elapsed() < took)
    }
}

impl Lacking {
    /// By `counting`, or by that of another who asks meanwhile.
    pub(crate) async fn count(
        self: &Arc<Self>,
        counting: impl FnOnce() -> io::Result<u64> + Send + 'static,
    ) -> io::Result<u64> {
        let (lacking, asked) = (Arc::clone(self), Instant::now());
        // A caller that gives up ends no count, so nobody may count beside it.
        let counted = tokio::spawn(async move { lacking.wait_and_count(asked, counting).await });
        counted.await.map_err(io::Error::other)?
    }

    async fn wait_and_count(
        &self,
        asked: Instant,
        counting: impl FnOnce() -> io::Result<u64> + Send + 'static,
    ) -> io::Result<u64> {
        let _turn = self.turn.lock().await;
        if let Some(count) = self.last().filter(|count| count.answers(asked)) {
            return Ok(count.missing);
        }
        let began = Instant::now();
        let missing = world::blocking(counting).await??;
        *lock(&self.last) = Some(Count {
            missing,
            began,
            ended: Instant::now(),
        });
        Ok(missing)
    }

    /// As far as it is known, for whoever must not wait.
    pub(crate) async fn about(
        self: &Arc<Self>,
        counting: impl FnOnce() -> io::Result<u64> + Send + 'static,
    ) -> u64 {
        let known = self.last();
        let is_old = known.is_none_or(|count| count.ended.elapsed() >= KNOWN_FOR);
        if is_old && self.turn.try_lock().is_ok() {
            match timeout(QUICK, self.count(counting)).await {
                Ok(Ok(missing)) => return missing,
                Ok(Err(error)) => tracing::error!("cannot count the bodies it lacks: {error}"),
                // It goes on, and the next one to ask hears of it.
                Err(_) => {}
            }
        }
        // None that was found may be so no more: a snapshot may have come since.
        let known = self.last().map_or(UNKNOWN, |count| count.missing);
        known.max(UNKNOWN)
    }

    fn last(&self) -> Option<Count> {
        *lock(&self.last)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc;

    use tokio::time::{advance, sleep};

    use super::*;

    #[tokio::test]
    async fn one_counts_at_a_time_and_those_who_wait_share_the_next_count() {
        let lacking = Arc::new(Lacking::default());
        let counts = Arc::new(AtomicU64::new(0));
        let (end, ends) = mpsc::channel::<()>();
        let ask = |ends: Option<mpsc::Receiver<()>>| {
            let (lacking, counts) = (Arc::clone(&lacking), Arc::clone(&counts));
            let counting = move || {
                counts.fetch_add(1, Ordering::Relaxed);
                if let Some(ends) = ends {
                    let _ended = ends.recv();
                }
                Ok(0)
            };
            tokio::spawn(async move { lacking.count(counting).await })
        };
        let first = ask(Some(ends));
        while counts.load(Ordering::Relaxed) == 0 {
            sleep(Duration::from_millis(1)).await;
        }
        let others = [ask(None), ask(None), ask(None)];
        sleep(Duration::from_millis(20)).await;
        // Nobody knows yet, and whoever must not wait does not.
        assert_eq!(lacking.about(|| Ok(7)).await, UNKNOWN);
        end.send(()).unwrap();
        assert_eq!(first.await.unwrap().unwrap(), 0);
        for other in others {
            assert_eq!(other.await.unwrap().unwrap(), 0);
        }
        assert_eq!(counts.load(Ordering::Relaxed), 2);
        assert_eq!(
            lacking.about(|| Ok(7)).await,
            UNKNOWN,
            "it may lack some since"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn that_nothing_is_lacking_was_found_after_the_question() {
        let five = Duration::from_secs(5);
        let began = Instant::now();
        advance(five).await;
        let asked = Instant::now();
        let count = |missing| Count {
            missing,
            began,
            ended: asked,
        };
        assert!(count(0).answers(began));
        assert!(!count(0).answers(asked));
        assert!(count(3).answers(asked));
        advance(five).await;
        assert!(!count(3).answers(asked));
    }
}

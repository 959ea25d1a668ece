//! The cluster's clock: what most of the voters' clocks say.
//!
//! Logged time decides when mail expires and when a lease ends, and it never runs back: one leader
//! whose clock stands in another year would give back all mail that is held. So a leader hears
//! with every heartbeat's answer what the others' clocks say, and a batch whose stamp is far from
//! the median gets the median.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use holdfast_mail::{NodeId, Timestamp};
use tokio::time::Instant;

/// How far a stamp may be from the median, milliseconds: more than an answer is under way, less
/// than any span that the ledger measures.
const SKEW_MAX_MS: u64 = 2_000;

/// What was heard of a clock counts this long.
const KEPT: Duration = Duration::from_secs(60);

/// Between two complaints about the same clocks.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// What the others' clocks say.
#[derive(Default)]
pub(crate) struct Clock {
    heard: Mutex<Heard>,
}

#[derive(Default)]
struct Heard {
    /// What a node's clock said, and when that was heard. Not by how much it differed from ours: if
    /// ours jumps, what was heard before would jump along, and outvote the others' clocks.
    said: BTreeMap<u64, (Timestamp, Instant)>,
    /// The last logged time seen, and when.
    logged: Option<(Timestamp, Instant)>,
    complained: Option<Instant>,
}

impl Clock {
    /// A node's clock says `theirs`. Zero, from a version that does not tell, is no time.
    pub(crate) fn heard(&self, node: u64, theirs: Timestamp) {
        if theirs.0 == 0 {
            return;
        }
        self.lock().said.insert(node, (theirs, Instant::now()));
    }

    /// An entry was applied, and this is the logged time since.
    pub(crate) fn logged(&self, at: Timestamp) {
        let mut heard = self.lock();
        if heard.logged.is_none_or(|(last, _)| at > last) {
            heard.logged = Some((at, Instant::now()));
        }
    }

    /// The time by the log: the latest in it, and what has passed since that was applied here. This
    /// node's clock, until something is.
    pub(crate) fn time(&self) -> Timestamp {
        let logged = self.lock().logged;
        logged.map_or_else(now, |(at, since)| at.plus(since.elapsed()))
    }

    /// How far the clocks that were heard of within the last minute are ahead of this node's,
    /// milliseconds.
    pub(crate) fn others(&self) -> Vec<(NodeId, i64)> {
        self.lock().ahead_of(now())
    }

    /// Whether the clocks agree that it is later than the log knows: they were set forward.
    pub(crate) fn is_ahead_of_the_log(&self) -> bool {
        let own = now();
        let heard = self.lock();
        let expected = heard.expected(own);
        expected.is_some_and(|expected| {
            heard.agreed(own).0 > shifted(own, expected).0.saturating_add(SKEW_MAX_MS)
        })
    }

    /// The stamp to log instead of `stamp`, which `node` made, if that is far off.
    ///
    /// Where the clocks were ahead, and were set back, the log is later than they are, and it never runs
    /// back. It must not stand still either until they have caught up: leases and sessions would not end.
    /// So it runs half as fast.
    pub(crate) fn correction(&self, stamp: Timestamp, node: NodeId) -> Option<Timestamp> {
        let mut heard = self.lock();
        let agreed = heard.agreed(now());
        if let Some((logged, since)) = heard.logged
            && logged.0 > agreed.0.saturating_add(SKEW_MAX_MS)
        {
            return Some(logged.plus(since.elapsed() / 2));
        }
        if agreed.0.abs_diff(stamp.0) <= SKEW_MAX_MS {
            return None;
        }
        let due = |at: Instant| at.elapsed() >= COMPLAIN_EVERY;
        if heard.complained.is_none_or(due) {
            heard.complained = Some(Instant::now());
            tracing::warn!(
                %node,
                seconds = difference(stamp, agreed) / 1000,
                "the clock of this node is ahead of the others', or behind if negative; mail is \
                 dated by the others. Set its clock right, and keep it so with NTP"
            );
        }
        Some(agreed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Heard {
    /// What most clocks say, by one that says `own`.
    fn agreed(&self, own: Timestamp) -> Timestamp {
        let others = self.ahead_of(own).into_iter().map(|(_, ahead)| ahead);
        shifted(own, median(others.collect(), self.expected(own)))
    }

    /// How far the log's time is ahead of `own` by now, milliseconds.
    fn expected(&self, own: Timestamp) -> Option<i64> {
        self.logged
            .map(|(at, since)| difference(at.plus(since.elapsed()), own))
    }

    /// How far the clocks that were heard of within the last minute are ahead of `own` by now,
    /// milliseconds.
    fn ahead_of(&self, own: Timestamp) -> Vec<(NodeId, i64)> {
        let fresh = self.said.iter().filter(|(_, (_, at))| at.elapsed() < KEPT);
        let ahead = fresh.map(|(node, (said, at))| {
            let by_now = said.plus(at.elapsed());
            (NodeId(*node), difference(by_now, own))
        });
        ahead.collect()
    }
}

/// Milliseconds that this process's clock runs ahead of the machine's, or behind. Not 0 only in
/// sandboxes and tests.
static AHEAD_MS: AtomicI64 = AtomicI64::new(0);

/// How often a sandbox's file is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// This node's own clock.
#[must_use]
pub fn now() -> Timestamp {
    let wall = crate::world::now().0;
    Timestamp(wall.saturating_add_signed(AHEAD_MS.load(Ordering::Relaxed)))
}

/// Sets this process's clock forward, or back, by the milliseconds that `file` says, so that days
/// pass in a sandbox. Read before this returns, and again as long as the process lives. A file
/// that is not there changes nothing.
///
/// # Errors
/// The file cannot be read, or holds no number.
pub(crate) fn follow(file: PathBuf) -> io::Result<()> {
    set(&file)?;
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if let Err(error) = set(&file) {
                tracing::warn!("{}: {error}; the clock stays as it was", file.display());
            }
        }
    });
    Ok(())
}

fn set(file: &Path) -> io::Result<()> {
    let text = match std::fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        read => read?,
    };
    let ms: i64 = text.trim().parse().map_err(io::Error::other)?;
    if AHEAD_MS.swap(ms, Ordering::Relaxed) != ms {
        tracing::warn!("this sandbox's clock is now {} s off", ms / 1000);
    }
    Ok(())
}

/// The median of our own clock, which is 0, and the others'. Between two that differ, the one
/// nearer to what is expected from the log counts, and the earlier where nothing is: mail that
/// expires late does less harm than mail that expires early.
fn median(mut clocks: Vec<i64>, expected: Option<i64>) -> i64 {
    clocks.push(0);
    clocks.sort_unstable();
    let upper = clocks[clocks.len() / 2];
    if clocks.len() % 2 == 1 {
        return upper;
    }
    let lower = clocks[clocks.len() / 2 - 1];
    match expected {
        Some(expected) if expected.abs_diff(upper) < expected.abs_diff(lower) => upper,
        _ => lower,
    }
}

/// Milliseconds that `left` is ahead of `right`.
fn difference(left: Timestamp, right: Timestamp) -> i64 {
    let apart = i64::try_from(left.0.abs_diff(right.0)).unwrap_or(i64::MAX);
    if left < right { -apart } else { apart }
}

fn shifted(at: Timestamp, by: i64) -> Timestamp {
    Timestamp(at.0.saturating_add_signed(by))
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR: i64 = 365 * 24 * 3600 * 1000;

    #[tokio::test]
    async fn the_log_is_told_when_the_clocks_were_set_forward_and_not_when_one_was() {
        let clock = Clock::default();
        let fair = now();
        assert!(!clock.is_ahead_of_the_log(), "nothing was logged");
        clock.logged(fair);
        assert!(!clock.is_ahead_of_the_log());
        assert!(clock.time().0.abs_diff(fair.0) < 1_000);
        clock.heard(2, fair.plus(Duration::from_secs(86_400)));
        clock.heard(3, fair);
        assert!(!clock.is_ahead_of_the_log(), "one is wrong");
        let clock = Clock::default();
        clock.logged(shifted(fair, -86_400_000));
        assert!(clock.is_ahead_of_the_log());
    }

    #[tokio::test(start_paused = true)]
    async fn the_log_goes_on_at_half_the_speed_while_the_clocks_catch_up_with_it() {
        use crate::world::simulated::{Machine, enter};
        let machine = std::sync::Arc::new(Machine::new(0, Instant::now(), 1_000_000_000, 7));
        enter(Some(machine));
        let clock = Clock::default();
        let hour = Duration::from_secs(3600);
        let ahead = now().plus(hour);
        clock.logged(ahead);
        let mut last = ahead;
        for _ in 0..60 {
            tokio::time::advance(Duration::from_secs(60)).await;
            let stamp = clock.correction(now(), NodeId(1)).expect("it is behind");
            assert_eq!(stamp, last.plus(Duration::from_secs(30)));
            clock.logged(stamp);
            last = stamp;
        }
        tokio::time::advance(hour).await;
        let caught_up = clock.correction(now(), NodeId(1));
        enter(None);
        assert_eq!(caught_up, None, "an hour later the clocks are as far");
    }

    #[test]
    fn one_wild_clock_of_three_has_no_say() {
        assert_eq!(median(vec![20, YEAR], None), 20);
        assert_eq!(median(vec![-YEAR, -5], None), -5);
        // Ours is the wild one: both others are a year behind it.
        assert_eq!(median(vec![-YEAR, -YEAR + 20], None), -YEAR + 20);
    }

    #[test]
    fn between_two_clocks_the_log_decides_and_without_it_the_earlier() {
        assert_eq!(median(vec![YEAR], None), 0);
        assert_eq!(median(vec![YEAR], Some(YEAR - 5)), YEAR);
        assert_eq!(median(vec![-YEAR], Some(3)), 0);
        assert_eq!(median(vec![-YEAR], None), -YEAR);
        assert_eq!(median(vec![], Some(YEAR)), 0, "a sole voter has its own");
    }

    /// Between two heartbeats: what was heard before must not jump along.
    #[tokio::test(start_paused = true)]
    async fn a_clock_that_jumps_is_corrected_before_anything_more_is_heard_of_the_others() {
        use crate::world::simulated::{Machine, enter};
        let machine = std::sync::Arc::new(Machine::new(0, Instant::now(), 1_000_000_000, 7));
        enter(Some(machine.clone()));
        let clock = Clock::default();
        clock.heard(2, now());
        clock.heard(3, now());
        let fair = now();
        machine.set_skew(10 * YEAR);
        let corrected = clock.correction(now(), NodeId(1));
        machine.set_skew(-YEAR / 100_000);
        let back = clock.correction(now(), NodeId(1));
        enter(None);
        let close =
            |at: Option<Timestamp>| at.is_some_and(|at| at.0.abs_diff(fair.0) <= SKEW_MAX_MS);
        assert!(close(corrected), "{corrected:?}, and it is {fair:?}");
        assert!(close(back), "{back:?}, and it is {fair:?}");
    }

    #[test]
    fn a_stamp_that_is_far_off_is_corrected_and_a_fair_one_is_kept() {
        let clock = Clock::default();
        let now = now();
        clock.heard(2, now);
        clock.heard(3, now.plus(Duration::from_millis(300)));
        let [(NodeId(2), same), (NodeId(3), ahead)] = clock.others()[..] else {
            panic!("both are told")
        };
        assert!(same.abs() < 100 && (ahead - 300).abs() < 100);
        assert_eq!(clock.correction(now, NodeId(1)), None);
        let wild = now.plus(Duration::from_secs(86_400));
        let corrected = clock.correction(wild, NodeId(1)).expect("it is far off");
        assert!(corrected.0.abs_diff(now.0) <= SKEW_MAX_MS);
        assert!(clock.correction(Timestamp(5), NodeId(1)).is_some());
    }
}

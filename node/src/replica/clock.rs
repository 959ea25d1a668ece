//! The clock that stamps what is logged: the wall clock, unless that jumps.
//!
//! Logged time never runs back. Were the jump of one machine's clock logged, it would be every
//! node's time for ever: all mail would be bounced as expired, and nothing could take it back.

use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use holdfast_mail::Timestamp;

/// A clock that is moved by more at once has jumped. A time service steps by less, once it runs.
const STEP_MAX: Duration = Duration::from_secs(60);

/// Now, for whatever is logged or compared with it.
#[must_use]
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let wall = Timestamp(since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)));
    let (told, jumped) = lock().read(wall, Instant::now());
    if jumped {
        tracing::error!(
            clock_ms = wall.0,
            kept_ms = told.0,
            "this machine's clock has jumped; the node keeps its own time until the clock agrees with it or \
             with the other nodes' again. Set the clock right; if it is right now, restart the node"
        );
    }
    told
}

/// Other nodes have come to this time: a jump that ends there was none, as when this machine slept.
pub(crate) fn agreed(logged: Timestamp) {
    lock().agree(logged);
}

fn lock() -> std::sync::MutexGuard<'static, Clock> {
    static CLOCK: LazyLock<Mutex<Clock>> = LazyLock::new(Mutex::default);
    CLOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Default)]
struct Clock {
    /// When the wall clock was last believed, and what it said.
    last: Option<(Timestamp, Instant)>,
    agreed: Timestamp,
    /// The wall clock is not believed.
    is_astray: bool,
}

impl Clock {
    /// What to tell where the wall clock says `wall`, and whether it has just jumped.
    fn read(&mut self, wall: Timestamp, at: Instant) -> (Timestamp, bool) {
        let was_astray = self.is_astray;
        let mut told = wall;
        self.is_astray = false;
        if let Some((last, read_at)) = self.last {
            let own = last.plus(at.saturating_duration_since(read_at));
            if apart(wall, own) > STEP_MAX && apart(wall, self.agreed) > STEP_MAX {
                (told, self.is_astray) = (own, true);
            }
        }
        if !self.is_astray {
            // Never from the node's own count: each step would round it.
            self.last = Some((told, at));
        }
        (told, self.is_astray && !was_astray)
    }

    fn agree(&mut self, logged: Timestamp) {
        self.agreed = logged;
    }
}

fn apart(a: Timestamp, b: Timestamp) -> Duration {
    a.since(b).max(b.since(a))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    struct Machine {
        clock: Clock,
        begun: Instant,
        /// What the wall clock is ahead by, or behind by.
        ahead: Duration,
        behind: Duration,
    }

    impl Machine {
        fn new() -> Self {
            Self {
                clock: Clock::default(),
                begun: Instant::now(),
                ahead: Duration::ZERO,
                behind: Duration::ZERO,
            }
        }

        fn at(after: Duration) -> Timestamp {
            Timestamp(1_700_000_000_000).plus(after)
        }

        /// What is told so long after the beginning, and whether a jump was noticed.
        fn read(&mut self, after: Duration) -> (Timestamp, bool) {
            let wall = Self::at(after + self.ahead + 100 * HOUR - self.behind);
            self.clock.read(wall, self.begun + after)
        }

        fn right(after: Duration) -> Timestamp {
            Self::at(after + 100 * HOUR)
        }
    }

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_clock_that_jumps_is_not_followed_and_told_of_once() {
        for (ahead, behind) in [(90_000 * HOUR, seconds(0)), (seconds(0), HOUR)] {
            let mut machine = Machine::new();
            assert_eq!(
                machine.read(seconds(1)),
                (Machine::right(seconds(1)), false)
            );
            (machine.ahead, machine.behind) = (ahead, behind);
            assert_eq!(machine.read(seconds(2)), (Machine::right(seconds(2)), true));
            assert_eq!(machine.read(HOUR), (Machine::right(HOUR), false));
            // It is set right again.
            (machine.ahead, machine.behind) = (seconds(0), seconds(0));
            assert_eq!(machine.read(2 * HOUR), (Machine::right(2 * HOUR), false));
            machine.ahead = HOUR;
            assert!(machine.read(3 * HOUR).1, "the next jump is told of too");
        }
    }

    #[test]
    fn a_small_step_and_a_slow_drift_are_followed() {
        let mut machine = Machine::new();
        for step in 1..200 {
            machine.ahead += seconds(30);
            let after = seconds(60 * step);
            let wall = Machine::right(after).plus(machine.ahead);
            assert_eq!(machine.read(after), (wall, false));
        }
    }

    #[test]
    fn a_machine_that_slept_is_believed_once_the_others_have_come_to_its_time() {
        let mut machine = Machine::new();
        machine.read(seconds(1));
        // Its monotonic clock stood still meanwhile.
        machine.ahead = 10 * HOUR;
        assert!(machine.read(seconds(2)).1);
        let wall = Machine::right(seconds(3)).plus(10 * HOUR);
        machine.clock.agree(wall);
        assert_eq!(machine.read(seconds(3)), (wall, false));
        assert!(!machine.read(seconds(4)).1);
    }
}

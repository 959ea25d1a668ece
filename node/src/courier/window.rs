//! How many connections a primary gets, and when to pause.
//!
//! Pure. A primary that just came back is warmed up with one connection and gets another with
//! every message it takes. At the first sign of trouble it gets half of them, and from then on
//! grows by one for each round of messages, so that the drain settles just below what the
//! primary can bear.

use std::time::Duration;

use holdfast_mail::retry;

/// Messages deferred in a row before the primary is left alone for a while. A greylisting
/// primary defers a few and takes the rest; one with a full disk defers all.
pub(super) const DEFERRALS_IN_A_ROW_MAX: u32 = 20;

/// Longest pause between two tries of a primary that is up and defers everything.
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Window {
    max: usize,
    size: usize,
    /// Messages taken since the size last changed; counts only once `cautious`.
    taken: usize,
    /// There was trouble since the primary was found up.
    cautious: bool,
    deferrals_in_a_row: u32,
}

impl Window {
    /// `max` of zero would deliver nothing, ever; it counts as one.
    pub(super) fn new(max: usize) -> Self {
        Self {
            max: max.max(1),
            size: 1,
            taken: 0,
            cautious: false,
            deferrals_in_a_row: 0,
        }
    }

    /// How many connections may be open.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// The primary took a message, or refused it for good: it works. Returns whether there is
    /// room for another connection now.
    pub(super) fn answered(&mut self) -> bool {
        self.deferrals_in_a_row = 0;
        if self.size == self.max {
            return false;
        }
        self.taken += 1;
        if self.cautious && self.taken < self.size {
            return false;
        }
        self.taken = 0;
        self.size += 1;
        true
    }

    /// The primary took a message for none of its recipients, for now. Returns how long to
    /// leave it alone.
    pub(super) fn deferred(&mut self, jitter: u32) -> Option<Duration> {
        self.shrink();
        self.deferrals_in_a_row = self.deferrals_in_a_row.saturating_add(1);
        let pauses = self
            .deferrals_in_a_row
            .checked_sub(DEFERRALS_IN_A_ROW_MAX)?;
        Some(retry::delay(pauses + 1, jitter).min(PAUSE_MAX))
    }

    /// A connection could not be made, or broke.
    pub(super) fn failed(&mut self) {
        self.shrink();
    }

    /// The primary was found up, or somebody says it is: start afresh.
    pub(super) fn reset(&mut self) {
        *self = Self::new(self.max);
    }

    fn shrink(&mut self) {
        self.size = (self.size / 2).max(1);
        self.taken = 0;
        self.cautious = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grown(window: &mut Window, messages: usize) -> usize {
        for _ in 0..messages {
            window.answered();
        }
        window.size()
    }

    #[test]
    fn a_healthy_primary_gets_one_more_connection_with_every_message() {
        let mut window = Window::new(8);
        assert_eq!(window.size(), 1);
        assert_eq!(grown(&mut window, 3), 4);
        assert_eq!(grown(&mut window, 100), 8);
        assert!(!window.answered());
    }

    #[test]
    fn trouble_halves_and_growth_is_slow_from_then_on() {
        let mut window = Window::new(8);
        grown(&mut window, 100);
        window.failed();
        assert_eq!(window.size(), 4);
        assert_eq!(grown(&mut window, 3), 4);
        assert_eq!(grown(&mut window, 1), 5);
        for _ in 0..9 {
            window.failed();
        }
        assert_eq!(window.size(), 1);
        window.reset();
        assert_eq!(grown(&mut window, 7), 8);
    }

    #[test]
    fn a_primary_that_defers_everything_is_left_alone_longer_and_longer() {
        let mut window = Window::new(8);
        for _ in 1..DEFERRALS_IN_A_ROW_MAX {
            assert_eq!(window.deferred(0), None);
        }
        let first = window.deferred(0).unwrap();
        let second = window.deferred(0).unwrap();
        assert!(Duration::from_secs(1) < first && first < second);
        for _ in 0..100 {
            assert!(window.deferred(u32::MAX).unwrap() <= PAUSE_MAX);
        }
        window.answered();
        assert_eq!(window.deferred(0), None);
    }

    #[test]
    fn a_window_of_none_is_one() {
        assert_eq!(Window::new(0).size(), 1);
    }
}

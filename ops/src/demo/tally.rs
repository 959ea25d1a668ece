//! What became of each letter.

use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Clone, Debug, Default)]
struct Fate {
    accepted: bool,
    /// A 5xx: the sender gave up.
    refused: Option<String>,
    deliveries: u32,
    damaged: bool,
}

#[derive(Debug, Default)]
struct Counts {
    fates: Vec<Fate>,
    tried_again: u64,
    /// Deliveries of what nobody sent.
    strays: u64,
}

/// Shared by the senders and the primary.
#[derive(Debug)]
pub(crate) struct Tally(Mutex<Counts>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) sent: usize,
    pub(crate) accepted: usize,
    pub(crate) delivered: usize,
    pub(crate) lost: usize,
    /// Letters that arrived more than once.
    pub(crate) duplicated: usize,
    /// Deliveries that were not byte for byte what was sent.
    pub(crate) damaged: usize,
    /// Tries that were deferred, or ended without an answer, and were made again.
    pub(crate) tried_again: u64,
    /// What was told to senders that were refused for good.
    pub(crate) refusals: Vec<String>,
    /// The acknowledged letters that have not arrived.
    pub(crate) missing: Vec<usize>,
}

impl Tally {
    pub(crate) fn new(letters: u32) -> Self {
        Self(Mutex::new(Counts {
            fates: vec![Fate::default(); letters as usize],
            ..Counts::default()
        }))
    }

    pub(crate) fn accepted(&self, letter: u32) {
        self.change(letter, |fate| fate.accepted = true);
    }

    pub(crate) fn refused(&self, letter: u32, reply: String) {
        self.change(letter, |fate| fate.refused = Some(reply));
    }

    pub(crate) fn tried_again(&self) {
        self.lock().tried_again += 1;
    }

    pub(crate) fn delivered(&self, letter: Option<u32>, intact: bool) {
        match letter {
            Some(letter) => self.change(letter, |fate| {
                fate.deliveries += 1;
                fate.damaged |= !intact;
            }),
            None => self.lock().strays += 1,
        }
    }

    pub(crate) fn summary(&self) -> Summary {
        let counts = self.lock();
        let fates = &counts.fates;
        let number_of =
            |wanted: &dyn Fn(&Fate) -> bool| fates.iter().filter(|fate| wanted(fate)).count();
        let missing: Vec<usize> = (0..fates.len())
            .filter(|at| fates[*at].accepted && fates[*at].deliveries == 0)
            .collect();
        Summary {
            sent: fates.len(),
            accepted: number_of(&|fate| fate.accepted),
            delivered: number_of(&|fate| fate.deliveries > 0),
            lost: missing.len(),
            duplicated: number_of(&|fate| fate.deliveries > 1),
            damaged: number_of(&|fate| fate.damaged)
                + usize::try_from(counts.strays).unwrap_or(usize::MAX),
            tried_again: counts.tried_again,
            refusals: fates
                .iter()
                .filter_map(|fate| fate.refused.clone())
                .collect(),
            missing,
        }
    }

    fn change(&self, letter: u32, change: impl FnOnce(&mut Fate)) {
        let mut counts = self.lock();
        match counts.fates.get_mut(letter as usize) {
            Some(fate) => change(fate),
            None => counts.strays += 1,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // Nothing panics with the lock held, and counts cannot be half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Summary {
    /// Nobody is left waiting: every letter was accepted or refused for good.
    pub(crate) fn all_answered(&self) -> bool {
        self.accepted + self.refusals.len() == self.sent
    }

    /// Every letter was acknowledged, has arrived, and is the same.
    pub(crate) fn is_good(&self) -> bool {
        self.accepted == self.sent && self.lost == 0 && self.damaged == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_good_only_if_all_was_accepted_and_arrived_unchanged() {
        let tally = Tally::new(2);
        tally.accepted(0);
        tally.accepted(1);
        tally.delivered(Some(0), true);
        assert_eq!(
            (tally.summary().lost, tally.summary().missing),
            (1, vec![1])
        );
        assert!(!tally.summary().is_good());
        tally.delivered(Some(1), true);
        assert!(tally.summary().is_good());
        tally.delivered(Some(1), true);
        assert!(tally.summary().is_good(), "at least once is the promise");
        assert_eq!(tally.summary().duplicated, 1);
        tally.delivered(Some(1), false);
        assert!(!tally.summary().is_good(), "changed bytes");
    }

    #[test]
    fn mail_that_nobody_sent_spoils_the_run() {
        for stray in [None, Some(7)] {
            let tally = Tally::new(1);
            tally.accepted(0);
            tally.delivered(Some(0), true);
            tally.delivered(stray, true);
            assert!(!tally.summary().is_good(), "{stray:?}");
        }
    }

    #[test]
    fn a_letter_that_was_not_acknowledged_is_not_lost_but_spoils_the_run() {
        let tally = Tally::new(1);
        assert!(!tally.summary().all_answered());
        tally.refused(0, "550 no".into());
        let summary = tally.summary();
        assert!(summary.all_answered() && !summary.is_good());
        assert_eq!(summary.lost, 0);
    }
}

//! When a primary's `5xx` is believed.
//!
//! A server that comes back half-built refuses mail that it would have taken: its users are not
//! restored yet. Were its refusals believed, the queue that was held for it would be destroyed.
//! A server that works refuses single recipients, and their senders should hear of it at once.
//! The ledger tells the two apart by what it has seen, and by logged time alone:
//!
//! A refusal is **believed**, and its sender told, when the primary
//!
//! 1. has taken mail of the domain within the last [`PROOF_KEPT`];
//! 2. has, in this *run* of taking mail (one without a silence of more than [`PROOF_KEPT`]),
//!    taken mail for at least as many recipients as it refused, this one among them; so a server
//!    with few of its users back can cost no more mail than it takes; and
//! 3. has been taking mail for the domain's *probation* (10 minutes unless its owner says
//!    otherwise), or refused this very recipient before, that long ago or longer.
//!
//! Otherwise the message is **kept**, and tried again by itself: first after the probation, then
//! after twice that, up to [`RETRY_MAX`]. So mail refused by a half-built server is delivered once
//! the server is whole, without anybody's help; and mail to an address that never was is given
//! back after the probation. What is still refused when its hold is over expires like all mail.
//!
//! A probation of zero believes every refusal; an endless one none.

use std::time::Duration;

use holdfast_mail::Timestamp;

use crate::policy::Probation;

/// How long it proves something that a primary took mail.
pub const PROOF_KEPT: Duration = Duration::from_secs(30 * 60);

/// Longest wait before refused mail is tried again.
pub(crate) const RETRY_MAX: Duration = Duration::from_secs(4 * 3600);

/// Shortest: a probation of a few seconds must not have a message tried again all the time.
const RETRY_MIN: Duration = Duration::from_secs(1);

/// How a primary has been taking mail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// When this run of taking mail began.
    pub since: Timestamp,
    /// When it last took mail.
    pub last: Timestamp,
    /// Recipients it took mail for in this run.
    pub taken: u64,
    /// Recipients it refused in this run, again or for the first time.
    pub refused: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    Believed,
    Kept { retry_at: Option<Timestamp> },
}

/// Earlier refusals of the same message for the same recipient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Before {
    pub(crate) refusals: u32,
    pub(crate) first: Timestamp,
}

impl Health {
    /// The primary took mail for some recipients.
    pub(crate) fn took(&mut self, now: Timestamp, recipients: u64) {
        if self.taken == 0 || now.since(self.last) > PROOF_KEPT {
            *self = Self {
                since: now,
                ..Self::default()
            };
        }
        self.last = now;
        self.taken = self.taken.saturating_add(recipients);
    }
}

/// Why a refusal would not be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// The owner wants all refused mail kept.
    Endless,
    /// It took no mail in the last [`PROOF_KEPT`].
    TakesNoMail,
    /// It refused more recipients than it took mail for.
    RefusesMore,
    /// It has not been taking mail for long enough.
    TooNew,
}

/// Why a first refusal now would not be believed; `None` if it would.
#[must_use]
pub fn doubt(probation: Probation, health: &Health, now: Timestamp) -> Option<Doubt> {
    match probation {
        Probation::Endless => Some(Doubt::Endless),
        Probation::For(Duration::ZERO) => None,
        Probation::For(_) if health.taken == 0 || now.since(health.last) > PROOF_KEPT => {
            Some(Doubt::TakesNoMail)
        }
        Probation::For(_) if health.taken < health.refused => Some(Doubt::RefusesMore),
        Probation::For(span) if now.since(health.since) < span => Some(Doubt::TooNew),
        Probation::For(_) => None,
    }
}

pub(crate) fn judge(
    probation: Probation,
    health: Health,
    before: Before,
    now: Timestamp,
) -> Judgement {
    let span = match (probation, doubt(probation, &health, now)) {
        (_, None) => return Judgement::Believed,
        (Probation::For(span), Some(doubt)) => {
            // It was given its probation already.
            let again = before.refusals > 0 && now.since(before.first) >= span;
            if doubt == Doubt::TooNew && again {
                return Judgement::Believed;
            }
            span
        }
        (Probation::Endless, _) => return Judgement::Kept { retry_at: None },
    };
    let wait = span
        .saturating_mul(1 << before.refusals.min(16))
        .clamp(RETRY_MIN, RETRY_MAX.max(span));
    Judgement::Kept {
        retry_at: Some(now.plus(wait)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const TEN: Probation = Probation::For(Duration::from_secs(600));

    fn at(minutes: u32) -> Timestamp {
        Timestamp(1_800_000_000_000).plus(MINUTE * minutes)
    }

    /// A primary that took `taken` recipients at each of these minutes.
    fn took(minutes: impl IntoIterator<Item = u32>, taken: u64) -> Health {
        let mut health = Health::default();
        for minute in minutes {
            health.took(at(minute), taken);
        }
        health
    }

    fn refused_at(minute: u32) -> Before {
        Before {
            refusals: 1,
            first: at(minute),
        }
    }

    #[test]
    fn one_wrong_address_at_a_healthy_primary_is_believed_at_once() {
        let health = took((0..20).step_by(5), 1);
        assert_eq!(
            judge(TEN, health, Before::default(), at(15)),
            Judgement::Believed
        );
    }

    #[test]
    fn a_primary_that_took_nothing_is_never_believed_and_asked_less_and_less_often() {
        let mut before = Before::default();
        let mut last = Duration::ZERO;
        for _ in 0..20 {
            let Judgement::Kept {
                retry_at: Some(then),
            } = judge(TEN, Health::default(), before, at(0))
            else {
                panic!("believed");
            };
            let wait = then.since(at(0));
            assert!(wait >= last && wait <= RETRY_MAX);
            last = wait;
            before.refusals += 1;
        }
        assert_eq!(last, RETRY_MAX);
    }

    #[test]
    fn a_primary_that_is_newly_back_is_believed_when_it_refuses_again_after_its_probation() {
        // The outage was long: what it took before proves nothing.
        let mut health = took([0], 5);
        health.took(at(100), 5);
        assert_eq!(
            judge(TEN, health, Before::default(), at(100)),
            Judgement::Kept {
                retry_at: Some(at(110))
            }
        );
        assert_eq!(
            judge(TEN, health, refused_at(100), at(110)),
            Judgement::Believed
        );
        // Nothing was heard of it for too long.
        assert!(matches!(
            judge(TEN, health, refused_at(100), at(131)),
            Judgement::Kept { .. }
        ));
    }

    #[test]
    fn a_primary_that_refuses_more_than_it_takes_is_not_believed() {
        let mut health = took(0..20, 1);
        health.refused = 21;
        assert!(matches!(
            judge(TEN, health, Before::default(), at(20)),
            Judgement::Kept { .. }
        ));
        health.refused = 20;
        assert_eq!(
            judge(TEN, health, Before::default(), at(20)),
            Judgement::Believed
        );
    }

    #[test]
    fn the_owner_may_want_all_refusals_believed_or_none() {
        let none = Probation::For(Duration::ZERO);
        assert_eq!(
            judge(none, Health::default(), Before::default(), at(0)),
            Judgement::Believed
        );
        let health = took(0..20, 1);
        assert_eq!(
            judge(Probation::Endless, health, refused_at(0), at(20)),
            Judgement::Kept { retry_at: None }
        );
    }
}

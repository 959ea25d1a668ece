//! Somebody tried to sign in: what counts against whom.
//!
//! Whoever guesses on several nodes at once is judged in the order of the log. Failures count for the
//! network they come from: five lock the account for that one. All strangers together lock it for all
//! strangers, and never for a network that the account is used from: else anybody who knows a name
//! could keep its owner out for as long as they liked.

use std::time::Duration;

use holdfast_mail::Timestamp;
use holdfast_proto::ledger as proto;

use super::Logged;
use super::account::TEXT_OCTETS_MAX;
use crate::account::{
    FAILURE_PERIOD, FAILURES_EVERYWHERE_MAX, FAILURES_MAX, FAMILIAR_TIME, LOCK_TIME, PLACES_MAX,
    network_of,
};
use crate::{Refusal, level};

pub(super) struct Tried<'a> {
    pub(super) good: bool,
    /// Of the code; 0: the account has no second factor.
    pub(super) step: u64,
    pub(super) from: &'a str,
}

/// Notes it, or says why nobody is signed in; then nothing is changed.
pub(super) fn sign_in(
    row: &mut proto::AccountRow,
    when: Logged,
    level: u32,
    tried: &Tried<'_>,
) -> Option<Refusal> {
    let by_network = level >= level::SIGN_INS_BY_NETWORK;
    let network = network_of(tried.from);
    let place = row.places.iter().find(|place| place.network == network);
    let mut place = place.cloned().unwrap_or_else(|| proto::SignInPlace {
        network,
        ..proto::SignInPlace::default()
    });
    let was_familiar = is_familiar(&place, when.at);
    if when.at.0 < place.locked_until_ms || when.at.0 < row.locked_until_ms && !was_familiar {
        return Some(Refusal::AccountLocked);
    }
    if tried.from.len() > TEXT_OCTETS_MAX {
        return Some(Refusal::Malformed);
    }
    if tried.good {
        if tried.step != 0 && tried.step <= row.last_step {
            return Some(Refusal::CodeUsed);
        }
        row.last_step = tried.step.max(row.last_step);
        row.signed_in_at_ms = when.at.0;
        tried.from.clone_into(&mut row.signed_in_from);
        if by_network {
            // What strangers failed at still counts: a program that signs in each minute must not
            // give them five tries each minute.
            (place.failures, place.signed_in_at_ms) = (0, when.at.0);
        } else {
            (row.failures, row.locked_until_ms) = (0, 0);
        }
    } else {
        if by_network {
            let mut failed = Failed {
                failures: &mut place.failures,
                since_ms: &mut place.failing_since_ms,
                locked_until_ms: &mut place.locked_until_ms,
            };
            failed.once_more(when.at, FAILURES_MAX);
        }
        if !was_familiar {
            let mut failed = Failed {
                failures: &mut row.failures,
                since_ms: &mut row.failing_since_ms,
                locked_until_ms: &mut row.locked_until_ms,
            };
            let max = match by_network {
                true => FAILURES_EVERYWHERE_MAX,
                false => FAILURES_MAX,
            };
            failed.once_more(when.at, max);
        }
    }
    if by_network {
        remember(&mut row.places, place, when.at);
    }
    None
}

/// As if nobody had failed.
pub(super) fn unlock(row: &mut proto::AccountRow) {
    (row.failures, row.locked_until_ms) = (0, 0);
    for place in &mut row.places {
        (place.failures, place.locked_until_ms) = (0, 0);
    }
}

struct Failed<'a> {
    failures: &'a mut u32,
    since_ms: &'a mut u64,
    locked_until_ms: &'a mut u64,
}

impl Failed<'_> {
    fn once_more(&mut self, now: Timestamp, max: u32) {
        if *self.failures == 0 || !is_within(now, *self.since_ms, FAILURE_PERIOD) {
            (*self.failures, *self.since_ms) = (0, now.0);
        }
        *self.failures += 1;
        if *self.failures >= max {
            *self.failures = 0;
            *self.locked_until_ms = now.plus(LOCK_TIME).0;
        }
    }
}

fn remember(places: &mut Vec<proto::SignInPlace>, place: proto::SignInPlace, now: Timestamp) {
    places.retain(|old| old.network != place.network && still_counts(old, now));
    while places.len() >= PLACES_MAX {
        let age = |place: &proto::SignInPlace| {
            let seen = place.signed_in_at_ms.max(place.failing_since_ms);
            (is_familiar(place, now), seen)
        };
        let oldest = (0..places.len()).min_by_key(|at| age(&places[*at]));
        oldest.map(|at| places.remove(at));
    }
    places.push(place);
}

fn still_counts(place: &proto::SignInPlace, now: Timestamp) -> bool {
    is_familiar(place, now)
        || now.0 < place.locked_until_ms
        || place.failures > 0 && is_within(now, place.failing_since_ms, FAILURE_PERIOD)
}

fn is_familiar(place: &proto::SignInPlace, now: Timestamp) -> bool {
    place.signed_in_at_ms > 0 && is_within(now, place.signed_in_at_ms, FAMILIAR_TIME)
}

fn is_within(now: Timestamp, since_ms: u64, period: Duration) -> bool {
    u128::from(now.0.saturating_sub(since_ms)) < period.as_millis()
}

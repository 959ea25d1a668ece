//! Every delivery comes from a message that some sender handed over in full.

use std::collections::HashSet;

use super::Verdict;
use crate::history::{AttemptId, End, History};

#[must_use]
pub fn check(history: &History) -> Verdict {
    let tries = history.tries();
    let handed_over: HashSet<AttemptId> = tries
        .iter()
        .filter(|a_try| a_try.end != End::BeforeTheDot)
        .map(|a_try| a_try.attempt)
        .collect();
    let known: HashSet<AttemptId> = tries.iter().map(|a_try| a_try.attempt).collect();
    let deliveries = history.deliveries();
    let unexpected = deliveries
        .iter()
        .filter_map(|delivery| match delivery.attempt {
            Some(attempt) if handed_over.contains(&attempt) => None,
            Some(attempt) if known.contains(&attempt) => Some(format!(
                "attempt {} was delivered to {}, though its sender never finished it",
                attempt.0, delivery.primary
            )),
            _ => Some(format!(
                "{} got a message from <{}> for {} that nobody sent",
                delivery.primary,
                delivery.reverse_path,
                delivery.recipients.join(", ")
            )),
        })
        .collect();
    Verdict::of(deliveries.len(), unexpected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::sketch::{attempt, closed, delivered, history, replied};
    use crate::history::{Event, Stage};

    const TO: &[&str] = &["a@example.test"];

    #[test]
    fn mail_of_unknown_origin_is_unexpected() {
        let mut stranger = delivered(1, TO);
        let Event::Delivered {
            attempt: origin, ..
        } = &mut stranger
        else {
            unreachable!()
        };
        *origin = None;
        for events in [vec![stranger], vec![delivered(7, TO)]] {
            assert!(matches!(check(&history(&events)), Verdict::Broken { .. }));
        }
    }

    #[test]
    fn a_message_cut_off_before_its_end_must_not_arrive() {
        let events = [
            attempt(1, 1, TO),
            closed(1, Stage::BeforeTheDot),
            delivered(1, TO),
        ];
        assert!(matches!(check(&history(&events)), Verdict::Broken { .. }));
    }

    #[test]
    fn an_unanswered_or_acknowledged_message_may_arrive() {
        for end in [closed(1, Stage::AfterTheDot), replied(1, 250)] {
            let events = [attempt(1, 1, TO), end, delivered(1, TO)];
            assert_eq!(check(&history(&events)), Verdict::Holds { tried: 1 });
        }
    }
}

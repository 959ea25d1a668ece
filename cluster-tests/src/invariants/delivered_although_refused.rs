//! A message that got 4xx or 5xx to its final dot is never delivered: its sender still has it,
//! and will send it again (RFC 5321 section 6.1).

use std::collections::HashSet;

use super::Verdict;
use crate::history::{AttemptId, End, History};

#[must_use]
pub fn check(history: &History) -> Verdict {
    let arrived: HashSet<AttemptId> = history
        .deliveries()
        .into_iter()
        .filter_map(|delivery| delivery.attempt)
        .collect();
    let tries = history.tries();
    let refused: Vec<_> = tries
        .iter()
        .filter(|a_try| a_try.end == End::RefusedAfterTheDot)
        .collect();
    let delivered = refused
        .iter()
        .filter(|a_try| arrived.contains(&a_try.attempt))
        .map(|a_try| {
            format!(
                "attempt {} of letter {} was refused by {} after its final dot, and delivered",
                a_try.attempt.0, a_try.letter, a_try.node
            )
        })
        .collect();
    Verdict::of(refused.len(), delivered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Stage;
    use crate::history::sketch::{attempt, closed, delivered, history, replied};

    const TO: &[&str] = &["a@example.test"];

    #[test]
    fn a_refused_message_that_comes_is_noticed() {
        for code in [451, 452, 550] {
            let events = [attempt(1, 1, TO), replied(1, code), delivered(1, TO)];
            assert!(
                matches!(check(&history(&events)), Verdict::Broken { .. }),
                "{code}"
            );
        }
    }

    #[test]
    fn its_next_try_may_come() {
        let events = [
            attempt(1, 1, TO),
            replied(1, 451),
            attempt(2, 1, TO),
            replied(2, 250),
            delivered(2, TO),
        ];
        assert_eq!(check(&history(&events)), Verdict::Holds { tried: 1 });
    }

    #[test]
    fn a_run_without_refusals_says_nothing() {
        let events = [
            attempt(1, 1, TO),
            closed(1, Stage::AfterTheDot),
            delivered(1, TO),
        ];
        assert_eq!(check(&history(&events)), Verdict::Unknown);
    }
}

//! Mail for a protected domain is never answered with 5xx: whatever is wrong with the cluster
//! passes, and a sender that is told so comes again. Every letter of a run is lawful mail.

use super::Verdict;
use crate::history::History;

#[must_use]
pub fn check(history: &History) -> Verdict {
    let tries = history.tries();
    let answered: Vec<_> = tries
        .iter()
        .filter_map(|a_try| Some((a_try, a_try.code?)))
        .collect();
    let refused = answered
        .iter()
        .filter(|(_, code)| *code >= 500)
        .map(|(a_try, code)| {
            format!(
                "attempt {} of letter {} was answered by {} with {code}",
                a_try.attempt.0, a_try.letter, a_try.node
            )
        })
        .collect();
    Verdict::of(answered.len(), refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::sketch::{attempt, closed, history, replied};
    use crate::history::{AttemptId, Event, Stage};

    const TO: &[&str] = &["a@example.test"];

    #[test]
    fn a_5xx_at_any_stage_is_noticed() {
        for stage in [Stage::BeforeTheDot, Stage::AfterTheDot] {
            let refusal = Event::Replied {
                attempt: AttemptId(1),
                stage,
                code: 550,
            };
            let events = [attempt(1, 1, TO), refusal];
            assert!(matches!(check(&history(&events)), Verdict::Broken { .. }));
        }
    }

    #[test]
    fn to_be_told_to_come_again_is_lawful() {
        let events = [
            attempt(1, 1, TO),
            replied(1, 451),
            attempt(2, 1, TO),
            closed(2, Stage::AfterTheDot),
            attempt(3, 1, TO),
            replied(3, 250),
        ];
        assert_eq!(check(&history(&events)), Verdict::Holds { tried: 2 });
    }
}

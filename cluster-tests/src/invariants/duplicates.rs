//! A recipient gets a letter once, and once more for each try whose sender got no answer.
//!
//! The promise is *at least once*: after a crash the deliveries in flight may be made again. So a
//! surplus breaks nothing here, but it is told, because users see it;
//! [`duplicates_without_cause`](super::duplicates_without_cause) judges it.

use std::collections::HashMap;

use super::Verdict;
use crate::history::{End, History};

#[must_use]
pub fn check(history: &History) -> Verdict {
    let mut copies: HashMap<(u64, &str), usize> = HashMap::new();
    for (delivery, a_try) in history.deliveries_of_tries() {
        for to in delivery.recipients {
            *copies.entry((a_try.letter, to)).or_default() += 1;
        }
    }
    let mut unanswered: HashMap<u64, usize> = HashMap::new();
    for a_try in history.tries() {
        if a_try.end == End::Unknown {
            *unanswered.entry(a_try.letter).or_default() += 1;
        }
    }
    let mut surplus: Vec<String> = copies
        .iter()
        .filter(|((letter, _), copies)| **copies > 1 + unanswered.get(letter).copied().unwrap_or(0))
        .map(|((letter, to), copies)| format!("letter {letter} reached {to} {copies} times"))
        .collect();
    surplus.sort();
    match (copies.len(), surplus.is_empty()) {
        (0, _) => Verdict::Unknown,
        (tried, true) => Verdict::Holds { tried },
        (tried, false) => Verdict::Noted {
            tried,
            what: surplus,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Stage;
    use crate::history::sketch::{attempt, closed, delivered, history, replied};

    const TO: &[&str] = &["a@example.test"];

    #[test]
    fn a_second_copy_is_told() {
        let events = [
            attempt(1, 1, TO),
            replied(1, 250),
            delivered(1, TO),
            delivered(1, TO),
        ];
        assert!(matches!(check(&history(&events)), Verdict::Noted { what, .. } if what.len() == 1));
    }

    #[test]
    fn a_try_without_answer_excuses_one_copy_and_no_more() {
        let mut events = vec![
            attempt(1, 1, TO),
            closed(1, Stage::AfterTheDot),
            attempt(2, 1, TO),
            replied(2, 250),
            delivered(1, TO),
            delivered(2, TO),
        ];
        assert_eq!(check(&history(&events)), Verdict::Holds { tried: 1 });
        events.push(delivered(2, TO));
        assert!(matches!(check(&history(&events)), Verdict::Noted { .. }));
    }
}

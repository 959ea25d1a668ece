//! What is delivered is, behind our `Received` lines, byte for byte what was sent.

use super::Verdict;
use crate::history::History;

#[must_use]
pub fn check(history: &History) -> Verdict {
    let pairs = history.deliveries_of_tries();
    let changed = pairs
        .iter()
        .filter(|(delivery, a_try)| delivery.digest != a_try.digest)
        .map(|(delivery, a_try)| {
            format!(
                "attempt {} of letter {} reached {} with other bytes than {} was given",
                a_try.attempt.0, a_try.letter, delivery.primary, a_try.node
            )
        })
        .collect();
    Verdict::of(pairs.len(), changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::sketch::{attempt, delivered, history, replied};
    use crate::history::{Digest, Event};

    const TO: &[&str] = &["a@example.test"];

    #[test]
    fn other_bytes_are_noticed() {
        let mut damaged = delivered(1, TO);
        let Event::Delivered { digest, .. } = &mut damaged else {
            unreachable!()
        };
        *digest = Digest::of(b"something else");
        let events = [
            attempt(1, 1, TO),
            replied(1, 250),
            delivered(1, TO),
            damaged,
        ];
        assert!(matches!(check(&history(&events)), Verdict::Broken { how } if how.len() == 1));
    }

    #[test]
    fn the_same_bytes_are_good() {
        let events = [attempt(1, 1, TO), replied(1, 250), delivered(1, TO)];
        assert_eq!(check(&history(&events)), Verdict::Holds { tried: 1 });
    }
}

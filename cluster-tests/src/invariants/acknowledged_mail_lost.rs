//! A message that got 250 to its final dot reaches every one of its recipients, or its sender hears
//! that it did not. Whether he may be told that is another rule's question.

use std::collections::HashSet;

use super::Verdict;
use crate::history::{AttemptId, End, Event, History, Try, domain_of};

#[must_use]
pub fn check(history: &History) -> Verdict {
    let mut arrived: HashSet<(AttemptId, &str)> = history
        .deliveries()
        .into_iter()
        .filter_map(|delivery| Some((delivery.attempt?, delivery.recipients)))
        .flat_map(|(attempt, recipients)| recipients.iter().map(move |to| (attempt, to.as_str())))
        .collect();
    arrived.extend(history.events.iter().filter_map(|event| match event {
        Event::Bounced {
            attempt, recipient, ..
        } => Some(((*attempt)?, recipient.as_str())),
        _ => None,
    }));
    let (begun, end) = (history.begun(), history.times.last().copied());
    // Mail without a sender ends with its time, and nobody is told.
    let is_over = |a_try: &Try<'_>, to: &str| {
        let since = end.zip(begun.get(&a_try.attempt));
        let hold = history.hold(domain_of(to));
        a_try.reverse_path.is_empty()
            && since
                .zip(hold)
                .is_some_and(|((end, begun), hold)| end - begun >= hold)
    };
    let mut promised = 0;
    let mut lost = Vec::new();
    for a_try in history
        .tries()
        .iter()
        .filter(|a_try| a_try.end == End::Acknowledged)
    {
        for to in a_try.recipients {
            promised += 1;
            if !arrived.contains(&(a_try.attempt, to.as_str())) && !is_over(a_try, to) {
                lost.push(format!(
                    "attempt {} of letter {}, acknowledged by {}, never reached {to}",
                    a_try.attempt.0, a_try.letter, a_try.node
                ));
            }
        }
    }
    Verdict::of(promised, lost)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Stage;
    use crate::history::sketch::{attempt, closed, delivered, history, replied};

    #[test]
    fn an_acknowledged_message_that_never_came_is_lost() {
        let to = &["a@example.test"][..];
        let events = [attempt(1, 1, to), replied(1, 250)];
        assert!(matches!(check(&history(&events)), Verdict::Broken { how } if how.len() == 1));
    }

    #[test]
    fn it_is_lost_if_one_of_its_recipients_did_not_get_it() {
        let events = [
            attempt(1, 1, &["a@example.test", "b@other.test"]),
            replied(1, 250),
            delivered(1, &["a@example.test"]),
        ];
        assert!(
            matches!(check(&history(&events)), Verdict::Broken { how } if how[0].contains("b@other.test"))
        );
    }

    #[test]
    fn a_later_try_of_the_same_letter_does_not_replace_it() {
        let to = &["a@example.test"][..];
        let events = [
            attempt(1, 1, to),
            replied(1, 250),
            attempt(2, 1, to),
            replied(2, 250),
            delivered(2, to),
        ];
        assert!(matches!(check(&history(&events)), Verdict::Broken { .. }));
    }

    #[test]
    fn what_was_not_acknowledged_may_stay_away() {
        let to = &["a@example.test"][..];
        let events = [
            attempt(1, 1, to),
            replied(1, 451),
            attempt(2, 1, to),
            closed(2, Stage::AfterTheDot),
            attempt(3, 1, to),
            closed(3, Stage::BeforeTheDot),
        ];
        assert_eq!(check(&history(&events)), Verdict::Unknown);
    }
}

//! Every copy beyond the first has its cause: a try whose sender got no answer, or an earlier
//! delivery whose outcome the cluster may not know, because the primary's answer was lost or a
//! fault was at work.
//!
//! Where causes for one copy more are left over, nothing is tried: it would have been excused.

use std::collections::{HashMap, HashSet};

use super::Verdict;
use crate::history::{End, Event, History};

#[must_use]
pub fn check(history: &History) -> Verdict {
    let disturbances = history.disturbances();
    let confirmed: HashSet<u64> = history
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Confirmed { number } => Some(*number),
            _ => None,
        })
        .collect();
    let times: HashMap<u64, f64> = history
        .timed()
        .filter_map(|(at, event)| match event {
            Event::Delivered { number, .. } => Some((*number, at)),
            _ => None,
        })
        .collect();
    let mut copies: HashMap<(u64, &str), usize> = HashMap::new();
    let mut lawful: HashMap<(u64, &str), usize> = HashMap::new();
    for (delivery, a_try) in history.deliveries_of_tries() {
        let is_unsure = !confirmed.contains(&delivery.number)
            || times
                .get(&delivery.number)
                .is_some_and(|at| disturbances.cover(*at));
        for to in delivery.recipients {
            *copies.entry((a_try.letter, to)).or_default() += 1;
            *lawful.entry((a_try.letter, to)).or_default() += usize::from(is_unsure);
        }
    }
    let mut unanswered: HashMap<u64, usize> = HashMap::new();
    for a_try in history.tries() {
        if a_try.end == End::Unknown {
            *unanswered.entry(a_try.letter).or_default() += 1;
        }
    }
    let mut tried = 0;
    let mut surplus = Vec::new();
    for ((letter, to), copies) in &copies {
        let unanswered = unanswered.get(letter).copied().unwrap_or(0);
        let unsure = lawful[&(*letter, *to)];
        tried += usize::from(*copies > unanswered + unsure);
        if *copies > 1 + unanswered + unsure {
            surplus.push(format!(
                "letter {letter} reached {to} {copies} times; {unanswered} tries and {unsure} \
                 deliveries had no known outcome"
            ));
        }
    }
    surplus.sort();
    Verdict::of(tried, surplus)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::sketch::{attempt, began, closed, delivered, history, replied};
    use crate::history::{Fault, Stage};

    const TO: &[&str] = &["a@example.test"];
    const CONFIRMED: Event = Event::Confirmed { number: 1 };

    #[test]
    fn a_second_copy_without_cause_is_noticed() {
        let events = [
            attempt(1, 1, TO),
            replied(1, 250),
            delivered(1, TO),
            CONFIRMED,
            delivered(1, TO),
        ];
        assert!(matches!(check(&history(&events)), Verdict::Broken { .. }));
    }

    #[test]
    fn a_lost_answer_a_fault_and_an_unanswered_sender_each_excuse_a_copy() {
        let lost_answer = [
            attempt(1, 1, TO),
            replied(1, 250),
            delivered(1, TO),
            delivered(1, TO),
        ];
        let killed = [
            attempt(1, 1, TO),
            replied(1, 250),
            delivered(1, TO),
            CONFIRMED,
            began(Fault::Kill),
            delivered(1, TO),
        ];
        let unanswered = [
            attempt(1, 1, TO),
            closed(1, Stage::AfterTheDot),
            attempt(2, 1, TO),
            replied(2, 250),
            delivered(1, TO),
            CONFIRMED,
            delivered(2, TO),
            Event::Confirmed { number: 2 },
        ];
        for events in [&lost_answer[..], &killed, &unanswered] {
            assert!(!matches!(check(&history(events)), Verdict::Broken { .. }));
        }
    }

    #[test]
    fn only_what_no_cause_would_excuse_counts_as_tried() {
        let sure = [
            attempt(1, 1, TO),
            replied(1, 250),
            delivered(1, TO),
            CONFIRMED,
        ];
        assert_eq!(check(&history(&sure)), Verdict::Holds { tried: 1 });
        let lost_answer = &sure[..3];
        let during_a_fault = [&sure[..], &[began(Fault::Kill)]].concat();
        let unanswered = [
            attempt(1, 1, TO),
            closed(1, Stage::AfterTheDot),
            delivered(1, TO),
            CONFIRMED,
        ];
        for events in [lost_answer, &during_a_fault, &unanswered] {
            assert_eq!(check(&history(events)), Verdict::Unknown, "{events:?}");
        }
        // A delivery that is sure, of the same letter to somebody else.
        let both = [
            attempt(1, 1, &[TO[0], "b@other.test"]),
            replied(1, 250),
            delivered(1, TO),
            CONFIRMED,
            numbered(2, delivered(1, &["b@other.test"])),
        ];
        assert_eq!(check(&history(&both)), Verdict::Holds { tried: 1 });
    }

    fn numbered(number: u64, mut delivery: Event) -> Event {
        if let Event::Delivered { number: its, .. } = &mut delivery {
            *its = number;
        }
        delivery
    }
}

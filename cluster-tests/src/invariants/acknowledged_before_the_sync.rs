//! What was acknowledged before the power went is delivered after it is back: 250 means that a
//! quorum has synced it. A case of lost mail, told apart because its cause is known.

use std::collections::{HashMap, HashSet};

use super::Verdict;
use crate::history::{AttemptId, End, Event, Fault, History};

#[must_use]
pub fn check(history: &History) -> Verdict {
    let acknowledged: HashMap<AttemptId, &[String]> = history
        .tries()
        .iter()
        .filter(|a_try| a_try.end == End::Acknowledged)
        .map(|a_try| (a_try.attempt, a_try.recipients))
        .collect();
    let mut arrived: HashSet<(AttemptId, &str)> = HashSet::new();
    let mut waiting: HashSet<(AttemptId, &str)> = HashSet::new();
    // Waited for their delivery when the power went.
    let mut at_risk: HashSet<(AttemptId, &str)> = HashSet::new();
    for event in &history.events {
        match event {
            Event::Replied { attempt, .. } => {
                for to in acknowledged.get(attempt).into_iter().copied().flatten() {
                    // The sender may hear of it later than the primary.
                    if !arrived.contains(&(*attempt, to.as_str())) {
                        waiting.insert((*attempt, to));
                    }
                }
            }
            Event::Delivered {
                attempt: Some(attempt),
                recipients,
                ..
            } => {
                for to in recipients {
                    arrived.insert((*attempt, to));
                    waiting.remove(&(*attempt, to.as_str()));
                }
            }
            Event::FaultBegan {
                fault: Fault::PowerCut,
                ..
            } => at_risk.extend(&waiting),
            _ => {}
        }
    }
    let mut gone: Vec<String> = at_risk
        .intersection(&waiting)
        .map(|(attempt, to)| {
            format!(
                "attempt {} for {to} was acknowledged, and never came after the power cut",
                attempt.0
            )
        })
        .collect();
    gone.sort();
    Verdict::of(at_risk.len(), gone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::sketch::{attempt, began, delivered, history, replied};

    const TO: &[&str] = &["a@example.test"];

    #[test]
    fn what_a_power_cut_takes_is_noticed() {
        let mut events = vec![
            attempt(1, 1, TO),
            replied(1, 250),
            began(Fault::PowerCut),
            attempt(2, 2, TO),
            replied(2, 250),
            delivered(2, TO),
        ];
        assert!(matches!(check(&history(&events)), Verdict::Broken { how } if how.len() == 1));
        events.push(delivered(1, TO));
        assert_eq!(check(&history(&events)), Verdict::Holds { tried: 1 });
    }

    #[test]
    fn without_mail_at_risk_nothing_was_tried() {
        let delivered_before = [
            attempt(1, 1, TO),
            delivered(1, TO),
            replied(1, 250),
            began(Fault::PowerCut),
        ];
        let killed = [attempt(1, 1, TO), replied(1, 250), began(Fault::Kill)];
        for events in [&delivered_before[..], &killed] {
            assert_eq!(check(&history(events)), Verdict::Unknown);
        }
    }
}

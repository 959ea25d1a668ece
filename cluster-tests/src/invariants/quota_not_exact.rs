//! A domain with a quota of so many messages never holds more, and nobody is told that it is full
//! while it has room.
//!
//! What is held is known from outside only within bounds: at least what was acknowledged and has
//! not begun to arrive; at most what may have been accepted and has not arrived for sure. A run
//! without deliveries and without lost answers has both bounds at the same number.

use std::collections::{BTreeMap, BTreeSet};

use super::Verdict;
use crate::history::{AttemptId, Event, History, Stage, domain_of};

/// Seconds after a delivery in which a node may not have recorded, or heard of, it.
const UNHEARD: f64 = 10.0;

/// One domain's mail.
#[derive(Default)]
struct Held {
    quota: Option<usize>,
    at_least: BTreeSet<AttemptId>,
    at_most: BTreeSet<AttemptId>,
    /// Some of it has arrived, perhaps before its sender heard that it was taken.
    begun: BTreeSet<AttemptId>,
    /// Recipients that have not got it.
    missing: BTreeMap<AttemptId, BTreeSet<String>>,
}

#[must_use]
pub fn check(history: &History) -> Verdict {
    let tries: BTreeMap<AttemptId, &[String]> = history
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Attempt {
                attempt,
                recipients,
                ..
            } => Some((*attempt, recipients.as_slice())),
            _ => None,
        })
        .collect();
    let mut domains: BTreeMap<&str, Held> = BTreeMap::new();
    let mut delivered: BTreeMap<u64, (&str, AttemptId, &[String])> = BTreeMap::new();
    let mut heard: Vec<(f64, &str, AttemptId, &[String])> = Vec::new();
    let (mut tried, mut broken) = (0, Vec::new());
    for (at, event) in history.timed() {
        heard.retain(|(since, domain, attempt, recipients)| {
            let waits = at < since + UNHEARD;
            if !waits {
                domains
                    .entry(domain)
                    .or_default()
                    .arrived(*attempt, recipients);
            }
            waits
        });
        match event {
            Event::Quota { domain, messages } => {
                domains.entry(domain).or_default().quota = Some(*messages);
            }
            Event::Attempt {
                attempt,
                recipients,
                ..
            } => {
                for to in recipients {
                    let held = domains.entry(domain_of(to)).or_default();
                    held.at_most.insert(*attempt);
                    let missing = held.missing.entry(*attempt).or_default();
                    missing.insert(to.clone());
                }
            }
            Event::Replied {
                attempt,
                stage: Stage::AfterTheDot,
                code: 0..400,
            } => {
                for domain in domains_of(&tries, *attempt) {
                    let held = domains.entry(domain).or_default();
                    if !held.begun.contains(attempt) {
                        held.at_least.insert(*attempt);
                    }
                    let Some(quota) = held.quota else { continue };
                    tried += 1;
                    if held.at_least.len() > quota {
                        broken.push(format!(
                            "attempt {} was accepted although {domain} held {quota} messages, as \
                             many as it may",
                            attempt.0
                        ));
                    }
                }
            }
            Event::OverQuota { attempt } => {
                let limited: Vec<_> = domains_of(&tries, *attempt)
                    .into_iter()
                    .filter_map(|domain| {
                        let held = domains.get(domain)?;
                        let others = held.at_most.iter().filter(|other| *other != attempt);
                        Some((domain, held.quota?, others.count()))
                    })
                    .collect();
                tried += 1;
                if limited.iter().all(|(_, quota, others)| others < quota) {
                    broken.push(format!(
                        "attempt {} was refused as too much: {limited:?} (domain, quota, most that \
                         can have been held)",
                        attempt.0
                    ));
                }
            }
            Event::Replied { attempt, .. }
            | Event::Closed {
                attempt,
                stage: Stage::BeforeTheDot,
            } => {
                for domain in domains_of(&tries, *attempt) {
                    let held = domains.entry(domain).or_default();
                    held.at_most.remove(attempt);
                }
            }
            Event::Delivered {
                number,
                attempt: Some(attempt),
                primary,
                recipients,
                ..
            } => {
                let held = domains.entry(primary).or_default();
                held.at_least.remove(attempt);
                held.begun.insert(*attempt);
                delivered.insert(*number, (primary, *attempt, recipients));
            }
            Event::Confirmed { number } => {
                if let Some((domain, attempt, recipients)) = delivered.remove(number) {
                    heard.push((at, domain, attempt, recipients));
                }
            }
            _ => {}
        }
    }
    Verdict::of(tried, broken)
}

impl Held {
    fn arrived(&mut self, attempt: AttemptId, recipients: &[String]) {
        if let Some(missing) = self.missing.get_mut(&attempt) {
            missing.retain(|to| !recipients.contains(to));
            if missing.is_empty() {
                self.at_most.remove(&attempt);
            }
        }
    }
}

fn domains_of<'a>(
    tries: &BTreeMap<AttemptId, &'a [String]>,
    attempt: AttemptId,
) -> BTreeSet<&'a str> {
    let recipients = tries.get(&attempt).copied().unwrap_or_default();
    recipients.iter().map(|to| domain_of(to)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::sketch::{attempt, closed, delivered, history, replied};

    const TO: &[&str] = &["a@example.test"];

    fn quota(messages: usize) -> Event {
        Event::Quota {
            domain: "example.test".into(),
            messages,
        }
    }

    fn over(attempt: u64) -> [Event; 2] {
        let attempt = AttemptId(attempt);
        [Event::OverQuota { attempt }, replied(attempt.0, 452)]
    }

    #[test]
    fn one_message_too_many_is_seen() {
        let mut events = vec![quota(1), attempt(1, 1, TO), replied(1, 250)];
        events.extend([attempt(2, 2, TO), replied(2, 250)]);
        assert!(matches!(check(&history(&events)), Verdict::Broken { how } if how.len() == 1));
        // The first may have gone.
        events.insert(3, delivered(1, TO));
        assert_eq!(check(&history(&events)), Verdict::Holds { tried: 2 });
    }

    #[test]
    fn a_message_that_arrives_before_its_sender_hears_of_it_is_not_held() {
        let events = [
            quota(1),
            attempt(1, 1, TO),
            delivered(1, TO),
            replied(1, 250),
        ];
        let more = [attempt(2, 2, TO), replied(2, 250)];
        let all = [&events[..], &more[..]].concat();
        assert_eq!(check(&history(&all)), Verdict::Holds { tried: 2 });
    }

    #[test]
    fn a_refusal_while_there_is_room_is_seen() {
        let mut events = vec![quota(2), attempt(1, 1, TO), replied(1, 250)];
        events.push(attempt(2, 2, TO));
        events.extend(over(2));
        assert!(matches!(check(&history(&events)), Verdict::Broken { how } if how.len() == 1));
        // One whose answer was lost may be held.
        events.splice(3..3, [attempt(3, 3, TO), closed(3, Stage::AfterTheDot)]);
        assert_eq!(check(&history(&events)), Verdict::Holds { tried: 2 });
    }

    #[test]
    fn room_that_a_delivery_made_counts_once_every_node_must_know_of_it() {
        let mut events = vec![quota(1), attempt(1, 1, TO), replied(1, 250)];
        events.extend([delivered(1, TO), Event::Confirmed { number: 1 }]);
        let mut soon = events.clone();
        soon.push(attempt(2, 2, TO));
        soon.extend(over(2));
        assert_eq!(check(&history(&soon)), Verdict::Holds { tried: 2 });
        let note = Event::Note {
            text: "time passes".into(),
        };
        events.extend(vec![note; UNHEARD as usize]);
        events.push(attempt(2, 2, TO));
        events.extend(over(2));
        assert!(matches!(check(&history(&events)), Verdict::Broken { .. }));
    }

    #[test]
    fn without_a_quota_nothing_was_tried() {
        let events = [attempt(1, 1, TO), replied(1, 250)];
        assert_eq!(check(&history(&events)), Verdict::Unknown);
    }
}

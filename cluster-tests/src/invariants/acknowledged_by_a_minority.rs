//! A node that can reach no quorum says 250 to nothing.
//!
//! Counted are the tries that began and ended while it could not: one that began before may have
//! been on a quorum already.

use std::collections::{BTreeSet, HashMap};

use super::Verdict;
use crate::history::{AttemptId, Event, History, Stage};

#[must_use]
pub fn check(history: &History) -> Verdict {
    let mut minority = BTreeSet::new();
    // Begun at a node that has been in the minority since.
    let mut begun: HashMap<AttemptId, &str> = HashMap::new();
    let mut tried = 0;
    let mut broken = Vec::new();
    for event in &history.events {
        match event {
            Event::Minority { nodes } => {
                minority = nodes.iter().map(String::as_str).collect();
                begun.retain(|_, node| minority.contains(node));
            }
            Event::Attempt { attempt, node, .. } if minority.contains(node.as_str()) => {
                begun.insert(*attempt, node);
                tried += 1;
            }
            Event::Replied {
                attempt,
                stage: Stage::AfterTheDot,
                code: 0..400,
            } => {
                if let Some(node) = begun.get(attempt) {
                    broken.push(format!(
                        "{node} acknowledged attempt {} while it could reach no quorum",
                        attempt.0
                    ));
                }
            }
            _ => {}
        }
    }
    Verdict::of(tried, broken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::sketch::{attempt_at, history, replied};

    const TO: &[&str] = &["a@example.test"];

    fn minority(nodes: &[&str]) -> Event {
        Event::Minority {
            nodes: nodes.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn a_250_of_a_node_alone_is_noticed() {
        let events = [
            minority(&["n3"]),
            attempt_at("n3", 1, TO),
            attempt_at("n1", 2, TO),
            replied(2, 250),
            replied(1, 250),
        ];
        assert!(
            matches!(check(&history(&events)), Verdict::Broken { how } if how.len() == 1 && how[0].starts_with("n3"))
        );
    }

    #[test]
    fn what_began_before_or_ended_after_may_have_had_its_quorum() {
        let events = [
            attempt_at("n3", 1, TO),
            minority(&["n3"]),
            replied(1, 250),
            attempt_at("n3", 2, TO),
            attempt_at("n3", 3, TO),
            replied(3, 451),
            minority(&[]),
            replied(2, 250),
        ];
        assert_eq!(check(&history(&events)), Verdict::Holds { tried: 2 });
    }

    #[test]
    fn without_a_minority_nothing_was_tried() {
        let events = [attempt_at("n3", 1, TO), replied(1, 250)];
        assert_eq!(check(&history(&events)), Verdict::Unknown);
    }
}

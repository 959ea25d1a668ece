//! At one epoch, one node delivers for a domain; and nobody begins a delivery while another is
//! known to hold the lease.
//!
//! The second half is judged where two looks at the lease, one before and one after a delivery,
//! found the same holder at the same epoch. A holder that a fault holds up in the middle of a
//! delivery may still end it.
//!
//! Tried is what could have shown two: an epoch that another node tells of too, and a delivery that
//! is judged.

use std::collections::{HashMap, HashSet};

use super::Verdict;
use crate::history::{Event, History};

#[must_use]
pub fn check(history: &History) -> Verdict {
    let disturbances = history.disturbances();
    let mut tried = 0;
    let mut broken = Vec::new();
    let mut holders: HashMap<(&str, u64), &str> = HashMap::new();
    // Who told of which domain and epoch.
    let mut tellers: HashMap<(&str, u64), HashSet<&str>> = HashMap::new();
    let mut latest: HashMap<&str, (u64, &str)> = HashMap::new();
    // Deliveries since the latest look, by domain.
    let mut since: HashMap<&str, Vec<(f64, &str, u64)>> = HashMap::new();
    for (at, event) in history.timed() {
        match event {
            // Epochs are entries, and those of the cluster before count no more.
            Event::Founded => {
                holders.clear();
                tellers.clear();
                latest.clear();
                since.clear();
            }
            Event::Lease {
                told_by,
                domain,
                holder,
                epoch,
            } => {
                let told = tellers.entry((domain, *epoch)).or_default();
                let is_first = told.is_empty();
                tried += usize::from(told.insert(told_by) && !is_first);
                let known = *holders.entry((domain, *epoch)).or_insert(holder);
                if known != holder {
                    broken.push(format!(
                        "at epoch {epoch}, {domain} was held by {known} and, says {told_by}, by {holder}"
                    ));
                }
                let newest = latest.get(domain.as_str()).copied();
                if newest.is_some_and(|(newest, _)| newest > *epoch) {
                    // Told by a node that lags.
                    continue;
                }
                let delivered = since.remove(domain.as_str()).unwrap_or_default();
                if newest == Some((*epoch, holder.as_str())) {
                    for (then, by, number) in delivered {
                        if disturbances.cover(then) {
                            continue;
                        }
                        tried += 1;
                        if by != holder {
                            broken.push(format!(
                                "{by} made delivery {number} for {domain} while {holder} held the lease"
                            ));
                        }
                    }
                }
                latest.insert(domain, (*epoch, holder));
            }
            Event::Delivered {
                primary,
                by,
                number,
                ..
            } => since.entry(primary).or_default().push((at, by, *number)),
            _ => {}
        }
    }
    Verdict::of(tried, broken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Fault;
    use crate::history::sketch::{began, delivered, history};

    fn lease(told_by: &str, holder: &str, epoch: u64) -> Event {
        Event::Lease {
            told_by: told_by.into(),
            domain: "example.test".into(),
            holder: holder.into(),
            epoch,
        }
    }

    #[test]
    fn two_holders_at_one_epoch_are_noticed() {
        let events = [lease("n1", "n1", 7), lease("n2", "n2", 7)];
        assert!(matches!(check(&history(&events)), Verdict::Broken { .. }));
    }

    #[test]
    fn a_delivery_under_another_nodes_lease_is_noticed() {
        let events = [
            lease("n1", "n2", 7),
            // Made by n1.
            delivered(1, &["a@example.test"]),
            lease("n1", "n2", 7),
        ];
        assert!(matches!(check(&history(&events)), Verdict::Broken { .. }));
    }

    #[test]
    fn a_lease_that_moves_a_look_that_lags_and_a_fault_are_lawful() {
        let mail = || delivered(1, &["a@example.test"]);
        let moved = [lease("n1", "n2", 7), mail(), lease("n1", "n1", 9)];
        let lagging = [
            lease("n1", "n1", 9),
            lease("n3", "n2", 7),
            mail(),
            lease("n1", "n1", 9),
        ];
        let held_up = [
            began(Fault::Pause),
            lease("n1", "n2", 7),
            mail(),
            lease("n1", "n2", 7),
        ];
        assert_eq!(check(&history(&moved)), Verdict::Unknown);
        assert_eq!(check(&history(&lagging)), Verdict::Holds { tried: 1 });
        assert_eq!(check(&history(&held_up)), Verdict::Unknown);
    }

    #[test]
    fn what_one_node_says_again_and_again_tries_nothing() {
        let mut events = vec![lease("n1", "n2", 7), lease("n1", "n2", 7)];
        assert_eq!(check(&history(&events)), Verdict::Unknown);
        events.push(lease("n3", "n2", 7));
        assert_eq!(check(&history(&events)), Verdict::Holds { tried: 1 });
        // Of another epoch, nobody else has told yet; nor of another cluster's.
        events.extend([lease("n3", "n2", 9), Event::Founded, lease("n1", "n1", 9)]);
        assert_eq!(check(&history(&events)), Verdict::Holds { tried: 1 });
    }
}

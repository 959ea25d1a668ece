//! After the same entry, every node has the same rows.

use std::collections::BTreeMap;

use super::Verdict;
use crate::history::{Event, History};

#[must_use]
pub fn check(history: &History) -> Verdict {
    // By cluster and entry: which nodes came to which hash.
    let mut hashes: BTreeMap<(usize, u64), BTreeMap<&str, Vec<&str>>> = BTreeMap::new();
    let mut cluster = 0;
    for event in &history.events {
        match event {
            Event::Founded => cluster += 1,
            Event::State {
                node,
                applied,
                hash,
            } => {
                let by_hash = hashes.entry((cluster, *applied)).or_default();
                let nodes = by_hash.entry(hash).or_default();
                if !nodes.contains(&node.as_str()) {
                    nodes.push(node);
                }
            }
            _ => {}
        }
    }
    let mut tried = 0;
    let mut apart = Vec::new();
    for ((_, applied), by_hash) in hashes {
        let nodes: usize = by_hash.values().map(Vec::len).sum();
        tried += nodes - 1;
        if by_hash.len() > 1 {
            apart.push(format!("after entry {applied}: {by_hash:?}"));
        }
    }
    Verdict::of(tried, apart)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::sketch::history;

    fn state(node: &str, applied: u64, hash: &str) -> Event {
        Event::State {
            node: node.into(),
            applied,
            hash: hash.into(),
        }
    }

    #[test]
    fn two_states_after_one_entry_are_noticed() {
        let events = [state("n1", 7, "aa"), state("n2", 7, "ab")];
        assert!(matches!(check(&history(&events)), Verdict::Broken { .. }));
        // A node that disagrees with itself too: before and after a restart.
        let events = [state("n1", 7, "aa"), state("n1", 7, "ab")];
        assert!(matches!(check(&history(&events)), Verdict::Broken { .. }));
    }

    #[test]
    fn another_cluster_counts_entries_of_its_own() {
        let events = [state("n1", 7, "aa"), Event::Founded, state("n1", 7, "ab")];
        assert!(!matches!(check(&history(&events)), Verdict::Broken { .. }));
    }

    #[test]
    fn equal_states_hold_and_lonely_ones_say_nothing() {
        let events = [
            state("n1", 7, "aa"),
            state("n2", 7, "aa"),
            state("n2", 8, "cc"),
        ];
        assert_eq!(check(&history(&events)), Verdict::Holds { tried: 1 });
        assert_eq!(check(&history(&events[..1])), Verdict::Unknown);
    }
}

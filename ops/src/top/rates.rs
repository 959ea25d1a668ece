//! How many messages a second come in and go out, from what each node has counted since it started.

use std::collections::{BTreeMap, VecDeque};

use holdfast_proto::admin::StatusReply;

/// Over how long a rate is taken, milliseconds: long enough to be read, short enough to be of now.
const SPAN_MS: u64 = 10_000;

/// Looks that are kept: one each second, and some more where the clock is moved.
const LOOKS_MAX: usize = 32;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rate {
    pub(super) accepted: f64,
    pub(super) delivered: f64,
}

#[derive(Default)]
pub(super) struct Rates {
    looks: VecDeque<Look>,
}

struct Look {
    at_ms: u64,
    /// Accepted and delivered, by node.
    counts: BTreeMap<u64, (u64, u64)>,
}

impl Rates {
    pub(super) fn add(&mut self, status: &StatusReply) {
        let answering = status.nodes.iter().filter(|node| node.reachable);
        let look = Look {
            at_ms: status.now_ms,
            counts: answering
                .map(|node| (node.id, (node.accepted, node.delivered)))
                .collect(),
        };
        let is_old = |first: &Look| first.at_ms + SPAN_MS < look.at_ms || first.at_ms > look.at_ms;
        // One that is a little too old stays as long as there is no other to compare with.
        while self.looks.len() > 1 && self.looks.front().is_some_and(is_old) {
            self.looks.pop_front();
        }
        self.looks.push_back(look);
        if self.looks.len() > LOOKS_MAX {
            self.looks.pop_front();
        }
    }

    /// `None`: not known yet, or the node does not answer, or has started again.
    pub(super) fn of(&self, node: u64) -> Option<Rate> {
        let (first, last) = (self.looks.front()?, self.looks.back()?);
        let seconds = last.at_ms.checked_sub(first.at_ms)? as f64 / 1000.0;
        let (was, is) = (first.counts.get(&node)?, last.counts.get(&node)?);
        let rate = |was: u64, is: u64| Some(is.checked_sub(was)? as f64 / seconds);
        (seconds > 0.0).then_some(())?;
        Some(Rate {
            accepted: rate(was.0, is.0)?,
            delivered: rate(was.1, is.1)?,
        })
    }

    /// Of all nodes whose rate is known.
    pub(super) fn total(&self) -> Option<Rate> {
        let last = self.looks.back()?;
        let rates = last.counts.keys().filter_map(|node| self.of(*node));
        rates.reduce(|a, b| Rate {
            accepted: a.accepted + b.accepted,
            delivered: a.delivered + b.delivered,
        })
    }
}

#[cfg(test)]
mod tests {
    use holdfast_proto::admin::NodeStatus;

    use super::*;

    fn look(now_ms: u64, nodes: &[(u64, u64, u64)]) -> StatusReply {
        let node = |(id, accepted, delivered): &(u64, u64, u64)| NodeStatus {
            id: *id,
            reachable: true,
            accepted: *accepted,
            delivered: *delivered,
            ..NodeStatus::default()
        };
        StatusReply {
            now_ms,
            nodes: nodes.iter().map(node).collect(),
            ..StatusReply::default()
        }
    }

    fn rate(accepted: f64, delivered: f64) -> Rate {
        Rate {
            accepted,
            delivered,
        }
    }

    #[test]
    fn a_rate_is_of_the_last_seconds_and_unknown_where_a_node_started_again() {
        let mut rates = Rates::default();
        assert_eq!(rates.total(), None);
        rates.add(&look(1000, &[(1, 100, 0), (2, 7, 7)]));
        assert_eq!(rates.of(1), None, "of one look nothing can be told");
        rates.add(&look(3000, &[(1, 110, 4), (2, 7, 9)]));
        assert_eq!(rates.of(1), Some(rate(5.0, 2.0)));
        assert_eq!(rates.total(), Some(rate(5.0, 3.0)));
        rates.add(&look(5000, &[(1, 0, 0), (2, 9, 9)]));
        assert_eq!(rates.of(1), None);
        assert_eq!(rates.total(), Some(rate(0.5, 0.5)));
        // What was counted before is forgotten after a while.
        for second in 0..20 {
            rates.add(&look(6000 + second * 1000, &[(1, second, 0)]));
        }
        assert_eq!(rates.of(1), Some(rate(1.0, 0.0)));
        assert_eq!(rates.of(2), None);
        // A clock that is moved makes no rate below zero.
        rates.add(&look(1, &[(1, 30, 0)]));
        assert_eq!(rates.of(1), None);
    }
}

//! Who delivers for a domain, and when to ask for the lease.
//!
//! Pure. Every node ranks the members for a domain the same way, without talking: the first
//! asks for the lease at once, each one behind it a little later, so that the log is not
//! filled with requests that all but one lose, and a dead member costs a moment and no more.

use std::collections::HashMap;
use std::time::Duration;

use holdfast_ledger::query::Lease;
use holdfast_mail::{Domain, NodeId, Timestamp, retry};
use tokio::time::Instant;

/// How long a lease is granted or renewed for, by logged time. Short, because mail waits this
/// long when its deliverer dies; three renewals fit in, so that one lost proposal costs nothing.
pub(super) const LEASE_TTL: Duration = Duration::from_secs(6);

/// How much earlier than the ledger the holder takes its own lease for ended. Logged time is a
/// leader's clock, and the next leader's may be ahead of it by as much as this.
pub(super) const LEASE_MARGIN: Duration = Duration::from_secs(1);

/// How often leases are renewed.
pub(super) const RENEW_INTERVAL: Duration = Duration::from_secs(2);

/// How much later each rank asks: a proposal and its answer, even between continents.
pub(super) const RANK_DELAY: Duration = Duration::from_millis(1500);

/// How long after a refused or lost request the next one is made.
pub(super) const ASK_AGAIN: Duration = Duration::from_secs(1);

/// How long a node that does not reach a primary, while another does, leaves the domain alone.
pub(super) const PASS_TIME: Duration = Duration::from_secs(120);

/// The domains with mail and without a deliverer, as far as this node has seen.
#[derive(Debug, Default)]
pub(super) struct Plan {
    domains: HashMap<Domain, Watched>,
    /// How often in a row a stranger's server was not reached from here.
    rests: HashMap<Domain, u32>,
}

#[derive(Debug)]
struct Watched {
    /// The lease as last seen, and since when it looks so.
    lease: Option<Lease>,
    since: Instant,
    /// The earliest that it was ever thought to be free. It must not move on while somebody asks for
    /// delivery again and again, or those behind the first would never have their turn.
    free_from: Option<Instant>,
    ask_from: Instant,
    /// When to decide again.
    look_at: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Acquire,
    /// Look again then, if nothing is heard before.
    Wait(Instant),
}

/// What is known of a domain when a decision is due.
pub(super) struct Sight<'a> {
    /// This node's place among the members; 0 asks first.
    pub(super) rank: usize,
    /// The lease in this node's view.
    pub(super) lease: Option<Lease>,
    pub(super) me: NodeId,
    /// This node's clock, as the ledger would log it.
    pub(super) clock: Timestamp,
    pub(super) domain: &'a Domain,
}

impl Plan {
    pub(super) fn decide(&mut self, sight: Sight<'_>, now: Instant) -> Decision {
        let watched = self
            .domains
            .entry(sight.domain.clone())
            .or_insert_with(|| Watched {
                lease: sight.lease,
                since: now,
                free_from: None,
                ask_from: now,
                look_at: now,
            });
        if watched.lease != sight.lease {
            watched.lease = sight.lease;
            watched.since = now;
            watched.free_from = None;
        }
        let free_from = match sight.lease {
            // Ours from an earlier life, or lost track of: the ledger grants it anew at once.
            Some(lease) if lease.node == sight.me => watched.since,
            // Over by our clock, or not renewed for as long as it lasts, whatever clocks say.
            // To ask too early does no harm: the ledger decides.
            Some(lease) => {
                let left = lease.until.since(sight.clock);
                (watched.since + LEASE_TTL).min(now + left)
            }
            None => watched.since,
        };
        let free_from = watched.free_from.map_or(free_from, |at| at.min(free_from));
        watched.free_from = Some(free_from);
        let delay = RANK_DELAY.saturating_mul(u32::try_from(sight.rank).unwrap_or(u32::MAX));
        let at = (free_from + delay).max(watched.ask_from);
        watched.look_at = at;
        if at <= now {
            Decision::Acquire
        } else {
            Decision::Wait(at)
        }
    }

    /// The lease was not granted, or nobody knows.
    pub(super) fn refused(&mut self, domain: &Domain, now: Instant) {
        if let Some(watched) = self.domains.get_mut(domain) {
            watched.ask_from = now + ASK_AGAIN;
            watched.look_at = watched.ask_from;
        }
    }

    /// This node cannot deliver, and another can: for a while it leaves the domain to the others.
    pub(super) fn pass(&mut self, domain: Domain, now: Instant) {
        self.leave_until(domain, now, now + PASS_TIME);
    }

    /// A stranger's server was not reached: this node tries it again much later, and later each
    /// time. Others try for themselves, for it may be the line.
    pub(super) fn rest(&mut self, domain: Domain, now: Instant) {
        let times = self.rests.entry(domain.clone()).or_default();
        *times = times.saturating_add(1);
        let until = now + retry::stranger_delay(*times);
        self.leave_until(domain, now, until);
    }

    /// Somebody says that the primary is back: nobody need rest any longer.
    pub(super) fn ask_now(&mut self, domain: &Domain, now: Instant) {
        if let Some(watched) = self.domains.get_mut(domain) {
            watched.ask_from = now;
            watched.look_at = now;
        }
    }

    /// A stranger's server was reached, or there is no mail for it any more.
    pub(super) fn reached(&mut self, domain: &Domain) {
        self.rests.remove(domain);
    }

    fn leave_until(&mut self, domain: Domain, now: Instant, until: Instant) {
        let watched = Watched {
            lease: None,
            since: now,
            free_from: None,
            ask_from: until,
            look_at: until,
        };
        self.domains.insert(domain, watched);
    }

    /// There is nothing to decide any more: the lease is ours, or no mail is held.
    pub(super) fn forget(&mut self, domain: &Domain) {
        self.domains.remove(domain);
    }

    /// The domains to decide about again now.
    pub(super) fn due(&self, now: Instant) -> Vec<Domain> {
        self.domains
            .iter()
            .filter(|(_, watched)| watched.look_at <= now)
            .map(|(domain, _)| domain.clone())
            .collect()
    }
}

/// Until when the holder may deliver: counted from before it asked, since the entry may have
/// been logged at any time since.
pub(super) fn deliver_until(asked: Instant) -> Instant {
    asked + (LEASE_TTL - LEASE_MARGIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(name: &str) -> Domain {
        Domain::parse(name).unwrap()
    }

    fn lease(node: u64, epoch: u64, until: u64) -> Option<Lease> {
        Some(Lease {
            node: NodeId(node),
            epoch,
            until: Timestamp(until),
        })
    }

    /// Decides at `clock` milliseconds, for node 1.
    fn decide(
        plan: &mut Plan,
        start: Instant,
        clock: u64,
        rank: usize,
        lease: Option<Lease>,
    ) -> Decision {
        let domain = domain("x.y");
        let sight = Sight {
            rank,
            lease,
            me: NodeId(1),
            clock: Timestamp(clock),
            domain: &domain,
        };
        plan.decide(sight, start + Duration::from_millis(clock))
    }

    #[test]
    fn the_first_asks_at_once_and_the_others_in_turn() {
        let start = Instant::now();
        for (place, after_ms) in [(0, 0), (1, 1500), (2, 3000)] {
            let mut plan = Plan::default();
            for clock in (0..after_ms).step_by(100) {
                let at = start + Duration::from_millis(after_ms);
                let decision = decide(&mut plan, start, clock, place, None);
                assert_eq!(decision, Decision::Wait(at), "{clock}");
            }
            assert_eq!(
                decide(&mut plan, start, after_ms, place, None),
                Decision::Acquire
            );
        }
    }

    #[test]
    fn a_lease_that_is_renewed_is_left_alone() {
        let (mut plan, start) = (Plan::default(), Instant::now());
        for clock in (0..60_000).step_by(500) {
            let renewed = lease(5, 7, clock / 2000 * 2000 + 6000);
            assert!(matches!(
                decide(&mut plan, start, clock, 0, renewed),
                Decision::Wait(_)
            ));
        }
    }

    #[test]
    fn a_dead_holders_lease_is_taken_over_when_it_is_over() {
        let (mut plan, start) = (Plan::default(), Instant::now());
        let held = lease(5, 7, 4000);
        assert!(matches!(
            decide(&mut plan, start, 0, 0, held),
            Decision::Wait(_)
        ));
        assert!(matches!(
            decide(&mut plan, start, 3900, 0, held),
            Decision::Wait(_)
        ));
        assert_eq!(decide(&mut plan, start, 4000, 0, held), Decision::Acquire);
    }

    #[test]
    fn however_often_delivery_is_asked_for_those_behind_the_dead_have_their_turn() {
        let (mut plan, start) = (Plan::default(), Instant::now());
        let held = lease(5, 7, 4000);
        for clock in (0..7000).step_by(500) {
            let now = start + Duration::from_millis(clock);
            plan.ask_now(&domain("x.y"), now);
            let decision = decide(&mut plan, start, clock, 2, held);
            assert!(matches!(decision, Decision::Wait(_)), "{clock}");
        }
        assert_eq!(decide(&mut plan, start, 7000, 2, held), Decision::Acquire);
    }

    #[test]
    fn a_clock_that_is_behind_delays_a_take_over_by_no_more_than_the_lease() {
        let (mut plan, start) = (Plan::default(), Instant::now());
        let held = lease(5, 7, 1_000_000);
        assert!(matches!(
            decide(&mut plan, start, 0, 0, held),
            Decision::Wait(_)
        ));
        assert_eq!(decide(&mut plan, start, 6000, 0, held), Decision::Acquire);
    }

    #[test]
    fn a_lease_of_our_own_earlier_life_is_asked_for_anew_at_once() {
        let mut plan = Plan::default();
        let ours = lease(1, 7, 1_000_000);
        assert_eq!(
            decide(&mut plan, Instant::now(), 0, 0, ours),
            Decision::Acquire
        );
    }

    #[test]
    fn a_strangers_dead_server_is_tried_less_and_less_often_until_it_answers() {
        let (mut plan, start) = (Plan::default(), Instant::now());
        let (name, minute) = (domain("x.y"), 60_000);
        let mut clock = 0;
        for wait in [5, 10, 20] {
            plan.forget(&name);
            plan.rest(name.clone(), start + Duration::from_millis(clock));
            let until = clock + wait * minute;
            assert!(matches!(
                decide(&mut plan, start, until - 1, 0, None),
                Decision::Wait(_)
            ));
            assert_eq!(decide(&mut plan, start, until, 0, None), Decision::Acquire);
            clock = until;
        }
        plan.reached(&name);
        plan.rest(name.clone(), start + Duration::from_millis(clock));
        let until = clock + 5 * minute;
        assert_eq!(decide(&mut plan, start, until, 0, None), Decision::Acquire);
    }

    #[test]
    fn a_refused_request_is_not_repeated_at_once() {
        let (mut plan, start) = (Plan::default(), Instant::now());
        assert_eq!(decide(&mut plan, start, 0, 0, None), Decision::Acquire);
        plan.refused(&domain("x.y"), start);
        assert!(matches!(
            decide(&mut plan, start, 10, 0, None),
            Decision::Wait(_)
        ));
        assert_eq!(decide(&mut plan, start, 1000, 0, None), Decision::Acquire);
    }
}

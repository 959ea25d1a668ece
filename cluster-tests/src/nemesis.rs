//! Who is killed next, and for how long it stays dead: decided by a seed alone.

use std::time::Duration;

use crate::random::Random;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    Leader,
    Follower,
    /// Whoever the seed points at.
    Any,
}

const ROLES: [Role; 3] = [Role::Leader, Role::Follower, Role::Any];

/// One kill -9.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strike {
    /// Mail flows for so long before it.
    pub after: Duration,
    pub role: Role,
    /// Then the node is started again.
    pub dead_for: Duration,
    /// Chooses among the nodes of that role.
    lot: u64,
}

impl Strike {
    /// The victim among `nodes`; `leader` is one of them, if any leads.
    #[must_use]
    pub fn victim<'a>(&self, nodes: &'a [String], leader: Option<&str>) -> Option<&'a str> {
        let candidates: Vec<&String> = nodes
            .iter()
            .filter(|node| match self.role {
                Role::Leader => Some(node.as_str()) == leader,
                Role::Follower => Some(node.as_str()) != leader,
                Role::Any => true,
            })
            .collect();
        let at = usize::try_from(self.lot % u64::try_from(candidates.len()).ok()?.max(1)).ok()?;
        candidates.get(at).map(|node| node.as_str())
    }
}

/// `count` strikes in which every role comes before any comes again, so that a short run tries
/// them all.
#[must_use]
pub fn strikes(seed: u64, count: usize) -> Vec<Strike> {
    let mut random = Random::new(seed);
    let mut strikes = Vec::new();
    let mut roles = Vec::new();
    while strikes.len() < count {
        if roles.is_empty() {
            roles = ROLES.to_vec();
        }
        let at = random.between(0, roles.len() as u64 - 1);
        strikes.push(Strike {
            after: Duration::from_millis(random.between(300, 1500)),
            role: roles.remove(at as usize),
            dead_for: Duration::from_millis(random.between(0, 2500)),
            lot: random.draw(),
        });
    }
    strikes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_strikes_each_time() {
        assert_eq!(strikes(1, 9), strikes(1, 9));
        assert_ne!(strikes(1, 9), strikes(2, 9));
    }

    #[test]
    fn every_role_is_struck_before_any_is_struck_again() {
        for seed in 0..20 {
            for round in strikes(seed, 9).chunks(3) {
                let roles: std::collections::HashSet<Role> =
                    round.iter().map(|strike| strike.role).collect();
                assert_eq!(roles.len(), 3, "seed {seed}");
            }
        }
    }

    #[test]
    fn the_victim_has_the_role() {
        let nodes = ["n1", "n2", "n3"].map(String::from);
        for strike in strikes(3, 30) {
            let victim = strike.victim(&nodes, Some("n2")).unwrap();
            match strike.role {
                Role::Leader => assert_eq!(victim, "n2"),
                Role::Follower => assert_ne!(victim, "n2"),
                Role::Any => assert!(nodes.iter().any(|node| node == victim)),
            }
            let leaderless = strike.victim(&nodes, None);
            assert_eq!(leaderless.is_none(), strike.role == Role::Leader);
        }
        assert_eq!(strikes(3, 1)[0].victim(&[], None), None);
    }
}

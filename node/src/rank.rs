//! Which node does something first: every node ranks the members the same way, without talking.

use holdfast_mail::{Domain, NodeId};

/// The place of `me` for a domain; `None` if it is no member.
///
/// Rendezvous hashing: every member draws a number from its id and the domain, the highest is
/// first. A member that comes or goes moves only the domains it wins or won.
pub(crate) fn rank(domain: &Domain, me: NodeId, members: &[NodeId]) -> Option<usize> {
    let mine = (draw(domain, me), me);
    members.contains(&me).then(|| {
        members
            .iter()
            .filter(|other| (draw(domain, **other), **other) > mine)
            .count()
    })
}

fn draw(domain: &Domain, node: NodeId) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&node.0.to_be_bytes());
    hasher.update(domain.as_str().as_bytes());
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMBERS: [NodeId; 3] = [NodeId(1), NodeId(5), NodeId(9)];

    fn domain(name: &str) -> Domain {
        Domain::parse(name).unwrap()
    }

    #[test]
    fn the_members_share_the_domains_and_agree_on_the_order() {
        let mut first = [0; 3];
        for number in 0..300 {
            let domain = domain(&format!("d{number}.example"));
            let mut ranks: Vec<_> = MEMBERS
                .iter()
                .map(|me| rank(&domain, *me, &MEMBERS).unwrap())
                .collect();
            first[ranks.iter().position(|rank| *rank == 0).unwrap()] += 1;
            ranks.sort_unstable();
            assert_eq!(ranks, [0, 1, 2]);
        }
        assert!(first.iter().all(|count| *count > 50), "{first:?}");
        assert_eq!(rank(&domain("x.y"), NodeId(2), &MEMBERS), None);
    }

    #[test]
    fn a_domain_stays_where_it_is_when_another_member_leaves() {
        for number in 0..100 {
            let domain = domain(&format!("d{number}.example"));
            if rank(&domain, MEMBERS[0], &MEMBERS) == Some(0) {
                assert_eq!(rank(&domain, MEMBERS[0], &MEMBERS[..2]), Some(0));
            }
        }
    }
}

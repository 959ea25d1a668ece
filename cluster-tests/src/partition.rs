//! The ways in which a network falls apart: whom nobody hears, who hears without being heard, and
//! who hears some but not all.

use std::collections::BTreeSet;

/// From a machine to another, by their numbers.
pub type Link = (u8, u8);

/// A network that fell apart, told from the place of its leader `l` among its followers.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub name: &'static str,
    pub machines: u8,
    /// The links that are cut, where machine 1 leads.
    cut: fn() -> Vec<Link>,
}

impl Shape {
    /// The links that are cut, where `leader` leads.
    #[must_use]
    pub fn links(&self, leader: u8) -> BTreeSet<Link> {
        let place = |machine| match machine {
            1 => leader,
            other if other == leader => 1,
            other => other,
        };
        (self.cut)()
            .into_iter()
            .map(|(from, to)| (place(from), place(to)))
            .collect()
    }
}

/// From each of these to each of those.
fn mute(from: &[u8], to: &[u8]) -> Vec<Link> {
    from.iter()
        .flat_map(|from| to.iter().map(move |to| (*from, *to)))
        .filter(|(from, to)| from != to)
        .collect()
}

/// In both directions.
fn apart(these: &[u8], those: &[u8]) -> Vec<Link> {
    [mute(these, those), mute(those, these)].concat()
}

/// Twelve for three machines and twelve for five: full, one-way and partial.
pub const SHAPES: [Shape; 24] = [
    three("the leader is alone", || apart(&[1], &[2, 3])),
    three("a follower is alone", || apart(&[3], &[1, 2])),
    three("everybody is alone", || apart(&[1, 2, 3], &[1, 2, 3])),
    three("the leader is mute", || mute(&[1], &[2, 3])),
    three("the leader is deaf", || mute(&[2, 3], &[1])),
    three("a follower is mute", || mute(&[3], &[1, 2])),
    three("a follower is deaf", || mute(&[1, 2], &[3])),
    three("the leader is mute to one follower", || mute(&[1], &[2])),
    three("the leader is deaf to one follower", || mute(&[2], &[1])),
    three("the leader and a follower do not hear each other", || {
        apart(&[1], &[2])
    }),
    three("the followers do not hear each other", || apart(&[2], &[3])),
    three("each is mute to the next", || vec![(1, 2), (2, 3), (3, 1)]),
    five("the leader is alone", || apart(&[1], &[2, 3, 4, 5])),
    five("the leader is with the fewer", || {
        apart(&[1, 2], &[3, 4, 5])
    }),
    five("the leader is with the more", || apart(&[1, 2, 3], &[4, 5])),
    five("two, two and one", || {
        [apart(&[1, 2], &[3, 4, 5]), apart(&[3, 4], &[5])].concat()
    }),
    five("the leader and one more are mute", || {
        mute(&[1, 2], &[3, 4, 5])
    }),
    five("the leader and one more are deaf", || {
        mute(&[3, 4, 5], &[1, 2])
    }),
    five("two followers are mute", || mute(&[4, 5], &[1, 2, 3])),
    five("two followers are deaf", || mute(&[1, 2, 3], &[4, 5])),
    five("two sides hear each other only through a follower", || {
        apart(&[1, 2], &[3, 4])
    }),
    five("two sides hear each other only through the leader", || {
        apart(&[2, 3], &[4, 5])
    }),
    five("each hears only its neighbours in a ring", || {
        [
            apart(&[1], &[3, 4]),
            apart(&[2], &[4, 5]),
            apart(&[3], &[5]),
        ]
        .concat()
    }),
    five("the leader hears only one follower", || {
        apart(&[1], &[3, 4, 5])
    }),
];

const fn three(name: &'static str, cut: fn() -> Vec<Link>) -> Shape {
    Shape {
        name,
        machines: 3,
        cut,
    }
}

const fn five(name: &'static str, cut: fn() -> Vec<Link>) -> Shape {
    Shape {
        name,
        machines: 5,
        cut,
    }
}

/// Whether a machine and those that it hears both ways are a quorum: then somebody can lead.
#[must_use]
pub fn some_quorum_is_left(machines: u8, cut: &BTreeSet<Link>) -> bool {
    (1..=machines).any(|leader| {
        let heard = (1..=machines)
            .filter(|other| !cut.contains(&(leader, *other)) && !cut.contains(&(*other, leader)))
            .count();
        heard > usize::from(machines) / 2
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_twenty_four_shapes_and_no_two_are_the_same() {
        let mut all = BTreeSet::new();
        for shape in SHAPES {
            let links = shape.links(1);
            assert!(!links.is_empty());
            assert!(
                links
                    .iter()
                    .all(|(from, to)| from != to && from.max(to) <= &shape.machines)
            );
            assert!(all.insert((shape.machines, links)), "{}", shape.name);
        }
    }

    #[test]
    fn a_shape_turns_with_the_leader() {
        let alone = SHAPES[0];
        assert_eq!(
            alone.links(3),
            BTreeSet::from([(3, 1), (3, 2), (1, 3), (2, 3)])
        );
    }

    #[test]
    fn only_where_nobody_hears_a_majority_is_there_no_quorum() {
        let without: Vec<&str> = SHAPES
            .iter()
            .filter(|shape| !some_quorum_is_left(shape.machines, &shape.links(1)))
            .map(|shape| shape.name)
            .collect();
        assert_eq!(
            without,
            [
                "everybody is alone",
                "each is mute to the next",
                "two, two and one"
            ]
        );
    }
}

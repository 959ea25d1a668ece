//! What goes wrong when, several things at once: decided by a seed alone.
//!
//! A storm is lawful: it takes nothing that the cluster does not promise to bear. No disk is lost;
//! few things go wrong at a time; nodes that stand still by themselves are a minority, and more
//! than that stand still only where the power goes; no machine has two faults of its disk at once;
//! the clocks that lie are always those of the same minority; and everything ends.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::harness::Quality;
use crate::partition::{Link, SHAPES, Shape};
use crate::random::Random;

/// Something that goes wrong for a while. Machines are told by their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blow {
    pub begins: Duration,
    pub ends: Duration,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Kill {
        machine: u8,
    },
    Pause {
        machine: u8,
    },
    /// Of all these at one moment.
    PowerCut {
        machines: BTreeSet<u8>,
    },
    /// Every write and sync fails.
    FailingDisk {
        machine: u8,
    },
    SlowDisk {
        machine: u8,
    },
    FullDisk {
        machine: u8,
    },
    ClockJump {
        machine: u8,
        ahead_ms: i64,
    },
    Cut {
        name: &'static str,
        links: BTreeSet<Link>,
    },
    BadLine {
        link: Link,
        quality: Quality,
    },
    /// The primary of the domain with this number is down.
    PrimaryAway {
        domain: usize,
    },
    /// It is up and misbehaves.
    PrimaryBad {
        domain: usize,
    },
    /// A new node joins, and leaves again.
    Newcomer,
}

/// What is dealt: everything comes before anything comes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Kill,
    Pause,
    PowerCutOfOne,
    PowerCutOfMost,
    PowerCutOfAll,
    FailingDisk,
    SlowDisk,
    FullDisk,
    ClockJump,
    Partition,
    OneWayCut,
    BadLine,
    PrimaryAway,
    PrimaryBad,
    Newcomer,
}

const KINDS: [Kind; 15] = [
    Kind::Kill,
    Kind::Pause,
    Kind::PowerCutOfOne,
    Kind::PowerCutOfMost,
    Kind::PowerCutOfAll,
    Kind::FailingDisk,
    Kind::SlowDisk,
    Kind::FullDisk,
    Kind::ClockJump,
    Kind::Partition,
    Kind::OneWayCut,
    Kind::BadLine,
    Kind::PrimaryAway,
    Kind::PrimaryBad,
    Kind::Newcomer,
];

/// At once.
const BLOWS_MAX: usize = 4;
/// In a storm: what their disks take of the memory stays taken until the test ends.
const NEWCOMERS_MAX: usize = 3;
/// Between the beginnings of two blows.
const GAP_MILLIS: (u64, u64) = (200, 1_400);
/// For another machine or another moment, where one is not lawful.
const DRAWS_MAX: usize = 4;

const HOUR_MS: i64 = 3_600_000;
const JUMPS_MS: [i64; 4] = [
    HOUR_MS,
    -HOUR_MS,
    10 * 365 * 24 * HOUR_MS,
    -10 * 365 * 24 * HOUR_MS,
];

/// A line between continents, one that loses much, and one that is nearly shut.
const BAD_LINES: [Quality; 3] = [
    Quality {
        delay: Duration::from_millis(120),
        jitter: Duration::from_millis(60),
        loss_one_in: 200,
        bytes_per_second: 0,
    },
    Quality {
        delay: Duration::from_millis(5),
        jitter: Duration::from_millis(5),
        loss_one_in: 4,
        bytes_per_second: 0,
    },
    Quality {
        delay: Duration::from_millis(20),
        jitter: Duration::ZERO,
        loss_one_in: 0,
        bytes_per_second: 16 << 10,
    },
];

/// Over what a storm comes.
struct Sea {
    machines: u8,
    domains: usize,
    length: Duration,
    /// The machines whose clocks may lie: a minority.
    liars: Vec<u8>,
}

/// A storm over so many machines and domains, that is over after `length`; in the order in which
/// the blows begin.
#[must_use]
pub fn plan(seed: u64, machines: u8, domains: usize, length: Duration) -> Vec<Blow> {
    let mut random = Random::new(seed);
    let mut liars: Vec<u8> = (1..=machines).collect();
    shuffle(&mut liars, &mut random);
    liars.truncate(usize::from(machines - 1) / 2);
    let sea = Sea {
        machines,
        domains,
        length,
        liars,
    };
    let mut deck: Vec<Kind> = Vec::new();
    let mut blows = Vec::new();
    let mut now = Duration::ZERO;
    loop {
        now += Duration::from_millis(random.between(GAP_MILLIS.0, GAP_MILLIS.1));
        if now >= length {
            return blows;
        }
        if deck.is_empty() {
            deck = KINDS.to_vec();
            if newcomers(&blows) == NEWCOMERS_MAX {
                deck.retain(|kind| *kind != Kind::Newcomer);
            }
            shuffle(&mut deck, &mut random);
        }
        // What is not lawful at this moment stays in the deck.
        let dealt = deck.iter().enumerate().find_map(|(at, kind)| {
            let mut draws = (0..DRAWS_MAX).map(|_| sea.draw(*kind, now, &mut random));
            let blow = draws.find(|blow| sea.is_lawful(blow, &blows))?;
            Some((at, blow))
        });
        if let Some((at, blow)) = dealt {
            deck.remove(at);
            blows.push(blow);
        }
    }
}

fn shuffle<T>(these: &mut [T], random: &mut Random) {
    for last in (1..these.len()).rev() {
        these.swap(last, random.between(0, last as u64) as usize);
    }
}

fn one_of<T: Clone>(these: &[T], random: &mut Random) -> T {
    these[random.between(0, these.len() as u64 - 1) as usize].clone()
}

fn newcomers(blows: &[Blow]) -> usize {
    let of_newcomers = |blow: &&Blow| blow.what == What::Newcomer;
    blows.iter().filter(of_newcomers).count()
}

impl Sea {
    fn draw(&self, kind: Kind, begins: Duration, random: &mut Random) -> Blow {
        let mut all: Vec<u8> = (1..=self.machines).collect();
        shuffle(&mut all, random);
        let (machine, other) = (all[0], all[1]);
        let domain = random.between(0, self.domains as u64 - 1) as usize;
        // Some are longer than an election and than a lease; without a quorum they are shorter.
        let (what, longest_millis) = match kind {
            Kind::Kill => (What::Kill { machine }, 5_000),
            Kind::Pause => (What::Pause { machine }, 9_000),
            Kind::PowerCutOfOne => (power_cut(&all[..1]), 5_000),
            Kind::PowerCutOfMost => (power_cut(&all[..all.len() / 2 + 1]), 2_000),
            Kind::PowerCutOfAll => (power_cut(&all), 2_000),
            Kind::FailingDisk => (What::FailingDisk { machine }, 5_000),
            Kind::SlowDisk => (What::SlowDisk { machine }, 6_000),
            Kind::FullDisk => (What::FullDisk { machine }, 6_000),
            Kind::ClockJump => {
                let machine = one_of(&self.liars, random);
                let ahead_ms = one_of(&JUMPS_MS, random);
                (What::ClockJump { machine, ahead_ms }, 8_000)
            }
            Kind::Partition => {
                let fits = |shape: &&Shape| shape.machines == self.machines;
                let shapes: Vec<&Shape> = SHAPES.iter().filter(fits).collect();
                let shape = one_of(&shapes, random);
                let (name, links) = (shape.name, shape.links(machine));
                (What::Cut { name, links }, 7_000)
            }
            Kind::OneWayCut => {
                let links = BTreeSet::from([(machine, other)]);
                let name = "one line in one direction";
                (What::Cut { name, links }, 7_000)
            }
            Kind::BadLine => {
                let link = (machine, other);
                let quality = one_of(&BAD_LINES, random);
                (What::BadLine { link, quality }, 8_000)
            }
            Kind::PrimaryAway => (What::PrimaryAway { domain }, 8_000),
            Kind::PrimaryBad => (What::PrimaryBad { domain }, 8_000),
            Kind::Newcomer => (What::Newcomer, 10_000),
        };
        let lasts = Duration::from_millis(random.between(100, longest_millis));
        Blow {
            begins,
            ends: self.length.min(begins + lasts),
            what,
        }
    }

    /// Whether `next` may come on top of `blows`, which all began before it.
    fn is_lawful(&self, next: &Blow, blows: &[Blow]) -> bool {
        let meanwhile: Vec<&What> = blows
            .iter()
            .filter(|blow| blow.ends > next.begins)
            .map(|blow| &blow.what)
            .collect();
        let still: BTreeSet<u8> = meanwhile.iter().flat_map(|what| what.stills()).collect();
        let disks: BTreeSet<u8> = meanwhile.iter().flat_map(|what| what.disks()).collect();
        let stilled = next.what.stills();
        let minority = usize::from(self.machines - 1) / 2;
        let is_power_cut = matches!(next.what, What::PowerCut { .. });
        let can_be_borne = stilled.is_empty()
            || (still.len() <= minority
                && (is_power_cut || still.len() + stilled.len() <= minority));
        meanwhile.len() < BLOWS_MAX
            && newcomers(blows) < NEWCOMERS_MAX + usize::from(next.what != What::Newcomer)
            && !meanwhile.iter().any(|what| what.is_undone_with(&next.what))
            && stilled.is_disjoint(&still)
            && next.what.disks().is_disjoint(&disks)
            && can_be_borne
    }
}

fn power_cut(machines: &[u8]) -> What {
    What::PowerCut {
        machines: machines.iter().copied().collect(),
    }
}

impl What {
    /// The machines that stand still meanwhile.
    #[must_use]
    pub fn stills(&self) -> BTreeSet<u8> {
        match self {
            Self::Kill { machine } | Self::Pause { machine } | Self::FailingDisk { machine } => {
                BTreeSet::from([*machine])
            }
            Self::PowerCut { machines } => machines.clone(),
            _ => BTreeSet::new(),
        }
    }

    /// The machines whose disks are not as they should be meanwhile.
    fn disks(&self) -> BTreeSet<u8> {
        match self {
            Self::SlowDisk { machine }
            | Self::FullDisk { machine }
            | Self::FailingDisk { machine } => BTreeSet::from([*machine]),
            Self::PowerCut { machines } => machines.clone(),
            _ => BTreeSet::new(),
        }
    }

    /// Whether the end of one would be the end of the other too.
    fn is_undone_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::ClockJump { machine, .. }, Self::ClockJump { machine: of, .. }) => machine == of,
            (Self::BadLine { link, .. }, Self::BadLine { link: of, .. }) => link == of,
            (Self::PrimaryAway { .. } | Self::PrimaryBad { .. }, _) => self == other,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(40);

    fn storms() -> impl Iterator<Item = (u8, Vec<Blow>)> {
        (0..200).flat_map(|seed| [3, 5].map(|machines| (machines, plan(seed, machines, 2, LENGTH))))
    }

    fn under_way(storm: &[Blow], at: Duration) -> impl Iterator<Item = &Blow> {
        storm
            .iter()
            .filter(move |blow| blow.begins <= at && at < blow.ends)
    }

    fn is_of(kind: Kind, what: &What, machines: u8) -> bool {
        match what {
            What::Kill { .. } => kind == Kind::Kill,
            What::Pause { .. } => kind == Kind::Pause,
            What::PowerCut { machines: dark } => {
                kind == match dark.len() {
                    1 => Kind::PowerCutOfOne,
                    some if some == usize::from(machines) => Kind::PowerCutOfAll,
                    _ => Kind::PowerCutOfMost,
                }
            }
            What::FailingDisk { .. } => kind == Kind::FailingDisk,
            What::SlowDisk { .. } => kind == Kind::SlowDisk,
            What::FullDisk { .. } => kind == Kind::FullDisk,
            What::ClockJump { .. } => kind == Kind::ClockJump,
            // Some shapes are one line, too.
            What::Cut { links, .. } if links.len() == 1 => {
                [Kind::OneWayCut, Kind::Partition].contains(&kind)
            }
            What::Cut { .. } => kind == Kind::Partition,
            What::BadLine { .. } => kind == Kind::BadLine,
            What::PrimaryAway { .. } => kind == Kind::PrimaryAway,
            What::PrimaryBad { .. } => kind == Kind::PrimaryBad,
            What::Newcomer => kind == Kind::Newcomer,
        }
    }

    #[test]
    fn a_seed_gives_the_same_storm_each_time() {
        assert_eq!(plan(1, 3, 2, LENGTH), plan(1, 3, 2, LENGTH));
        assert_ne!(plan(1, 3, 2, LENGTH), plan(2, 3, 2, LENGTH));
    }

    #[test]
    fn every_kind_of_blow_comes_in_each_storm() {
        for (machines, storm) in storms() {
            for kind in KINDS {
                let mut blows = storm.iter();
                assert!(
                    blows.any(|blow| is_of(kind, &blow.what, machines)),
                    "{kind:?} is not in {storm:?}"
                );
            }
        }
    }

    #[test]
    fn blows_overlap_but_few_at_a_time_and_all_end() {
        let (mut together, mut all) = (0, 0);
        for (_, storm) in storms() {
            assert!(storm.is_sorted_by_key(|blow| blow.begins));
            for blow in &storm {
                assert!(blow.begins < blow.ends && blow.ends <= LENGTH, "{blow:?}");
                let at_once = under_way(&storm, blow.begins).count();
                assert!(at_once <= BLOWS_MAX, "{blow:?}");
                together += usize::from(at_once > 1);
                all += 1;
            }
        }
        assert!(together > all / 2, "{together} of {all}");
    }

    #[test]
    fn no_machine_is_stopped_twice_and_most_stand_still_only_where_the_power_goes() {
        for (machines, storm) in storms() {
            for moment in &storm {
                let mut still = Vec::new();
                let mut without_power = 0;
                for blow in under_way(&storm, moment.begins) {
                    still.extend(blow.what.stills());
                    if let What::PowerCut { machines } = &blow.what {
                        without_power += machines.len();
                    }
                }
                let distinct: BTreeSet<u8> = still.iter().copied().collect();
                assert_eq!(distinct.len(), still.len(), "{moment:?}");
                let minority = usize::from(machines - 1) / 2;
                assert!(still.len() - without_power <= minority, "{moment:?}");
            }
        }
    }

    #[test]
    fn a_disk_has_one_fault_at_a_time() {
        for (_, storm) in storms() {
            for moment in &storm {
                let faults = under_way(&storm, moment.begins);
                let disks: Vec<u8> = faults.flat_map(|blow| blow.what.disks()).collect();
                let distinct: BTreeSet<u8> = disks.iter().copied().collect();
                assert_eq!(disks.len(), distinct.len(), "{moment:?}");
            }
        }
    }

    #[test]
    fn only_the_clocks_of_one_minority_ever_lie() {
        for (machines, storm) in storms() {
            let lie = |blow: &Blow| match blow.what {
                What::ClockJump { machine, .. } => Some(machine),
                _ => None,
            };
            let liars: BTreeSet<u8> = storm.iter().filter_map(lie).collect();
            assert!(liars.len() <= usize::from(machines - 1) / 2, "{liars:?}");
        }
    }

    #[test]
    fn a_long_storm_goes_on_when_no_more_newcomers_may_come() {
        let storm = plan(1, 3, 2, 10 * LENGTH);
        assert_eq!(newcomers(&storm), NEWCOMERS_MAX);
        assert!(storm.last().unwrap().begins > 9 * LENGTH);
    }
}

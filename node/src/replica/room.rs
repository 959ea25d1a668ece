//! Room on the disks: whether this node has some, which of the others have, and whether mail can be
//! taken at all.
//!
//! A message is accepted once a quorum has it, so a quorum needs room for it, whichever node its sender
//! talks to. A node with a large disk would otherwise take mail until the others' disks are full to the
//! last byte. And one node that is nearly full must not stop mail that the others have room for. So there
//! are two limits:
//!
//! - Below `limits.disk_free_min_bytes` a node is *low*: it takes no mail from senders, and of the others'
//!   only what is accepted. It tells the leader so with every reply. Where no quorum of the voters that
//!   answer has room, the leader tells everybody, and no node takes mail.
//! - Below half of that it is *full*: it takes no body at all. Its log waits in front of the first
//!   message whose body it lacks, until that message is completed, or there is room. The quorum goes on
//!   without it, unless another node is away: then an operator has to make room.
//!
//! What lies between the two is for what was under way when the first was crossed: were a quorum full, the
//! log would stop, and with it the deliveries that free space.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_mail::NodeId;
use tokio::sync::watch;
use tokio::time::Instant;

use super::bodies::VoterSets;

/// What was heard counts this long: several heartbeats, even at the slowest `wan_profile`. Who is silent
/// for longer keeps nobody's mail.
const KEPT: Duration = Duration::from_secs(10);

pub(crate) struct Room {
    me: u64,
    voters: watch::Receiver<VoterSets>,
    low: AtomicBool,
    full: AtomicBool,
    heard: Mutex<Heard>,
}

#[derive(Default)]
struct Heard {
    /// Whether a node said that it is low, and when.
    low: BTreeMap<u64, (bool, Instant)>,
    /// When the leader last said that no quorum has room.
    nowhere: Option<Instant>,
}

impl Room {
    pub(crate) fn new(me: u64, voters: watch::Receiver<VoterSets>) -> Self {
        Self {
            me,
            voters,
            low: AtomicBool::new(false),
            full: AtomicBool::new(false),
            heard: Mutex::default(),
        }
    }

    /// So many bytes are free on this node's disk. Says whether it is low since then, or no more.
    pub(crate) fn look(&self, free: u64, free_min: u64) -> Option<bool> {
        let low = free < free_min;
        self.full.store(free < free_min / 2, Ordering::Relaxed);
        (self.low.swap(low, Ordering::Relaxed) != low).then_some(low)
    }

    pub(crate) fn is_low(&self) -> bool {
        self.low.load(Ordering::Relaxed)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// A node answered this one, which leads.
    pub(crate) fn heard(&self, node: u64, low: bool) {
        self.lock().low.insert(node, (low, Instant::now()));
    }

    /// The leader said whether there is room anywhere.
    pub(crate) fn told(&self, nowhere: bool) {
        self.lock().nowhere = nowhere.then(Instant::now);
    }

    /// What this node, which leads, tells the others; itself, too.
    pub(crate) fn tell(&self) -> bool {
        let nowhere = self.lacks_a_quorum();
        self.told(nowhere);
        nowhere
    }

    /// Whether the leader said a moment ago that there is no room.
    pub(crate) fn is_nowhere(&self) -> bool {
        let nowhere = self.lock().nowhere;
        nowhere.is_some_and(|at| at.elapsed() < KEPT)
    }

    /// Voters that have room and answered this node, which leads, a moment ago.
    pub(crate) fn roomy(&self) -> Vec<NodeId> {
        let voters = self.voters();
        let heard = self.lock();
        let roomy = heard
            .low
            .iter()
            .filter(|(_, (low, at))| !low && at.elapsed() < KEPT);
        roomy
            .map(|(node, _)| *node)
            .filter(|node| voters.iter().flatten().any(|voter| voter == node))
            .map(NodeId)
            .collect()
    }

    /// A copy: whoever held on to the channel's lock and wanted that of [`Self::heard`], while another
    /// had it the other way round, would stop both as soon as somebody wants to write to the channel.
    fn voters(&self) -> VoterSets {
        self.voters.borrow().clone()
    }

    /// As long as nobody is low, whoever does not answer is another room's affair: a leader has heard
    /// nobody when it begins, and mail is not refused for that.
    fn lacks_a_quorum(&self) -> bool {
        let mut roomy = self.roomy();
        roomy.retain(|node| node.0 != self.me);
        if !self.is_low() {
            roomy.push(NodeId(self.me));
        }
        let is_low = |voter: &u64| match *voter == self.me {
            true => self.is_low(),
            false => self.lock().low.get(voter).is_some_and(|(low, _)| *low),
        };
        let voters = self.voters();
        voters.iter().flatten().any(is_low)
            && voters.iter().any(|set| {
                let with_room = set.iter().filter(|voter| roomy.contains(&NodeId(**voter)));
                with_room.count() <= set.len() / 2
            })
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn room(voters: u64) -> Room {
        let (_, voters) = watch::channel(vec![BTreeSet::from_iter(1..=voters)]);
        Room::new(1, voters)
    }

    #[tokio::test(start_paused = true)]
    async fn mail_is_taken_while_a_quorum_that_answers_has_room() {
        let room = room(3);
        assert!(!room.tell(), "nobody is low, whoever is silent");
        room.heard(2, true);
        room.heard(3, false);
        assert!(!room.tell());
        assert_eq!(room.roomy(), [NodeId(3)]);
        room.heard(3, true);
        assert!(room.tell() && room.is_nowhere());
        room.heard(3, false);
        assert!(!room.tell() && !room.is_nowhere());
        // With one of three silent, both others need room.
        tokio::time::advance(KEPT).await;
        room.heard(2, true);
        assert!(room.tell());
        room.heard(2, false);
        assert!(!room.tell());
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_leader_said_is_forgotten_when_it_says_no_more() {
        let room = room(3);
        room.told(true);
        assert!(room.is_nowhere());
        tokio::time::advance(KEPT).await;
        assert!(!room.is_nowhere());
    }

    /// Two that are told, one that tells, and the membership that moves on: each in a thread of its own.
    #[test]
    fn who_tells_and_who_asks_never_wait_for_each_other_in_a_ring() {
        const TIMES: u64 = 20_000;
        let (changes, voters) = watch::channel(vec![BTreeSet::from_iter(1..=3)]);
        let room = Room::new(1, voters);
        room.look(0, 10);
        let turns: [&(dyn Fn(u64) + Sync); 4] = [
            &|_| _ = room.tell(),
            &|_| drop(room.roomy()),
            &|turn| room.heard(2 + turn % 2, turn % 3 == 0),
            &|_| _ = changes.send_if_modified(|_| false),
        ];
        let (done, is_done) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            for turn in turns {
                let done = done.clone();
                scope.spawn(move || {
                    (0..TIMES).for_each(turn);
                    done.send(()).unwrap();
                });
            }
            for _ in turns {
                let waited = is_done.recv_timeout(Duration::from_secs(60));
                if waited.is_err() {
                    // The threads never end, nor would the scope.
                    eprintln!("they wait for each other");
                    std::process::abort();
                }
            }
        });
    }

    #[tokio::test]
    async fn a_node_is_low_before_it_is_full() {
        let room = room(1);
        assert_eq!(room.look(10, 10), None);
        assert_eq!(room.look(9, 10), Some(true));
        assert!(room.is_low() && !room.is_full() && room.tell());
        assert_eq!(room.look(4, 10), None);
        assert!(room.is_full());
        assert_eq!(room.look(10, 10), Some(false));
        assert!(!room.is_low() && !room.is_full() && !room.tell());
    }
}

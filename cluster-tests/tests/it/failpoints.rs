//! Nodes die at each step between the socket and the record of a delivery, by a kill and by a
//! power cut, and nothing acknowledged is lost: one of three while the others take over, or all.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use holdfast_cluster_tests::harness::{DISK_BYTES, Run, in_its_own_world, wait_for};
use holdfast_cluster_tests::history::Fault;
use holdfast_cluster_tests::random::Random;

use crate::snapshots::{SNAPSHOT_EVERY, installed, outlast_the_log, wait_until_installed};
use crate::{ALWAYS_TRIED, alone, is_left_to_soak, is_soak};

/// A binary that can halt at a step: one built with the feature `holdfast-node/failpoints`. It takes
/// four minutes of CPU time, so `ops/soak` builds one and `ops/test` does not.
const BINARY_VARIABLE: &str = "HOLDFAST_FAILPOINTS_BIN";

/// Who comes to a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Anybody,
    Leader,
    Follower,
    /// Whoever has a domain's lease.
    Deliverer,
}

/// What makes a node come to a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// Mail comes in and goes out.
    Mail,
    /// Nodes start, and the one that led is gone.
    Election,
    /// After a minute without a quorum, if the message's entry does not outlive the next election: it
    /// cannot be brought about at will. The simulation's senders cancel, too.
    Rarely,
    /// Mail was delivered more than a minute ago.
    Later,
    /// A node joins.
    Membership,
    /// It was away for too long.
    Snapshot,
}

use When::{Election, Later, Mail, Membership, Rarely, Snapshot};
use Who::{Anybody, Deliverer, Follower, Leader};

/// The steps, in the order of a message, each with how often at most it is passed before: some are
/// passed while a node starts, and a node should do some work first.
const STEPS: [(&str, u64, Who, When); 25] = [
    ("content-received", 30, Anybody, Mail),
    ("body-stored", 30, Anybody, Mail),
    ("peer-body-stored", 30, Anybody, Mail),
    ("entry-written", 60, Anybody, Mail),
    ("before-sync", 60, Anybody, Mail),
    ("synced", 60, Anybody, Mail),
    ("mark-written", 3, Anybody, Mail),
    ("before-send", 60, Leader, Mail),
    ("append-received", 60, Follower, Mail),
    ("gate-passed", 60, Follower, Mail),
    ("before-append-reply", 60, Follower, Mail),
    ("before-apply", 60, Anybody, Mail),
    ("applied", 60, Anybody, Mail),
    ("before-reply", 30, Anybody, Mail),
    ("reply-written", 100, Anybody, Mail),
    ("cancelled", 0, Anybody, Rarely),
    ("lease-acquired", 0, Deliverer, Election),
    ("before-delivery", 30, Deliverer, Mail),
    ("delivered", 30, Deliverer, Mail),
    ("before-settle", 10, Deliverer, Mail),
    ("recorded", 10, Deliverer, Mail),
    ("body-deleted", 0, Anybody, Later),
    ("vote-written", 0, Follower, Election),
    ("membership-applied", 2, Anybody, Membership),
    ("snapshot-adopted", 0, Follower, Snapshot),
];

const HALT_TIME_MAX: Duration = Duration::from_secs(90);
/// Bodies are kept for a minute.
const LATE_HALT_TIME_MAX: Duration = Duration::from_secs(180);
const HEAL_TIME_MAX: Duration = Duration::from_secs(60);
/// A node that is started at once has the leases again that it had; else others have them.
const LEASE_TIME_MAX: Duration = Duration::from_secs(15);
/// Between two things that may bring a node to its step.
const NUDGE_EVERY: Duration = Duration::from_secs(8);
/// For the others to elect.
const DEAD_FOR: Duration = Duration::from_secs(3);

/// Most take two to ten seconds. In the soak all are played.
const CASES: usize = 12;

fn binary() -> Option<PathBuf> {
    let binary = std::env::var_os(BINARY_VARIABLE).map(PathBuf::from);
    if binary.is_none() {
        eprintln!("NOT RUN: {BINARY_VARIABLE} names no binary with failpoints");
    }
    binary
}

#[test]
fn every_step_in_the_sources_is_listed_and_the_other_way_round() {
    let mut found = BTreeSet::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../node/src")];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(path).unwrap_or_default();
            for (at, call) in text.match_indices("failpoint::reach(\"") {
                let step = text[at + call.len()..].split('"').next().unwrap();
                assert!(found.insert(step.to_owned()), "{step} is at two places");
            }
        }
    }
    let listed = STEPS.map(|(step, ..)| step.to_owned());
    assert_eq!(found, BTreeSet::from(listed));
}

#[test]
fn a_node_that_dies_at_any_step_is_done_without() {
    let _alone = alone();
    let Some(binary) = binary() else { return };
    in_its_own_world(|| {
        let mut run = Run::on_machines(3, 3 * DISK_BYTES);
        let mut random = Random::new(run.seed);
        run.primaries_come_up();
        run.send(6);
        run.wait_for_acknowledged(10);
        let count = if is_soak() { usize::MAX } else { CASES };
        for case in draw(&mut random).into_iter().take(count) {
            let begun = Instant::now();
            case.play(&mut run, &binary, &mut random);
            eprintln!("  {case:?} took {:.1} s", begun.elapsed().as_secs_f64());
        }
        finish(run);
    });
}

#[derive(Clone, Copy, Debug)]
struct Case {
    step: &'static str,
    passed_max: u64,
    who: Who,
    when: When,
    fault: Fault,
}

/// All cases, in any order.
fn draw(random: &mut Random) -> Vec<Case> {
    let mut cases = Vec::new();
    for (step, passed_max, who, when) in STEPS {
        let is_played = match when {
            Mail | Election | Membership => true,
            // It takes more than a minute.
            Later => is_soak(),
            Rarely | Snapshot => false,
        };
        if !is_played {
            continue;
        }
        cases.extend([Fault::Kill, Fault::PowerCut].map(|fault| Case {
            step,
            passed_max,
            who,
            when,
            fault,
        }));
    }
    for at in (1..cases.len()).rev() {
        cases.swap(at, random.between(0, at as u64) as usize);
    }
    cases
}

impl Case {
    /// One node is armed, comes to the step and dies there; the others go on, and it comes back.
    fn play(&self, run: &mut Run, binary: &Path, random: &mut Random) {
        let newcomer = (self.when == Membership).then(|| run.add_newcomer());
        let begun = Instant::now();
        let victim = loop {
            let (victim, is_to_lead) = self.victim(run, random);
            let failpoint = format!("{}*{}", self.step, random.between(0, self.passed_max));
            let what = format!("{victim} at {failpoint}, then {:?}", self.fault);
            run.recorder.note(&what);
            run.kill(&victim);
            run.restart_as(&victim, binary, &[("HOLDFAST_FAILPOINT", failpoint)]);
            if self.is_reached(run, &victim, is_to_lead) {
                break victim;
            }
            // Another took the leases while it was away.
            assert!(begun.elapsed() < self.time_max(), "{what} did not come");
            run.kill(&victim);
            run.restart(&victim);
            run.sandbox.wait_until_healthy(HEAL_TIME_MAX);
        };
        strike(run, &victim, self.fault);
        run.wait_for_recovery(self.fault, HEAL_TIME_MAX);
        run.restart(&victim);
        if let Some(newcomer) = newcomer {
            newcomer.leave();
            wait_for("the newcomer to leave", HEAL_TIME_MAX, || {
                run.has_left(&newcomer).then_some(())
            });
        }
        run.sandbox.wait_until_healthy(HEAL_TIME_MAX);
    }

    fn time_max(&self) -> Duration {
        match self.when {
            Later => LATE_HALT_TIME_MAX,
            _ => HALT_TIME_MAX,
        }
    }

    /// Whether the victim halts; it may do so at any moment, and is not asked.
    fn is_reached(&self, run: &mut Run, victim: &str, is_to_lead: bool) -> bool {
        let limit = match self.who {
            Deliverer => LEASE_TIME_MAX,
            _ => self.time_max(),
        };
        let (begun, mut nudged) = (Instant::now(), Instant::now());
        while !run.sandbox.is_halted(victim) {
            if begun.elapsed() > limit {
                return false;
            }
            std::thread::sleep(Duration::from_millis(50));
            if nudged.elapsed() > NUDGE_EVERY {
                self.nudge(run, victim, is_to_lead);
                nudged = Instant::now();
            }
        }
        true
    }

    /// Who is armed, and whether it must lead.
    fn victim(&self, run: &Run, random: &mut Random) -> (String, bool) {
        let leader = run.leader();
        let mut followers = run.sandbox.names();
        followers.retain(|name| *name != leader);
        let follower = followers.swap_remove(random.between(0, 1) as usize);
        match self.who {
            Leader => (leader, true),
            Follower => (follower, false),
            Anybody if random.one_in(2) => (leader, true),
            Anybody => (follower, false),
            // The ledger gives a lease back to who had it, so that it delivers after its start.
            Deliverer => (deliverer(run), false),
        }
    }

    /// Does what may bring the victim to its step.
    fn nudge(&self, run: &mut Run, victim: &str, is_to_lead: bool) {
        let mut others = run.sandbox.names();
        others.retain(|name| name != victim);
        let status = run.sandbox.status_of(&others[0]).unwrap_or_default();
        let leader = status["leader"].as_str().unwrap_or_default().to_owned();
        let transfer = |run: &Run, to: &str| {
            let command = ["cluster", "transfer-leader", to];
            drop(run.sandbox.ask(&others[0], &command));
        };
        match self.when {
            Election if leader == victim => transfer(run, &others[0]),
            Election if others.contains(&leader) => {
                run.kill(&leader);
                std::thread::sleep(DEAD_FOR);
                run.restart(&leader);
            }
            _ if is_to_lead && leader != victim => transfer(run, victim),
            _ => {}
        }
    }
}

/// A node that delivers now.
fn deliverer(run: &Run) -> String {
    let delivered = run.recorder.history().deliveries().len();
    wait_for("a delivery", HEAL_TIME_MAX, || {
        let history = run.recorder.history();
        let deliveries = history.deliveries();
        let last = deliveries.get(delivered)?;
        Some(last.by.to_owned())
    })
}

fn strike(run: &mut Run, victim: &str, fault: Fault) {
    match fault {
        Fault::PowerCut => run.cut_power(&[victim.to_owned()]),
        _ => run.kill(victim),
    }
}

fn finish(mut run: Run) {
    run.sandbox.wait_until_healthy(HEAL_TIME_MAX);
    run.stop_sending();
    run.drain();
    run.judge(
        &[
            ALWAYS_TRIED,
            &["acknowledged before the sync", "replicas disagree"],
        ]
        .concat(),
    );
}

#[test]
fn a_node_that_dies_with_a_snapshot_in_hand_gets_it_again() {
    let _alone = alone();
    let Some(binary) = binary() else { return };
    in_its_own_world(|| {
        let mut run = Run::with_short_logs(3, SNAPSHOT_EVERY);
        run.primaries_come_up();
        run.send(6);
        run.wait_for_acknowledged(10);
        for fault in [Fault::Kill, Fault::PowerCut] {
            let leader = run.leader();
            let names = run.sandbox.names();
            let victim = names.iter().find(|name| **name != leader);
            let victim = victim.expect("a follower").clone();
            let before = installed(&run, &victim);
            run.kill(&victim);
            outlast_the_log(&run);
            let failpoint = "snapshot-adopted*0".to_owned();
            run.restart_as(&victim, &binary, &[("HOLDFAST_FAILPOINT", failpoint)]);
            wait_for("a snapshot", HALT_TIME_MAX, || {
                run.sandbox.is_halted(&victim).then_some(())
            });
            run.recorder
                .note(format!("{victim} has a snapshot, then {fault:?}"));
            strike(&mut run, &victim, fault);
            run.wait_for_recovery(fault, HEAL_TIME_MAX);
            run.restart(&victim);
            wait_until_installed(&run, &victim, before);
        }
        finish(run);
    });
}

#[test]
fn nodes_that_all_die_at_any_step_lose_nothing() {
    let _alone = alone();
    let Some(binary) = binary() else { return };
    if is_left_to_soak(9) {
        return;
    }
    in_its_own_world(|| {
        let mut run = Run::on_machines(3, 3 * DISK_BYTES);
        let mut random = Random::new(run.seed);
        run.primaries_come_up();
        run.send(4);
        run.wait_for_acknowledged(10);
        for fault in [Fault::Kill, Fault::PowerCut] {
            for (step, most, ..) in STEPS
                .into_iter()
                .filter(|(.., when)| [Mail, Election].contains(when))
            {
                let names = run.sandbox.names();
                // All are armed: only some lead or deliver. The first that comes to the step halts.
                for name in &names {
                    run.kill(name);
                }
                for name in &names {
                    let failpoint = format!("{step}*{}", random.between(0, most));
                    run.restart_as(name, &binary, &[("HOLDFAST_FAILPOINT", failpoint)]);
                }
                wait_for(&format!("a node at {step}"), HALT_TIME_MAX, || {
                    names
                        .iter()
                        .any(|name| run.sandbox.is_halted(name))
                        .then_some(())
                });
                run.recorder
                    .note(format!("halted at {step}, then {fault:?}"));
                let is_halted = |name: &&String| run.sandbox.is_halted(name);
                let halted: Vec<String> = names.iter().filter(is_halted).cloned().collect();
                match fault {
                    Fault::PowerCut => run.cut_power(&halted),
                    _ => halted.iter().for_each(|name| run.kill(name)),
                }
                // The others may halt at any moment.
                for name in &names {
                    if !halted.contains(name) {
                        run.kill(name);
                    }
                }
                run.restart_all(&names);
                run.wait_for_recovery(fault, HEAL_TIME_MAX);
            }
        }
        finish(run);
    });
}

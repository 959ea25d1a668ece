//! One sync or write of a node fails, whichever it is, or all take long, and nothing rests on it.

use std::thread::sleep;
use std::time::{Duration, Instant};

use holdfast_cluster_tests::harness::{
    Calls, DISK_BYTES, FaultyDisk, Lapse, Run, in_its_own_world, node_binary, wait_for,
};
use holdfast_cluster_tests::history::Fault;
use holdfast_cluster_tests::random::Random;

use crate::{ALWAYS_TRIED, alone, is_soak};

const HEAL_TIME_MAX: Duration = Duration::from_secs(60);
const RECOVERY_TIME_MAX: Duration = Duration::from_secs(60);
/// Every node syncs and writes several times a second while mail flows.
const LAPSE_TIME_MAX: Duration = Duration::from_secs(60);
/// A node whose call failed stops within that time.
const STOP_TIME_MAX: Duration = Duration::from_secs(30);
/// One that goes on has taken mail by then.
const GO_ON_TIME: Duration = Duration::from_secs(10);
/// Those that open the databases, and a few more,
const EARLY_MAX: u64 = 40;
/// and those under mail.
const LATE_MAX: u64 = 250;

/// Of a node that stops because a write or sync has failed.
const STOPPED: i32 = 70;
/// Of one that does not start.
const NOT_STARTED: i32 = 1;

#[test]
fn a_node_stops_at_the_first_sync_or_write_that_fails_and_nothing_rests_on_it() {
    let _alone = alone();
    in_its_own_world(|| {
        let mut run = Run::on_machines(3, DISK_BYTES);
        let folder = run.sandbox.folder().expect("the run's folder").to_owned();
        let disk = FaultyDisk::new(&folder);
        let mut random = Random::new(run.seed);
        run.send(6);
        run.wait_for_acknowledged(20);
        let (mut poisoned, mut stopped, mut went_on, mut not_started) = (0, 0, 0, 0);
        for at in 0..if is_soak() { 50 } else { 5 } {
            let case = Case::draw(at, run.sandbox.names(), &mut random);
            run.recorder.note(format!("{case:?}"));
            match case.fail(&mut run, &disk) {
                End::Poisoned => {
                    poisoned += 1;
                    case.replace(&mut run);
                }
                End::Stopped => {
                    stopped += 1;
                    case.go_on(&mut run);
                }
                End::WentOn => {
                    went_on += 1;
                    case.go_on(&mut run);
                }
                End::NotStarted => {
                    not_started += 1;
                    case.go_on(&mut run);
                }
            }
            run.sandbox.wait_until_healthy(HEAL_TIME_MAX);
            run.ended(Fault::PowerCut, std::slice::from_ref(&case.victim));
            run.ended(Fault::DiskFails, &[case.victim]);
            run.wait_for_acknowledged(5);
        }
        eprintln!(
            "  syncs: {poisoned} nodes poisoned, {stopped} stopped and started again, {went_on} went on, \
             {not_started} did not start"
        );
        run.stop_sending();
        run.primaries_come_up();
        run.drain();
        let tried = ["acknowledged before the sync", "replicas disagree"];
        run.judge(&[ALWAYS_TRIED, &tried].concat());
    });
}

/// Which call fails, and who is there.
#[derive(Debug)]
struct Case {
    victim: String,
    part: &'static str,
    calls: Calls,
    nth: u64,
    lapse: Lapse,
    /// Without the third, each 250 rests on the victim's disk too.
    is_needed: bool,
    third: String,
    other: String,
}

/// What became of a node.
enum End {
    /// It had not come so far as to promise anything.
    NotStarted,
    /// What it called durable is there still,
    Stopped,
    /// and here too.
    WentOn,
    Poisoned,
}

impl Case {
    fn draw(at: usize, mut names: Vec<String>, random: &mut Random) -> Self {
        Self {
            victim: names.swap_remove(random.between(0, 2) as usize),
            part: ["ledger", "bodies"][random.between(0, 1) as usize],
            // Each with each, in four cases.
            calls: [Calls::Syncs, Calls::Writes][at % 2],
            nth: {
                let last = [EARLY_MAX, LATE_MAX][random.between(0, 1) as usize];
                random.between(1, last)
            },
            lapse: [Lapse::Broken, Lapse::Full][at / 2 % 2],
            is_needed: random.one_in(2),
            third: names.swap_remove(random.between(0, 1) as usize),
            other: names.swap_remove(0),
        }
    }

    /// Has the call fail, and sees how the node ends. Then its power goes: what was not synced is
    /// lost, and with it what the failed sync was for.
    fn fail(&self, run: &mut Run, disk: &FaultyDisk) -> End {
        let victim = &self.victim;
        run.kill(victim);
        let data = run.sandbox.node(victim).data_dir.clone();
        let environment = disk.environment(&data.join(self.part), self.calls, self.nth, self.lapse);
        run.began(Fault::DiskFails, std::slice::from_ref(victim));
        run.restart_as(victim, &node_binary(), &environment);
        if self.is_needed {
            run.kill(&self.third);
        }
        let word = wait_for("the lapse", LAPSE_TIME_MAX, || disk.word());
        let end = self.end(run, &word);
        let what = format!("{victim} ended with {end:?} after {word}");
        run.recorder.note(&what);
        run.sandbox.kill(victim);
        run.began(Fault::PowerCut, std::slice::from_ref(victim));
        run.sandbox.machine(victim).disk.cut_power();
        run.sandbox.machine(victim).disk.restore_power();
        let is_poisoned = ["ledger", "bodies"]
            .iter()
            .any(|folder| data.join(folder).join("POISONED").exists());
        match (end, self.lapse, is_poisoned) {
            (Some(STOPPED), Lapse::Broken, true) => End::Poisoned,
            (Some(STOPPED), Lapse::Full, false) => End::Stopped,
            (Some(NOT_STARTED), _, false) => End::NotStarted,
            (None, Lapse::Full, false) => End::WentOn,
            _ => panic!("{what}; it is poisoned: {is_poisoned}"),
        }
    }

    /// With what code the node ended. One may go on that had no room for what it rewrites from a log: the
    /// log is there still, and RocksDB writes it again once there is room.
    fn end(&self, run: &mut Run, word: &str) -> Option<i32> {
        let victim = &self.victim;
        let is_rewritten = [".blob: ", ".sst: "].iter().any(|kind| word.contains(kind));
        if self.lapse == Lapse::Full && is_rewritten {
            let begun = Instant::now();
            while begun.elapsed() < GO_ON_TIME {
                if let Some(code) = run.sandbox.ended(victim) {
                    return Some(code);
                }
                sleep(Duration::from_millis(100));
            }
            return None;
        }
        let what = format!("the end of {victim} after {word}");
        Some(wait_for(&what, STOP_TIME_MAX, || run.sandbox.ended(victim)))
    }

    /// What was poisoned is not used again, and says why; the node joins anew.
    fn replace(&self, run: &mut Run) {
        let victim = &self.victim;
        run.restart(victim);
        let refused = wait_for("its refusal", HEAL_TIME_MAX, || run.sandbox.ended(victim));
        assert_eq!(refused, NOT_STARTED, "{victim}");
        let log = run.sandbox.log(victim);
        assert!(log.contains("was poisoned by a failed write"), "{log}");
        run.sandbox.kill(victim);
        if self.is_needed {
            run.restart(&self.third);
        }
        run.wait_for_recovery(Fault::DiskFails, RECOVERY_TIME_MAX);
        run.rejoin(victim);
    }

    /// It is started again.
    fn go_on(&self, run: &mut Run) {
        if self.is_needed {
            // All that was acknowledged meanwhile is on the other's disk and on this one: the
            // third, which missed it, finds it here.
            run.kill(&self.other);
            run.restart_all(&[self.victim.clone(), self.third.clone()]);
            run.wait_for_recovery(Fault::DiskFails, RECOVERY_TIME_MAX);
            run.restart(&self.other);
        } else {
            run.wait_for_recovery(Fault::DiskFails, RECOVERY_TIME_MAX);
            run.restart(&self.victim);
        }
    }
}

/// A disk's that is worn, or shared with somebody who writes much.
const SLOW: Duration = Duration::from_millis(250);

#[test]
fn a_node_whose_syncs_take_long_holds_up_nobody_as_follower_or_leader() {
    let _alone = alone();
    in_its_own_world(|| {
        let mut run = Run::on_machines(3, DISK_BYTES);
        let folder = run.sandbox.folder().expect("the run's folder").to_owned();
        let disk = FaultyDisk::new(&folder);
        run.send(6);
        run.wait_for_acknowledged(20);
        let victim = run.leader();
        run.kill(&victim);
        let data = run.sandbox.node(&victim).data_dir.clone();
        // Not while it opens its databases: that it is slow to start is nobody's trouble.
        let environment = disk.environment(&data, Calls::Syncs, 100, Lapse::Slow(SLOW));
        run.began(Fault::SlowDisk, std::slice::from_ref(&victim));
        run.restart_as(&victim, &node_binary(), &environment);
        wait_for("the first slow sync", LAPSE_TIME_MAX, || disk.word());
        run.wait_for_recovery(Fault::SlowDisk, RECOVERY_TIME_MAX);
        run.wait_for_acknowledged(20);
        run.sandbox.wait_until_healthy(HEAL_TIME_MAX);
        run.sandbox
            .must(&victim, &["cluster", "transfer-leader", &victim]);
        run.wait_for_recovery(Fault::SlowDisk, RECOVERY_TIME_MAX);
        run.wait_for_acknowledged(20);
        run.kill(&victim);
        run.restart(&victim);
        run.sandbox.wait_until_healthy(HEAL_TIME_MAX);
        run.ended(Fault::SlowDisk, &[victim]);
        run.stop_sending();
        run.primaries_come_up();
        run.drain();
        run.judge(ALWAYS_TRIED);
    });
}

//! The power goes, at one node or at all, and what was acknowledged is still there.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use holdfast_cluster_tests::harness::{
    Calls, DISK_BYTES, Disk, FaultyDisk, Lapse, Run, in_its_own_world, node_binary, wait_for,
};
use holdfast_cluster_tests::history::Fault;
use holdfast_cluster_tests::random::Random;

use crate::{ALWAYS_TRIED, alone, test_time};

const HEAL_TIME_MAX: Duration = Duration::from_secs(60);
const RECOVERY_TIME_MAX: Duration = Duration::from_secs(60);

/// The harness against itself: a cut that takes nothing would prove nothing.
#[test]
fn a_power_cut_takes_what_was_not_synced_and_nothing_else() {
    let _alone = alone();
    in_its_own_world(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = Disk::new(
            folder.path().join("image"),
            folder.path().join("disk"),
            64 << 20,
        );
        let (synced, written) = (disk.path().join("synced"), disk.path().join("written"));
        fs::write(&synced, "one").expect("written");
        fs::File::open(&synced)
            .and_then(|file| file.sync_all())
            .expect("synced");
        fs::write(&written, "two").expect("written");
        disk.cut_power();
        assert!(
            fs::write(disk.path().join("late"), "three").is_err(),
            "a disk without power takes nothing"
        );
        disk.restore_power();
        assert_eq!(fs::read(&synced).expect("it was synced"), b"one");
        let rest = fs::read(&written).unwrap_or_default();
        assert_eq!(rest, b"", "it was never synced");
    });
}

#[test]
fn power_cuts_of_one_node_lose_nothing() {
    let _alone = alone();
    in_its_own_world(|| {
        let mut run = Run::on_machines(3, DISK_BYTES);
        let mut random = Random::new(run.seed);
        run.send(4);
        run.wait_for_acknowledged(10);
        let begun = Instant::now();
        while begun.elapsed() < test_time(15) {
            sleep(Duration::from_millis(random.between(200, 1500)));
            let names = run.sandbox.names();
            let victim = names[random.between(0, 2) as usize].clone();
            run.cut_power(std::slice::from_ref(&victim));
            run.wait_for_recovery(Fault::PowerCut, RECOVERY_TIME_MAX);
            sleep(Duration::from_millis(random.between(0, 1500)));
            run.restart(&victim);
            run.sandbox.wait_until_healthy(HEAL_TIME_MAX);
            if begun.elapsed() > test_time(15) / 2 {
                run.primaries_come_up();
            }
        }
        finish(run);
    });
}

#[test]
fn power_cuts_of_all_nodes_at_once_lose_nothing() {
    let _alone = alone();
    in_its_own_world(|| {
        let mut run = Run::on_machines(3, DISK_BYTES);
        let mut random = Random::new(run.seed);
        let names = run.sandbox.names();
        run.send(4);
        run.wait_for_acknowledged(10);
        let begun = Instant::now();
        while begun.elapsed() < test_time(15) {
            sleep(Duration::from_millis(random.between(200, 2000)));
            run.cut_power(&names);
            run.restart_all(&names);
            run.wait_for_recovery(Fault::PowerCut, RECOVERY_TIME_MAX);
            run.wait_for_acknowledged(5);
            if begun.elapsed() > test_time(15) / 2 {
                run.primaries_come_up();
            }
        }
        finish(run);
    });
}

/// Far longer than a message takes to be acknowledged, if nobody waits for the sync.
const SLOW_SYNC: Duration = Duration::from_millis(200);
/// Those that open the databases are not slow.
const QUICK_SYNCS: u64 = 60;
const SLOW_CUTS: usize = 3;

/// On quick disks a promise that is given a moment too early is hardly ever caught at it.
#[test]
fn power_cuts_while_syncs_take_long_lose_nothing() {
    let _alone = alone();
    in_its_own_world(|| {
        let mut run = Run::on_machines(3, DISK_BYTES);
        let mut random = Random::new(run.seed);
        let folder = run.sandbox.folder().expect("the run's folder").to_owned();
        let disk = FaultyDisk::new(&folder);
        let names = run.sandbox.names();
        run.send(6);
        run.wait_for_acknowledged(10);
        for _ in 0..SLOW_CUTS {
            run.cut_power(&names);
            for name in &names {
                let data = run.sandbox.node(name).data_dir.clone();
                let slow = Lapse::Slow(SLOW_SYNC);
                let environment = disk.environment(&data, Calls::Syncs, QUICK_SYNCS, slow);
                run.restart_as(name, &node_binary(), &environment);
            }
            wait_for("the first slow sync", RECOVERY_TIME_MAX, || disk.word());
            run.wait_for_recovery(Fault::PowerCut, RECOVERY_TIME_MAX);
            run.wait_for_acknowledged(10);
            sleep(Duration::from_millis(random.between(0, 500)));
        }
        run.cut_power(&names);
        run.restart_all(&names);
        finish(run);
    });
}

fn finish(mut run: Run) {
    run.wait_for_acknowledged(10);
    run.stop_sending();
    run.primaries_come_up();
    run.drain();
    run.judge(
        &[
            ALWAYS_TRIED,
            &["acknowledged before the sync", "replicas disagree"],
        ]
        .concat(),
    );
}

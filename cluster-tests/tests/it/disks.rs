//! Disks fill, fail and slow down, and nothing acknowledged is lost.

use std::time::{Duration, Instant};

use holdfast_cluster_tests::harness::{
    DISK_BYTES, DISK_FREE_MIN_BYTES, Run, Session, in_its_own_world, wait_for,
};
use holdfast_cluster_tests::history::Fault;
use holdfast_cluster_tests::random::Random;

use crate::{ALWAYS_TRIED, alone, test_time};

const HEAL_TIME_MAX: Duration = Duration::from_secs(60);
/// A node whose disk fails stops within that time.
const STOP_TIME_MAX: Duration = Duration::from_secs(30);
const RECOVERY_TIME_MAX: Duration = Duration::from_secs(30);
/// Small, so that it is soon full.
const SMALL_DISK_BYTES: u64 = 320 << 20;

#[test]
fn a_full_disk_stops_new_mail_and_no_delivery() {
    let _alone = alone();
    in_its_own_world(|| {
        let mut run = Run::on_machines(3, SMALL_DISK_BYTES);
        let names = run.sandbox.names();
        run.send(6);
        run.wait_for_acknowledged(20);

        // One is full to the last byte: it may stop, the others go on.
        let victim = run.leader();
        run.began(Fault::DiskFull, std::slice::from_ref(&victim));
        run.sandbox.machine(&victim).disk.fill(0);
        run.wait_for_recovery(Fault::DiskFull, RECOVERY_TIME_MAX);
        run.wait_for_acknowledged(20);
        run.sandbox.machine(&victim).disk.make_room();
        if run.sandbox.ended(&victim).is_some() {
            run.restart(&victim);
        }
        run.sandbox.wait_until_healthy(HEAL_TIME_MAX);
        run.ended(Fault::DiskFull, std::slice::from_ref(&victim));
        run.wait_for_acknowledged(10);

        // All have less than they keep free: no mail is taken, and what is held is delivered.
        run.stop_sending();
        run.began(Fault::DiskFull, &names);
        for name in &names {
            let disk = &run.sandbox.machine(name).disk;
            // Not so little that mail under way waits for room as long as its sender does.
            disk.fill(DISK_FREE_MIN_BYTES / 4 * 3);
        }
        wait_for("452 from a full disk", RECOVERY_TIME_MAX, || {
            let node = run.sandbox.node(&names[0]);
            let session = Session::open(&node.name, node.smtp).ok()?;
            let (code, _) = session.give(&run.load, &run.load.letter(), false)?;
            (code == 452).then_some(())
        });
        run.primaries_come_up();
        run.drain();
        for name in &names {
            run.sandbox.machine(name).disk.make_room();
        }
        run.ended(Fault::DiskFull, &names);
        run.send(3);
        run.wait_for_recovery(Fault::DiskFull, RECOVERY_TIME_MAX);
        run.stop_sending();
        run.drain();
        run.judge(ALWAYS_TRIED);
    });
}

#[test]
fn a_node_whose_disk_fails_stops_and_acknowledges_nothing_more() {
    let _alone = alone();
    in_its_own_world(|| {
        let mut run = Run::on_machines(3, DISK_BYTES);
        let mut random = Random::new(run.seed);
        run.send(6);
        run.wait_for_acknowledged(20);
        let begun = Instant::now();
        while begun.elapsed() < test_time(10) {
            let names = run.sandbox.names();
            let victim = names[random.between(0, 2) as usize].clone();
            // Every write and sync fails from now on, while the node runs.
            run.fail_disk(&victim);
            wait_for(&format!("the end of {victim}"), STOP_TIME_MAX, || {
                run.sandbox.ended(&victim).filter(|code| *code != 0)
            });
            run.wait_for_recovery(Fault::DiskFails, RECOVERY_TIME_MAX);
            run.sandbox.kill(&victim);
            run.restart(&victim);
            run.sandbox.wait_until_healthy(HEAL_TIME_MAX);
            run.ended(Fault::DiskFails, &[victim]);
        }
        run.stop_sending();
        run.primaries_come_up();
        run.drain();
        run.judge(ALWAYS_TRIED);
    });
}

#[test]
fn a_slow_disk_slows_its_node_only() {
    let _alone = alone();
    in_its_own_world(|| {
        let mut run = Run::on_machines(3, DISK_BYTES);
        run.send(6);
        run.wait_for_acknowledged(20);
        let victim = run.leader();
        if let Err(why) = run.sandbox.machine(&victim).disk.slow_down() {
            eprintln!("NOT RUN: {why}");
            return;
        }
        run.began(Fault::SlowDisk, std::slice::from_ref(&victim));
        run.wait_for_recovery(Fault::SlowDisk, RECOVERY_TIME_MAX);
        run.wait_for_acknowledged(20);
        run.sandbox.machine(&victim).disk.speed_up();
        run.ended(Fault::SlowDisk, std::slice::from_ref(&victim));
        run.sandbox.wait_until_healthy(HEAL_TIME_MAX);
        run.stop_sending();
        run.primaries_come_up();
        run.drain();
        run.judge(ALWAYS_TRIED);
    });
}

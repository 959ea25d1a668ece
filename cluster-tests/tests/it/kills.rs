//! Nodes die while mail flows, and nothing acknowledged is lost.

use std::thread::sleep;
use std::time::{Duration, Instant};

use holdfast_cluster_tests::harness::{DISK_BYTES, Run, apart, in_its_own_world};
use holdfast_cluster_tests::history::Fault;
use holdfast_cluster_tests::nemesis;
use holdfast_cluster_tests::random::Random;

use crate::{ALWAYS_TRIED, alone, test_time};

const RECOVERY_TIME_MAX: Duration = Duration::from_secs(30);

#[test]
fn a_killed_leader_loses_nothing() {
    let _alone = alone();
    apart(|| {
        let mut run = Run::start();
        run.send(4);
        run.wait_for_acknowledged(40);
        let leader = run.leader();
        run.kill(&leader);
        run.wait_for_acknowledged(60);
        assert_ne!(run.leader(), leader);
        run.stop_sending();
        run.restart(&leader);
        run.primaries_come_up();
        run.sandbox.wait_until_healthy(Duration::from_secs(60));
        run.drain();
        run.judge(ALWAYS_TRIED);
    });
}

/// More than fit into the time.
const STRIKES: usize = 1000;

#[test]
fn each_role_is_killed_at_random_while_mail_flows() {
    let _alone = alone();
    apart(|| {
        let mut run = Run::start();
        let names = run.sandbox.names();
        run.send(4);
        run.primaries_come_up();
        run.wait_for_acknowledged(10);
        let begun = Instant::now();
        for (at, strike) in nemesis::strikes(run.seed, STRIKES).iter().enumerate() {
            if begun.elapsed() > test_time(15) {
                break;
            }
            // The primaries come and go as well, each time between two kills.
            if at % 3 == 1 {
                run.primaries_go_down();
            } else {
                run.primaries_come_up();
            }
            sleep(strike.after);
            let leader = run.leader();
            let Some(victim) = strike.victim(&names, Some(&leader)).map(str::to_owned) else {
                continue;
            };
            run.kill(&victim);
            sleep(strike.dead_for);
            run.restart(&victim);
            // Two dead at once would be no quorum, and another test.
            run.sandbox.wait_until_healthy(Duration::from_secs(60));
        }
        run.wait_for_acknowledged(10);
        run.stop_sending();
        run.primaries_come_up();
        run.drain();
        run.judge(ALWAYS_TRIED);
    });
}

/// Longer than a lease and than an election.
const PAUSE_MAX_MILLIS: u64 = 9_000;

#[test]
fn paused_nodes_promise_nothing_stale_and_lose_nothing() {
    let _alone = alone();
    in_its_own_world(|| {
        let mut run = Run::on_machines(3, DISK_BYTES);
        let mut random = Random::new(run.seed);
        run.watch();
        run.send(6);
        run.primaries_come_up();
        run.wait_for_acknowledged(10);
        let begun = Instant::now();
        while begun.elapsed() < test_time(15) {
            sleep(Duration::from_millis(random.between(300, 1500)));
            // The leader, or whoever delivers, or anybody.
            let names = run.sandbox.names();
            let victim = if random.one_in(2) {
                run.leader()
            } else {
                names[random.between(0, 2) as usize].clone()
            };
            run.pause(&victim);
            run.wait_for_recovery(Fault::Pause, RECOVERY_TIME_MAX);
            sleep(Duration::from_millis(random.between(0, PAUSE_MAX_MILLIS)));
            run.resume(&victim);
            run.sandbox.wait_until_healthy(Duration::from_secs(60));
        }
        run.stop_sending();
        run.drain();
        run.judge(&[ALWAYS_TRIED, &["two lease holders", "replicas disagree"]].concat());
    });
}

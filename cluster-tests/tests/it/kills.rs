//! Nodes die while mail flows, and nothing acknowledged is lost.

use std::thread::sleep;
use std::time::{Duration, Instant};

use holdfast_cluster_tests::harness::Run;
use holdfast_cluster_tests::nemesis;

use crate::{ALWAYS_TRIED, alone};

#[test]
fn a_killed_leader_loses_nothing() {
    let _alone = alone();
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
}

/// How long the kills go on.
const STRIKE_TIME: Duration = Duration::from_secs(30);
/// More than fit into the time.
const STRIKES: usize = 30;

#[test]
fn each_role_is_killed_at_random_while_mail_flows() {
    let _alone = alone();
    let mut run = Run::start();
    let names = run.sandbox.names();
    run.send(4);
    run.primaries_come_up();
    run.wait_for_acknowledged(10);
    let begun = Instant::now();
    for (at, strike) in nemesis::strikes(run.seed, STRIKES).iter().enumerate() {
        if begun.elapsed() > STRIKE_TIME {
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
}

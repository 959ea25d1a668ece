//! A node that was away for longer than the others keep their log is sent all rows. Nothing is lost
//! whatever happens to it meanwhile.

use std::thread;
use std::time::Duration;

use holdfast_cluster_tests::harness::{Run, in_its_own_world, wait_for};
use holdfast_cluster_tests::history::Fault;
use holdfast_cluster_tests::random::Random;

use crate::{ALWAYS_TRIED, alone};

/// Entries between two snapshots; half as many are kept behind one.
pub(crate) const SNAPSHOT_EVERY: u64 = 40;

/// How often a node that is sent the state dies before it may have all of it.
const INTERRUPTIONS: usize = 3;

const RECOVERY_TIME_MAX: Duration = Duration::from_secs(60);

/// What a node says when its rows were replaced.
const INSTALLED: &str = "a snapshot of another node took the place of this node's rows";

/// The last entry that the leader has.
fn last_entry(run: &Run) -> u64 {
    let status = wait_for("a status", RECOVERY_TIME_MAX, || run.sandbox.status());
    let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
    let entries = nodes.iter().filter_map(|node| node["last_log"].as_u64());
    entries.max().expect("an entry")
}

/// Waits until the others have given back what a node that is away now would need.
pub(crate) fn outlast_the_log(run: &Run) {
    let gone = last_entry(run) + 4 * SNAPSHOT_EVERY;
    wait_for("a longer log", RECOVERY_TIME_MAX, || {
        (last_entry(run) > gone).then_some(())
    });
}

pub(crate) fn installed(run: &Run, name: &str) -> usize {
    run.sandbox.log(name).matches(INSTALLED).count()
}

pub(crate) fn wait_until_installed(run: &Run, name: &str, before: usize) {
    wait_for(
        &format!("{name} to get the state"),
        RECOVERY_TIME_MAX,
        || (installed(run, name) > before).then_some(()),
    );
    run.sandbox.wait_until_healthy(RECOVERY_TIME_MAX);
}

#[test]
fn a_node_that_was_away_for_too_long_is_sent_the_state_whatever_interrupts_it() {
    let _alone = alone();
    in_its_own_world(|| {
        let mut run = Run::with_short_logs(3, SNAPSHOT_EVERY);
        let mut random = Random::new(run.seed);
        run.watch();
        run.send(6);
        run.wait_for_acknowledged(30);
        // Mail is held the first time, and drains the second time.
        for fault in [Fault::Kill, Fault::PowerCut] {
            let leader = run.leader();
            let names = run.sandbox.names();
            let victim = names.iter().find(|name| **name != leader);
            let victim = victim.expect("a follower").clone();
            let before = installed(&run, &victim);
            let strike = |run: &mut Run| match fault {
                Fault::PowerCut => run.cut_power(std::slice::from_ref(&victim)),
                _ => run.kill(&victim),
            };
            strike(&mut run);
            outlast_the_log(&run);
            for _ in 0..INTERRUPTIONS {
                run.restart(&victim);
                thread::sleep(Duration::from_millis(random.between(100, 1500)));
                strike(&mut run);
            }
            outlast_the_log(&run);
            run.restart(&victim);
            wait_until_installed(&run, &victim, before);
            run.primaries_come_up();
        }
        // Whoever joins begins with it.
        run.began(Fault::Membership, &["n4".to_owned()]);
        let newcomer = run.add_next_machine();
        wait_until_installed(&run, &newcomer, 0);
        run.ended(Fault::Membership, std::slice::from_ref(&newcomer));
        run.stop_sending();
        run.drain();
        run.judge(&[ALWAYS_TRIED, &["replicas disagree"]].concat());
    });
}

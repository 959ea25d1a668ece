//! Clocks jump, and no mail ends before its time.

use std::time::Duration;

use holdfast_cluster_tests::harness::{DISK_BYTES, Run, in_its_own_world};
use holdfast_cluster_tests::history::Fault;
use holdfast_cluster_tests::random::Random;

use crate::{ALWAYS_TRIED, beside_others, is_soak};

const HOUR_MS: i64 = 3_600_000;
const YEAR_MS: i64 = 365 * 24 * HOUR_MS;
/// Set while the node runs, as an operator or a time service would.
const JUMPS_MS: [i64; 4] = [HOUR_MS, -HOUR_MS, 10 * YEAR_MS, -10 * YEAR_MS];
const HEAL_TIME_MAX: Duration = Duration::from_secs(60);

#[test]
fn a_clock_that_jumps_ends_no_mail_early() {
    let _turn = beside_others();
    in_its_own_world(|| {
        let mut run = Run::on_machines(3, DISK_BYTES);
        let mut random = Random::new(run.seed);
        // Held for its five days: a jump of ten years would end it all.
        run.send(4);
        run.wait_for_acknowledged(60);
        let jumps = if is_soak() {
            &JUMPS_MS[..]
        } else {
            &JUMPS_MS[1..3]
        };
        for jump in jumps {
            // The leader's, whose time is everybody's, and then another's.
            let leader = run.leader();
            let mut others = run.sandbox.names();
            others.retain(|name| *name != leader);
            let other = others.swap_remove(random.between(0, 1) as usize);
            for victim in [leader, other] {
                run.began(Fault::ClockJump, std::slice::from_ref(&victim));
                run.recorder
                    .note(format!("the clock of {victim} jumps by {jump} ms"));
                run.sandbox.set_clock(&victim, *jump);
                run.wait_for_recovery(Fault::ClockJump, HEAL_TIME_MAX);
                run.sandbox.set_clock(&victim, 0);
                run.ended(Fault::ClockJump, &[victim]);
            }
        }
        run.stop_sending();
        let held = run
            .sandbox
            .status()
            .map(|status| status["held_messages"].clone());
        let acknowledged = run.recorder.acknowledged();
        assert!(
            held.and_then(|held| held.as_u64()) >= Some(acknowledged as u64),
            "mail of {acknowledged} ended early"
        );
        run.primaries_come_up();
        run.drain();
        run.judge(&[ALWAYS_TRIED, &["replicas disagree"]].concat());
    });
}

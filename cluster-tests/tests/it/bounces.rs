//! Mail that cannot be delivered in its time goes back to its sender, in time and once.

use std::thread::sleep;
use std::time::Duration;

use holdfast_cluster_tests::harness::{DISK_BYTES, DOMAINS, Run, in_its_own_world, wait_for};

use crate::{ALWAYS_TRIED, beside_others, is_left_to_soak};

const HOLD_MINUTES: u32 = 1;
/// The leader dies so long before the first message's time is over, and is back after it.
const BEFORE: Duration = Duration::from_secs(8);
const HEAL_TIME_MAX: Duration = Duration::from_secs(60);
/// A node that had the domain's lease may have been delivering; a primary has ten minutes for its
/// last answer (RFC 5321 section 4.5.3.2.6), and nobody is told before.
const TELL_TIME_MAX: Duration = Duration::from_secs(13 * 60);

#[test]
fn senders_are_told_when_the_time_is_over_and_not_before() {
    let _turn = beside_others();
    if is_left_to_soak(12) {
        return;
    }
    in_its_own_world(|| {
        let mut run = Run::on_machines(3, DISK_BYTES);
        run.hold_for_minutes(DOMAINS[0], HOLD_MINUTES);
        run.primary_comes_up(DOMAINS[1]);
        run.send(3);
        run.wait_for_acknowledged(60);
        run.stop_sending();
        sleep(Duration::from_secs(60 * u64::from(HOLD_MINUTES)) - BEFORE);
        let leader = run.leader();
        run.kill(&leader);
        sleep(BEFORE * 2);
        run.restart(&leader);
        run.sandbox.wait_until_healthy(HEAL_TIME_MAX);
        wait_for("the last notification", TELL_TIME_MAX, || {
            (run.sandbox.status()?["held_messages"] == 0).then_some(())
        });
        run.drain();
        run.judge(&[ALWAYS_TRIED, &["early or missing bounce"]].concat());
    });
}

//! A domain's quota is exact to the message, whoever leads and whoever is asked.

use std::time::Duration;

use holdfast_cluster_tests::harness::{DOMAINS, Run, apart, wait_for};
use holdfast_cluster_tests::history::Event;

use crate::{ALWAYS_TRIED, beside_others};

const MESSAGES: usize = 60;
const TIME_MAX: Duration = Duration::from_secs(60);

#[test]
fn a_quota_is_exact_while_the_leader_dies() {
    let _turn = beside_others();
    apart(|| {
        let mut run = Run::start();
        run.limit(DOMAINS[0], MESSAGES);
        run.send(6);
        wait_for_refusals(&run, 20);
        let leader = run.leader();
        run.kill(&leader);
        wait_for_refusals(&run, 20);
        run.restart(&leader);
        run.sandbox.wait_until_healthy(TIME_MAX);
        // Deliveries make room, which is used up again.
        run.primaries_come_up();
        run.wait_for_acknowledged(2 * MESSAGES);
        run.primaries_go_down();
        wait_for_refusals(&run, 20);
        run.stop_sending();
        run.primaries_come_up();
        run.drain();
        run.judge(&[ALWAYS_TRIED, &["quota not exact"]].concat());
    });
}

/// Waits until so many more messages have been refused because a domain was full.
fn wait_for_refusals(run: &Run, count: usize) {
    let refusals = || {
        let history = run.recorder.history();
        let is_refusal = |event: &&Event| matches!(event, Event::OverQuota { .. });
        history.events.iter().filter(is_refusal).count()
    };
    let wanted = refusals() + count;
    wait_for(&format!("{count} more refusals"), TIME_MAX, || {
        (refusals() >= wanted).then_some(())
    });
}

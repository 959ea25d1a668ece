//! Primaries that come and go, stall, talk nonsense and hang up in the middle.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use holdfast_cluster_tests::harness::{DOMAINS, Mood, Run, apart, wait_for};
use holdfast_cluster_tests::history::Framing;
use holdfast_cluster_tests::random::Random;

use crate::{ALWAYS_TRIED, alone, test_time};

/// A domain with a well-behaved primary gets its mail within that time, whatever the other's does.
const NEIGHBOUR_TIME_MAX: Duration = Duration::from_secs(30);

const FRAMINGS: [Framing; 2] = [Framing::Dot, Framing::Chunks];
/// Primaries go on being bad so long for one to hang up in the middle of each.
const CUT_TIME_MAX: Duration = Duration::from_secs(60);

/// Two looks, and the word of the other nodes.
const HINT_TIME_MAX: Duration = Duration::from_secs(60);

#[test]
fn a_primary_that_flaps_stalls_lies_and_hangs_up_gets_everything_once_it_behaves() {
    let _alone = alone();
    apart(|| {
        let mut run = Run::start();
        let mut random = Random::new(run.seed);
        run.watch();
        run.send(3);
        run.wait_for_acknowledged(30);
        run.primaries_behave(Mood::Bad);
        let begun = Instant::now();
        let were_cut = |run: &Run| {
            let history = run.recorder.history();
            FRAMINGS
                .iter()
                .all(|framing| history.contents(*framing, true) > 0)
        };
        while begun.elapsed() < test_time(10) || (!were_cut(&run) && begun.elapsed() < CUT_TIME_MAX)
        {
            run.primaries_come_up();
            sleep(Duration::from_millis(random.between(200, 4000)));
            run.primaries_go_down();
            sleep(Duration::from_millis(random.between(100, 1000)));
        }
        run.stop_sending();
        run.primaries_behave(Mood::Human);
        run.primaries_come_up();
        run.drain();
        let history = run.recorder.history();
        for framing in FRAMINGS {
            let [whole, cut] = [false, true].map(|cut| history.contents(framing, cut));
            eprintln!(
                "  {framing:?}: {whole} contents came in full, {cut} were cut by the primary"
            );
            assert!(whole > 0 && cut > 0, "{framing:?} was not tried");
        }
        // No fault is at work here that would excuse a copy.
        run.judge(&[ALWAYS_TRIED, &["duplicates without cause"]].concat());
    });
}

#[test]
fn a_primary_that_never_answers_holds_up_no_other() {
    let _alone = alone();
    apart(|| {
        let mut run = Run::start();
        run.send(3);
        run.wait_for_acknowledged(60);
        run.stop_sending();
        run.primary_behaves(DOMAINS[0], Mood::Silent);
        run.primaries_come_up();
        run.wait_until_delivered(DOMAINS[1], NEIGHBOUR_TIME_MAX);
        // It comes to its senses; its clients find that out when they hang up or are hung up on.
        run.primaries_go_down();
        run.primary_behaves(DOMAINS[0], Mood::Human);
        run.primaries_come_up();
        run.drain();
        run.judge(ALWAYS_TRIED);
    });
}

#[test]
fn a_primary_that_cannot_be_reached_is_pinged_for_a_hint_where_the_policy_says_so() {
    let _alone = alone();
    apart(|| {
        // Of this world alone.
        let allowed = "/proc/sys/net/ipv4/ping_group_range";
        fs::write(allowed, "0 2147483647").expect("pings are allowed");
        let run = Run::start();
        let policy = ["--ping", "yes", "--probe", "10s"];
        let set = [&["domain", "set", DOMAINS[0]], &policy[..]].concat();
        run.sandbox.must("n1", &set);
        for (domain, hinted) in [(DOMAINS[0], true), (DOMAINS[1], false)] {
            let shown = wait_for("word of the primary", HINT_TIME_MAX, || {
                let shown = run.sandbox.must("n2", &["domain", "show", domain]);
                let shown = shown.to_string();
                shown.contains("has been down").then_some(shown)
            });
            assert_eq!(shown.contains("answers ping"), hinted, "{shown}");
        }
    });
}

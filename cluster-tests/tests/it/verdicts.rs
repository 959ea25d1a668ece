//! What a primary says of its recipients is known at every node, and outlives the primary and any
//! node.

use std::thread::sleep;
use std::time::{Duration, Instant};

use holdfast_cluster_tests::harness::{DOMAINS, Mood, Run, Session, apart};
use holdfast_cluster_tests::invariants::verdict_cache::{self, Tally};

use crate::{ALWAYS_TRIED, beside_others};

const KNOWN: [&str; 3] = ["ann@example.test", "bob@example.test", "cleo@example.test"];
const GHOSTS: [&str; 2] = ["ghost@example.test", "shade@example.test"];
/// Nobody asks for them before the primary is away. It has the first two.
const STRANGERS: [&str; 3] = [
    "new@example.test",
    "other@example.test",
    "nobody@example.test",
];
const KEEP_YES_SECONDS: u32 = 22;
const KEEP_NO_SECONDS: u32 = 4;
/// From the beginning: long enough after the first answers that no fault can have kept them from
/// being noted,
const PRIMARY_LEAVES: Duration = Duration::from_secs(14);
/// and long enough after the yeses' time that every one of them must be asked for again.
const PRIMARY_RETURNS: Duration = Duration::from_secs(34);
const END: Duration = Duration::from_secs(40);
const PACE: Duration = Duration::from_millis(400);
const HEAL_TIME_MAX: Duration = Duration::from_secs(60);

#[test]
fn what_a_primary_said_of_its_recipients_outlives_it_and_the_leader() {
    let _turn = beside_others();
    apart(|| {
        let mut run = Run::start();
        run.primary_has_only(DOMAINS[0], &[&KNOWN[..], &STRANGERS[..2]].concat());
        run.primary_behaves(DOMAINS[0], Mood::Willing);
        run.primaries_come_up();
        run.verify(DOMAINS[0], KEEP_YES_SECONDS, KEEP_NO_SECONDS);
        let begun = Instant::now();
        let rounds = |run: &Run, recipients: &[&str], until: Duration| {
            for round in 0.. {
                for (at, to) in recipients.iter().enumerate() {
                    name(run, round + at, to);
                }
                if begun.elapsed() > until {
                    break;
                }
                sleep(PACE);
            }
        };
        let named = [&KNOWN[..], &GHOSTS].concat();
        rounds(&run, &named, PRIMARY_LEAVES);

        run.primaries_go_down();
        let leader = run.leader();
        run.kill(&leader);
        let all = [&named[..], &STRANGERS].concat();
        rounds(&run, &all, PRIMARY_RETURNS);

        // It is back, and human: now and then it does not say.
        run.restart(&leader);
        run.sandbox.wait_until_healthy(HEAL_TIME_MAX);
        run.primary_behaves(DOMAINS[0], Mood::Human);
        run.primaries_come_up();
        rounds(&run, &all, END);
        run.drain();

        let tally = verdict_cache::tally(&run.recorder.history());
        eprintln!("  verdicts: {tally:?}");
        let Tally {
            refused,
            known_while_away,
            known_while_up,
            refreshed_in_vain,
            unknown_while_away,
        } = tally;
        let parts = [
            refused,
            known_while_away,
            known_while_up,
            refreshed_in_vain,
            unknown_while_away,
        ];
        assert!(parts.iter().all(|part| *part > 0), "not all was tried");
        run.judge(&[ALWAYS_TRIED, &["verdict cache"]].concat());
    });
}

/// A letter for this recipient alone, to one of the nodes that run.
fn name(run: &Run, turn: usize, recipient: &str) {
    let alive = run.sandbox.alive();
    let node = run.sandbox.node(&alive[turn % alive.len()]);
    let mut letter = run.load.letter();
    letter.reverse_path = "author@sender.test".to_owned();
    letter.recipients = vec![recipient.to_owned()];
    // A node that does not answer has named nobody.
    if let Ok(session) = Session::open(&node.name, node.smtp) {
        drop(session.give(&run.load, &letter, false));
    }
}

//! Without a quorum nothing can be promised, so nothing is.

use std::thread::{ScopedJoinHandle, scope};
use std::time::Duration;

use holdfast_cluster_tests::harness::{Run, Session, Unfinished, apart, wait_for};

use crate::{ALWAYS_TRIED, beside_others};

const TIME_MAX: Duration = Duration::from_secs(60);
/// For a follower to forget a leader that it hears no more.
const ELECTION_TIME: Duration = Duration::from_secs(5);
/// Messages that are half sent when the quorum goes.
const HALF_SENT: usize = 4;

#[test]
fn without_a_quorum_mail_is_deferred_and_never_delivered_later() {
    let _turn = beside_others();
    apart(|| {
        let mut run = Run::start();

        // The leader alone: what it proposed may be in its log, and without a quorum nothing can be
        // cancelled, so it may have to leave the sender without an answer. It acknowledges nothing.
        let leader = run.leader();
        let codes = lose_all_but(&mut run, &leader, Finish::AtOnce);
        assert!(
            !codes.iter().any(|code| matches!(code, Some(0..400))),
            "acknowledged without a quorum: {codes:?}"
        );
        regain(&mut run, &leader);

        // A follower that knows that it is alone: it proposes nothing, so it can say so.
        let leader = run.leader();
        let mut names = run.sandbox.names().into_iter();
        let follower = names.find(|name| *name != leader).expect("three nodes");
        let codes = lose_all_but(&mut run, &follower, Finish::Later);
        assert!(
            codes.iter().all(|code| matches!(code, Some(400..500))),
            "a node that proposed nothing tells its senders to come again: {codes:?}"
        );
        regain(&mut run, &follower);

        run.primaries_come_up();
        run.send(2);
        run.wait_for_acknowledged(20);
        run.stop_sending();
        run.drain();
        run.judge(&[ALWAYS_TRIED, &["delivered although refused"]].concat());
    });
}

/// When the half-sent messages end.
#[derive(PartialEq)]
enum Finish {
    AtOnce,
    /// When the survivor knows that the quorum is gone.
    Later,
}

/// Kills all nodes but `survivor` while messages are half sent to it, and gives the replies to
/// their ends. New mail must be deferred.
fn lose_all_but(run: &mut Run, survivor: &str, finish: Finish) -> Vec<Option<u16>> {
    let address = run.sandbox.node(survivor).smtp;
    let open = || Session::open(survivor, address);
    let halves: Vec<Unfinished> = (0..HALF_SENT)
        .filter_map(|_| open().ok()?.begin(&run.load, &run.load.letter()))
        .collect();
    assert_eq!(
        halves.len(),
        HALF_SENT,
        "with a quorum, DATA is answered with 354"
    );
    for node in run.sandbox.names() {
        if node != survivor {
            run.kill(&node);
        }
    }
    if finish == Finish::Later {
        wait_for("the news that the quorum is gone", TIME_MAX, || {
            (run.sandbox.status_of(survivor)?["quorum"] == false).then_some(())
        });
        std::thread::sleep(ELECTION_TIME);
    }
    // All at once: each may wait as long as a node waits for its quorum.
    let recorder = &run.recorder;
    let codes = scope(|scope| {
        let waiting: Vec<ScopedJoinHandle<'_, Option<u16>>> = halves
            .into_iter()
            .map(|half| scope.spawn(|| half.finish(recorder)))
            .collect();
        waiting
            .into_iter()
            .map(|sender| sender.join().expect("a sender"))
            .collect()
    });
    let fresh = open()
        .ok()
        .and_then(|session| session.give(&run.load, &run.load.letter(), false));
    let code = fresh.map(|(code, _)| code);
    assert!(
        matches!(code, Some(400..500)),
        "new mail at {survivor} got {code:?}"
    );
    codes
}

/// One at a time: with the first the survivor is a quorum in which nobody else can lead, so that whatever lies
/// in its log is committed.
fn regain(run: &mut Run, survivor: &str) {
    for node in run.sandbox.dead() {
        run.restart(&node);
        wait_for("a quorum", TIME_MAX, || {
            (run.sandbox.status_of(survivor)?["quorum"] == true).then_some(())
        });
    }
    run.sandbox.wait_until_healthy(TIME_MAX);
}

//! Without a quorum nothing can be promised, so nothing is.

use std::time::Duration;

use holdfast_cluster_tests::harness::{Run, Session};

use crate::{ALWAYS_TRIED, alone};

/// Messages that are half sent when the quorum goes.
const HALF_SENT: usize = 6;

#[test]
fn without_a_quorum_mail_is_deferred_and_never_delivered_later() {
    let _alone = alone();
    let mut run = Run::start();
    let leader = run.leader();
    let address = run.sandbox.node(&leader).smtp;
    let open = || Session::open(&leader, address);
    let halves: Vec<_> = (0..HALF_SENT)
        .filter_map(|_| open().ok()?.begin(&run.load, &run.load.letter()))
        .collect();
    assert_eq!(
        halves.len(),
        HALF_SENT,
        "with a quorum, DATA is answered with 354"
    );

    let others: Vec<String> = run
        .sandbox
        .names()
        .into_iter()
        .filter(|name| *name != leader)
        .collect();
    for node in &others {
        run.kill(node);
    }
    // All at once: each may wait as long as a node waits for its quorum.
    let codes: Vec<Option<u16>> = std::thread::scope(|scope| {
        let recorder = &run.recorder;
        let waiting: Vec<_> = halves
            .into_iter()
            .map(|half| scope.spawn(move || half.finish(recorder)))
            .collect();
        waiting
            .into_iter()
            .map(|sender| sender.join().expect("a sender"))
            .collect()
    });
    for code in &codes {
        assert!(
            !matches!(code, Some(200..400)),
            "acknowledged without a quorum: {codes:?}"
        );
    }
    // Those may have entered the leader's log, and without a quorum nothing can be cancelled: they
    // may be left without an answer. New mail is told to come again.
    let fresh = open()
        .ok()
        .and_then(|session| session.give(&run.load, &run.load.letter(), false));
    let code = fresh.map(|(code, _)| code);
    assert!(matches!(code, Some(400..500)), "new mail got {code:?}");

    for node in &others {
        run.restart(node);
    }
    run.sandbox.wait_until_healthy(Duration::from_secs(60));
    run.primaries_come_up();
    run.send(2);
    run.wait_for_acknowledged(20);
    run.stop_sending();
    run.drain();
    run.judge(&[ALWAYS_TRIED, &["delivered although refused"]].concat());
}

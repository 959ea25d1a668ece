//! A sender is told that mail is late, once, where the customer wants it so; and it is delivered all the
//! same.

use std::thread::sleep;

use holdfast_cluster_tests::harness::{Sandbox, wait_for};
use holdfast_cluster_tests::story::{Mailbox, pass, send};

use crate::{A_WHILE, BOB, DOMAIN, JOE, SENDERS, SOON, apart, beside_others, deliverer, subjects};

#[test]
fn a_sender_is_told_once_that_mail_is_late_and_it_arrives_all_the_same() {
    let _turn = beside_others();
    apart(|| {
        let mut mailbox = Mailbox::new();
        let mut senders = Mailbox::new();
        senders.come_up();
        let mut sandbox = Sandbox::start(3, DOMAIN, mailbox.address());
        let bobs = senders.address().to_string();
        sandbox.must("n1", &["domain", "add", SENDERS, "--primary", &bobs]);
        sandbox.must("n2", &["domain", "set", DOMAIN, "--delay-notice", "4h"]);
        assert_eq!(send(sandbox.node("n3").smtp, BOB, JOE, "late").code, 250);

        pass(&sandbox, "3h");
        sleep(A_WHILE);
        assert!(senders.received().is_empty(), "it is not late yet");
        let worker = deliverer(&sandbox);
        sandbox.kill(&worker);
        pass(&sandbox, "2h");
        let told = wait_for("the notice", 2 * SOON, || {
            pass(&sandbox, "11m");
            sleep(A_WHILE);
            senders.received().into_iter().next()
        });
        // RFC 3464 section 2.3.3: "delayed", and nothing of a failure.
        assert_eq!((told.from.as_str(), told.to[0].as_str()), ("", BOB));
        assert!(told.text.contains("Action: delayed"), "{}", told.text);
        assert!(told.text.contains("Subject: late"), "{}", told.text);
        pass(&sandbox, "12h");
        sleep(A_WHILE);
        assert_eq!(senders.received().len(), 1, "once");

        mailbox.come_up();
        assert_eq!(subjects(&mailbox.wait_for(1, SOON)), ["late"]);
    });
}

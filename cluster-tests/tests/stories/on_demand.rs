//! A customer behind NAT, whom nobody can connect to, calls any node and gets its mail over that very
//! connection (RFC 2645).

use std::thread::sleep;

use holdfast_cluster_tests::harness::Sandbox;
use holdfast_cluster_tests::story::{Mailbox, send};

use crate::{
    A_WHILE, BOB, DOMAIN, JOE, NAME, PASSWORD, SOON, add_account, apart, beside_others, held,
    subjects, wait_until_held,
};

#[test]
fn a_customer_nobody_can_connect_to_fetches_mail_from_any_node() {
    let _turn = beside_others();
    apart(|| {
        // Its address is none that we could reach.
        let mailbox = Mailbox::new();
        let mut sandbox = Sandbox::start(3, DOMAIN, mailbox.address());
        add_account(&sandbox);
        let theirs = (NAME, PASSWORD);
        let atrn = |sandbox: &Sandbox, node: &str| sandbox.node(node).atrn.expect("an ATRN port");
        let give = |sandbox: &Sandbox, node: &str, subject: &str| {
            assert_eq!(send(sandbox.node(node).smtp, BOB, JOE, subject).code, 250);
        };

        // A password alone does not get the mail of a customer who never wanted it so.
        let unwanted = mailbox.call(atrn(&sandbox, "n1"), theirs, "");
        assert!(unwanted.answer.starts_with("450"), "{}", unwanted.answer);
        sandbox.must("n1", &["domain", "set", DOMAIN, "--atrn", "yes"]);
        let askers = |of: &str| {
            sandbox.must("n1", &["domain", "askers", DOMAIN, of]);
        };
        askers("192.0.2.0/24");
        let elsewhere = mailbox.call(atrn(&sandbox, "n1"), theirs, DOMAIN);
        assert!(
            elsewhere.answer.contains("not from your address"),
            "{}",
            elsewhere.answer
        );
        askers("anybody");
        // RFC 2645 section 5.2.1: 453 where there is no mail, 450 where it is somebody else's.
        let nothing = mailbox.call(atrn(&sandbox, "n1"), theirs, "");
        assert!(nothing.answer.starts_with("453"), "{}", nothing.answer);
        let others = mailbox.call(atrn(&sandbox, "n1"), theirs, "other.test");
        assert!(others.answer.starts_with("450"), "{}", others.answer);

        for (node, subject) in [("n1", "one"), ("n2", "two"), ("n3", "three")] {
            give(&sandbox, node, subject);
        }
        sleep(A_WHILE);
        assert_eq!(held(&sandbox, "n1"), 3, "nobody can connect to it");

        // Whichever node is called delivers, whichever has tried so far.
        let mut call = mailbox.call(atrn(&sandbox, "n2"), theirs, DOMAIN);
        assert!(call.answer.starts_with("250"), "{}", call.answer);
        let received = mailbox.wait_for(3, SOON);
        assert_eq!(subjects(&received), ["one", "two", "three"]);
        wait_until_held(&sandbox, "n1", 0);
        call.wait_for_its_end(SOON);

        // The node that is called dies with the call; mail is held again, and another node hands it out.
        give(&sandbox, "n1", "four");
        let call = mailbox.call(atrn(&sandbox, "n3"), theirs, "");
        sandbox.kill("n3");
        drop(call);
        give(&sandbox, "n1", "five");
        sandbox.restart("n3");
        sandbox.wait_until_healthy(SOON);
        // A call that died with its node is over after ten seconds.
        sleep(2 * A_WHILE);
        let call = mailbox.call(atrn(&sandbox, "n1"), theirs, "");
        assert!(call.answer.starts_with("250"), "{}", call.answer);
        // What was under way when the node died may come twice; none is missing.
        wait_until_held(&sandbox, "n1", 0);
        drop(call);
        let received = mailbox.received();
        let all = subjects(&received);
        for subject in ["four", "five"] {
            assert!(all.contains(&subject), "{all:?}");
        }
    });
}

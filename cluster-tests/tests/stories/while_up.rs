//! A backup is not a second entrance: while the customer's server is up, senders are asked to go
//! there, and those that cannot are found out and taken in.

use std::thread::sleep;
use std::time::Duration;

use holdfast_cluster_tests::harness::{Sandbox, wait_for};
use holdfast_cluster_tests::story::{Mailbox, pass, send};

use crate::{A_WHILE, BOB, DOMAIN, JOE, SOON, apart, beside_others};

#[test]
fn senders_are_asked_to_go_to_a_server_that_is_up_and_believed_when_they_cannot() {
    let _turn = beside_others();
    apart(|| {
        let mut mailbox = Mailbox::new();
        mailbox.come_up();
        let sandbox = Sandbox::start(3, DOMAIN, mailbox.address());
        let policy = ["--while-up", "defer", "--probe", "10m"];
        sandbox.must("n1", &[&["domain", "set", DOMAIN], &policy[..]].concat());
        let says = |what: &'static str| {
            wait_for(what, SOON, || {
                let shown = sandbox.must("n2", &["domain", "show", DOMAIN]);
                shown["says"].to_string().contains(what).then_some(())
            });
        };
        let give = |from: &str, subject: &str| send(sandbox.node("n1").smtp, from, JOE, subject);

        // A server that has just come up is not relied on yet.
        says("The primary has been up for");
        says("is accepted now and delivered to");
        assert_eq!(give(BOB, "one").code, 250);
        pass(&sandbox, "2m");
        says("The primary has been up for 2m");
        says("is put off with 451 now, since the primary is up");
        let deferred = give(BOB, "two");
        assert_eq!(deferred.code, 451);
        assert!(
            deferred.text.contains("please deliver there"),
            "{deferred:?}"
        );
        // A notification is not sent elsewhere.
        assert_eq!(give("", "three").code, 250);

        // Who comes back for a quarter of an hour cannot get there. He tries one node after the other,
        // as the zone has senders do, and they tell each other.
        for node in ["n2", "n3"] {
            let answer = send(sandbox.node(node).smtp, BOB, JOE, "two");
            assert_eq!(answer.code, 451, "{node}: {answer:?}");
            sleep(A_WHILE);
            pass(&sandbox, "5m");
        }
        // Sooner than either could have counted three tries for itself.
        for node in ["n3", "n2"] {
            wait_for("the sender to be believed", Duration::from_secs(15), || {
                let answer = send(sandbox.node(node).smtp, BOB, JOE, "two");
                (answer.code == 250).then_some(())
            });
            sleep(A_WHILE);
        }

        // While the server is down, everybody is taken. The first message for it shows that it is.
        mailbox.go_away();
        assert_eq!(give(BOB, "four").code, 250);
        says("The primary has been down for");
        says("is accepted now and held until");
        assert_eq!(give("other@sender.test", "five").code, 250);
    });
}

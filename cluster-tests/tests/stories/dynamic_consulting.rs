//! Dynamic Consulting: "until your quota is reached", with no end of holding, and a check of the
//! customer's server every few minutes.

use holdfast_cluster_tests::harness::{Sandbox, wait_for};
use holdfast_cluster_tests::story::{Mailbox, offer, pass, send};

use crate::{
    BOB, DOMAIN, JOE, SOON, apart, beside_others, deliverer, held, kill_in_the_middle, subjects,
    wait_until_held,
};

#[test]
fn dynamic_consulting_holds_without_end_until_the_quota_is_reached() {
    let _turn = beside_others();
    apart(|| {
        let mut mailbox = Mailbox::new();
        let mut sandbox = Sandbox::start(3, DOMAIN, mailbox.address());
        let policy = [
            ["--hold", "quota"],
            ["--quota", "20kB"],
            ["--quota-messages", "4"],
            ["--when-full", "later"],
            ["--probe", "5m"],
            ["--ping", "yes"],
        ];
        sandbox.must(
            "n2",
            &[&["domain", "set", DOMAIN], &policy.concat()[..]].concat(),
        );

        let mut number = 0;
        let mut give = |sandbox: &Sandbox, node: &str| {
            number += 1;
            send(sandbox.node(node).smtp, BOB, JOE, &number.to_string())
        };
        assert_eq!(give(&sandbox, "n1").code, 250);
        assert_eq!(give(&sandbox, "n2").code, 250);

        // What a sender says that it has is measured before it has sent it, at whichever node.
        let room = |node: &str, size| offer(sandbox.node(node).smtp, BOB, JOE, size);
        for node in ["n1", "n2", "n3"] {
            let fits = wait_for("room", SOON, || {
                let answer = room(node, 15_000);
                (answer.code == 250).then_some(answer)
            });
            assert_eq!(fits.code, 250);
            let full = room(node, 19_900);
            assert_eq!((full.code, &full.text[4..9]), (452, "4.2.2"), "{full:?}");
            // It would not fit into an empty one either.
            assert_eq!(room(node, 20_001).code, 552);
        }
        // The machine was asked too whether it is there; and nothing depends on it.
        wait_for("word of the customer's machine", SOON, || {
            let shown = sandbox.must("n3", &["domain", "show", DOMAIN]);
            let says = shown["says"].to_string();
            (says.contains("looked at every 5m") && says.contains("ping")).then_some(())
        });

        // The node that looks for the customer's server dies; the others go on, with the same count.
        let worker = deliverer(&sandbox);
        sandbox.kill(&worker);
        let others = sandbox.alive();
        let (a, b) = (others[0].as_str(), others[1].as_str());
        assert_eq!(give(&sandbox, a).code, 250);
        assert_eq!(give(&sandbox, b).code, 250);
        for node in [a, b] {
            let full = give(&sandbox, node);
            // RFC 3463: 4.2.2, mailbox full.
            assert_eq!((full.code, &full.text[4..9]), (452, "4.2.2"), "{full:?}");
        }
        let shown = sandbox.must(a, &["domain", "show", DOMAIN]);
        let says = shown["says"].to_string();
        assert!(says.contains("put off with 452 now"), "{says}");

        // A long time: nothing expires.
        pass(&sandbox, "300d");
        assert_eq!(held(&sandbox, a), 4);

        // The server is back, and whoever delivers dies in the middle of it.
        sandbox.restart(&worker);
        sandbox.wait_until_healthy(SOON);
        kill_in_the_middle(&mut sandbox, &mut mailbox, 4);
        let received = mailbox.wait_for(4, SOON);
        assert_eq!(subjects(&received), ["1", "2", "3", "4"]);
        // There is room again, as soon as what was delivered is recorded.
        let left = sandbox.alive()[0].clone();
        wait_until_held(&sandbox, &left, 0);
        assert_eq!(give(&sandbox, &left).code, 250);
        assert_eq!(mailbox.wait_for(5, SOON)[4].subject(), "7");
    });
}

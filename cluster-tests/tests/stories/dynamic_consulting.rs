//! Dynamic Consulting: "until your quota is reached", with no end of holding, and a check of the
//! customer's server every few minutes.

use holdfast_cluster_tests::harness::Sandbox;
use holdfast_cluster_tests::story::{Mailbox, pass, send};

use crate::{BOB, DOMAIN, JOE, SOON, alone, deliverer, held, subjects, wait_until_held};

#[test]
fn dynamic_consulting_holds_without_end_until_the_quota_is_reached() {
    let _alone = alone();
    let mut mailbox = Mailbox::new();
    let mut sandbox = Sandbox::start(3, DOMAIN, mailbox.address());
    let policy = [
        "--hold",
        "quota",
        "--quota-messages",
        "4",
        "--when-full",
        "later",
    ];
    sandbox.must("n2", &[&["domain", "set", DOMAIN], &policy[..]].concat());

    let mut number = 0;
    let mut give = |sandbox: &Sandbox, node: &str| {
        number += 1;
        send(sandbox.node(node).smtp, BOB, JOE, &number.to_string())
    };
    assert_eq!(give(&sandbox, "n1").code, 250);
    assert_eq!(give(&sandbox, "n2").code, 250);

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

    mailbox.come_up();
    let received = mailbox.wait_for(4, SOON);
    assert_eq!(subjects(&received), ["1", "2", "3", "4"]);
    // There is room again, as soon as what was delivered is recorded.
    wait_until_held(&sandbox, a, 0);
    assert_eq!(give(&sandbox, b).code, 250);
    assert_eq!(mailbox.wait_for(5, SOON)[4].subject(), "7");
}

//! SecurityMinded: mail is held for 30 days, by a server and "two more elsewhere"; the customer's own
//! server and one of ours are down at once.

use holdfast_cluster_tests::harness::Sandbox;
use holdfast_cluster_tests::story::{Mailbox, pass, send};

use crate::{
    BOB, DOMAIN, JOE, SENDERS, SOON, alone, deliverer, given_back, held, subjects, wait_until_held,
};

#[test]
fn security_minded_holds_for_thirty_days_with_the_primary_and_one_backup_down() {
    let _alone = alone();
    let mut mailbox = Mailbox::new();
    let mut senders = Mailbox::new();
    let mut sandbox = Sandbox::start(3, DOMAIN, mailbox.address());
    sandbox.must("n1", &["domain", "set", DOMAIN, "--hold", "30d"]);
    let bobs = senders.address().to_string();
    sandbox.must("n1", &["domain", "add", SENDERS, "--primary", &bobs]);

    let give = |sandbox: &Sandbox, node: &str, subject: &str| {
        send(sandbox.node(node).smtp, BOB, JOE, subject).code
    };
    assert_eq!(give(&sandbox, "n1", "one"), 250);
    sandbox.kill("n1");
    assert_eq!(give(&sandbox, "n2", "two"), 250);
    assert_eq!(give(&sandbox, "n3", "three"), 250);

    // 29 days later another node dies, in the middle of a delivery if it can.
    pass(&sandbox, "29d");
    assert_eq!(held(&sandbox, "n2"), 3);
    sandbox.restart("n1");
    sandbox.wait_until_healthy(SOON);
    let worker = deliverer(&sandbox);
    mailbox.come_up();
    sandbox.kill(&worker);
    let received = mailbox.wait_for(3, SOON);
    assert_eq!(subjects(&received), ["one", "two", "three"]);
    let other = sandbox.alive()[0].clone();
    wait_until_held(&sandbox, &other, 0);

    // What waits for more than 30 days goes back to its sender, once.
    mailbox.go_away();
    assert_eq!(give(&sandbox, &other, "four"), 250);
    senders.come_up();
    pass(&sandbox, "31d");
    let returned = given_back(&sandbox, &other, &senders);
    assert_eq!(
        (returned[0].from.as_str(), returned[0].to[0].as_str()),
        ("", BOB)
    );
    assert!(
        returned[0].text.contains("Subject: four"),
        "{}",
        returned[0].text
    );
    assert!(returned[0].text.contains(JOE));
    mailbox.come_up();
    assert_eq!(
        mailbox.received().len(),
        3,
        "what was given back is not delivered too"
    );
}

//! Webindia: customers on dynamic addresses sign in to a page from the machine that takes their mail,
//! and get it there as long as the page stays open; after five days it goes back to its sender.

use std::thread::sleep;

use holdfast_cluster_tests::harness::Sandbox;
use holdfast_cluster_tests::story::{Browser, Mailbox, pass, send};

use crate::{
    A_WHILE, BOB, DOMAIN, JOE, SENDERS, SOON, add_account, alone, given_back, portal, sign_in,
    subjects,
};

#[test]
fn webindia_customers_sign_in_where_they_are_and_get_their_mail_while_they_stay() {
    let _alone = alone();
    let mut mailbox = Mailbox::new();
    let mut senders = Mailbox::new();
    let mut sandbox = Sandbox::start(3, DOMAIN, mailbox.address());
    let policy = ["--deliver", "signed-in", "--hold", "5d"];
    sandbox.must("n1", &[&["domain", "set", DOMAIN], &policy[..]].concat());
    // Everything is on one machine here.
    let route = ["domain", "route", DOMAIN];
    sandbox.must(
        "n1",
        &[&route[..], &["--private-addresses", "allow"]].concat(),
    );
    let bobs = senders.address().to_string();
    sandbox.must("n1", &["domain", "add", SENDERS, "--primary", &bobs]);
    add_account(&sandbox);
    let give = |sandbox: &Sandbox, node: &str, subject: &str| {
        assert_eq!(send(sandbox.node(node).smtp, BOB, JOE, subject).code, 250);
    };

    // A server listens at the old address, and gets nothing: it may be somebody else's by now.
    mailbox.come_up();
    give(&sandbox, "n2", "one");
    sleep(A_WHILE);
    assert!(mailbox.received().is_empty(), "nobody was signed in");

    let browser = Browser::start();
    let page = browser.open((1100, 900), true);
    sign_in(&page, &portal(&sandbox, "n1"));
    page.expect("It is delivered, in order, while you receive it here.");
    page.picture("9-somebody-to-receive");
    page.press_and_go_on("Receive mail here");
    page.expect("Mail comes to this machine");
    assert_eq!(subjects(&mailbox.wait_for(1, SOON)), ["one"]);
    page.expect("Nothing waits. What arrives is passed on at once.");
    page.picture("10-receiving");
    give(&sandbox, "n3", "two");
    assert_eq!(mailbox.wait_for(2, SOON)[1].subject(), "two");

    // The node with the connection dies: so does the session, and mail is held.
    sandbox.kill("n1");
    sleep(2 * A_WHILE);
    give(&sandbox, "n2", "three");
    sleep(A_WHILE);
    assert_eq!(mailbox.received().len(), 2, "the session had ended");

    // The same customer, at another node.
    page.go(&format!("{}/d/{DOMAIN}", portal(&sandbox, "n2")));
    page.expect("Holding 1 message");
    page.press_and_go_on("Receive mail here");
    assert_eq!(mailbox.wait_for(3, SOON)[2].subject(), "three");

    // Who closes the page gets no more, and after five days it goes back.
    drop(page);
    sleep(A_WHILE);
    give(&sandbox, "n3", "four");
    sleep(A_WHILE);
    assert_eq!(mailbox.received().len(), 3, "the page was closed");
    senders.come_up();
    pass(&sandbox, "6d");
    let returned = given_back(&sandbox, "n2", &senders);
    assert_eq!(
        (returned[0].from.as_str(), returned[0].to[0].as_str()),
        ("", BOB)
    );
    assert!(
        returned[0].text.contains("Subject: four"),
        "{}",
        returned[0].text
    );
}

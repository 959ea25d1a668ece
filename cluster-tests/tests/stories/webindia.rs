//! Webindia: customers on dynamic addresses sign in to a page from the machine that takes their mail,
//! and get it there as long as the page stays open; after five days it goes back to its sender.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread::sleep;

use holdfast_cluster_tests::harness::{Sandbox, free_port, in_its_own_world, wait_for};
use holdfast_cluster_tests::story::{Browser, Lent, Mailbox, Web, pass, send};

use crate::{
    A_WHILE, BOB, DOMAIN, JOE, NAME, PASSWORD, SENDERS, SOON, add_account, apart, beside_others,
    deliverer, given_back, portal, sign_in, subjects, wait_until_held,
};

/// Of a server that the customer does not have.
const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

#[test]
fn webindia_customers_sign_in_where_they_are_and_get_their_mail_while_they_stay() {
    let _turn = beside_others();
    apart(|| {
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
    });
}

/// Dial-up customers have another address each day, and yesterday's is somebody else's.
#[test]
fn webindia_mail_follows_the_customer_to_a_new_address_and_stops_when_the_line_is_dead() {
    let _turn = beside_others();
    in_its_own_world(|| {
        let at = |last| IpAddr::V4(Ipv4Addr::new(203, 0, 113, last));
        let port = free_port();
        let line = Lent::new(at(7));
        let mut mailbox = Mailbox::at(SocketAddr::new(at(7), port));
        let mut sandbox = Sandbox::start(3, DOMAIN, mailbox.address());
        let policy = ["--deliver", "signed-in", "--hold", "5d"];
        sandbox.must("n1", &[&["domain", "set", DOMAIN], &policy[..]].concat());
        add_account(&sandbox);
        let give = |sandbox: &Sandbox, subject: &str| {
            let node = sandbox.alive()[0].clone();
            assert_eq!(send(sandbox.node(&node).smtp, BOB, JOE, subject).code, 250);
        };
        let receive = |sandbox: &Sandbox, node: &str, from: IpAddr| {
            let web = Web::new(sandbox.node(node).portal.expect("a portal"));
            let page = format!("/d/{DOMAIN}");
            let customer = web.from(from).sign_in(NAME, PASSWORD);
            customer.press_and_stay(&page, &format!("{page}/receive"))
        };
        give(&sandbox, "one");
        give(&sandbox, "two");

        // The node that delivers dies in the middle of it; the customer is signed in at another.
        mailbox.stall_after(1);
        mailbox.come_up();
        let page = receive(&sandbox, "n1", at(7));
        mailbox.wait_until_stalled(SOON);
        wait_until_held(&sandbox, "n1", 1);
        let worker = deliverer(&sandbox);
        sandbox.kill(&worker);
        mailbox.go_on();
        drop(page);
        let node = sandbox.alive()[0].clone();
        let page = receive(&sandbox, &node, at(7));
        assert_eq!(subjects(&mailbox.wait_for(2, SOON)), ["one", "two"]);

        // The line goes dead: nobody closes anything. Soon the address is another customer's.
        drop(line);
        sleep(4 * A_WHILE);
        mailbox.go_away();
        give(&sandbox, "three");
        let others = Lent::new(at(7));
        let mut stranger = Mailbox::at(SocketAddr::new(at(7), port));
        stranger.come_up();
        sleep(2 * A_WHILE);
        assert!(stranger.received().is_empty(), "{}", page.text());
        let told = sandbox.ask(&node, &["events"]).stdout;
        let told = String::from_utf8_lossy(&told);
        assert!(!told.contains("primary_down"), "{told}");

        // Who has stolen the password and not the server's key gets nothing.
        let pinned = ["--tls", "verified", "--pin", KEY];
        sandbox.must(&node, &[&["domain", "route", DOMAIN], &pinned[..]].concat());
        let stolen = receive(&sandbox, &node, others.address());
        wait_for("the thief to be signed in", SOON, || {
            stolen
                .text()
                .contains("Mail comes to this machine")
                .then_some(())
        });
        sleep(2 * A_WHILE);
        assert!(stranger.received().is_empty(), "the key is another");
        drop(stolen);
        let unpinned = ["--tls", "opportunistic", "--no-pin"];
        sandbox.must(
            &node,
            &[&["domain", "route", DOMAIN], &unpinned[..]].concat(),
        );

        // The customer has dialled in again, and is somewhere else.
        let line = Lent::new(at(8));
        let mut mailbox = Mailbox::at(SocketAddr::new(line.address(), port));
        mailbox.come_up();
        let page = receive(&sandbox, &node, line.address());
        assert_eq!(
            subjects(&mailbox.wait_for(1, SOON)),
            ["three"],
            "{}",
            page.text()
        );
        assert!(stranger.received().is_empty(), "it was signed out");
    });
}

/// Behind a proxy, the address that one is signed in from is not the server's; its name leads there.
#[test]
fn webindia_mail_goes_to_the_configured_host_while_the_page_is_open_and_is_held_once_it_is_closed()
{
    let _turn = beside_others();
    in_its_own_world(|| {
        let at = |last| IpAddr::V4(Ipv4Addr::new(203, 0, 113, last));
        let port = free_port();
        let (server, proxy) = (Lent::new(at(7)), Lent::new(at(9)));
        let mut mailbox = Mailbox::at(SocketAddr::new(server.address(), port));
        let mut others = Mailbox::at(SocketAddr::new(proxy.address(), port));
        let sandbox = Sandbox::start(3, DOMAIN, mailbox.address());
        let policy = ["--deliver", "signed-in-host"];
        sandbox.must("n1", &[&["domain", "set", DOMAIN], &policy[..]].concat());
        add_account(&sandbox);
        let give = |node: &str, subject: &str| {
            assert_eq!(send(sandbox.node(node).smtp, BOB, JOE, subject).code, 250);
        };
        let receive = |node: &str| {
            let web = Web::new(sandbox.node(node).portal.expect("a portal"));
            let page = format!("/d/{DOMAIN}");
            let customer = web.from(proxy.address()).sign_in(NAME, PASSWORD);
            customer.press_and_stay(&page, &format!("{page}/receive"))
        };
        let says = |words: &str| {
            wait_for(words, SOON, || {
                let shown = sandbox.ask("n3", &["domain", "show", DOMAIN]).stdout;
                String::from_utf8_lossy(&shown)
                    .contains(words)
                    .then_some(())
            });
        };
        mailbox.come_up();
        others.come_up();

        give("n2", "one");
        says("held until somebody signs in");
        sleep(2 * A_WHILE);
        assert!(mailbox.received().is_empty(), "nobody was signed in");

        let page = receive("n1");
        assert_eq!(subjects(&mailbox.wait_for(1, SOON)), ["one"]);
        assert!(
            page.text().contains("Mail comes to your server"),
            "{}",
            page.text()
        );
        says("while ann@example.test is signed in");
        give("n3", "two");
        assert_eq!(mailbox.wait_for(2, SOON)[1].subject(), "two");

        drop(page);
        says("held until somebody signs in");
        give("n2", "three");
        sleep(2 * A_WHILE);
        assert_eq!(mailbox.received().len(), 2, "the page was closed");

        // Once the policy is another, the page no longer says where mail goes, and ends.
        let page = receive("n2");
        assert_eq!(mailbox.wait_for(3, SOON)[2].subject(), "three");
        sandbox.must("n1", &["domain", "set", DOMAIN, "--deliver", "signed-in"]);
        wait_for("the page to end", SOON, || {
            page.text()
                .contains("Where mail goes was changed")
                .then_some(())
        });
        assert!(others.received().is_empty(), "it is nobody's server");
    });
}

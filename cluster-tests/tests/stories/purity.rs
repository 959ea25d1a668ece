//! Purity: "we contact your mail server to validate that the user is an accepted user"; a yes is
//! kept for 24 hours, a no for 30 minutes, and when the hurricane comes, known users' mail is
//! queued, unknown ones' refused, and nobody is asked twice.

use holdfast_cluster_tests::harness::{Sandbox, wait_for};
use holdfast_cluster_tests::story::{Mailbox, pass, send};

use crate::{
    BOB, DOMAIN, JOE, SENDERS, SOON, apart, beside_others, given_back, kill_in_the_middle, subjects,
};

const GHOST: &str = "ghost@example.test";
const NEW: &str = "new@example.test";

#[test]
fn purity_asks_the_customers_server_and_remembers_while_it_is_down() {
    let _turn = beside_others();
    apart(|| {
        let mut mailbox = Mailbox::new();
        let mut senders = Mailbox::new();
        mailbox.has_only(&[JOE, NEW]);
        mailbox.come_up();
        let mut sandbox = Sandbox::start(3, DOMAIN, mailbox.address());
        sandbox.must("n1", &["domain", "set", DOMAIN, "--recipients", "verify"]);
        let bobs = senders.address().to_string();
        sandbox.must("n1", &["domain", "add", SENDERS, "--primary", &bobs]);
        let give = |sandbox: &Sandbox, node: &str, to: &str, subject: &str| {
            send(sandbox.node(node).smtp, BOB, to, subject).code
        };

        // While the server is up, it says who is there, and is asked once for all nodes.
        assert_eq!(give(&sandbox, "n1", JOE, "one"), 250);
        assert_eq!(give(&sandbox, "n1", GHOST, "lost"), 550);
        mailbox.wait_for(1, SOON);
        let asked = |mailbox: &Mailbox| (mailbox.times_asked(JOE), mailbox.times_asked(GHOST));
        let before = asked(&mailbox);
        for node in ["n2", "n3"] {
            // What one node learns the others know as soon as they have applied the entry.
            wait_for("the others to hear of it", SOON, || {
                let verdicts = sandbox.ask(node, &["domain", "verdicts", DOMAIN]).stdout;
                String::from_utf8_lossy(&verdicts)
                    .contains("ghost")
                    .then_some(())
            });
            assert_eq!(give(&sandbox, node, GHOST, "lost"), 550);
        }
        assert_eq!(asked(&mailbox).1, before.1, "the others know");

        // The hurricane. The node that asked is struck too; what it learned is not.
        mailbox.go_away();
        sandbox.kill("n1");
        assert_eq!(give(&sandbox, "n2", JOE, "two"), 250);
        assert_eq!(give(&sandbox, "n3", GHOST, "lost"), 550);
        assert_eq!(give(&sandbox, "n3", NEW, "early"), 451);
        wait_for("the cluster to see that the server is down", SOON, || {
            let shown = sandbox.must("n3", &["domain", "show", DOMAIN]);
            shown["says"]
                .to_string()
                .contains("has been down for")
                .then_some(())
        });
        // A no is forgotten after half an hour; a yes lasts as long as nobody can be asked.
        pass(&sandbox, "31m");
        assert_eq!(give(&sandbox, "n2", GHOST, "lost"), 451);
        pass(&sandbox, "25h");
        assert_eq!(give(&sandbox, "n3", JOE, "three"), 250);

        // The server is back, and the node that delivers dies in the middle of it.
        sandbox.restart("n1");
        sandbox.wait_until_healthy(SOON);
        kill_in_the_middle(&mut sandbox, &mut mailbox, 2);
        let received = mailbox.wait_for(3, SOON);
        assert_eq!(subjects(&received), ["one", "two", "three"]);
        let other = sandbox.alive()[0].clone();
        assert_eq!(give(&sandbox, &other, NEW, "now"), 250);
        mailbox.wait_for(4, SOON);

        // "5 days or until your mail server comes back online".
        mailbox.go_away();
        assert_eq!(give(&sandbox, &other, JOE, "late"), 250);
        senders.come_up();
        pass(&sandbox, "6d");
        let returned = given_back(&sandbox, &other, &senders);
        assert!(
            returned[0].text.contains("Subject: late"),
            "{}",
            returned[0].text
        );
    });
}

//! SecurityMinded: mail is held for 30 days, by a server and "two more elsewhere"; the customer's own
//! server and one of ours are down at once.

use holdfast_cluster_tests::harness::Sandbox;
use holdfast_cluster_tests::story::{Mailbox, pass, send};

use crate::{
    BOB, DOMAIN, JOE, SENDERS, SOON, apart, beside_others, given_back, held, kill_in_the_middle,
    subjects, wait_until_held,
};

#[test]
fn security_minded_holds_for_thirty_days_with_the_primary_and_one_backup_down() {
    let _turn = beside_others();
    apart(|| {
        let mut mailbox = Mailbox::new();
        let mut senders = Mailbox::new();
        let mut sandbox = Sandbox::start(3, DOMAIN, mailbox.address());
        let policy = ["--hold", "30d", "--probe", "15m"];
        let set = [&["domain", "set", DOMAIN], &policy[..]].concat();
        sandbox.must("n1", &set);
        let bobs = senders.address().to_string();
        sandbox.must("n1", &["domain", "add", SENDERS, "--primary", &bobs]);

        let give = |sandbox: &Sandbox, node: &str, subject: &str| {
            send(sandbox.node(node).smtp, BOB, JOE, subject).code
        };
        // "Your domain records will show your mail server plus … our secondary mail servers."
        let [first, second, third] = exchangers(&sandbox);
        assert_eq!(give(&sandbox, &first, "one"), 250);
        sandbox.kill(&first);
        assert_eq!(give(&sandbox, &second, "two"), 250);
        assert_eq!(give(&sandbox, &third, "three"), 250);
        let shown = sandbox.must(&third, &["domain", "show", DOMAIN]);
        let says = shown["says"].to_string();
        assert!(says.contains("looked at every 15m"), "{says}");

        // 29 days later another node dies, in the middle of a delivery.
        pass(&sandbox, "29d");
        assert_eq!(held(&sandbox, &second), 3);
        sandbox.restart(&first);
        sandbox.wait_until_healthy(SOON);
        kill_in_the_middle(&mut sandbox, &mut mailbox, 3);
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
    });
}

/// Our hosts that the customer enters into the zone, as nodes are called here.
fn exchangers(sandbox: &Sandbox) -> [String; 3] {
    let lines = sandbox.must("n2", &["domain", "dns", DOMAIN]);
    let lines = lines["records"].as_array().expect("lines").iter();
    let hosts = lines.filter_map(|line| {
        let (_, host) = line.as_str()?.split_once(" MX 20 ")?;
        Some(host.strip_suffix(".holdfast.test.")?.to_owned())
    });
    let hosts: Vec<String> = hosts.collect();
    hosts.try_into().expect("three hosts of ours")
}

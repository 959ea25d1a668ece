//! A customer who says nothing but the name of the domain: its MX records lead to the primary.

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::Duration;

use holdfast_cluster_tests::harness::{Sandbox, wait_for};
use holdfast_cluster_tests::story::{Mailbox, Zone, send};

use crate::{BOB, DOMAIN, JOE, SOON, apart, beside_others, held, subjects, wait_until_held};

const OURS: &str = "n1.holdfast.test. A 192.0.2.1
n2.holdfast.test. A 192.0.2.2
n3.holdfast.test. A 192.0.2.3
example.test. MX 20 n1.holdfast.test.
example.test. MX 30 worse.example.test.
worse.example.test. A 127.0.0.1
";

#[test]
fn mail_goes_to_the_exchangers_that_are_better_than_ours_and_never_round_in_a_loop() {
    let _turn = beside_others();
    apart(|| {
        // Where exchangers listen (RFC 5321): the port that nobody can choose.
        let first = SocketAddr::from(([127, 0, 0, 25], 25));
        let mut mailbox = Mailbox::at(first);
        let zone = Zone::new(Duration::from_secs(1));
        zone.says(OURS);
        let dns = zone.address().to_string();
        let primary = "127.0.0.1:2600".parse().expect("an address");
        let mut sandbox = Sandbox::start_with(3, DOMAIN, primary, &["--dns", &dns]);
        // We are the best exchanger that there is: nobody can mean that.
        let by_mx = ["domain", "set", DOMAIN, "--primary", "mx"];
        let refused = sandbox.ask("n1", &by_mx);
        let why = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            !refused.status.success() && why.contains("round in a loop"),
            "{why}"
        );
        let better = "example.test. MX 10 mail.example.test.\nmail.example.test. A 127.0.0.25\n";
        zone.says(&format!("{OURS}{better}"));
        sandbox.must("n1", &by_mx);
        // Nor is a node anybody's primary, by whatever name it is called.
        let ours = sandbox.node("n2").smtp;
        let alias = format!("alias.example.test:{}", ours.port());
        zone.says(&format!(
            "{OURS}{better}alias.example.test. A {}\n",
            ours.ip()
        ));
        let refused = sandbox.ask("n1", &["domain", "set", DOMAIN, "--primary", &alias]);
        let why = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(why.contains("is a node of this cluster"), "{why}");
        let give = |sandbox: &Sandbox, subject: &str| {
            let node = sandbox.alive()[0].clone();
            send(sandbox.node(&node).smtp, BOB, JOE, subject).code
        };
        let says = |sandbox: &Sandbox, what: &str| {
            wait_for(what, SOON, || {
                let shown = sandbox.must("n2", &["domain", "show", DOMAIN]);
                shown["says"].to_string().contains(what).then_some(())
            });
        };

        // The better one goes: worse ones than ours do not get the mail that we hold.
        zone.says(OURS);
        sleep(Duration::from_secs(2));
        assert_eq!(give(&sandbox, "one"), 250);
        says(&sandbox, "know of no other place for its mail");

        // It appears again. Its name leads to a private address, which an operator has to allow.
        zone.says(&format!("{OURS}{better}"));
        mailbox.come_up();
        says(
            &sandbox,
            "127.0.0.25, an address of mail.example.test, is private",
        );
        assert_eq!(held(&sandbox, "n2"), 1);
        let allow = ["domain", "route", DOMAIN, "--private-addresses", "allow"];
        let route = sandbox.must("n3", &allow);
        assert_eq!(route["to"], "mx", "{route}");
        mailbox.wait_for(1, SOON);

        // And whichever node dies, another finds the way.
        mailbox.go_away();
        assert_eq!(give(&sandbox, "two"), 250);
        sandbox.kill("n1");
        assert_eq!(give(&sandbox, "three"), 250);
        mailbox.come_up();
        let received = mailbox.wait_for(3, SOON);
        assert_eq!(subjects(&received), ["one", "two", "three"]);
        wait_until_held(&sandbox, "n2", 0);
    });
}

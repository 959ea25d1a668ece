//! "You will need to use what is known as a Mail Relay or Smart Host": customers who log in send mail to
//! anybody through any node, held and tried again like any other; nobody else does.

use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::Duration;

use holdfast_cluster_tests::harness::{Sandbox, have_address, in_its_own_world, wait_for};
use holdfast_cluster_tests::story::{Mailbox, Secure, Zone, pass, send};

use crate::{
    A_WHILE, BOB, DOMAIN, JOE, NAME, PASSWORD, SOON, add_account, apart, beside_others,
    deliverer_for, given_back, messages_for, wait_until_held,
};

const FRIEND: &str = "friend@far.test";

fn session(sandbox: &Sandbox, node: &str) -> Secure {
    let to = sandbox.node(node).submission.expect("a submission port");
    let mut session = Secure::connect(to);
    session.ask("EHLO office.example.test");
    session
}

fn submit(sandbox: &Sandbox, node: &str, to: &str, subject: &str) {
    let mut customer = session(sandbox, node);
    let welcome = customer.log_in((NAME, PASSWORD));
    assert!(welcome.starts_with("235"), "{welcome}");
    // In nobody else's name.
    let others = customer.ask(&format!("MAIL FROM:<{BOB}>"));
    assert!(others.starts_with("553"), "{others}");
    for (command, code) in [
        (format!("MAIL FROM:<{JOE}>"), "250"),
        (format!("RCPT TO:<{to}>"), "250"),
        ("DATA".to_owned(), "354"),
        (format!("Subject: {subject}\r\n\r\nHello.\r\n."), "250"),
    ] {
        let answer = customer.ask(&command);
        assert!(answer.starts_with(code), "{command}: {answer}");
    }
}

#[test]
fn customers_send_mail_to_anybody_and_nobody_else_does() {
    let _turn = beside_others();
    apart(|| {
        // The rest of the world, and the customer's own server.
        let mut world = Mailbox::new();
        let mut mailbox = Mailbox::new();
        let relay = world.address().to_string();
        let mut sandbox = Sandbox::start_with(3, DOMAIN, mailbox.address(), &["--relay", &relay]);
        add_account(&sandbox);

        // Without a login nothing is relayed, whoever asks.
        assert_eq!(send(sandbox.node("n1").smtp, JOE, FRIEND, "no").code, 550);
        let mut stranger = session(&sandbox, "n1");
        assert!(
            stranger
                .ask("MAIL FROM:<joe@example.test>")
                .starts_with("530")
        );
        assert!(stranger.log_in((NAME, "guessed")).starts_with("535"));

        submit(&sandbox, "n1", FRIEND, "one");
        // Mail that waits for somebody's domain opens no way to it for others.
        assert_eq!(send(sandbox.node("n2").smtp, JOE, FRIEND, "no").code, 550);

        submit(&sandbox, "n2", FRIEND, "two");
        // The node that sends it dies in the middle of it.
        world.stall_after(1);
        world.come_up();
        world.wait_until_stalled(SOON);
        wait_for("the first to be recorded", SOON, || {
            (messages_for(&sandbox, "far.test")? == 1).then_some(())
        });
        let worker = deliverer_for(&sandbox, "far.test").expect("somebody who sends");
        sandbox.kill(&worker);
        world.go_on();
        let received = world.wait_for(2, SOON);
        let mut subjects: Vec<_> = received.iter().map(|mail| mail.subject()).collect();
        subjects.sort_unstable();
        assert_eq!(subjects, ["one", "two"]);
        assert_eq!(received[0].from, JOE);

        // What cannot be sent comes back to the customer.
        world.go_away();
        sandbox.restart(&worker);
        sandbox.wait_until_healthy(SOON);
        submit(&sandbox, "n3", FRIEND, "three");
        mailbox.come_up();
        pass(&sandbox, "6d");
        wait_until_held(&sandbox, "n3", 0);
        let returned = given_back(&sandbox, "n3", &mailbox);
        assert!(
            returned[0].text.contains("Subject: three"),
            "{}",
            returned[0].text
        );
        assert_eq!(returned[0].to, [JOE]);
    });
}

/// What a stranger's server, or the DNS, says of mail is final at once: whoever sent it is there to
/// be told. A server that does not answer is left alone for minutes.
#[test]
fn strangers_are_believed_and_not_pestered() {
    const FAR: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 25));
    let _turn = beside_others();
    in_its_own_world(|| {
        have_address(FAR);
        let mut far = Mailbox::at(SocketAddr::new(FAR, 25));
        far.has_only(&[FRIEND]);
        far.come_up();
        let mut mailbox = Mailbox::new();
        mailbox.come_up();
        let zone = Zone::new(Duration::from_secs(1));
        zone.says(
            "far.test. MX 10 mail.far.test.
            mail.far.test. A 203.0.113.25
            silent.test. A 203.0.113.99
            silent.test. MX 10 silent.test.
            null.test. MX 0 .",
        );
        let dns = zone.address().to_string();
        let sandbox = Sandbox::start_with(3, DOMAIN, mailbox.address(), &["--dns", &dns]);
        add_account(&sandbox);

        submit(&sandbox, "n1", FRIEND, "one");
        far.wait_for(1, SOON);
        submit(&sandbox, "n2", "x@silent.test", "waits");
        let finals = [
            ("nobody@far.test", "550"),
            ("x@nowhere.test", "5.1.2"),
            ("x@null.test", "5.1.10"),
        ];
        for (count, (to, status)) in (1..).zip(finals) {
            submit(&sandbox, "n1", to, "in vain");
            let told = mailbox.wait_for(count, SOON);
            let text = &told[count - 1].text;
            assert!(text.contains(to) && text.contains(status), "{to}: {text}");
        }

        // Each node tried once: none knows whether it is its own line that is broken.
        sleep(2 * A_WHILE);
        let tries = |node: &str| {
            let log = sandbox.log(node);
            let failed = log.lines().filter(|line| {
                line.contains("no connection to the primary") && line.contains("silent.test")
            });
            failed.count()
        };
        let tries = ["n1", "n2", "n3"].map(tries);
        assert_eq!(tries, [1; 3], "connections to the server that is silent");
    });
}

//! "You will need to use what is known as a Mail Relay or Smart Host": customers who log in send mail to
//! anybody through any node, held and tried again like any other; nobody else does.

use holdfast_cluster_tests::harness::Sandbox;
use holdfast_cluster_tests::story::{Mailbox, Secure, pass, send};

use crate::{
    BOB, DOMAIN, JOE, NAME, PASSWORD, SOON, add_account, alone, given_back, wait_until_held,
};

const FRIEND: &str = "friend@far.test";

#[test]
fn customers_send_mail_to_anybody_and_nobody_else_does() {
    let _alone = alone();
    // The rest of the world, and the customer's own server.
    let mut world = Mailbox::new();
    let mut mailbox = Mailbox::new();
    let relay = world.address().to_string();
    let mut sandbox = Sandbox::start_with(3, DOMAIN, mailbox.address(), &["--relay", &relay]);
    add_account(&sandbox);

    // Without a login nothing is relayed, whoever asks.
    assert_eq!(send(sandbox.node("n1").smtp, JOE, FRIEND, "no").code, 550);
    let session = |sandbox: &Sandbox, node: &str| {
        let to = sandbox.node(node).submission.expect("a submission port");
        let mut session = Secure::connect(to);
        session.ask("EHLO office.example.test");
        session
    };
    let mut stranger = session(&sandbox, "n1");
    assert!(
        stranger
            .ask("MAIL FROM:<joe@example.test>")
            .starts_with("530")
    );
    assert!(stranger.log_in((NAME, "guessed")).starts_with("535"));

    let submit = |sandbox: &Sandbox, node: &str, to: &str, subject: &str| {
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
    };
    submit(&sandbox, "n1", FRIEND, "one");
    // Mail that waits for somebody's domain opens no way to it for others.
    assert_eq!(send(sandbox.node("n2").smtp, JOE, FRIEND, "no").code, 550);

    // The node that took it dies before the world is there.
    sandbox.kill("n1");
    submit(&sandbox, "n2", FRIEND, "two");
    world.come_up();
    let received = world.wait_for(2, SOON);
    let mut subjects: Vec<_> = received.iter().map(|mail| mail.subject()).collect();
    subjects.sort_unstable();
    assert_eq!(subjects, ["one", "two"]);
    assert_eq!(received[0].from, JOE);

    // What cannot be sent comes back to the customer.
    world.go_away();
    sandbox.restart("n1");
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
}

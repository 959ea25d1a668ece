//! PSINet: dial-up customers whose mail waits until they ask for it, by finger or with ETRN; one
//! question to one machine is enough, where it took three.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use holdfast_cluster_tests::harness::Sandbox;
use holdfast_cluster_tests::story::{Mailbox, send};

use crate::{BOB, DOMAIN, JOE, SOON, alone, deliverer, subjects};

fn ask(address: SocketAddr, text: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("the node listens");
    stream.write_all(text.as_bytes()).expect("it hears");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}

#[test]
fn psinet_customers_dial_up_and_ask_one_machine_for_what_all_of_them_hold() {
    let _alone = alone();
    let mut mailbox = Mailbox::new();
    let mut sandbox = Sandbox::start(3, DOMAIN, mailbox.address());
    // One at each of the three machines that customers used to ask one by one.
    for (node, subject) in [("n1", "one"), ("n2", "two"), ("n3", "three")] {
        assert_eq!(send(sandbox.node(node).smtp, BOB, JOE, subject).code, 250);
    }

    // While the line is down, asking tells the truth: it is tried, and nothing is lost.
    let finger = sandbox.node("n3").finger.expect("finger");
    let told = ask(finger, &format!("{DOMAIN}\r\n"));
    assert_eq!(
        told,
        format!("{DOMAIN}: 3 messages are waiting; delivery was started.\r\n")
    );
    let told = ask(finger, "elsewhere.test\r\n");
    assert!(
        told.contains("delivers it for nobody at your address"),
        "{told}"
    );

    // The machine that delivers dies just when the line comes up; another one is asked with ETRN.
    let worker = deliverer(&sandbox);
    mailbox.come_up();
    sandbox.kill(&worker);
    let other = sandbox.node(&sandbox.alive()[0]).smtp;
    let session =
        format!("EHLO smtp.{DOMAIN}\r\nETRN #{DOMAIN}\r\nETRN #elsewhere.test\r\nQUIT\r\n");
    let told = ask(other, &session);
    // RFC 1985 section 5.3: 250, 251, 252 or 253; never what is not ours.
    assert!(
        told.lines()
            .any(|line| line.starts_with("25") && line.contains(DOMAIN)),
        "{told}"
    );
    assert!(told.contains("\n458 ") || told.contains("\n459 "), "{told}");
    let received = mailbox.wait_for(3, SOON);
    assert_eq!(subjects(&received), ["one", "two", "three"]);
}

//! PSINet: dial-up customers whose mail waits until they ask for it, by finger or with ETRN; one
//! question to one machine is enough, where it took three.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use holdfast_cluster_tests::harness::{Sandbox, wait_for};
use holdfast_cluster_tests::story::{Mailbox, Zone, send};

use crate::{
    BOB, DOMAIN, JOE, SOON, apart, beside_others, deliverer, deliverer_for, subjects,
    wait_until_held,
};

fn ask(address: SocketAddr, text: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("the node listens");
    stream.write_all(text.as_bytes()).expect("it hears");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}

#[test]
fn psinet_customers_dial_up_and_ask_one_machine_for_what_all_of_them_hold() {
    let _turn = beside_others();
    apart(|| {
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

        // The machine that delivers dies in the middle of it; another one is asked with ETRN, and knows what
        // is left of what all three took.
        mailbox.stall_after(1);
        mailbox.come_up();
        mailbox.wait_until_stalled(SOON);
        let asked = sandbox.alive()[0].clone();
        wait_until_held(&sandbox, &asked, 2);
        let worker = deliverer(&sandbox);
        sandbox.kill(&worker);
        let other = sandbox.node(&sandbox.alive()[0]).smtp;
        let session =
            format!("EHLO smtp.{DOMAIN}\r\nETRN #{DOMAIN}\r\nETRN #elsewhere.test\r\nQUIT\r\n");
        // RFC 1985 section 5.3: "253 OK, <n> pending messages for node <x> started".
        let counted = format!("253 2.0.0 OK, 2 pending messages for node {DOMAIN} started");
        let told = wait_for("ETRN that counts", SOON, || {
            let told = ask(other, &session);
            told.contains(&counted).then_some(told)
        });
        // Never what is not ours.
        assert!(told.contains("\n459 "), "{told}");
        mailbox.go_on();
        let received = mailbox.wait_for(3, SOON);
        assert_eq!(subjects(&received), ["one", "two", "three"]);
    });
}

/// What was asked of us and what the customer's zone says: `pc` names us as its mail exchanger, as
/// those customers' machines did, and `lab` has an address and nothing else.
const HOSTS: &str = "n1.holdfast.test. A 192.0.2.1
n2.holdfast.test. A 192.0.2.2
n3.holdfast.test. A 192.0.2.3
pc.example.test. MX 20 n1.holdfast.test.
pc.example.test. A 127.0.0.26
lab.example.test. A 127.0.0.27
";

#[test]
fn psinet_mail_for_a_machine_goes_to_the_machine_it_names() {
    let _turn = beside_others();
    apart(|| {
        let at = |last| SocketAddr::from(([127, 0, 0, last], 25));
        let (mut pc, mut lab) = (Mailbox::at(at(26)), Mailbox::at(at(27)));
        let zone = Zone::new(Duration::from_secs(1));
        zone.says(HOSTS);
        let dns = zone.address().to_string();
        let mut hub = Mailbox::new();
        let mut sandbox = Sandbox::start_with(3, DOMAIN, hub.address(), &["--dns", &dns]);
        let (joe, ann) = ("joe@pc.example.test", "ann@lab.example.test");
        assert_eq!(send(sandbox.node("n1").smtp, BOB, joe, "early").code, 550);

        let route = ["domain", "route", DOMAIN, "--hosts", "direct"];
        let route = sandbox.must(
            "n1",
            &[&route[..], &["--private-addresses", "allow"]].concat(),
        );
        assert_eq!(route["hosts"], "direct", "{route}");
        sandbox.must("n2", &["domain", "set", DOMAIN, "--quota-messages", "12"]);
        let give = |sandbox: &Sandbox, to: &str, subject: &str| {
            wait_for("a node that takes it", SOON, || {
                let node = sandbox.alive().last()?.clone();
                let answer = send(sandbox.node(&node).smtp, BOB, to, subject);
                (answer.code == 250).then_some(())
            });
        };
        // Names that anybody can make up take no place.
        let made_up = send(
            sandbox.node("n2").smtp,
            BOB,
            "joe@no-such.example.test",
            "?",
        );
        assert_eq!(made_up.code, 550);
        for number in 0..10 {
            give(&sandbox, joe, &format!("pc {number}"));
        }
        give(&sandbox, ann, "lab");
        give(&sandbox, JOE, "hub");
        // All of them count with the domain, on every node.
        for node in ["n1", "n2", "n3"] {
            let full = wait_for("a full domain", SOON, || {
                let answer = send(sandbox.node(node).smtp, BOB, ann, "too much");
                (answer.code == 452).then_some(answer)
            });
            assert_eq!(full.code, 452);
        }
        let shown = sandbox.must("n3", &["domain", "show", DOMAIN]);
        let says = shown["says"].to_string();
        assert!(says.contains("for 2 of them"), "{says}");

        // One machine comes up, and asks for its own mail; whoever delivers dies in the middle of it.
        pc.stall_after(1);
        pc.come_up();
        let asked = "pc.example.test";
        ask(
            sandbox.node("n2").finger.expect("finger"),
            &format!("{asked}\r\n"),
        );
        pc.wait_until_stalled(SOON);
        let worker = deliverer_for(&sandbox, asked).expect("somebody who delivers");
        sandbox.kill(&worker);
        pc.go_on();
        let other = sandbox.alive()[0].clone();
        let told = wait_for("ETRN for all hosts", SOON, || {
            let session = format!("EHLO smtp.{DOMAIN}\r\nETRN @{DOMAIN}\r\nQUIT\r\n");
            let told = ask(sandbox.node(&other).smtp, &session);
            told.contains(&format!("node @{DOMAIN} started"))
                .then_some(told)
        });
        assert!(told.contains("253 ") || told.contains("252 "), "{told}");
        let received = pc.wait_for(10, SOON);
        let mut subjects: Vec<&str> = subjects(&received);
        subjects.sort_unstable();
        subjects.dedup();
        assert_eq!(subjects.len(), 10, "{subjects:?}");
        // What is for others waits for them.
        assert!(lab.received().is_empty() && hub.received().is_empty());
        lab.come_up();
        hub.come_up();
        lab.wait_for(1, SOON);
        hub.wait_for(1, SOON);
        wait_until_held(&sandbox, &other, 0);
        // What went made room.
        give(&sandbox, ann, "again");
        lab.wait_for(2, SOON);
    });
}

//! A host that says nothing for a while, and greets when mail goes to another already.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;

use holdfast_cluster_tests::harness::{Sandbox, free_port};
use holdfast_cluster_tests::story::{Mailbox, send};

use crate::{BOB, DOMAIN, JOE, SOON, apart, beside_others, subjects, wait_until_held};

/// Takes connections, and hands them over before anything is said.
fn mute(address: &str) -> mpsc::Receiver<TcpStream> {
    let listener = TcpListener::bind(address).expect("the old host's port");
    let (taken, connections) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if taken.send(stream).is_err() {
                return;
            }
        }
    });
    connections
}

/// Greets, agrees to everything, and tells what it hears until the client goes.
fn greet(mut stream: &TcpStream) -> Vec<String> {
    let mut heard = Vec::new();
    if stream.write_all(b"220 old.example.test ESMTP\r\n").is_err() {
        return heard;
    }
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { break };
        let answer: &[u8] = match line.as_str() {
            "DATA" => b"354 go on\r\n",
            _ => b"250 ok\r\n",
        };
        heard.push(line);
        if stream.write_all(answer).is_err() {
            break;
        }
    }
    heard
}

#[test]
fn a_host_that_greets_when_mail_goes_to_another_gets_none_and_does_not_hold_it_up() {
    let _turn = beside_others();
    apart(|| {
        let old = format!("127.0.0.1:{}", free_port());
        let mut new = Mailbox::new();
        new.come_up();
        let sandbox = Sandbox::start(3, DOMAIN, old.parse().expect("an address"));
        assert_eq!(send(sandbox.node("n1").smtp, BOB, JOE, "one").code, 250);
        wait_until_held(&sandbox, "n1", 1);
        // It was away, so this is a probe, which brings the first message along.
        let connections = mute(&old);
        let probe = connections.recv_timeout(SOON).expect("a probe");
        let primary = new.address().to_string();
        sandbox.must("n2", &["domain", "set", DOMAIN, "--primary", &primary]);
        let heard = greet(&probe);
        assert!(
            !heard.iter().any(|line| line.starts_with("MAIL")),
            "{heard:?}"
        );
        assert_eq!(subjects(&new.wait_for(1, SOON)), ["one"]);

        // Nor does one that was never away, and that a message waits for already.
        sandbox.must("n3", &["domain", "set", DOMAIN, "--primary", &old]);
        assert_eq!(send(sandbox.node("n1").smtp, BOB, JOE, "two").code, 250);
        let _silent = connections.recv_timeout(SOON).expect("a connection");
        sandbox.must("n1", &["domain", "set", DOMAIN, "--primary", &primary]);
        assert_eq!(subjects(&new.wait_for(2, SOON)), ["one", "two"]);
    });
}

//! Nodes are taken out of work, stopped, upgraded and put back, and no sender notices.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::Duration;

use holdfast_cluster_tests::harness::{Sandbox, wait_for};
use holdfast_cluster_tests::story::{Mailbox, send, send_over};

use crate::beside_others;

const DOMAIN: &str = "example.test";
const JOE: &str = "joe@example.test";
const BOB: &str = "bob@sender.test";
const SOON: Duration = Duration::from_secs(60);

/// Somebody who sends message after message, each to the first mail exchanger that serves them. A
/// transaction that begins and fails is an error.
pub(crate) struct Sender {
    stop: Arc<AtomicBool>,
    sent: JoinHandle<Vec<String>>,
}

impl Sender {
    pub(crate) fn start(exchangers: Vec<SocketAddr>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let sent = thread::spawn(move || {
            let mut sent = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let subject = format!("number {}", sent.len());
                let first = sent.len() % exchangers.len();
                let (before, after) = exchangers.split_at(first);
                let mut order = after.iter().chain(before);
                assert!(
                    order.any(|exchanger| is_taken(*exchanger, &subject)),
                    "{subject} was taken by no exchanger"
                );
                sent.push(subject);
                sleep(Duration::from_millis(50));
            }
            sent
        });
        Self { stop, sent }
    }

    pub(crate) fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.sent.join().expect("no transaction fails")
    }
}

/// Whether the exchanger serves, and then takes the message.
fn is_taken(exchanger: SocketAddr, subject: &str) -> bool {
    let Ok(stream) = TcpStream::connect(exchanger) else {
        return false;
    };
    let limit = Some(Duration::from_secs(60));
    stream.set_read_timeout(limit).expect("a socket");
    // One that stops closes, and one that serves greets.
    if !stream.peek(&mut [0]).is_ok_and(|read| read > 0) {
        return false;
    }
    let answer = send_over(&stream, BOB, JOE, subject);
    assert!(matches!(answer.code, 250 | 421), "{answer:?}");
    answer.code == 250
}

/// A session that its client keeps open from message to message, as busy mail servers do.
struct Line(BufReader<TcpStream>);

impl Line {
    /// `None`: the exchanger does not serve.
    fn open(exchanger: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect(exchanger).ok()?;
        stream.set_read_timeout(Some(SOON)).expect("a socket");
        let mut line = Self(BufReader::new(stream));
        let is_greeted = line.hear() == Some(220) && line.ask("EHLO sender.test") == Some(250);
        is_greeted.then_some(line)
    }

    /// The answer's code; `None`: the connection is gone.
    fn ask(&mut self, text: &str) -> Option<u16> {
        let mut stream = self.0.get_ref();
        stream.write_all(format!("{text}\r\n").as_bytes()).ok()?;
        self.hear()
    }

    fn hear(&mut self) -> Option<u16> {
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).ok()?;
            if line.as_bytes().get(3) != Some(&b'-') {
                return line.get(..3)?.parse().ok();
            }
        }
    }

    /// Whether the message was taken; it was not begun otherwise. One that was begun is taken.
    fn give(&mut self, subject: &str) -> bool {
        match self.ask(&format!("MAIL FROM:<{BOB}>")) {
            Some(250) => {}
            Some(421) | None => return false,
            code => panic!("{subject}: {code:?} to MAIL"),
        }
        let message = format!("Subject: {subject}\r\n\r\nHello.\r\n.");
        for (text, code) in [
            (format!("RCPT TO:<{JOE}>"), 250),
            ("DATA".to_owned(), 354),
            (message, 250),
        ] {
            assert_eq!(self.ask(&text), Some(code), "{subject}: {text}");
        }
        true
    }
}

/// Sends from session to session until it is stopped; what it sent.
pub(crate) fn send_over_kept_lines(
    at: usize,
    exchangers: &[SocketAddr],
    stop: &AtomicBool,
) -> Vec<String> {
    let mut sent = Vec::new();
    let mut turn = at;
    let mut line = None;
    while !stop.load(Ordering::Relaxed) {
        let subject = format!("{} of {at}", sent.len());
        let open = line.take().or_else(|| {
            turn += 1;
            Line::open(exchangers[turn % exchangers.len()])
        });
        if let Some(mut open) = open
            && open.give(&subject)
        {
            sent.push(subject);
            line = Some(open);
        }
        sleep(Duration::from_millis(20));
    }
    sent
}

pub(crate) fn exchangers(sandbox: &Sandbox) -> Vec<SocketAddr> {
    let names = sandbox.names().into_iter();
    names.map(|name| sandbox.node(&name).smtp).collect()
}

#[test]
fn a_cluster_is_upgraded_node_by_node_and_no_transaction_fails() {
    let _turn = beside_others();
    let mut mailbox = Mailbox::new();
    mailbox.come_up();
    let old = ["--level", "2"];
    let mut sandbox = Sandbox::start_with(3, DOMAIN, mailbox.address(), &old);
    let status = sandbox.status().expect("a status");
    assert_eq!(status["level"], 2, "{status}");
    // What only the new version knows is kept out of the log.
    let early = sandbox.ask("n1", &["drill", "run", "--kind", "primary-outage"]);
    assert_eq!(early.status.code(), Some(5), "{early:?}");

    let sender = Sender::start(exchangers(&sandbox));
    for name in sandbox.names() {
        let others: Vec<String> = sandbox.names().into_iter().filter(|n| *n != name).collect();
        let drained = sandbox.must(&others[0], &["node", "drain", &name]);
        assert_eq!(drained["safe_to_stop"], true, "{drained}");
        // Nothing depends on it: not even this can be noticed.
        sandbox.kill(&name);
        let early = sandbox.ask(&others[0], &["cluster", "finalize-upgrade"]);
        assert_eq!(early.status.code(), Some(5), "{early:?}");
        // With one node stopped, none can be spared.
        let second = sandbox.ask(&others[0], &["node", "drain", &others[1]]);
        assert_eq!(second.status.code(), Some(5), "{second:?}");
        sandbox.set_level(&name, None);
        sandbox.restart(&name);
        sandbox.wait_until_healthy(SOON);
        // It is back, and has no duties yet.
        let status = sandbox.status_of(&name).expect("a status");
        let nodes = status["nodes"].as_array().expect("nodes");
        let node = nodes.iter().find(|node| node["name"] == name.as_str());
        assert_eq!(node.expect("it")["drained"], true, "{status}");
        assert_ne!(status["leader"], name.as_str(), "{status}");
        let turned_away = send(sandbox.node(&name).smtp, BOB, JOE, "to a drained node");
        assert_eq!(turned_away.code, 421, "{turned_away:?}");
        sandbox.must(&others[1], &["node", "undrain", &name]);
        wait_for("its duties", SOON, || {
            let answer = send(sandbox.node(&name).smtp, BOB, JOE, "again");
            (answer.code == 250).then_some(())
        });
    }
    let sent = sender.stop();
    assert!(sent.len() > 20, "{} were sent", sent.len());
    // And every one arrives, once.
    let received = mailbox.wait_for(sent.len() + 3, SOON);
    for subject in &sent {
        let times = received
            .iter()
            .filter(|it| it.subject() == subject.as_str());
        assert_eq!(times.count(), 1, "{subject}");
    }

    let done = sandbox.must("n2", &["cluster", "finalize-upgrade"]);
    assert_eq!(
        (&done["before"], &done["level"]),
        (&2.into(), &4.into()),
        "{done}"
    );
    wait_for("the level", SOON, || {
        (sandbox.status_of("n3")?["level"] == 4).then_some(())
    });
    // Now it is known to all of them.
    sandbox.must(
        "n1",
        &["drill", "run", "--kind", "disk-full", "--duration", "1s"],
    );
    // An older version cannot run here any more, and says so.
    sandbox.kill("n3");
    sandbox.set_level("n3", Some(2));
    sandbox.restart("n3");
    wait_for("its last word", SOON, || {
        sandbox.log("n3").contains("feature level").then_some(())
    });
    let status = sandbox.status_of("n1").expect("a status");
    assert_eq!(status["quorum"], true, "{status}");
}

#[test]
fn a_leader_that_dies_while_it_is_drained_is_drained_when_it_comes_back() {
    let _turn = beside_others();
    let mut mailbox = Mailbox::new();
    mailbox.come_up();
    let mut sandbox = Sandbox::start(3, DOMAIN, mailbox.address());
    let leader = sandbox.leader().expect("a leader");
    let other = sandbox.names().into_iter().find(|name| *name != leader);
    let other = other.expect("three nodes");
    // A session that stays keeps the command waiting.
    let held = TcpStream::connect(sandbox.node(&leader).smtp).expect("it listens");
    held.peek(&mut [0]).expect("a greeting");
    let draining = sandbox.begin_asking(&other, &["node", "drain", &leader]);
    wait_for("another leader", SOON, || {
        sandbox.leader().filter(|name| *name != leader).map(drop)
    });
    sandbox.kill(&leader);
    drop(held);
    // Its leases run out, and then it is safe.
    let drained = draining.wait_with_output().expect("an end");
    assert!(drained.status.success(), "{drained:?}");
    sandbox.restart(&leader);
    sandbox.wait_until_healthy(SOON);
    let answer = send(sandbox.node(&leader).smtp, BOB, JOE, "early");
    assert_eq!(answer.code, 421, "{answer:?}");
    let refused = sandbox.ask(&other, &["cluster", "transfer-leader", &leader]);
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
    sandbox.must(&leader, &["node", "undrain", &leader]);
    let answer = wait_for("its duties", SOON, || {
        let answer = send(sandbox.node(&leader).smtp, BOB, JOE, "late");
        (answer.code == 250).then_some(answer)
    });
    assert_eq!(answer.code, 250);
    mailbox.wait_for(1, SOON);
}

#[test]
fn leadership_is_handed_to_nobody_who_is_dead_and_mail_is_taken_meanwhile() {
    let _turn = beside_others();
    let mut mailbox = Mailbox::new();
    mailbox.come_up();
    let mut sandbox = Sandbox::start(3, DOMAIN, mailbox.address());
    let leader = sandbox.leader().expect("a leader");
    let others = sandbox.names().into_iter().filter(|name| *name != leader);
    let [dead, heir] = &others.collect::<Vec<_>>()[..] else {
        panic!("three nodes");
    };
    sandbox.kill(dead);
    for asked in [heir, &leader] {
        for options in [&["--dry-run"][..], &[]] {
            let command = [&["cluster", "transfer-leader", dead][..], options].concat();
            let refused = sandbox.ask(asked, &command);
            let said = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert_eq!(refused.status.code(), Some(5), "{command:?}: {said}");
            let why = format!("{dead} does not answer");
            assert!(said.contains(&why) && said.contains("fix: "), "{said}");
            let answer = send(sandbox.node(&leader).smtp, BOB, JOE, "at once");
            assert_eq!(answer.code, 250, "{command:?}: {answer:?}");
        }
    }
    assert_eq!(sandbox.leader().as_ref(), Some(&leader));
    sandbox.must(&leader, &["cluster", "transfer-leader"]);
    assert_eq!(sandbox.leader().as_ref(), Some(heir));
}

#[test]
fn nodes_are_restarted_one_by_one_and_no_transaction_on_a_session_that_stays_open_fails() {
    let _turn = beside_others();
    let mut mailbox = Mailbox::new();
    mailbox.come_up();
    let mut sandbox = Sandbox::start(3, DOMAIN, mailbox.address());
    let exchangers = exchangers(&sandbox);
    let stop = Arc::new(AtomicBool::new(false));
    let senders: Vec<_> = (0..6)
        .map(|at| {
            let (exchangers, stop) = (exchangers.clone(), stop.clone());
            thread::spawn(move || send_over_kept_lines(at, &exchangers, &stop))
        })
        .collect();
    let newcomer = Sender::start(exchangers);
    sleep(Duration::from_secs(1));
    let leader = sandbox.leader().expect("a leader");
    let mut names = sandbox.names();
    names.sort_by_key(|name| *name == leader);
    for name in names {
        // Nobody was asked to drain it.
        sandbox.terminate(&name);
        sandbox.restart(&name);
        sandbox.wait_until_healthy(SOON);
    }
    sleep(Duration::from_secs(1));
    stop.store(true, Ordering::Relaxed);
    let mut sent = newcomer.stop();
    for sender in senders {
        sent.extend(sender.join().expect("no transaction fails"));
    }
    assert!(sent.len() > 100, "{} were sent", sent.len());
    let received = mailbox.wait_for(sent.len(), SOON);
    for subject in &sent {
        let times = received
            .iter()
            .filter(|it| it.subject() == subject.as_str());
        assert_eq!(times.count(), 1, "{subject}");
    }
}

//! A customer's own mail server, as simple as one can be. It begins away.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::secure::{Ended, Secure};
use crate::harness::{free_port, wait_for};

/// A message that was delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    pub from: String,
    pub to: Vec<String>,
    pub text: String,
}

impl Received {
    /// The value of its Subject line.
    #[must_use]
    pub fn subject(&self) -> &str {
        let mut lines = self.text.lines();
        lines
            .find_map(|line| line.strip_prefix("Subject: "))
            .unwrap_or_default()
    }
}

#[derive(Default)]
struct Inside {
    received: Mutex<Vec<Received>>,
    /// Addresses that it has, if it has not all of them.
    users: Mutex<Option<BTreeSet<String>>>,
    /// Names that RCPT was asked for, each time.
    asked: Mutex<Vec<String>>,
    /// It puts off every recipient.
    is_busy: AtomicBool,
    /// Messages that it takes before it stalls, if it does.
    patience: Mutex<Option<usize>>,
    /// Clients that wait in the middle of a message.
    stalled: Mutex<usize>,
    open: Mutex<Vec<TcpStream>>,
}

/// A connection over which mail is fetched.
pub struct Call {
    /// To ATRN.
    pub answer: String,
    client: Ended,
}

impl Call {
    /// Waits until the node has ended it.
    ///
    /// # Panics
    /// If it does not in time.
    pub fn wait_for_its_end(&mut self, limit: Duration) {
        wait_for("the call to end", limit, || {
            self.client.0.try_wait().expect("a process").map(drop)
        });
    }
}

pub struct Mailbox {
    address: SocketAddr,
    inside: Arc<Inside>,
    up: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Mailbox {
    #[must_use]
    pub fn new() -> Self {
        Self::at(SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())))
    }

    #[must_use]
    pub fn at(address: SocketAddr) -> Self {
        Self {
            address,
            inside: Arc::default(),
            up: None,
        }
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// # Panics
    /// If its port was taken meanwhile.
    pub fn come_up(&mut self) {
        let listener = TcpListener::bind(self.address).expect("the mailbox's port");
        listener.set_nonblocking(true).expect("a socket");
        let (going, inside) = (Arc::new(AtomicBool::new(false)), self.inside.clone());
        let stop = going.clone();
        let listening = thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let Ok((stream, _)) = listener.accept() else {
                    thread::sleep(Duration::from_millis(20));
                    continue;
                };
                stream.set_nonblocking(false).expect("a socket");
                lock(&inside.open).push(stream.try_clone().expect("a socket"));
                let inside = inside.clone();
                // A client may go at any time.
                thread::spawn(move || drop(serve(BufReader::new(&stream), &stream, &inside)));
            }
        });
        self.up = Some((going, listening));
    }

    /// Fetches mail over a connection of its own (RFC 2645): logs in at `node` and says ATRN, with
    /// `domains` if any. What ATRN is answered with comes back; after 250 mail goes over the connection
    /// until the node ends it, or the call is dropped.
    ///
    /// # Panics
    /// If no session under TLS comes up, or the login is refused.
    pub fn call(&self, node: SocketAddr, login: (&str, &str), domains: &str) -> Call {
        let mut session = Secure::connect(node);
        session.ask("EHLO mailbox.test");
        let answer = session.log_in(login);
        assert!(answer.starts_with("235"), "{answer}");
        let answer = session.ask(format!("ATRN {domains}").trim_end());
        let Secure { lines, out, client } = session;
        if answer.starts_with("250") {
            let inside = self.inside.clone();
            // The node may go at any time.
            thread::spawn(move || drop(serve(lines, out, &inside)));
        }
        Call { answer, client }
    }

    pub fn go_away(&mut self) {
        if let Some((going, listening)) = self.up.take() {
            going.store(true, Ordering::Relaxed);
            drop(listening.join());
        }
        for stream in lock(&self.inside.open).drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
        self.go_on();
    }

    /// From now on it refuses mail for others than these addresses.
    pub fn has_only(&self, users: &[&str]) {
        let users = users.iter().map(|&user| user.to_owned());
        *lock(&self.inside.users) = Some(users.collect());
    }

    /// From now on it puts everybody off.
    pub fn be_busy(&self) {
        self.inside.is_busy.store(true, Ordering::Relaxed);
    }

    /// From now on it takes mail.
    pub fn be_ready(&self) {
        self.inside.is_busy.store(false, Ordering::Relaxed);
    }

    /// From now on it takes so many messages, and then stalls in the middle of each: it has begun to
    /// hear it, and says no more.
    pub fn stall_after(&self, messages: usize) {
        *lock(&self.inside.patience) = Some(messages);
    }

    /// Waits until somebody waits for it in the middle of a message.
    ///
    /// # Panics
    /// If nobody does in time.
    pub fn wait_until_stalled(&self, limit: Duration) {
        wait_for("somebody in the middle of a message", limit, || {
            (*lock(&self.inside.stalled) > 0).then_some(())
        });
    }

    /// It has come to its senses, and hangs up on those who wait: what it heard of their messages it
    /// has forgotten.
    pub fn go_on(&self) {
        *lock(&self.inside.patience) = None;
    }

    /// How often it was asked whether it takes mail for an address.
    #[must_use]
    pub fn times_asked(&self, address: &str) -> usize {
        let asked = lock(&self.inside.asked);
        asked.iter().filter(|name| *name == address).count()
    }

    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        lock(&self.inside.received).clone()
    }

    /// Waits until so many messages have arrived.
    ///
    /// # Panics
    /// If they do not in time.
    pub fn wait_for(&self, count: usize, limit: Duration) -> Vec<Received> {
        wait_for(&format!("{count} messages"), limit, || {
            let received = self.received();
            (received.len() >= count).then_some(received)
        })
    }
}

impl Inside {
    /// Whether it hears a message to its end.
    fn is_patient(&self) -> bool {
        match &mut *lock(&self.patience) {
            None => true,
            Some(0) => false,
            Some(more) => {
                *more -= 1;
                true
            }
        }
    }

    fn stall(&self) {
        *lock(&self.stalled) += 1;
        while lock(&self.patience).is_some() {
            thread::sleep(Duration::from_millis(20));
        }
        *lock(&self.stalled) -= 1;
    }
}

impl Default for Mailbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.go_away();
    }
}

fn serve(mut lines: impl BufRead, mut out: impl Write, inside: &Inside) -> std::io::Result<()> {
    let mut say = |text: &str| {
        out.write_all(format!("{text}\r\n").as_bytes())?;
        out.flush()
    };
    say("220 mailbox.test ESMTP")?;
    let (mut from, mut to) = (String::new(), Vec::new());
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let line = line.trim_end().to_owned();
        let path = || {
            let inner = line
                .split_once('<')
                .and_then(|(_, rest)| rest.split_once('>'));
            inner.map_or(String::new(), |(path, _)| path.to_owned())
        };
        match line
            .get(..4)
            .unwrap_or_default()
            .to_ascii_uppercase()
            .as_str()
        {
            "EHLO" => say("250-mailbox.test\r\n250 8BITMIME")?,
            "MAIL" => {
                (from, to) = (path(), Vec::new());
                say("250 2.1.0 ok")?;
            }
            "RCPT" => {
                let name = path();
                lock(&inside.asked).push(name.clone());
                let users = lock(&inside.users).clone();
                if inside.is_busy.load(Ordering::Relaxed) {
                    say("451 4.3.2 later")?;
                } else if users.is_some_and(|users| !users.contains(&name)) {
                    say("550 5.1.1 no such user")?;
                } else {
                    to.push(name);
                    say("250 2.1.5 ok")?;
                }
            }
            "DATA" if to.is_empty() => say("554 5.5.1 no recipients")?,
            "DATA" => {
                let is_patient = inside.is_patient();
                say("354 go on")?;
                if !is_patient {
                    lines.read_line(&mut String::new())?;
                    inside.stall();
                    return Ok(());
                }
                let mut text = String::new();
                loop {
                    let mut line = String::new();
                    if lines.read_line(&mut line)? == 0 {
                        return Ok(());
                    }
                    if line == ".\r\n" {
                        break;
                    }
                    text.push_str(line.strip_prefix('.').unwrap_or(&line));
                }
                let (from, to) = (from.clone(), std::mem::take(&mut to));
                lock(&inside.received).push(Received { from, to, text });
                say("250 2.0.0 taken")?;
            }
            "QUIT" => return say("221 2.0.0 bye"),
            "RSET" | "NOOP" => say("250 2.0.0 ok")?,
            _ => say("502 5.5.1 what?")?,
        }
    }
}

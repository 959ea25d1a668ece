//! A customer's own mail server: down, or up with the moods of a real one.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::letter::{opened, reported};
use super::ports;
use super::wire::Wire;
use crate::history::{Answer, Digest, Event, Framing, Recorder};
use crate::random::Random;

const ACCEPT_POLL: Duration = Duration::from_millis(20);
const CHUNK_BYTES_MAX: usize = 64 << 20;

/// One in so many recipients is deferred,
const RECIPIENT_DEFERRED_ONE_IN: u64 = 20;
/// one in so many messages is deferred after its final dot,
const MESSAGE_DEFERRED_ONE_IN: u64 = 15;
/// and after one in so many that was taken, the answer never comes.
const ANSWER_LOST_ONE_IN: u64 = 40;

/// The domain of those who send; its server takes notifications.
pub(super) const SENDERS: &str = "sender.test";

/// How a primary treats its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// It takes everything and always answers.
    Willing,
    /// It defers now and then, and sometimes an answer of its does not come.
    Human,
    /// It also stalls, talks nonsense, contradicts itself and hangs up, anywhere.
    Bad,
    /// It takes connections and says nothing.
    Silent,
}

/// In a bad mood, one in so many commands or lines meets with each misdeed.
const MISDEED_ONE_IN: u64 = 40;
/// And one in so many lines of text, of which there are more,
const HANG_UP_ONE_IN: u64 = 500;
/// or chunks, of which most messages are one.
const HANG_UP_IN_A_CHUNK_ONE_IN: u64 = 4;
/// Longer than people wait, shorter than RFC 5321 section 4.5.3.2 makes a client wait.
const STALL: Duration = Duration::from_secs(6);
/// More than any reply may be (RFC 5321 section 4.5.3.1.5).
const NONSENSE_BYTES: usize = 100_000;

/// The primary of one domain. It begins down.
#[derive(Debug)]
pub struct Primary {
    domain: &'static str,
    address: SocketAddr,
    seed: u64,
    recorder: Arc<Recorder>,
    mood: Arc<Mutex<Mood>>,
    /// Addresses that it has, if it has not all of them.
    users: Arc<Mutex<Option<BTreeSet<String>>>>,
    /// Sessions so far, also of earlier times: each is another.
    visits: Arc<AtomicU64>,
    up: Option<Up>,
}

#[derive(Debug)]
struct Up {
    going_down: Arc<AtomicBool>,
    sessions: Arc<Mutex<Vec<TcpStream>>>,
    listening: JoinHandle<()>,
}

impl Primary {
    #[must_use]
    pub fn new(domain: &'static str, at: IpAddr, seed: u64, recorder: Arc<Recorder>) -> Self {
        let address = SocketAddr::from((at, ports::free(1)));
        Self {
            domain,
            address,
            seed,
            recorder,
            mood: Arc::new(Mutex::new(Mood::Human)),
            users: Arc::default(),
            visits: Arc::default(),
            up: None,
        }
    }

    #[must_use]
    pub fn domain(&self) -> &'static str {
        self.domain
    }

    pub fn behave(&self, mood: Mood) {
        self.recorder
            .note(format!("the primary of {} is {mood:?} now", self.domain));
        *self.mood.lock().unwrap_or_else(PoisonError::into_inner) = mood;
    }

    /// From now on it refuses recipients other than these.
    pub fn has_only(&self, users: &[&str]) {
        let domain = self.domain;
        self.recorder
            .note(format!("the primary of {domain} has only {users:?} now"));
        let users = users.iter().map(|user| (*user).to_owned()).collect();
        *self.users.lock().unwrap_or_else(PoisonError::into_inner) = Some(users);
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// # Panics
    /// If its port has been taken by another program.
    pub fn come_up(&mut self) {
        if self.up.is_some() {
            return;
        }
        self.record(true);
        let listener = TcpListener::bind(self.address)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .expect("the primary's port is still free");
        let going_down = Arc::new(AtomicBool::new(false));
        let sessions = Arc::new(Mutex::new(Vec::new()));
        let listening = thread::spawn({
            let (going_down, sessions) = (Arc::clone(&going_down), Arc::clone(&sessions));
            let (domain, recorder, seed) = (self.domain, Arc::clone(&self.recorder), self.seed);
            let (mood, visits) = (Arc::clone(&self.mood), Arc::clone(&self.visits));
            let users = Arc::clone(&self.users);
            move || {
                while !going_down.load(Ordering::Relaxed) {
                    let Ok((stream, _)) = listener.accept() else {
                        thread::sleep(ACCEPT_POLL);
                        continue;
                    };
                    let mut random = Random::new(seed ^ visits.fetch_add(1, Ordering::Relaxed));
                    let offer = Offer::drawn(&mut random);
                    let session = || -> io::Result<Visit> {
                        stream.set_nonblocking(false)?;
                        let handle = stream.try_clone()?;
                        sessions
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(handle);
                        Ok(Visit {
                            wire: Wire::new(stream)?,
                            domain,
                            recorder: Arc::clone(&recorder),
                            random,
                            offer,
                            mood: Arc::clone(&mood),
                            users: Arc::clone(&users),
                            client: String::new(),
                            unconfirmed: None,
                            mail: Transaction::default(),
                        })
                    };
                    if let Ok(mut visit) = session() {
                        thread::spawn(move || {
                            // An error is a client that went away. Dropping the stream would not
                            // hang up: the list of sessions has another handle of it.
                            drop(visit.serve());
                            visit.begin_anew();
                            visit.wire.hang_up();
                        });
                    }
                }
            }
        });
        self.up = Some(Up {
            going_down,
            sessions,
            listening,
        });
    }

    /// Stops listening and cuts every connection.
    pub fn go_down(&mut self) {
        let Some(up) = self.up.take() else { return };
        up.going_down.store(true, Ordering::Relaxed);
        drop(up.listening.join());
        for session in up
            .sessions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
        {
            // It may have ended by itself.
            drop(session.shutdown(Shutdown::Both));
        }
        self.record(false);
    }

    fn record(&self, is_up: bool) {
        let domain = self.domain.to_owned();
        self.recorder.record(Event::Primary { domain, is_up });
    }
}

impl Drop for Primary {
    fn drop(&mut self) {
        self.go_down();
    }
}

struct Visit {
    wire: Wire,
    domain: &'static str,
    recorder: Arc<Recorder>,
    random: Random,
    offer: Offer,
    mood: Arc<Mutex<Mood>>,
    users: Arc<Mutex<Option<BTreeSet<String>>>>,
    /// As it calls itself.
    client: String,
    /// The message that was taken last, until the client shows that it knows.
    unconfirmed: Option<u64>,
    mail: Transaction,
}

#[derive(Default)]
struct Transaction {
    reverse_path: String,
    parameters: Vec<String>,
    recipients: Vec<String>,
    /// RCPT for the null sender and its answers, each with its time: questions, unless content
    /// comes.
    questions: Vec<(f64, String, Answer)>,
    text: Vec<u8>,
}

/// Extensions that many servers have and many do not. A client works with either, so a session has
/// them by chance.
#[derive(Clone, Copy)]
struct Offer {
    pipelining: bool,
    chunking: bool,
}

impl Offer {
    fn drawn(random: &mut Random) -> Self {
        Self {
            pipelining: random.one_in(2),
            chunking: random.one_in(2),
        }
    }

    fn reply(self) -> String {
        let mut lines = String::from("250-primary.test\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n");
        if self.pipelining {
            lines += "250-PIPELINING\r\n";
        }
        if self.chunking {
            lines += "250-CHUNKING\r\n";
        }
        lines + "250 ENHANCEDSTATUSCODES\r\n"
    }
}

impl Visit {
    /// Whether it does now what it does once in so many times, unless it is willing.
    fn slips(&mut self, one_in: u64) -> bool {
        self.mood() != Mood::Willing && self.random.one_in(one_in)
    }

    fn mood(&self) -> Mood {
        *self.mood.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a primary in a bad mood may do instead of answering.
    fn misbehave(&mut self) -> io::Result<()> {
        if self.mood() != Mood::Bad {
            return Ok(());
        }
        if self.random.one_in(MISDEED_ONE_IN) {
            thread::sleep(STALL);
        }
        if self.random.one_in(MISDEED_ONE_IN) {
            let nonsense: &[u8] = match self.random.between(0, 4) {
                0 => b"nonsense\r\n",
                1 => b"999 what\r\n",
                2 => b"250-it goes on\r\n354 and contradicts itself\r\n",
                3 => &[b'2'; NONSENSE_BYTES],
                _ => b"\0\xff\r\n",
            };
            self.wire.write(nonsense)?;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if self.random.one_in(MISDEED_ONE_IN) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }

    fn serve(&mut self) -> io::Result<()> {
        while self.mood() == Mood::Silent {
            // Until the client or the primary hangs up.
            if self.wire.line()?.is_none() {
                return Ok(());
            }
        }
        self.misbehave()?;
        self.wire.write(b"220 primary.test ESMTP\r\n")?;
        while let Some(line) = self.wire.line()? {
            if let Some(number) = self.unconfirmed.take() {
                self.recorder.record(Event::Confirmed { number });
            }
            self.misbehave()?;
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            let path = line.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
            let verb = line
                .split(' ')
                .next()
                .unwrap_or_default()
                .to_ascii_uppercase();
            if ["DATA", "BDAT"].contains(&verb.as_str()) {
                self.mail.questions.clear();
            }
            match verb.as_str() {
                "EHLO" => {
                    let name = line.split(' ').nth(1).unwrap_or_default();
                    // Nodes are known by the first label.
                    self.client = name.split('.').next().unwrap_or_default().to_owned();
                    self.wire.write(self.offer.reply().as_bytes())?;
                }
                "HELO" | "NOOP" => self.wire.write(b"250 2.0.0 ok\r\n")?,
                "RSET" => {
                    self.begin_anew();
                    self.wire.write(b"250 2.0.0 ok\r\n")?;
                }
                "MAIL" => {
                    self.begin_anew();
                    self.mail = Transaction {
                        reverse_path: path,
                        parameters: declared(&line),
                        ..Transaction::default()
                    };
                    self.wire.write(b"250 2.1.0 ok\r\n")?;
                }
                "RCPT" => self.recipient(path)?,
                "DATA" if self.mail.recipients.is_empty() => {
                    self.wire.write(b"554 5.5.1 no valid recipients\r\n")?;
                }
                "DATA" => {
                    self.wire.write(b"354 go on\r\n")?;
                    self.data()?;
                    self.decide()?;
                }
                "BDAT" if self.offer.chunking => self.chunk(&line)?,
                "QUIT" => return self.wire.write(b"221 2.0.0 bye\r\n"),
                _ => self.wire.write(b"500 5.5.2 unknown\r\n")?,
            }
        }
        Ok(())
    }

    fn recipient(&mut self, path: String) -> io::Result<()> {
        let is_known = {
            let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
            users.as_ref().is_none_or(|users| users.contains(&path))
        };
        let (answer, reply): (_, &[u8]) = if self.slips(RECIPIENT_DEFERRED_ONE_IN) {
            (Answer::Later, b"450 4.2.1 not now\r\n")
        } else if is_known {
            self.mail.recipients.push(path.clone());
            (Answer::Yes, b"250 2.1.5 ok\r\n")
        } else {
            (Answer::No, b"550 5.1.1 no such user\r\n")
        };
        if self.mail.reverse_path.is_empty() {
            let question = (self.recorder.now(), path, answer);
            self.mail.questions.push(question);
        }
        self.wire.write(reply)
    }

    /// The transaction is over without content, if there is one: what it asked was all.
    fn begin_anew(&mut self) {
        let mail = std::mem::take(&mut self.mail);
        for (at, recipient, answer) in mail.questions {
            let by = self.client.clone();
            let asked = Event::Asked {
                recipient,
                by,
                answer,
            };
            self.recorder.record_at(at, asked);
        }
    }

    fn data(&mut self) -> io::Result<()> {
        while let Some(line) = self.wire.line()? {
            if self.mood() == Mood::Bad && self.random.one_in(HANG_UP_ONE_IN) {
                return Err(self.cut(Framing::Dot));
            }
            if line == b".\r\n" {
                self.record_content(Framing::Dot, false);
                return Ok(());
            }
            self.mail
                .text
                .extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }

    fn chunk(&mut self, line: &str) -> io::Result<()> {
        let mut words = line.split_ascii_whitespace().skip(1);
        let size = words
            .next()
            .and_then(|size| size.parse().ok())
            .filter(|size| *size <= CHUNK_BYTES_MAX)
            .ok_or(io::ErrorKind::InvalidData)?;
        if size > 0 && self.mood() == Mood::Bad && self.random.one_in(HANG_UP_IN_A_CHUNK_ONE_IN) {
            let part = self.random.between(0, size as u64 - 1) as usize;
            self.wire.exact(part, &mut self.mail.text)?;
            return Err(self.cut(Framing::Chunks));
        }
        self.wire.exact(size, &mut self.mail.text)?;
        if self.mail.recipients.is_empty() {
            return self.wire.write(b"554 5.5.1 no valid recipients\r\n");
        }
        if words
            .next()
            .is_some_and(|word| word.eq_ignore_ascii_case("LAST"))
        {
            self.record_content(Framing::Chunks, false);
            return self.decide();
        }
        self.wire.write(b"250 2.0.0 ok\r\n")
    }

    /// Why the session ends in the middle of a message.
    fn cut(&self, framing: Framing) -> io::Error {
        self.record_content(framing, true);
        io::ErrorKind::ConnectionAborted.into()
    }

    fn record_content(&self, framing: Framing, cut: bool) {
        self.recorder.record(Event::Content { framing, cut });
    }

    /// The message has come in full: takes it, or does not.
    fn decide(&mut self) -> io::Result<()> {
        let mail = std::mem::take(&mut self.mail);
        if self.slips(MESSAGE_DEFERRED_ONE_IN) {
            return self.wire.write(b"451 4.3.0 not now\r\n");
        }
        if self.domain == SENDERS {
            let (attempt, recipients) = reported(&mail.text);
            for recipient in recipients {
                self.recorder.record(Event::Bounced {
                    attempt,
                    sender: mail.recipients.join(","),
                    recipient,
                });
            }
            return self.wire.write(b"250 2.0.0 taken\r\n");
        }
        let (attempt, text) = opened(&mail.text);
        let number = self.recorder.next_delivery();
        self.recorder.record(Event::Delivered {
            number,
            attempt,
            primary: self.domain.to_owned(),
            by: self.client.clone(),
            reverse_path: mail.reverse_path,
            parameters: mail.parameters,
            recipients: mail.recipients,
            digest: Digest::of(text),
        });
        if self.slips(ANSWER_LOST_ONE_IN) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        self.unconfirmed = Some(number);
        self.wire.write(b"250 2.0.0 taken\r\n")
    }
}

/// What MAIL says of the message. `SIZE` is left out: a trace line makes the message longer.
fn declared(line: &str) -> Vec<String> {
    let behind = line.rsplit('>').next().unwrap_or_default();
    let words = behind.split_ascii_whitespace();
    words
        .filter(|word| !word.to_ascii_uppercase().starts_with("SIZE="))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::harness::{Load, Session};
    use crate::history::End;
    use crate::invariants;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    /// The harness against itself: a primary as the node, so that every rule but the refusals'
    /// sees lawful mail.
    #[test]
    fn what_senders_send_the_primary_records() {
        let recorder = Arc::new(Recorder::default());
        let mut primary = Primary::new("example.test", HERE, 1, Arc::clone(&recorder));
        primary.come_up();
        let nodes = vec![("n1".to_owned(), primary.address())];
        let load = Arc::new(Load::new(
            nodes,
            &["example.test"],
            1,
            Arc::clone(&recorder),
        ));
        let senders = load.start(3);
        crate::harness::wait_for("acknowledgements", Duration::from_secs(20), || {
            (recorder.history().acknowledged() > 200).then_some(())
        });
        load.stop();
        for sender in senders {
            sender.join().unwrap();
        }
        let history = recorder.history();
        let report = invariants::check(&history);
        assert!(!report.is_broken(), "{report}");
        for rule in [
            "acknowledged mail lost",
            "bytes changed",
            "delivered although refused",
        ] {
            assert!(report.is_tried(rule), "{report}");
        }
        for framing in [Framing::Dot, Framing::Chunks] {
            assert!(history.contents(framing, false) > 0, "{framing:?}");
        }
        let tries = history.tries();
        for end in [End::BeforeTheDot, End::RefusedAfterTheDot, End::Unknown] {
            assert!(tries.iter().any(|a_try| a_try.end == end), "{end:?}");
        }
    }

    #[test]
    fn a_primary_in_a_bad_mood_hangs_up_in_the_middle_of_both_framings() {
        let recorder = Arc::new(Recorder::default());
        let mut primary = Primary::new("example.test", HERE, 1, Arc::clone(&recorder));
        primary.behave(Mood::Bad);
        primary.come_up();
        let load = Load::new(vec![], &["example.test"], 1, Arc::clone(&recorder));
        crate::harness::wait_for("a cut in each", Duration::from_secs(60), || {
            if let Ok(session) = Session::open("n1", primary.address()) {
                session.give(&load, &load.letter(), false);
            }
            let history = recorder.history();
            let is_cut = |framing| history.contents(framing, true) > 0;
            (is_cut(Framing::Dot) && is_cut(Framing::Chunks)).then_some(())
        });
    }

    #[test]
    fn a_message_can_be_finished_later_or_never() {
        let recorder = Arc::new(Recorder::default());
        let mut primary = Primary::new("example.test", HERE, 1, Arc::clone(&recorder));
        primary.come_up();
        let load = Load::new(vec![], &["example.test"], 1, Arc::clone(&recorder));
        let begin = || {
            Session::open("n1", primary.address())
                .unwrap()
                .begin(&load, &load.letter())
        };
        let (first, second) = (begin().unwrap(), begin().unwrap());
        assert_eq!(first.finish(&recorder), Some(250));
        primary.go_down();
        assert_eq!(second.finish(&recorder), None);
        assert_eq!(recorder.history().acknowledged(), 1);
    }
}

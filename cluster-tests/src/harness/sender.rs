//! Senders: they keep a letter until somebody says 250, and write down every answer.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::letter::Letter;
use super::wire::{Wire, stuffed};
use crate::history::{AttemptId, Digest, Event, Recorder, Stage};
use crate::random::Random;

/// Between two letters of a sender: disks are small, and what is held for minutes must fit.
const PACE: Duration = Duration::from_millis(40);
/// After every node has been tried in vain.
const PAUSE: Duration = Duration::from_millis(100);
/// Then a sender connects anew.
const LETTERS_PER_CONNECTION_MAX: u32 = 10;
/// One in so many tries is cut off by the sender in the middle of the message.
const CUT_ONE_IN: u64 = 25;

/// What the senders of one run share.
#[derive(Debug)]
pub struct Load {
    pub nodes: Vec<(String, SocketAddr)>,
    pub domains: Vec<&'static str>,
    pub seed: u64,
    pub recorder: Arc<Recorder>,
    next_letter: AtomicU64,
    next_attempt: AtomicU64,
    stopped: AtomicBool,
}

impl Load {
    #[must_use]
    pub fn new(
        nodes: Vec<(String, SocketAddr)>,
        domains: &[&'static str],
        seed: u64,
        recorder: Arc<Recorder>,
    ) -> Self {
        Self {
            nodes,
            domains: domains.to_vec(),
            seed,
            recorder,
            next_letter: AtomicU64::new(1),
            next_attempt: AtomicU64::new(1),
            stopped: AtomicBool::new(false),
        }
    }

    #[must_use]
    pub fn letter(&self) -> Letter {
        Letter::new(
            self.seed,
            self.next_letter.fetch_add(1, Ordering::Relaxed),
            &self.domains,
        )
    }

    /// The try that will begin next.
    #[must_use]
    pub fn next_attempt(&self) -> AttemptId {
        AttemptId(self.next_attempt.load(Ordering::Relaxed))
    }

    /// Senders that go on until they are stopped.
    #[must_use]
    pub fn start(self: &Arc<Self>, senders: usize) -> Vec<JoinHandle<()>> {
        self.stopped.store(false, Ordering::Relaxed);
        (0..senders)
            .map(|at| {
                let load = Arc::clone(self);
                thread::spawn(move || load.work(at))
            })
            .collect()
    }

    /// No new letter is begun, and none tried again.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    fn work(&self, at: usize) {
        let mut random = Random::new(self.seed ^ at as u64);
        let mut sessions: Vec<Option<Session>> = self.nodes.iter().map(|_| None).collect();
        while !self.is_stopped() {
            thread::sleep(PACE);
            let letter = self.letter();
            self.recorder.record(Event::Letter {
                letter: letter.number,
                recipients: letter.recipients.clone(),
            });
            for turn in at.. {
                let node = turn % self.nodes.len();
                let cut = random.one_in(CUT_ONE_IN);
                if self.hand_over(&mut sessions[node], node, &letter, cut) || self.is_stopped() {
                    break;
                }
                if turn % self.nodes.len() == 0 {
                    thread::sleep(PAUSE);
                }
            }
        }
    }

    /// One try; true if the letter needs no other.
    fn hand_over(
        &self,
        session: &mut Option<Session>,
        node: usize,
        letter: &Letter,
        cut: bool,
    ) -> bool {
        let (name, address) = &self.nodes[node];
        if session
            .as_ref()
            .is_some_and(|open| open.letters >= LETTERS_PER_CONNECTION_MAX)
        {
            *session = None;
        }
        let Some(open) = session
            .take()
            .or_else(|| Session::open(name, *address).ok())
        else {
            return false;
        };
        match open.give(self, letter, cut) {
            Some((code, open)) => {
                // 421: the node hangs up after it.
                *session = Some(open).filter(|_| code != 421);
                !(400..500).contains(&code)
            }
            None => false,
        }
    }
}

/// A connection on which EHLO has been answered.
pub struct Session {
    wire: Wire,
    node: String,
    letters: u32,
    /// Whether it offers BDAT.
    chunking: bool,
    /// What the last refusal said of its cause.
    cause: Cause,
}

/// Of a refusal, where a rule asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Other,
    /// A quota is used up.
    OverQuota,
    /// The primary cannot be asked about a recipient.
    Unverified,
}

/// A message of which all but the end has been sent.
pub struct Unfinished {
    wire: Wire,
    attempt: AttemptId,
    rest: Vec<u8>,
}

impl Session {
    /// # Errors
    /// If the node does not answer, or not with a welcome.
    pub fn open(node: &str, address: SocketAddr) -> io::Result<Self> {
        let mut wire = Wire::connect(address)?;
        let welcome = |code: u16| {
            if code < 400 {
                Ok(())
            } else {
                Err(io::Error::other(format!("{code}")))
            }
        };
        welcome(wire.reply()?)?;
        wire.write(b"EHLO sender.test\r\n")?;
        welcome(wire.reply()?)?;
        let chunking = wire.said.contains("CHUNKING");
        Ok(Self {
            wire,
            node: node.to_owned(),
            letters: 0,
            chunking,
            cause: Cause::Other,
        })
    }

    /// Hands a letter over and records how it went. Gives the code and, if the connection goes
    /// on, itself; `None` if there was no answer. With `cut`, hangs up in the middle.
    pub fn give(mut self, load: &Load, letter: &Letter, cut: bool) -> Option<(u16, Self)> {
        self.letters += 1;
        let attempt = AttemptId(load.next_attempt.fetch_add(1, Ordering::Relaxed));
        let text = letter.bytes(attempt);
        let (node, letters, chunking) = (self.node.clone(), self.letters, self.chunking);
        let (wire, code) = self.transact(&load.recorder, attempt, letter, &text, cut)?;
        Some((
            code,
            Self {
                wire,
                node,
                letters,
                chunking,
                cause: Cause::Other,
            },
        ))
    }

    /// As `give`, but stops when half of the message has been sent. `None` if it did not come
    /// so far.
    #[must_use]
    pub fn begin(mut self, load: &Load, letter: &Letter) -> Option<Unfinished> {
        let attempt = AttemptId(load.next_attempt.fetch_add(1, Ordering::Relaxed));
        let text = letter.bytes(attempt);
        record_attempt(&load.recorder, attempt, letter, &self.node, &text);
        let closed = |_| {
            load.recorder.record(Event::Closed {
                attempt,
                stage: Stage::BeforeTheDot,
            });
        };
        let code = self.envelope(letter).and_then(|code| match code {
            200..300 => {
                self.wire.write(b"DATA\r\n")?;
                self.wire.reply()
            }
            code => Ok(code),
        });
        let code = code.map_err(closed).ok()?;
        if code != 354 {
            load.recorder.record(Event::Replied {
                attempt,
                stage: Stage::BeforeTheDot,
                code,
            });
            return None;
        }
        let mut first = stuffed(&text);
        let rest = first.split_off(first.len() / 2);
        self.wire.write(&first).map_err(closed).ok()?;
        Some(Unfinished {
            wire: self.wire,
            attempt,
            rest,
        })
    }

    fn transact(
        mut self,
        recorder: &Recorder,
        attempt: AttemptId,
        letter: &Letter,
        text: &[u8],
        cut: bool,
    ) -> Option<(Wire, u16)> {
        record_attempt(recorder, attempt, letter, &self.node, text);
        // Odd tries go by BDAT where it is offered, the others by DATA.
        let by_chunk = attempt.0 % 2 == 1 && self.chunking;
        let mut stage = Stage::BeforeTheDot;
        let ended: io::Result<u16> = (|| {
            let code = self.envelope(letter)?;
            if code >= 300 {
                return Ok(code);
            }
            self.cause = Cause::Other;
            let payload = if by_chunk {
                [format!("BDAT {} LAST\r\n", text.len()).as_bytes(), text].concat()
            } else {
                self.wire.write(b"DATA\r\n")?;
                let code = self.wire.reply()?;
                if code != 354 {
                    return Ok(code);
                }
                stuffed(text)
            };
            if cut {
                self.wire.write(&payload[..payload.len() / 2])?;
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            // An error means that at least the last byte was never handed to the network.
            self.wire.write(&payload)?;
            stage = Stage::AfterTheDot;
            let code = self.wire.reply()?;
            self.cause = Cause::of(&self.wire.said);
            Ok(code)
        })();
        match ended {
            Ok(code) => {
                match self.cause {
                    Cause::Other => {}
                    Cause::OverQuota => recorder.record(Event::OverQuota { attempt }),
                    Cause::Unverified => recorder.record(Event::Unverified { attempt }),
                }
                recorder.record(Event::Replied {
                    attempt,
                    stage,
                    code,
                });
                if stage == Stage::BeforeTheDot {
                    self.wire
                        .write(b"RSET\r\n")
                        .and_then(|()| self.wire.reply())
                        .ok()?;
                }
                Some((self.wire, code))
            }
            Err(_) => {
                recorder.record(Event::Closed { attempt, stage });
                None
            }
        }
    }

    /// MAIL and RCPT, pipelined; the code of the first refusal, or of the last reply.
    fn envelope(&mut self, letter: &Letter) -> io::Result<u16> {
        let mut commands = format!("MAIL FROM:<{}>", letter.reverse_path);
        for parameter in &letter.parameters {
            commands += &format!(" {parameter}");
        }
        commands += "\r\n";
        for recipient in &letter.recipients {
            commands += &format!("RCPT TO:<{recipient}>\r\n");
        }
        self.wire.write(commands.as_bytes())?;
        let mut refused = None;
        let mut last = 250;
        self.cause = Cause::Other;
        for _ in 0..=letter.recipients.len() {
            last = self.wire.reply()?;
            if last >= 300 && refused.is_none() {
                refused = Some(last);
                self.cause = Cause::of(&self.wire.said);
            }
        }
        Ok(refused.unwrap_or(last))
    }
}

impl Cause {
    fn of(reply: &str) -> Self {
        let last = reply.lines().last().unwrap_or_default();
        // RFC 3463 section 3.3: "X.2.2 Mailbox full".
        if last.starts_with("452 4.2.2 ") || last.starts_with("552 5.2.2 ") {
            return Self::OverQuota;
        }
        // Section 3.5 has "X.4.1 No answer from host", for whatever host.
        if last.starts_with("451 4.4.1 ") && last.contains("cannot be asked about") {
            return Self::Unverified;
        }
        Self::Other
    }
}

impl Unfinished {
    /// Sends the rest and waits for the reply; `None` if there is none.
    pub fn finish(mut self, recorder: &Recorder) -> Option<u16> {
        let attempt = self.attempt;
        let (stage, code) = match self.wire.write(&self.rest) {
            Ok(()) => (Stage::AfterTheDot, self.wire.reply().ok()),
            Err(_) => (Stage::BeforeTheDot, None),
        };
        recorder.record(match code {
            Some(code) => Event::Replied {
                attempt,
                stage,
                code,
            },
            None => Event::Closed { attempt, stage },
        });
        code
    }
}

fn record_attempt(
    recorder: &Recorder,
    attempt: AttemptId,
    letter: &Letter,
    node: &str,
    text: &[u8],
) {
    recorder.record(Event::Attempt {
        attempt,
        letter: letter.number,
        node: node.to_owned(),
        reverse_path: letter.reverse_path.clone(),
        parameters: letter.parameters.clone(),
        recipients: letter.recipients.clone(),
        digest: Digest::of(text),
    });
}

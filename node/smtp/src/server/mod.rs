//! One session with a client that brings mail (RFC 5321), as a value.
//!
//! ```text
//! shell:   receive(bytes) ─┐            ┌─▶ Write     bytes for the client
//!          answer(reply)  ─┼─▶ Session ─┼─▶ Ask       what the shell must decide
//!          tls_started()  ─┘            ├─▶ Body      a piece of content
//!                                       ├─▶ Refused   what the client was refused, for log and counters
//!                                       ├─▶ Reset     forget the transaction
//!                                       └─▶ StartTls, Close, NeedInput
//! ```
//! The session keeps the order of the protocol and its syntax; who may send what, and where it
//! goes, the shell decides by answering questions.
//!
//! What a stream of bytes means never depends on how it was cut into reads, with one exception
//! on the safe side: bytes that came too early (behind DATA or STARTTLS) are noticed only when
//! they are there already. After a fault that leaves open where the next command begins, the
//! session ends: nothing that follows is taken for a command.

mod auth;
mod commands;
mod content;

use std::collections::VecDeque;
use std::time::Duration;

use auth::Exchange;
use holdfast_mail::{Domain, Recipient, mutant};

use crate::body::{Content, Octets};
use crate::limits::{
    COMMAND_TIME_MAX, CONTENT_TIME_MAX, PIECE_BYTES, TIMED_BLOCK_BYTES, TLS_TIME_MAX,
};
use crate::line::Input;
use crate::login::Login;
use crate::reply::Reply;
use crate::request::{Etrn, Mail};

/// What a session is told at its start.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server's name in greeting and EHLO reply.
    pub name: String,
    /// Largest message, bytes; announced in SIZE.
    pub message_bytes_max: u64,
    /// STARTTLS is offered.
    pub tls: bool,
    /// TLS began before the first byte (RFC 8314).
    pub secure: bool,
    pub service: Service,
}

impl Options {
    /// For mail exchangers.
    #[must_use]
    pub fn new(name: &str, message_bytes_max: u64, tls: bool) -> Self {
        Self {
            name: name.to_owned(),
            message_bytes_max,
            tls,
            secure: false,
            service: Service::Exchange,
        }
    }
}

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Anybody brings mail for domains of ours.
    Exchange,
    /// A customer who has logged in sends mail to anybody (RFC 6409).
    Submission,
    /// A customer who has logged in gets held mail over this very connection (RFC 2645).
    OnDemand,
}

/// What the shell must do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    Write(Vec<u8>),
    /// Decide, and call [`Session::answer`].
    Ask(Question),
    /// Content, in order, unstuffed; at most [`PIECE_BYTES`].
    Body(Vec<u8>),
    /// The client will read this refusal, be it the shell's own answer or the session's. Comes
    /// before its [`Step::Reset`], so that a log line can still name the message.
    Refused(Reply),
    /// The transaction is over without a message: drop what was received of it.
    Reset,
    /// From here on the client is the server: it greets, and mail goes to it (RFC 2645 section 5).
    /// Everything has been written, and nothing more was read.
    Turn,
    /// A TLS handshake, then [`Session::tls_started`]. Read nothing in between.
    StartTls,
    /// Read from the client and call [`Session::receive`].
    NeedInput,
    /// Close. Everything has been written.
    Close,
}

/// What only the shell knows. A positive answer lets the session go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    Mail(Mail),
    Rcpt(Recipient),
    /// May content begin? (A positive answer is not sent: 354 is, or nothing before BDAT.)
    Content,
    /// The content is complete. The answer is what the client is told of the message.
    Message,
    Etrn(Etrn),
    /// Is it them?
    Login(Login),
    /// May the roles turn, and is there mail for these domains? None: all that the client may get.
    Atrn(Vec<Domain>),
}

/// What is waited for, and for how long from when `turn` was first seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timer {
    pub what: &'static str,
    pub time_max: Duration,
    /// Changes when what was waited for has come: a whole command, a block of content. A byte
    /// alone does not change it, so a client that sends one now and then is not waited for.
    pub turn: u64,
}

#[derive(Debug)]
enum State {
    /// The greeting is not written yet.
    Greeting,
    Command,
    /// In the middle of AUTH.
    Auth(Exchange),
    /// A question is open.
    Asking(Question),
    Data(Content),
    /// In a chunk of BDAT.
    Chunk {
        left: u64,
        last: bool,
    },
    /// Dropping a chunk that was refused; its refusal is sent behind it.
    DropChunk {
        left: u64,
        refusal: Reply,
    },
    StartTls,
    /// ATRN was granted.
    Turned,
    Closed,
}

/// The open transaction.
#[derive(Debug, Default)]
struct Transaction {
    mail: bool,
    smtputf8: bool,
    recipients: usize,
    /// Content has begun, by DATA or a first BDAT.
    content: bool,
    /// BDAT has been used: DATA is not allowed any more.
    chunking: bool,
    /// How BDAT's content keeps to line ends, across chunks.
    octets: Octets,
    bytes: u64,
    /// Content is dropped because it is too large.
    too_large: bool,
}

/// What followed a DATA that was refused. It may be content whose sender did not wait, and
/// content must never be read as commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AfterData {
    /// Nothing refused, or a command of SMTP has followed.
    Settled,
    /// The next line tells: what is no command ends the session.
    Suspicious,
    /// Bytes were there before the refusal was sent.
    OutOfStep,
}

/// A session.
pub struct Session {
    options: Options,
    state: State,
    input: Input,
    output: Vec<u8>,
    /// The output may not wait for replies to further commands.
    flush: bool,
    piece: Vec<u8>,
    refused: VecDeque<Reply>,
    reset: bool,
    secure: bool,
    /// Who has logged in.
    user: Option<String>,
    /// The argument of EHLO or HELO, once said.
    helo: Option<String>,
    extended: bool,
    transaction: Transaction,
    after_data: AfterData,
    /// The chunk that waits for the answer to [`Question::Content`].
    pending_chunk: Option<(u64, bool)>,
    messages: usize,
    errors: usize,
    refused_recipients: usize,
    put_off_recipients: usize,
    surplus_recipients: usize,
    /// Commands without mail since the last message.
    idle_commands: usize,
    turn: u64,
    /// Content read since `turn` changed, bytes.
    in_turn: u64,
}

impl Session {
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            secure: options.secure,
            options,
            state: State::Greeting,
            input: Input::default(),
            output: Vec::new(),
            flush: false,
            piece: Vec::new(),
            refused: VecDeque::new(),
            reset: false,
            user: None,
            helo: None,
            extended: false,
            transaction: Transaction::default(),
            after_data: AfterData::Settled,
            pending_chunk: None,
            messages: 0,
            errors: 0,
            refused_recipients: 0,
            put_off_recipients: 0,
            surplus_recipients: 0,
            idle_commands: 0,
            turn: 0,
            in_turn: 0,
        }
    }

    /// The name the client gave, for the trace line.
    #[must_use]
    pub fn helo(&self) -> &str {
        self.helo.as_deref().unwrap_or("unknown")
    }

    /// Who has logged in.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The `with` of the trace line: RFC 3848 and RFC 6531 section 3.7.3.
    #[must_use]
    pub fn protocol(&self) -> &'static str {
        if self.user.is_some() {
            // Never without TLS.
            return if self.transaction.smtputf8 {
                "UTF8SMTPSA"
            } else {
                "ESMTPSA"
            };
        }
        match (self.transaction.smtputf8, self.extended, self.secure) {
            (true, _, false) => "UTF8SMTP",
            (true, _, true) => "UTF8SMTPS",
            (false, true, false) => "ESMTP",
            (false, true, true) => "ESMTPS",
            (false, false, _) => "SMTP",
        }
    }

    /// How long to wait for input now.
    #[must_use]
    pub fn timer(&self) -> Timer {
        let (what, time_max) = match self.state {
            State::Data(_) | State::Chunk { .. } | State::DropChunk { .. } => {
                ("content", CONTENT_TIME_MAX)
            }
            State::StartTls => ("the TLS handshake", TLS_TIME_MAX),
            _ => ("a command", COMMAND_TIME_MAX),
        };
        Timer {
            what,
            time_max,
            turn: self.turn,
        }
    }

    /// Whether the client is between transactions, so that a 421 interrupts nothing.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Command | State::Greeting) && !self.transaction.mail
    }

    /// The server ends the session: 421 (RFC 5321 section 3.8).
    pub fn shut_down(&mut self, text: &str) {
        self.end(Reply::new(421, 3, 2, text));
    }

    /// The time of [`Self::timer`] is over.
    pub fn timed_out(&mut self) {
        let text = format!("timeout: {} did not come, closing", self.timer().what);
        self.end(Reply::new(421, 4, 2, text));
    }

    fn end(&mut self, reply: Reply) {
        match self.state {
            // Nothing may be said while the fate of a message is open: a 421 in place of its
            // answer would promise that it is never delivered (RFC 5321 section 4.2.5). Nor
            // inside a handshake.
            State::Asking(Question::Message) | State::StartTls | State::Turned | State::Closed => {
                self.close()
            }
            _ => self.say(reply.and_close()),
        }
    }

    pub fn receive(&mut self, bytes: &[u8]) {
        match self.state {
            State::Closed => {}
            // The shell must not read here; what was sent in clear may not outlive this point.
            State::StartTls | State::Turned => self.close(),
            _ => self.input.push(bytes),
        }
    }

    /// The handshake is done. RFC 3207 section 4.2: "Upon completion of the TLS handshake, the
    /// SMTP protocol is reset to the initial state"; nothing said before counts any more.
    pub fn tls_started(&mut self) {
        if !matches!(self.state, State::StartTls) {
            return;
        }
        if !mutant("buffer-kept-at-starttls") {
            self.input.clear();
        }
        self.secure = true;
        self.user = None;
        self.helo = None;
        self.extended = false;
        self.transaction = Transaction::default();
        self.turn += 1;
        self.state = State::Command;
    }

    /// Answers the open question.
    pub fn answer(&mut self, reply: Reply) {
        let State::Asking(question) = std::mem::replace(&mut self.state, State::Command) else {
            return;
        };
        let positive = reply.is_positive();
        if matches!(question, Question::Mail(_) | Question::Content) && !positive {
            self.idle_commands += 1;
        }
        match question {
            Question::Mail(mail) => {
                if positive {
                    self.transaction = Transaction {
                        mail: true,
                        smtputf8: mail.smtputf8,
                        ..Transaction::default()
                    };
                }
                self.say(reply);
            }
            Question::Rcpt(_) => {
                if positive {
                    self.transaction.recipients += 1;
                }
                self.answer_rcpt(reply);
            }
            Question::Content if positive => self.begin_content(),
            Question::Content => self.refuse_content(reply),
            Question::Message => {
                if positive {
                    self.messages += 1;
                    self.idle_commands = 0;
                }
                self.transaction = Transaction::default();
                self.flush = true;
                self.say(reply);
            }
            Question::Etrn(_) => {
                self.flush = true;
                self.say(reply);
            }
            Question::Login(login) => {
                self.flush = true;
                if positive {
                    self.user = Some(login.user);
                    self.say(reply);
                } else {
                    self.error(reply);
                }
            }
            // What came before the other side may speak would be taken for its greeting.
            Question::Atrn(_) if positive && !self.input.is_empty() => {
                self.flush = true;
                self.say(Reply::new(503, 5, 1, "nothing may be sent behind ATRN").and_close());
            }
            Question::Atrn(_) => {
                self.flush = true;
                self.say(reply);
                if positive {
                    self.state = State::Turned;
                }
            }
        }
    }

    /// What to do next.
    #[must_use = "a session stands still until the step it asked for is done"]
    #[expect(
        clippy::should_implement_trait,
        reason = "no iterator: a question comes again until it is answered"
    )]
    pub fn next(&mut self) -> Step {
        loop {
            if let Some(reply) = self.refused.pop_front() {
                return Step::Refused(reply);
            }
            if std::mem::take(&mut self.reset) {
                return Step::Reset;
            }
            if self.flush && !self.output.is_empty() {
                return self.write();
            }
            if self.piece.len() >= PIECE_BYTES {
                return Step::Body(std::mem::take(&mut self.piece));
            }
            let went_on = match &self.state {
                State::Greeting => {
                    self.greet();
                    true
                }
                State::Asking(Question::Message) if !self.piece.is_empty() => {
                    return Step::Body(std::mem::take(&mut self.piece));
                }
                // The answer may take its time: earlier replies do not wait for it.
                State::Asking(Question::Message) if !self.output.is_empty() => return self.write(),
                State::Asking(question) => return Step::Ask(question.clone()),
                State::StartTls if self.output.is_empty() => return Step::StartTls,
                State::Turned if self.output.is_empty() => return Step::Turn,
                State::Closed if self.output.is_empty() => return Step::Close,
                State::StartTls | State::Turned | State::Closed => return self.write(),
                State::Command => self.command(),
                State::Auth(exchange) => {
                    let exchange = exchange.clone();
                    self.auth_line(exchange)
                }
                State::Data(_) => self.data(),
                State::Chunk { left, last } => {
                    let (left, last) = (*left, *last);
                    self.chunk(left, last)
                }
                State::DropChunk { .. } => self.drop_chunk(),
            };
            if !went_on {
                // Replies gathered so far go out in one write (RFC 2920 section 3.2).
                return if self.output.is_empty() {
                    Step::NeedInput
                } else {
                    self.write()
                };
            }
        }
    }

    fn write(&mut self) -> Step {
        self.flush = false;
        Step::Write(std::mem::take(&mut self.output))
    }

    /// Sends a reply, and ends the session where the reply does.
    fn say(&mut self, reply: Reply) {
        self.output.extend_from_slice(&reply.to_bytes());
        let ends = reply.close || reply.code == 421;
        if !reply.is_positive() {
            self.refused.push_back(reply);
        }
        if ends {
            self.close();
        }
    }

    fn close(&mut self) {
        self.abandon();
        self.input.clear();
        self.state = State::Closed;
    }

    /// Forgets the open transaction; the shell is told if it has content of it.
    fn abandon(&mut self) {
        self.reset |= self.transaction.content;
        self.piece = Vec::new();
        self.transaction = Transaction::default();
    }

    fn ask(&mut self, question: Question) {
        self.state = State::Asking(question);
    }

    /// Content came, whether it is used or dropped.
    fn content_came(&mut self, bytes: usize) {
        self.in_turn += bytes as u64;
        if self.in_turn >= TIMED_BLOCK_BYTES {
            self.in_turn = 0;
            self.turn += 1;
        }
    }
}

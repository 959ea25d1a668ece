//! One session with a client that brings mail (RFC 5321), as a value.
//!
//! ```text
//! shell:   receive(bytes) ─┐            ┌─▶ Write   bytes for the client
//!          answer(reply)  ─┼─▶ Session ─┼─▶ Ask     what the shell must decide
//!          tls_started()  ─┘            ├─▶ Body    a piece of content
//!                                       ├─▶ Reset   forget the transaction
//!                                       └─▶ StartTls, Close, NeedInput
//! ```
//! The session keeps the order of the protocol and its syntax; who may send what, and where it
//! goes, the shell decides by answering questions.

use std::time::Duration;

use holdfast_mail::Recipient;

use crate::body::{Content, Octets, Progress};
use crate::limits::{
    COMMAND_TIME_MAX, CONTENT_TIME_MAX, ERRORS_MAX, MESSAGES_MAX, PIECE_BYTES, RECIPIENTS_MAX,
};
use crate::line::{Input, Line};
use crate::reply::Reply;
use crate::request::{Etrn, Mail, Request};

/// What a session is told at its start.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server's name in greeting and EHLO reply.
    pub name: String,
    /// Largest message, bytes; announced in SIZE.
    pub message_bytes_max: u64,
    /// STARTTLS is offered.
    pub tls: bool,
}

/// What the shell must do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    Write(Vec<u8>),
    /// Decide, and call [`Session::answer`].
    Ask(Question),
    /// Content, in order, unstuffed.
    Body(Vec<u8>),
    /// The transaction is over without a message: drop what was received of it.
    Reset,
    /// Everything written so far, then a TLS handshake, then [`Session::tls_started`].
    StartTls,
    /// Read from the client and call [`Session::receive`].
    NeedInput,
    /// Write what is left and close.
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
}

#[derive(Debug)]
enum State {
    /// The greeting is not written yet.
    Greeting,
    Command,
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

/// A session.
pub struct Session {
    options: Options,
    state: State,
    input: Input,
    output: Vec<u8>,
    piece: Vec<u8>,
    reset: bool,
    secure: bool,
    /// The argument of EHLO or HELO, once said.
    helo: Option<String>,
    extended: bool,
    transaction: Transaction,
    messages: usize,
    errors: usize,
    /// The chunk that waits for the answer to [`Question::Content`].
    pending_chunk: Option<(u64, bool)>,
}

fn sequence(text: &str) -> Reply {
    Reply::new(503, 5, 1, text)
}

impl Session {
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            options,
            state: State::Greeting,
            input: Input::default(),
            output: Vec::new(),
            piece: Vec::new(),
            reset: false,
            secure: false,
            helo: None,
            extended: false,
            transaction: Transaction::default(),
            messages: 0,
            errors: 0,
            pending_chunk: None,
        }
    }

    /// A session that is refused at once with this reply (421 or 554).
    #[must_use]
    pub fn refused(options: Options, reply: &Reply) -> Self {
        let mut session = Self::new(options);
        session.output = reply.to_bytes();
        session.state = State::Closed;
        session
    }

    /// The name the client gave, for the trace line.
    #[must_use]
    pub fn helo(&self) -> &str {
        self.helo.as_deref().unwrap_or("unknown")
    }

    /// The `with` of the trace line: RFC 3848 and RFC 6531 section 3.7.3.
    #[must_use]
    pub fn protocol(&self) -> &'static str {
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
    pub fn time_max(&self) -> Duration {
        match self.state {
            State::Data(_) | State::Chunk { .. } | State::DropChunk { .. } => CONTENT_TIME_MAX,
            _ => COMMAND_TIME_MAX,
        }
    }

    /// Whether the client is between transactions, so that a 421 interrupts nothing.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Command | State::Greeting) && !self.transaction.mail
    }

    /// The server ends the session: 421 (RFC 5321 section 3.8).
    pub fn shut_down(&mut self, text: &str) {
        self.abandon();
        self.input.clear();
        self.output
            .extend_from_slice(&Reply::new(421, 3, 2, text).to_bytes());
        self.state = State::Closed;
    }

    pub fn receive(&mut self, bytes: &[u8]) {
        if !matches!(self.state, State::Closed) {
            self.input.push(bytes);
        }
    }

    /// The handshake is done. RFC 3207 section 4.2: "Upon completion of the TLS handshake, the
    /// SMTP protocol is reset to the initial state"; nothing said before counts any more.
    pub fn tls_started(&mut self) {
        self.input.clear();
        self.secure = true;
        self.helo = None;
        self.extended = false;
        self.transaction = Transaction::default();
        self.state = State::Command;
    }

    /// Answers the open question.
    pub fn answer(&mut self, reply: Reply) {
        let State::Asking(question) = std::mem::replace(&mut self.state, State::Command) else {
            return;
        };
        let positive = reply.is_positive();
        match question {
            Question::Mail(mail) if positive => {
                self.transaction = Transaction {
                    mail: true,
                    smtputf8: mail.smtputf8,
                    ..Transaction::default()
                };
                self.say(reply);
            }
            Question::Rcpt(_) if positive => {
                self.transaction.recipients += 1;
                self.say(reply);
            }
            Question::Content if positive => {
                self.transaction.content = true;
                match self.pending_chunk.take() {
                    Some((len, last)) => self.state = State::Chunk { left: len, last },
                    None => {
                        self.state = State::Data(Content::new());
                        self.say(Reply::plain(354, "End data with <CR><LF>.<CR><LF>"));
                    }
                }
            }
            Question::Content => {
                self.abandon();
                match self.pending_chunk.take() {
                    Some((left, _)) => {
                        self.state = State::DropChunk {
                            left,
                            refusal: reply,
                        }
                    }
                    // What follows a refused DATA may be content sent without waiting: it must
                    // never be read as commands.
                    None => self.say(reply.and_close()),
                }
            }
            Question::Message => {
                self.messages += 1;
                self.transaction = Transaction::default();
                self.say(reply);
            }
            Question::Mail(_) | Question::Rcpt(_) | Question::Etrn(_) => self.say(reply),
        }
    }

    /// What to do next.
    // Not an iterator: what comes next depends on what is answered.
    #[expect(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Step {
        loop {
            if self.reset {
                self.reset = false;
                return Step::Reset;
            }
            if self.piece.len() >= PIECE_BYTES {
                return Step::Body(std::mem::take(&mut self.piece));
            }
            match &mut self.state {
                State::Greeting => {
                    let text = format!("{} ESMTP Holdfast", self.options.name);
                    self.state = State::Command;
                    self.output
                        .extend_from_slice(&Reply::plain(220, text).to_bytes());
                }
                State::Asking(question) => {
                    if matches!(question, Question::Message) && !self.piece.is_empty() {
                        return Step::Body(std::mem::take(&mut self.piece));
                    }
                    return Step::Ask(question.clone());
                }
                State::StartTls => {
                    return if self.output.is_empty() {
                        Step::StartTls
                    } else {
                        self.write()
                    };
                }
                State::Closed => {
                    return if self.output.is_empty() {
                        Step::Close
                    } else {
                        self.write()
                    };
                }
                State::Command => {
                    if !self.command() {
                        return self.wait();
                    }
                }
                State::Data(_) => {
                    if !self.data() {
                        return self.wait();
                    }
                }
                State::Chunk { left, last } => {
                    let (left, last) = (*left, *last);
                    if !self.chunk(left, last) {
                        return self.wait();
                    }
                }
                State::DropChunk { left, refusal } => {
                    let have = self.input.rest().len() as u64;
                    let used = have.min(*left);
                    *left -= used;
                    let done = (*left == 0).then(|| refusal.clone());
                    self.input
                        .consume(usize::try_from(used).unwrap_or(usize::MAX));
                    match done {
                        Some(refusal) => {
                            self.state = State::Command;
                            self.say(refusal);
                        }
                        None => return self.wait(),
                    }
                }
            }
        }
    }

    /// Nothing can go on without input: replies gathered so far go out in one write (RFC 2920
    /// section 3.2).
    fn wait(&mut self) -> Step {
        if self.output.is_empty() {
            Step::NeedInput
        } else {
            self.write()
        }
    }

    fn write(&mut self) -> Step {
        Step::Write(std::mem::take(&mut self.output))
    }

    fn say(&mut self, reply: Reply) {
        self.output.extend_from_slice(&reply.to_bytes());
        if reply.code >= 400 {
            self.errors += 1;
        }
        if reply.close || reply.code == 421 {
            self.close();
        } else if self.errors >= ERRORS_MAX {
            self.output
                .extend_from_slice(&Reply::new(421, 7, 0, "too many errors, closing").to_bytes());
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
        self.piece.clear();
        self.transaction = Transaction::default();
    }

    fn ask(&mut self, question: Question) {
        self.state = State::Asking(question);
    }

    /// Handles one command line; `false` when there is none.
    fn command(&mut self) -> bool {
        let line = match self.input.line() {
            Line::Incomplete => return false,
            Line::Whole(line) => line,
            Line::TooLong => {
                self.say(Reply::new(500, 5, 2, "the line is too long"));
                return true;
            }
            Line::Broken => {
                let text = "a line must end with CR LF, and hold no bare CR, bare LF or NUL";
                self.say(Reply::new(500, 5, 2, text).and_close());
                return true;
            }
        };
        // A browser or proxy that was made to speak to us carries somebody else's commands.
        if self.helo.is_none() && is_http(&line) {
            self.say(Reply::new(500, 5, 1, "this is SMTP, not HTTP").and_close());
            return true;
        }
        match Request::parse(&line) {
            Ok(request) => self.request(request),
            Err(refusal) => self.say(refusal),
        }
        true
    }

    fn request(&mut self, request: Request) {
        match request {
            Request::Helo(name) => {
                self.greeted(name, false);
                self.say(Reply::plain(250, self.options.name.clone()));
            }
            Request::Ehlo(name) => {
                self.greeted(name, true);
                let reply = self.extensions();
                self.say(reply);
            }
            Request::Rset => {
                self.abandon();
                self.say(Reply::new(250, 0, 0, "Ok"));
            }
            Request::Noop => self.say(Reply::new(250, 0, 0, "Ok")),
            Request::Help => self.say(Reply::new(
                214,
                0,
                0,
                "see RFC 5321 and https://www.rfc-editor.org/",
            )),
            // RFC 5321 section 7.3: 252 where verification is not offered.
            Request::Vrfy => self.say(Reply::new(
                252,
                1,
                5,
                "cannot verify, send some mail and see",
            )),
            Request::Expn => self.say(Reply::new(502, 7, 0, "lists are not told")),
            Request::Quit => {
                self.abandon();
                self.output
                    .extend_from_slice(&Reply::new(221, 0, 0, "Bye").to_bytes());
                self.close();
            }
            Request::StartTls => self.start_tls(),
            Request::Etrn(_) if self.transaction.mail => {
                // RFC 1985 section 4: not during a transaction.
                self.say(sequence("ETRN is not allowed in a transaction"));
            }
            Request::Etrn(_) if self.helo.is_none() => self.say(sequence("say EHLO first")),
            Request::Etrn(etrn) => self.ask(Question::Etrn(etrn)),
            Request::Mail(mail) => self.mail(mail),
            Request::Rcpt(recipient) => self.rcpt(recipient),
            Request::Data => self.begin_data(),
            Request::Bdat { len, last } => self.begin_chunk(len, last),
        }
    }

    fn greeted(&mut self, name: String, extended: bool) {
        self.abandon();
        self.helo = Some(name);
        self.extended = extended;
    }

    fn extensions(&self) -> Reply {
        let mut lines = vec![self.options.name.clone()];
        lines.extend(
            [
                "PIPELINING",
                "8BITMIME",
                "SMTPUTF8",
                "ENHANCEDSTATUSCODES",
                "CHUNKING",
                "DSN",
                "ETRN",
                "HELP",
            ]
            .map(String::from),
        );
        lines.insert(2, format!("SIZE {}", self.options.message_bytes_max));
        lines.push(format!(
            "LIMITS MAILMAX={MESSAGES_MAX} RCPTMAX={RECIPIENTS_MAX}"
        ));
        if self.options.tls && !self.secure {
            lines.push("STARTTLS".into());
        }
        Reply {
            code: 250,
            status: None,
            lines,
            close: false,
        }
    }

    fn start_tls(&mut self) {
        if self.secure {
            self.say(sequence("TLS is active already"));
        } else if !self.options.tls {
            self.say(Reply::new(502, 5, 1, "STARTTLS is not offered"));
        } else if !self.input.is_empty() {
            // RFC 3207 section 6 and CVE-2011-0411: what was sent in clear behind STARTTLS would
            // be taken for something said under TLS.
            self.say(
                Reply::new(
                    554,
                    5,
                    0,
                    "nothing may be sent behind STARTTLS before the handshake",
                )
                .and_close(),
            );
        } else {
            self.abandon();
            self.output
                .extend_from_slice(&Reply::new(220, 0, 0, "Ready to start TLS").to_bytes());
            self.state = State::StartTls;
        }
    }

    fn mail(&mut self, mail: Mail) {
        if self.helo.is_none() {
            self.say(sequence("say EHLO first"));
        } else if self.transaction.mail {
            self.say(sequence("a transaction is open; RSET ends it"));
        } else if self.messages >= MESSAGES_MAX {
            self.say(Reply::new(
                421,
                5,
                3,
                "enough mail in this session; please connect again",
            ));
        } else if mail
            .size
            .is_some_and(|size| size > self.options.message_bytes_max)
        {
            self.say(Reply::new(
                552,
                3,
                4,
                "the message is larger than SIZE allows",
            ));
        } else {
            self.ask(Question::Mail(mail));
        }
    }

    fn rcpt(&mut self, recipient: Recipient) {
        if !self.transaction.mail {
            self.say(sequence("MAIL comes first"));
        } else if self.transaction.content {
            self.say(sequence("content has begun"));
        } else if self.transaction.recipients >= RECIPIENTS_MAX {
            // RFC 5321 section 4.5.3.1.10: 452, and the client sends the rest in another.
            self.say(Reply::new(
                452,
                5,
                3,
                "too many recipients, send the others separately",
            ));
        } else if !recipient.address.as_str().is_ascii() && !self.transaction.smtputf8 {
            self.say(Reply::new(553, 6, 7, "the address needs SMTPUTF8 at MAIL"));
        } else {
            self.ask(Question::Rcpt(recipient));
        }
    }

    fn begin_data(&mut self) {
        if !self.transaction.mail {
            self.say(sequence("MAIL comes first"));
        } else if self.transaction.chunking {
            self.say(sequence("BDAT has begun; DATA and BDAT do not mix"));
        } else if self.transaction.recipients == 0 {
            self.say(Reply::new(554, 5, 1, "no valid recipients"));
        } else if !self.input.is_empty() {
            // RFC 2920 section 3.1: DATA is the last command of a group. Bytes behind it were
            // sent without waiting for 354; whether they are content or commands nobody knows.
            self.say(Reply::new(554, 5, 0, "wait for the reply to DATA").and_close());
        } else {
            self.ask(Question::Content);
        }
    }

    fn begin_chunk(&mut self, len: u64, last: bool) {
        let refusal = if !self.transaction.mail {
            Some(sequence("MAIL comes first"))
        } else if self.transaction.recipients == 0 {
            Some(Reply::new(554, 5, 1, "no valid recipients"))
        } else {
            None
        };
        match refusal {
            // RFC 3030 section 2: the octets of a chunk follow whatever the reply will be.
            Some(refusal) => self.state = State::DropChunk { left: len, refusal },
            None if self.transaction.content => self.state = State::Chunk { left: len, last },
            None => {
                self.transaction.chunking = true;
                self.pending_chunk = Some((len, last));
                self.ask(Question::Content);
            }
        }
    }

    /// Counts content and notices when it grows too large; from then on it is dropped.
    fn count(&mut self, bytes: usize) {
        self.transaction.bytes += bytes as u64;
        if self.transaction.bytes > self.options.message_bytes_max && !self.transaction.too_large {
            self.transaction.too_large = true;
            self.reset = true;
        }
        if self.transaction.too_large {
            self.piece.clear();
        }
    }

    fn complete(&mut self) {
        if self.transaction.too_large {
            self.transaction = Transaction::default();
            self.state = State::Command;
            self.say(Reply::new(
                552,
                3,
                4,
                "the message is larger than SIZE allows",
            ));
        } else {
            self.ask(Question::Message);
        }
    }

    fn broken_content(&mut self) {
        let text = "lines must end with CR LF; a bare CR, bare LF or NUL is not accepted";
        self.say(Reply::new(550, 5, 2, text).and_close());
    }

    /// Reads content; `false` when more input is needed.
    fn data(&mut self) -> bool {
        let State::Data(content) = &mut self.state else {
            return true;
        };
        let rest = self.input.rest();
        if rest.is_empty() {
            return false;
        }
        let now = &rest[..rest.len().min(PIECE_BYTES)];
        let before = self.piece.len();
        let progress = content.read(now, &mut self.piece);
        let used = match progress {
            Progress::More => now.len(),
            Progress::End(used) => used,
            Progress::Broken => {
                self.broken_content();
                return true;
            }
        };
        let grown = self.piece.len() - before;
        self.input.consume(used);
        self.count(grown);
        if progress != Progress::More {
            self.complete();
        }
        true
    }

    /// Reads a chunk; `false` when more input is needed.
    fn chunk(&mut self, left: u64, last: bool) -> bool {
        let rest = self.input.rest();
        let now = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(rest.len())
            .min(PIECE_BYTES);
        if now == 0 && left > 0 {
            return false;
        }
        if !self.transaction.octets.check(&rest[..now]) {
            self.broken_content();
            return true;
        }
        self.piece.extend_from_slice(&rest[..now]);
        self.input.consume(now);
        self.count(now);
        let left = left - now as u64;
        self.state = State::Chunk { left, last };
        if left > 0 {
            return true;
        }
        if last {
            if self.transaction.octets.whole() {
                self.complete();
            } else {
                self.broken_content();
            }
        } else {
            self.state = State::Command;
            let text = format!("{} octets received", self.transaction.bytes);
            self.say(Reply::new(250, 0, 0, text));
        }
        true
    }
}

fn is_http(line: &[u8]) -> bool {
    let starts =
        |word: &[u8]| line.len() >= word.len() && line[..word.len()].eq_ignore_ascii_case(word);
    [
        &b"GET "[..],
        b"POST ",
        b"HEAD ",
        b"PUT ",
        b"CONNECT ",
        b"OPTIONS ",
        b"Host:",
    ]
    .iter()
    .any(|word| starts(word))
}

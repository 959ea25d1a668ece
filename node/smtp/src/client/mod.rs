//! The client's half of SMTP as a value: bytes of the primary in, steps for the shell out.
//!
//! ```text
//!            receive(bytes)  disconnected()  timed_out()      from the primary
//!                  │
//!   send(mail) ─►┌─▼───────┐
//!   body(chunk) ─►│ Session │─► next() ─► Write, NeedInput, StartTls, NeedBody, Idle,
//!   body_end() ──►└─────────┘             Outcome, Closed
//! ```
//!
//! One session is one connection and carries one message after another. The shell calls
//! [`Session::next`] until it gets a step that needs the world, does it, and calls again;
//! [`Session::wait`] tells how long each wait may last.
//!
//! What this must never do: report a recipient as delivered without a 2yz to the end of the
//! complete message; end a message of which a byte is missing; let one recipient's, or one
//! message's, refusal spoil another's.

mod command;
mod content;
mod extensions;
mod reply;
mod timeout;
mod transaction;

use std::collections::VecDeque;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use content::{Content, Framing};
use extensions::Extensions;
use holdfast_mail::{BodyType, mutant};
use reply::{Replies, Reply, Severity};
use transaction::{Transaction, fate};

use crate::login::Login;

pub use extensions::RECIPIENTS_MAX;
pub use reply::{RECORDED_BYTES_MAX, REPLY_BYTES_MAX, REPLY_LINE_BYTES_MAX};
pub use timeout::{Timeout, Wait};
pub use transaction::{Fate, Mail, Outcome, RecipientResult};

/// Content is gathered until there is this much to write, bytes. Less costs system calls, more
/// costs memory on every connection.
pub const WRITE_BYTES_MIN: usize = 64 * 1024;

/// What does not change in the life of a session.
#[derive(Clone, Debug)]
pub struct Options {
    /// How this host names itself in EHLO.
    pub helo: String,
    pub tls: Tls,
    /// Who we say we are; only under TLS.
    pub login: Option<Login>,
    pub protocol: Protocol,
}

impl Options {
    /// SMTP, as nobody in particular.
    #[must_use]
    pub fn new(helo: &str, tls: Tls) -> Self {
        Self {
            helo: helo.to_owned(),
            tls,
            login: None,
            protocol: Protocol::Smtp,
        }
    }
}

/// Whether to ask for TLS where it is offered (RFC 7435: some protection most of the time).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    Opportunistic,
    /// After a handshake failed: mail in clear text is better than no mail.
    Never,
    /// No mail without it.
    Required,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    #[default]
    Smtp,
    /// RFC 2033: each recipient is answered for by itself after the end of the content.
    Lmtp,
}

/// What the shell has to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    Write(Vec<u8>),
    /// Read from the primary, then `receive`, `disconnected` or `timed_out`.
    NeedInput,
    /// Feed content with `body`, in order, then `body_end`. What the primary says meanwhile
    /// may be given to `receive` at any time.
    NeedBody,
    /// Negotiate TLS on the connection, then `tls_started`.
    StartTls,
    /// Ready for `send` or `quit`.
    Idle,
    /// What became of the mail last given to `send`.
    Outcome(Outcome),
    /// Nothing more will come of this session; close the connection.
    Closed(Closed),
}

/// Why a session is over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    #[error("closed in good order")]
    Quit,
    /// The primary does not want mail now: its greeting or EHLO answer refused us, or 421.
    #[error("the primary takes no mail now: {0}")]
    Busy(String),
    #[error("the connection was lost while waiting for the {awaited}: {why}")]
    Lost {
        awaited: &'static str,
        why: &'static str,
    },
    #[error("the primary does not speak SMTP as it should: {0}")]
    Violation(#[from] Violation),
    /// It cannot do what this destination asks for.
    #[error("nothing was sent: {0}")]
    Unfit(&'static str),
    #[error("the primary does not take our name and secret: {0}")]
    LoginRefused(String),
    /// Our own copy of the message could not be sent to its end. SMTP has no way to take a
    /// message back but to drop the connection.
    #[error("the message could not be read to its end here, nothing of it counts as sent: {0}")]
    Abandoned(String),
}

/// What a primary did that no server may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("a line of a reply has more than {REPLY_LINE_BYTES_MAX} bytes")]
    LineTooLong,
    #[error("a reply has more than {REPLY_BYTES_MAX} bytes")]
    ReplyTooLong,
    #[error("a line is no reply")]
    NotAReply,
    #[error("the lines of one reply carry different codes")]
    MixedCodes,
    #[error("{code} instead of the {awaited}")]
    Unexpected { code: u16, awaited: &'static str },
    #[error("it takes a message for nobody")]
    DataForNobody,
    #[error("{code} came unasked")]
    Unasked { code: u16 },
    #[error("bytes in clear text came after STARTTLS was agreed on: somebody injects replies")]
    Injected,
}

/// `send` was called on a session that is not [`Step::Idle`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session is not ready for a message; nothing was sent")]
pub struct NotIdle;

/// One connection to a primary.
#[derive(Debug)]
pub struct Session {
    options: Options,
    phase: Phase,
    replies: Replies,
    offered: Extensions,
    encrypted: bool,
    logged_in: bool,
    /// Commands written whose replies are owed to us, in order.
    awaited: VecDeque<Awaited>,
    /// Commands of this transaction not written yet.
    unsent: VecDeque<Awaited>,
    out: Vec<u8>,
    transaction: Option<Transaction>,
    content: Option<Content>,
    outcome: Option<Outcome>,
    /// The primary has a transaction open that nobody wants any more: RSET comes first.
    dirty: bool,
    /// `quit` was asked for, or MAILMAX is reached.
    leaving: bool,
    /// The reply that comes next began before everything was written, so that it cannot be an
    /// answer to the end of a message.
    premature: bool,
    /// Transactions begun in this session.
    mails: u64,
    wait_number: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// Before the first mail: banner, EHLO, STARTTLS.
    Opening,
    Upgrading,
    Idle,
    /// MAIL, RCPT and DATA are under way.
    Envelope,
    Body,
    /// The end of the data is written.
    Ending,
    Quitting,
    Closed(Closed),
}

/// A command, by what its reply will be the reply to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    Banner,
    Ehlo,
    Helo,
    StartTls,
    /// AUTH is to be granted.
    Auth,
    /// AUTH LOGIN asks for the name, then for the secret.
    AuthName,
    AuthSecret,
    Rset,
    Mail,
    /// The place in the mail's recipients.
    Rcpt(usize),
    Data,
    /// The end of the content.
    End,
    /// The same for one recipient's place, under LMTP.
    EndFor(usize),
    /// The end of an empty message nobody is to get (RFC 2920 section 3.1).
    EmptyEnd,
    Quit,
}

impl Awaited {
    fn timeout(self) -> Timeout {
        match self {
            Self::Banner => Timeout::Banner,
            Self::Ehlo
            | Self::Helo
            | Self::StartTls
            | Self::Auth
            | Self::AuthName
            | Self::AuthSecret => Timeout::Hello,
            Self::Rset | Self::Mail => Timeout::Mail,
            Self::Rcpt(_) => Timeout::Rcpt,
            Self::Data => Timeout::DataInitiation,
            Self::End | Self::EndFor(_) | Self::EmptyEnd => Timeout::DataTermination,
            Self::Quit => Timeout::Quit,
        }
    }
}

// What the shell calls.
impl Session {
    /// A session on a connection just made; the primary speaks first.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            options,
            phase: Phase::Opening,
            replies: Replies::default(),
            offered: Extensions::default(),
            encrypted: false,
            logged_in: false,
            awaited: VecDeque::from([Awaited::Banner]),
            unsent: VecDeque::new(),
            out: Vec::new(),
            transaction: None,
            content: None,
            outcome: None,
            dirty: false,
            leaving: false,
            premature: false,
            mails: 0,
            wait_number: 0,
        }
    }

    /// What to do now. Asked again without anything having happened, the answer is the same,
    /// but for `Write` and `Outcome`, which are given once.
    #[must_use = "a session stands still until the step it asked for is done"]
    #[expect(
        clippy::should_implement_trait,
        reason = "no iterator: the same step comes again until it is done"
    )]
    pub fn next(&mut self) -> Step {
        if let Some(outcome) = self.outcome.take() {
            return Step::Outcome(outcome);
        }
        if let Phase::Closed(why) = &self.phase {
            return Step::Closed(why.clone());
        }
        // Header, content and final dot of a small message leave in one write.
        let gathering = self.phase == Phase::Body && self.out.len() < WRITE_BYTES_MIN;
        if !self.out.is_empty() && !gathering {
            return Step::Write(std::mem::take(&mut self.out));
        }
        match self.phase {
            Phase::Upgrading => Step::StartTls,
            Phase::Idle => Step::Idle,
            Phase::Body => Step::NeedBody,
            _ => Step::NeedInput,
        }
    }

    /// What is waited for, if anything.
    #[must_use]
    pub fn wait(&self) -> Option<Wait> {
        let timeout = match &self.phase {
            Phase::Body => Timeout::DataBlock,
            Phase::Closed(_) => return None,
            _ => self.awaited.front()?.timeout(),
        };
        Some(Wait {
            timeout,
            number: self.wait_number,
        })
    }

    /// How many recipients the next mail may have. Known once the session is idle.
    #[must_use]
    pub fn recipients_max(&self) -> usize {
        self.offered.recipients_in_one_mail()
    }

    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// Whether `send` may be called.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.phase == Phase::Idle
    }

    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed(_))
    }

    /// Bytes of the primary, cut however they came.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.hear(bytes);
        self.premature &= !self.replies.is_empty();
    }

    /// The same while the bytes of [`Step::Write`] are not all written: whatever this says is
    /// no answer to the end of the message.
    pub fn receive_while_writing(&mut self, bytes: &[u8]) {
        self.premature = true;
        self.receive(bytes);
    }

    fn hear(&mut self, bytes: &[u8]) {
        if self.is_closed() {
            return;
        }
        self.premature |= self.phase != Phase::Ending || !self.out.is_empty();
        self.replies.push(bytes);
        while !self.is_closed() {
            if self.phase == Phase::Upgrading {
                // RFC 3207 section 6 and CVE-2011-0411: whatever a man in the middle puts
                // behind the 220 would be taken for an answer given under TLS.
                if !self.replies.is_empty() && !mutant("replies-kept-at-starttls") {
                    self.fail(Violation::Injected.into());
                }
                return;
            }
            match self.replies.next() {
                Ok(Some(reply)) => self.answer(&reply),
                Ok(None) => return,
                Err(violation) => self.fail(violation.into()),
            }
        }
    }

    /// TLS is up. RFC 3207 section 4.2: "The client MUST discard any knowledge obtained from
    /// the server, such as the list of SMTP service extensions, which was not obtained from
    /// the TLS negotiation itself."
    pub fn tls_started(&mut self) {
        if self.phase == Phase::Upgrading {
            self.encrypted = true;
            self.offered = Extensions::default();
            if !mutant("replies-kept-at-starttls") {
                self.replies = Replies::default();
            }
            self.phase = Phase::Opening;
            self.ehlo();
        }
    }

    /// Starts a message. Its outcome comes as [`Step::Outcome`], whatever happens.
    pub fn send(&mut self, mail: Mail) -> Result<(), NotIdle> {
        if self.phase != Phase::Idle || self.leaving {
            return Err(NotIdle);
        }
        let transaction = Transaction::new(mail, self.recipients_max());
        self.phase = Phase::Envelope;
        let local = self.local_obstacle(&transaction);
        let transaction = self.transaction.insert(transaction);
        if let Some((fate, why)) = local {
            transaction.settle(fate, &why);
            self.finish();
            return Ok(());
        }
        self.mails += 1;
        transaction.asked = true;
        if self.dirty {
            self.unsent.push_back(Awaited::Rset);
        }
        if transaction.is_any_to_ask() {
            self.unsent.push_back(Awaited::Mail);
            self.unsent
                .extend(transaction.places_to_ask().map(Awaited::Rcpt));
            if !self.offered.chunking && !transaction.mail.only_ask {
                self.unsent.push_back(Awaited::Data);
            }
        }
        self.proceed();
        Ok(())
    }

    /// The next piece of the content that [`Step::NeedBody`] asked for.
    pub fn body(&mut self, chunk: &[u8]) {
        if self.phase != Phase::Body {
            return;
        }
        self.wait_number += 1;
        let Some(content) = &mut self.content else {
            return;
        };
        if let Err(fault) = content.push(chunk, &mut self.out) {
            self.abandon(&fault.to_string());
        } else if content.is_complete() {
            self.end();
        }
    }

    /// All content was fed. After BDAT the last byte says so by itself.
    pub fn body_end(&mut self) {
        if self.phase != Phase::Body {
            return;
        }
        let Some(content) = &mut self.content else {
            return;
        };
        if let Err(fault) = content.end(&mut self.out) {
            self.abandon(&fault.to_string());
        } else {
            self.end();
        }
    }

    /// The content cannot be fed to its end.
    pub fn abandon(&mut self, why: &str) {
        self.fail(Closed::Abandoned(why.to_owned()));
    }

    /// Ends the session in good order once the mail under way, if any, is decided.
    pub fn quit(&mut self) {
        self.leaving = true;
        if self.phase == Phase::Idle {
            self.leave();
        }
    }

    /// The connection was closed or reset.
    pub fn disconnected(&mut self) {
        self.lose("it was closed or reset");
    }

    /// The wait of [`Session::wait`] took longer than it may.
    pub fn timed_out(&mut self) {
        self.lose("no answer came in the time RFC 5321 section 4.5.3.2 grants");
    }
}

// What replies do.
impl Session {
    fn answer(&mut self, reply: &Reply) {
        self.wait_number += 1;
        let Some(awaited) = self.awaited.pop_front() else {
            return self.answer_unasked(reply);
        };
        // RFC 5321 section 4.2.3: 421 "may be a reply to any command if the service knows it
        // must shut down".
        if reply.code == 421 && awaited != Awaited::Quit {
            return self.busy(reply);
        }
        match awaited {
            Awaited::Banner | Awaited::Ehlo | Awaited::Helo | Awaited::StartTls => {
                self.answer_opening(awaited, reply);
            }
            Awaited::Auth | Awaited::AuthName | Awaited::AuthSecret => {
                self.answer_auth(awaited, reply);
            }
            Awaited::Quit => self.phase = Phase::Closed(Closed::Quit),
            Awaited::End => self.answer_end(None, reply),
            Awaited::EndFor(place) => self.answer_end(Some(place), reply),
            // A message without recipients: nothing depends on what becomes of it.
            Awaited::EmptyEnd => self.finish(),
            Awaited::Rset | Awaited::Mail | Awaited::Rcpt(_) | Awaited::Data => {
                self.answer_envelope(awaited, reply);
            }
        }
    }

    fn answer_opening(&mut self, awaited: Awaited, reply: &Reply) {
        match (awaited, reply.severity()) {
            (Awaited::StartTls, Severity::Done) => self.phase = Phase::Upgrading,
            // RFC 3207 section 4.1: after 454 the client decides; opportunistic means to go on.
            (Awaited::StartTls, Severity::Later | Severity::Never) => self.settled_on_clear(),
            (_, Severity::GoOn) => self.unexpected(awaited, reply),
            (Awaited::Banner, Severity::Done) => self.ehlo(),
            (Awaited::Ehlo, Severity::Done) => self.opened(reply),
            (Awaited::Helo, Severity::Done) if self.encrypted => self.log_in(),
            (Awaited::Helo, Severity::Done) => self.settled_on_clear(),
            // RFC 5321 section 3.2: "older systems which did not support extended SMTP" get
            // HELO.
            (Awaited::Ehlo, Severity::Never) if self.options.protocol == Protocol::Smtp => {
                let helo = format!("HELO {}\r\n", self.options.helo);
                self.out.extend_from_slice(helo.as_bytes());
                self.expect(Awaited::Helo);
            }
            _ => self.busy(reply),
        }
        if self.phase == Phase::Idle && self.leaving {
            self.leave();
        }
    }

    fn opened(&mut self, reply: &Reply) {
        self.offered = Extensions::read(reply);
        if self.encrypted {
            self.log_in();
        } else if self.offered.starttls && self.options.tls != Tls::Never {
            self.out.extend_from_slice(b"STARTTLS\r\n");
            self.expect(Awaited::StartTls);
        } else {
            self.settled_on_clear();
        }
    }

    /// There will be no TLS.
    fn settled_on_clear(&mut self) {
        if self.options.tls == Tls::Required || self.options.login.is_some() {
            self.fail(Closed::Unfit(
                "the primary does not offer STARTTLS, and its mail goes only under TLS",
            ));
        } else {
            self.phase = Phase::Idle;
        }
    }

    /// RFC 4954 section 4: PLAIN in one step; LOGIN, which has no RFC, where nothing else is
    /// offered.
    fn log_in(&mut self) {
        let Some(login) = self.options.login.as_ref().filter(|_| !self.logged_in) else {
            self.phase = Phase::Idle;
            return;
        };
        if self.offered.auth_plain {
            let word = BASE64.encode(format!("\0{}\0{}", login.user, login.secret));
            let line = format!("AUTH PLAIN {word}\r\n");
            self.out.extend_from_slice(line.as_bytes());
            self.expect(Awaited::Auth);
        } else if self.offered.auth_login {
            self.out.extend_from_slice(b"AUTH LOGIN\r\n");
            self.expect(Awaited::AuthName);
        } else {
            self.fail(Closed::Unfit(
                "the primary offers no AUTH that sends a name and a secret (PLAIN, LOGIN)",
            ));
        }
    }

    fn answer_auth(&mut self, awaited: Awaited, reply: &Reply) {
        let Some(login) = &self.options.login else {
            return;
        };
        let (word, next) = match (awaited, reply.severity()) {
            (Awaited::Auth, Severity::Done) => {
                self.logged_in = true;
                self.phase = Phase::Idle;
                if self.leaving {
                    self.leave();
                }
                return;
            }
            (Awaited::AuthName, Severity::GoOn) => (&login.user, Awaited::AuthSecret),
            (Awaited::AuthSecret, Severity::GoOn) => (&login.secret, Awaited::Auth),
            (_, Severity::Later | Severity::Never) => {
                return self.fail(Closed::LoginRefused(reply.recorded()));
            }
            _ => return self.unexpected(awaited, reply),
        };
        let line = BASE64.encode(word) + "\r\n";
        self.out.extend_from_slice(line.as_bytes());
        self.expect(next);
    }

    fn answer_envelope(&mut self, awaited: Awaited, reply: &Reply) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        let severity = reply.severity();
        match awaited {
            Awaited::Data if severity == Severity::GoOn => transaction.data_open = true,
            // DATA has no positive completion before its content; anything else has no
            // intermediate reply.
            Awaited::Data if severity == Severity::Done => {
                return self.unexpected(awaited, reply);
            }
            _ if severity == Severity::GoOn => return self.unexpected(awaited, reply),
            Awaited::Data => transaction.settle(fate(reply), &reply.recorded()),
            Awaited::Rset if severity == Severity::Done => self.dirty = false,
            // Whose transaction the next command would belong to, nobody knows.
            Awaited::Rset => return self.unexpected(awaited, reply),
            Awaited::Rcpt(place) => transaction.answer_rcpt(place, reply),
            _ if severity == Severity::Done => transaction.mail_accepted = true,
            _ => {
                transaction.settle(fate(reply), &reply.recorded());
                self.unsent.clear();
            }
        }
        self.proceed();
    }

    /// The answer to a message: for `place` among its recipients, or for all of them.
    fn answer_end(&mut self, place: Option<usize>, reply: &Reply) {
        if reply.severity() == Severity::GoOn {
            return self.unexpected(Awaited::End, reply);
        }
        if self.premature && reply.severity() == Severity::Done {
            return self.fail(Violation::Unasked { code: reply.code }.into());
        }
        if let Some(transaction) = &mut self.transaction {
            match place {
                Some(place) => transaction.settle_one(place, fate(reply), &reply.recorded()),
                None => transaction.settle(fate(reply), &reply.recorded()),
            }
            // A final dot ends the transaction whatever its reply. RFC 3030 section 2 leaves
            // the state after a failed BDAT indeterminate and asks for RSET.
            let failed = reply.severity() != Severity::Done;
            transaction.mail_accepted = self.offered.chunking && failed;
        }
        if self.awaited.is_empty() {
            self.finish();
        }
    }

    /// A reply to nothing: a notice that the primary goes, or its verdict on a message it has
    /// not seen the end of.
    fn answer_unasked(&mut self, reply: &Reply) {
        let code = reply.code;
        let verdict = self.phase == Phase::Body && reply.severity() == Severity::Never;
        if code == 421 || verdict {
            if let Some(transaction) = &mut self.transaction {
                transaction.settle(fate(reply), &reply.recorded());
            }
            self.busy(reply);
        } else {
            self.fail(Violation::Unasked { code }.into());
        }
    }

    /// Writes what may be written now; once every reply is here, decides.
    fn proceed(&mut self) {
        while let Some(next) = self.unsent.front().copied() {
            if !self.awaited.is_empty() && !self.offered.pipelining {
                return;
            }
            self.unsent.pop_front();
            let Some(transaction) = &self.transaction else {
                return;
            };
            match next {
                Awaited::Rset => self.out.extend_from_slice(b"RSET\r\n"),
                Awaited::Mail => {
                    command::mail(&transaction.mail.envelope, &self.offered, &mut self.out);
                }
                Awaited::Rcpt(place) => {
                    let recipients = &transaction.mail.envelope.recipients;
                    let Some(recipient) = transaction
                        .mail
                        .recipients
                        .get(place)
                        .and_then(|index| recipients.get(*index as usize))
                    else {
                        continue;
                    };
                    command::rcpt(recipient, &self.offered, &mut self.out);
                }
                // Known before DATA is written only where replies are waited for one by one.
                _ if self.awaited.is_empty() && !transaction.is_any_accepted() => continue,
                _ => self.out.extend_from_slice(b"DATA\r\n"),
            }
            self.expect(next);
        }
        if self.awaited.is_empty() {
            self.decide();
        }
    }

    /// Every reply of the envelope is here.
    fn decide(&mut self) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        let wanted = transaction.is_any_accepted() && !transaction.mail.only_ask;
        let len = transaction.mail.envelope.body.len;
        if transaction.data_open && !wanted {
            // RFC 2920 section 3.1: "if the DATA command was accepted the client SMTP should
            // send a single dot."
            transaction.mail_accepted = false;
            if self.options.protocol == Protocol::Lmtp {
                // RFC 2033 section 4.2: DATA "MUST be failed" then, and nothing would answer.
                return self.fail(Violation::DataForNobody.into());
            }
            self.out.extend_from_slice(b".\r\n");
            self.phase = Phase::Ending;
            self.expect(Awaited::EmptyEnd);
        } else if !wanted {
            self.finish();
        } else {
            let framing = if transaction.data_open {
                Framing::Dot
            } else {
                let header = format!("BDAT {len} LAST\r\n");
                self.out.extend_from_slice(header.as_bytes());
                Framing::Chunk
            };
            let content = self.content.insert(Content::new(framing, len));
            self.phase = Phase::Body;
            self.wait_number += 1;
            if content.is_complete() {
                self.end();
            }
        }
    }

    /// The primary has, or is about to be given, all it needs to deliver the message.
    fn end(&mut self) {
        let mut each = Vec::new();
        if let Some(transaction) = &mut self.transaction {
            transaction.sent = true;
            if self.options.protocol == Protocol::Lmtp {
                each.extend(transaction.places_accepted());
            }
        }
        self.content = None;
        self.phase = Phase::Ending;
        if self.options.protocol == Protocol::Smtp {
            self.expect(Awaited::End);
        }
        for place in each {
            self.expect(Awaited::EndFor(place));
        }
    }

    /// What stands against sending this mail to this primary, known without asking it.
    fn local_obstacle(&self, transaction: &Transaction) -> Option<(Fate, String)> {
        let envelope = &transaction.mail.envelope;
        let len = envelope.body.len;
        if let Some(max) = self.offered.size_max.filter(|max| len > *max) {
            return Some((
                Fate::Refused,
                format!("5.3.4 the message has {len} bytes, the primary takes {max}; not sent"),
            ));
        }
        // Neither is bounced: the mail is safe here, and a primary that was rebuilt without
        // an extension gets it back as easily as it lost it.
        if envelope.body_type == BodyType::EightBitMime && !self.offered.eight_bit_mime {
            return Some((
                Fate::Deferred,
                "4.6.3 the message has 8-bit content and the primary does not offer 8BITMIME; \
                 not sent, kept until it does"
                    .to_owned(),
            ));
        }
        if command::needs_smtputf8(envelope) && !self.offered.smtputf8 {
            return Some((
                Fate::Deferred,
                "4.6.7 the message needs SMTPUTF8 and the primary does not offer it; not sent, \
                 kept until it does"
                    .to_owned(),
            ));
        }
        None
    }

    /// The mail under way is decided and the session goes on.
    fn finish(&mut self) {
        if let Some(transaction) = self.transaction.take() {
            self.dirty |= transaction.mail_accepted;
            self.outcome = Some(transaction.into_outcome(false, false));
        }
        self.phase = Phase::Idle;
        self.leaving |= self
            .offered
            .mails_max
            .is_some_and(|max| self.mails >= max.max(1));
        if self.leaving {
            self.leave();
        }
    }

    fn leave(&mut self) {
        self.phase = Phase::Quitting;
        self.out.extend_from_slice(b"QUIT\r\n");
        self.expect(Awaited::Quit);
    }

    fn busy(&mut self, reply: &Reply) {
        // A reply after the end of the data leaves no doubt: RFC 5321 section 4.2.5 forbids
        // the server to deliver after 4yz.
        if let Some(transaction) = &mut self.transaction {
            transaction.sent = false;
            transaction.settle(Fate::Deferred, &reply.recorded());
        }
        self.fail(Closed::Busy(reply.recorded()));
    }

    fn unexpected(&mut self, awaited: Awaited, reply: &Reply) {
        let violation = Violation::Unexpected {
            code: reply.code,
            awaited: awaited.timeout().awaited(),
        };
        self.fail(violation.into());
    }

    fn lose(&mut self, why: &'static str) {
        if self.phase == Phase::Quitting {
            self.phase = Phase::Closed(Closed::Quit);
            return;
        }
        let awaited = self
            .wait()
            .map_or("next message", |wait| wait.timeout.awaited());
        self.fail(Closed::Lost { awaited, why });
    }

    /// The session is over. RFC 5321 section 3.8: clients whose connection is lost "SHOULD …
    /// treat the mail transaction as if a 451 response had been received".
    fn fail(&mut self, why: Closed) {
        if self.is_closed() {
            return;
        }
        if let Some(mut transaction) = self.transaction.take() {
            let fate = if transaction.sent && mutant("delivered-before-250") {
                Fate::Delivered
            } else {
                Fate::Deferred
            };
            transaction.settle(fate, &why.to_string());
            let in_doubt = transaction.sent;
            self.outcome = Some(transaction.into_outcome(in_doubt, true));
        }
        self.out.clear();
        self.unsent.clear();
        self.awaited.clear();
        self.content = None;
        self.phase = Phase::Closed(why);
    }

    fn ehlo(&mut self) {
        let verb = match self.options.protocol {
            Protocol::Smtp => "EHLO",
            Protocol::Lmtp => "LHLO",
        };
        let ehlo = format!("{verb} {}\r\n", self.options.helo);
        self.out.extend_from_slice(ehlo.as_bytes());
        self.expect(Awaited::Ehlo);
    }

    fn expect(&mut self, awaited: Awaited) {
        if self.awaited.is_empty() {
            self.wait_number += 1;
        }
        self.awaited.push_back(awaited);
    }
}

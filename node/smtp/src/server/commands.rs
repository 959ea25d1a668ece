//! Commands: their order, and what the session answers by itself.

use holdfast_mail::{Recipient, mutant};

use super::content::too_large;
use super::{AfterData, Question, Service, Session, State};
use crate::limits::{
    ERRORS_MAX, IDLE_COMMANDS_MAX, MESSAGES_MAX, PUT_OFF_RECIPIENTS_MAX, RECIPIENTS_MAX,
    REFUSED_RECIPIENTS_MAX, SURPLUS_RECIPIENTS_MAX,
};
use crate::line::Line;
use crate::reply::Reply;
use crate::request::{Mail, Request};

fn sequence(text: &str) -> Reply {
    Reply::new(503, 5, 1, text)
}

impl Session {
    pub(super) fn greet(&mut self) {
        let text = format!("{} ESMTP Holdfast", self.options.name);
        self.state = State::Command;
        self.say(Reply::plain(220, text));
    }

    /// Handles one command line; `false` when there is none.
    pub(super) fn command(&mut self) -> bool {
        if self.after_data == AfterData::OutOfStep {
            self.out_of_step();
            return true;
        }
        let line = match self.input.line() {
            Line::Incomplete => return false,
            Line::Whole(line) => line,
            Line::TooLong => {
                // Its end is unknown, and with it where the next command begins.
                self.say(Reply::new(500, 5, 2, "the line is too long").and_close());
                return true;
            }
            Line::Broken => {
                let text = "a line must end with CR LF, and hold no bare CR, bare LF or NUL";
                self.say(Reply::new(500, 5, 2, text).and_close());
                return true;
            }
        };
        self.turn += 1;
        self.in_turn = 0;
        // A browser or proxy that was made to speak to us carries somebody else's commands.
        if self.helo.is_none() && is_http(&line) {
            self.say(Reply::new(500, 5, 1, "this is SMTP, not HTTP").and_close());
            return true;
        }
        match Request::parse(&line) {
            Ok(request) => {
                self.after_data = AfterData::Settled;
                self.request(request);
            }
            Err(_) if self.after_data == AfterData::Suspicious => self.out_of_step(),
            // Nobody knows how many of the bytes behind it are the chunk.
            Err(refusal) if starts_with(&line, b"BDAT") => self.say(refusal.and_close()),
            Err(refusal) if starts_with(&line, b"DATA") => self.refuse_data(refusal),
            Err(refusal) => {
                self.flush = true;
                self.error(refusal);
            }
        }
        true
    }

    fn request(&mut self, request: Request) {
        // RFC 2920 section 3.2 wants these answered at once; the others may share a write.
        self.flush |= !matches!(
            request,
            Request::Rset
                | Request::Mail(_)
                | Request::Rcpt(_)
                | Request::Data
                | Request::Bdat { .. }
        );
        if let Some(refusal) = self.out_of_place(&request) {
            return self.refuse_out_of_place(&request, refusal);
        }
        if self.is_one_too_many(&request) {
            self.say(Reply::new(
                421,
                7,
                0,
                "too many commands and no mail, closing",
            ));
            return;
        }
        match request {
            Request::Helo(name) => {
                self.begin(name, false);
                self.say(Reply::plain(250, self.options.name.clone()));
            }
            Request::Ehlo(name) => {
                self.begin(name, true);
                let reply = self.extensions();
                self.say(reply);
            }
            Request::Rset => {
                self.abandon();
                self.say(Reply::new(250, 0, 0, "Ok"));
            }
            Request::Noop => self.say(Reply::new(250, 0, 0, "Ok")),
            Request::Help => {
                self.say(Reply::new(
                    214,
                    0,
                    0,
                    "see RFC 5321 and https://www.rfc-editor.org/",
                ));
            }
            // RFC 5321 section 3.5.3: 252 where an address cannot be verified but is tried.
            Request::Vrfy => {
                self.say(Reply::new(
                    252,
                    1,
                    5,
                    "cannot verify, send some mail and see",
                ));
            }
            Request::Expn => self.error(Reply::new(502, 7, 0, "lists are not told")),
            Request::Quit => {
                self.say(Reply::new(221, 0, 0, "Bye").and_close());
            }
            Request::StartTls => self.start_tls(),
            Request::Etrn(_) if self.transaction.mail => {
                // RFC 1985 section 4: not during a transaction.
                self.error(sequence("ETRN is not allowed in a transaction"));
            }
            Request::Etrn(_) if self.helo.is_none() => self.error(sequence("say EHLO first")),
            Request::Etrn(etrn) => self.ask(Question::Etrn(etrn)),
            Request::Auth { mechanism, initial } => self.auth(&mechanism, initial.as_deref()),
            // RFC 2645 section 5.2.1: what follows is said by the other side.
            Request::Atrn(_) if !self.input.is_empty() => {
                self.say(sequence("nothing may be sent behind ATRN").and_close());
            }
            Request::Atrn(domains) => self.ask(Question::Atrn(domains)),
            Request::Mail(mail) => self.mail(mail),
            Request::Rcpt(recipient) => self.rcpt(recipient),
            Request::Data => self.begin_data(),
            Request::Bdat { len, last } => self.begin_chunk(len, last),
        }
    }

    /// Why this service does not know the command, or not yet.
    fn out_of_place(&self, request: &Request) -> Option<Reply> {
        let mail = matches!(
            request,
            Request::Mail(_) | Request::Rcpt(_) | Request::Data | Request::Bdat { .. }
        );
        let not_here = |text| Some(Reply::new(502, 5, 1, text));
        // RFC 4954 section 6 and RFC 2645 section 5.2: 530.
        let log_in = || Some(Reply::new(530, 7, 0, "log in first (AUTH)"));
        match (self.options.service, request) {
            (Service::Exchange | Service::Submission, Request::Atrn(_)) => {
                not_here("ATRN is for the port of on-demand mail relay, 366 (RFC 2645)")
            }
            (Service::Submission | Service::OnDemand, Request::Etrn(_)) => {
                not_here("ETRN is for port 25")
            }
            (Service::OnDemand, _) if mail => {
                not_here("this port hands mail out (ATRN, RFC 2645); bring mail to port 25")
            }
            (Service::Submission, _) if mail && self.user.is_none() => log_in(),
            (Service::OnDemand, Request::Atrn(_)) if self.user.is_none() => log_in(),
            _ => None,
        }
    }

    fn refuse_out_of_place(&mut self, request: &Request, refusal: Reply) {
        match request {
            Request::Data => self.refuse_data(refusal),
            // The octets of the chunk follow (RFC 3030 section 2).
            Request::Bdat { len, .. } => {
                self.state = State::DropChunk {
                    left: *len,
                    refusal,
                }
            }
            _ => self.error(refusal),
        }
    }

    /// Counts commands that carry no mail.
    fn is_one_too_many(&mut self, request: &Request) -> bool {
        let carries_mail = matches!(
            request,
            Request::Mail(_)
                | Request::Rcpt(_)
                | Request::Data
                | Request::Bdat { len: 1.., .. }
                | Request::Bdat { last: true, .. }
                | Request::Quit
        );
        self.idle_commands += usize::from(!carries_mail);
        self.idle_commands > IDLE_COMMANDS_MAX
    }

    /// Refuses what the client should not have said.
    pub(super) fn error(&mut self, refusal: Reply) {
        self.errors += 1;
        self.say(refusal);
        if self.errors >= ERRORS_MAX && !matches!(self.state, State::Closed) {
            self.say(Reply::new(421, 7, 0, "too many errors, closing"));
        }
    }

    fn begin(&mut self, name: String, extended: bool) {
        self.abandon();
        self.helo = Some(name);
        self.extended = extended;
    }

    fn extensions(&self) -> Reply {
        let mut lines = vec![
            self.options.name.clone(),
            "PIPELINING".into(),
            format!("SIZE {}", self.options.message_bytes_max),
        ];
        let service = self.options.service;
        if service == Service::OnDemand {
            lines.truncate(1);
            lines.extend(["ENHANCEDSTATUSCODES", "ATRN", "HELP"].map(String::from));
        } else {
            let mail = [
                "8BITMIME",
                "SMTPUTF8",
                "ENHANCEDSTATUSCODES",
                "CHUNKING",
                "DSN",
            ];
            lines.extend(mail.map(String::from));
            lines.extend((service == Service::Exchange).then(|| "ETRN".to_owned()));
            lines.push("HELP".to_owned());
            lines.push(format!(
                "LIMITS MAILMAX={MESSAGES_MAX} RCPTMAX={RECIPIENTS_MAX}"
            ));
        }
        // RFC 4954 section 4: where a secret may be sent.
        if service != Service::Exchange && self.secure && self.user.is_none() {
            lines.push("AUTH PLAIN LOGIN".to_owned());
        }
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
            self.error(sequence("TLS is active already"));
        } else if !self.options.tls {
            self.error(Reply::new(502, 5, 1, "STARTTLS is not offered"));
        } else if !self.input.is_empty() && !mutant("buffer-kept-at-starttls") {
            // RFC 3207 section 6 and CVE-2011-0411: what was sent in clear behind STARTTLS would
            // be taken for something said under TLS.
            let text = "nothing may be sent behind STARTTLS before the handshake";
            self.say(Reply::new(554, 5, 0, text).and_close());
        } else {
            self.abandon();
            self.say(Reply::new(220, 0, 0, "Ready to start TLS"));
            self.state = State::StartTls;
        }
    }

    fn mail(&mut self, mail: Mail) {
        if self.helo.is_none() {
            self.error(sequence("say EHLO first"));
        } else if self.transaction.mail {
            self.error(sequence("a transaction is open; RSET ends it"));
        } else if self.messages >= MESSAGES_MAX {
            let text = "enough mail in this session; please connect again";
            self.say(Reply::new(421, 5, 3, text));
        } else if mail
            .size
            .is_some_and(|size| size > self.options.message_bytes_max)
        {
            self.error(too_large());
        } else {
            self.ask(Question::Mail(mail));
        }
    }

    fn rcpt(&mut self, recipient: Recipient) {
        if !self.transaction.mail {
            self.error(sequence("MAIL comes first"));
        } else if self.transaction.content {
            self.error(sequence("content has begun"));
        } else if self.transaction.recipients >= RECIPIENTS_MAX {
            // RFC 5321 section 4.5.3.1.10: 452, and the client sends the rest in another. Whoever goes on for
            // all that, has a place that others wait for.
            self.surplus_recipients += 1;
            if self.surplus_recipients > SURPLUS_RECIPIENTS_MAX {
                let text = "far too many recipients, closing; send them in several messages";
                self.say(Reply::new(421, 7, 0, text));
            } else {
                let text = "too many recipients, send the others separately";
                self.say(Reply::new(452, 5, 3, text));
            }
        } else if !self.transaction.smtputf8 && !is_ascii(&recipient) {
            self.answer_rcpt(Reply::new(553, 6, 7, "the address needs SMTPUTF8 at MAIL"));
        } else {
            self.ask(Question::Rcpt(recipient));
        }
    }

    pub(super) fn answer_rcpt(&mut self, reply: Reply) {
        self.refused_recipients += usize::from(reply.code >= 500);
        self.put_off_recipients += usize::from((400..500).contains(&reply.code));
        self.say(reply);
        let enough = if self.refused_recipients >= REFUSED_RECIPIENTS_MAX {
            "too many recipients that are not ours, closing"
        } else if self.put_off_recipients >= PUT_OFF_RECIPIENTS_MAX {
            "too many recipients to put off, closing; please come again later"
        } else {
            return;
        };
        if !matches!(self.state, State::Closed) {
            self.say(Reply::new(421, 7, 0, enough));
        }
    }

    fn begin_data(&mut self) {
        if !self.transaction.mail {
            self.refuse_data(sequence("MAIL comes first"));
        } else if self.transaction.chunking {
            self.refuse_data(sequence("BDAT has begun; DATA and BDAT do not mix"));
        } else if self.transaction.recipients == 0 {
            self.refuse_data(Reply::new(554, 5, 1, "no valid recipients"));
        } else if self.input.is_empty() || mutant("data-does-not-wait") {
            self.ask(Question::Content);
        } else {
            self.out_of_step();
        }
    }

    /// Refuses DATA, and goes on only with a client that shows that it heard the refusal.
    pub(super) fn refuse_data(&mut self, refusal: Reply) {
        self.error(refusal);
        self.after_data = if self.input.is_empty() {
            AfterData::Suspicious
        } else {
            AfterData::OutOfStep
        };
    }

    /// RFC 2920 section 3.1: DATA is the last command of a group. Whether the bytes behind it,
    /// sent without waiting for the reply, are content or commands, nobody knows.
    fn out_of_step(&mut self) {
        self.say(Reply::new(554, 5, 0, "wait for the reply to DATA").and_close());
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
}

fn starts_with(line: &[u8], word: &[u8]) -> bool {
    line.len() >= word.len() && line[..word.len()].eq_ignore_ascii_case(word)
}

fn is_ascii(recipient: &Recipient) -> bool {
    recipient.address.as_str().is_ascii() && recipient.orcpt.as_deref().is_none_or(str::is_ascii)
}

fn is_http(line: &[u8]) -> bool {
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
    .any(|word| starts_with(line, word))
}

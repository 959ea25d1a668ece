//! AUTH (RFC 4954) with the mechanisms that send a name and a secret: PLAIN (RFC 4616), and LOGIN,
//! which has no RFC and which old programs know alone. Only under TLS: both send them as they are.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::{Question, Service, Session, State};
use crate::line::Line;
use crate::login::Login;
use crate::reply::Reply;

/// What the next line of the client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Exchange {
    Plain,
    LoginName,
    LoginSecret { user: String },
}

/// RFC 4954 section 6: 501 5.5.2, the response cannot be decoded.
fn undecodable() -> Reply {
    Reply::new(501, 5, 2, "that is no answer to what AUTH asked")
}

impl Session {
    pub(super) fn auth(&mut self, mechanism: &str, initial: Option<&str>) {
        let refusal = if self.options.service == Service::Exchange {
            Reply::new(502, 5, 1, "AUTH is not offered here")
        } else if self.helo.is_none() {
            Reply::new(503, 5, 1, "say EHLO first")
        } else if !self.secure {
            // RFC 4954 section 4: 530 where the client must begin TLS before.
            Reply::new(530, 7, 0, "begin TLS first: a secret is not sent in clear")
        } else if self.user.is_some() || self.transaction.mail {
            Reply::new(503, 5, 1, "AUTH comes once, and before mail")
        } else {
            let exchange = match mechanism {
                "PLAIN" => Exchange::Plain,
                "LOGIN" => Exchange::LoginName,
                _ => {
                    return self.error(Reply::new(
                        504,
                        5,
                        4,
                        "AUTH PLAIN and AUTH LOGIN are known",
                    ));
                }
            };
            return match initial {
                // RFC 4954 section 4: a response of no octets is written as `=`.
                Some("=") => self.proceed(exchange, ""),
                Some(word) => self.proceed(exchange, word),
                None => self.prompt(exchange),
            };
        };
        self.error(refusal);
    }

    /// Asks for the next line.
    fn prompt(&mut self, exchange: Exchange) {
        let text = match exchange {
            Exchange::Plain => String::new(),
            Exchange::LoginName => BASE64.encode("Username:"),
            Exchange::LoginSecret { .. } => BASE64.encode("Password:"),
        };
        self.flush = true;
        self.say(Reply::plain(334, text));
        self.state = State::Auth(exchange);
    }

    /// Reads the next line; `false` when there is none.
    pub(super) fn auth_line(&mut self, exchange: Exchange) -> bool {
        let line = match self.input.line() {
            Line::Incomplete => return false,
            Line::Whole(line) => line,
            Line::TooLong | Line::Broken => {
                let text = "what was sent for AUTH is no line of base64";
                self.say(Reply::new(500, 5, 2, text).and_close());
                return true;
            }
        };
        self.turn += 1;
        self.state = State::Command;
        match std::str::from_utf8(&line) {
            Ok("*") => self.error(Reply::new(501, 0, 0, "AUTH is cancelled")),
            Ok(word) => self.proceed(exchange, word),
            Err(_) => self.error(undecodable()),
        }
        true
    }

    fn proceed(&mut self, exchange: Exchange, word: &str) {
        let text = BASE64.decode(word).ok();
        let text = text.and_then(|bytes| String::from_utf8(bytes).ok());
        let (user, secret) = match (exchange, text) {
            (_, None) => return self.error(undecodable()),
            (Exchange::LoginName, Some(user)) => {
                return self.prompt(Exchange::LoginSecret { user });
            }
            (Exchange::LoginSecret { user }, Some(secret)) => (user, secret),
            (Exchange::Plain, Some(text)) => {
                match text.split('\0').collect::<Vec<_>>()[..] {
                    // Whoever acts for somebody else would have to be allowed to: nobody is.
                    [as_whom, user, secret] if as_whom.is_empty() || as_whom == user => {
                        (user.to_owned(), secret.to_owned())
                    }
                    _ => return self.error(undecodable()),
                }
            }
        };
        self.flush = true;
        self.ask(Question::Login(Login { user, secret }));
    }
}

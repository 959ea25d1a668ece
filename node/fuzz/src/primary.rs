//! A hostile primary: whatever it says, mail counts as delivered only where it took all of it.

use std::sync::Arc;

use holdfast_mail::{
    Address, BodyRef, BodyType, Envelope, MessageId, Notify, Recipient, ReversePath, Timestamp,
};
use holdfast_smtp::client::{
    Fate, Mail, Options, Protocol, RECORDED_BYTES_MAX, REPLY_BYTES_MAX, REPLY_LINE_BYTES_MAX,
    Session, Step, Tls,
};
use holdfast_smtp::login::Login;

use crate::choices::Choices;
use crate::random::Random;

/// What primaries say.
pub(crate) const WORDS: &[&[u8]] = &[
    b"220 primary\r\n",
    b"250 ok\r\n",
    b"250-primary\r\n250-PIPELINING\r\n250-CHUNKING\r\n250-SIZE 100\r\n250 STARTTLS\r\n",
    b"250-primary\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250 PIPELINING\r\n",
    b"250-p\r\n250 LIMITS RCPTMAX=1 MAILMAX=2\r\n",
    b"354 go\r\n",
    b"421 gone\r\n",
    b"450 later\r\n",
    b"550 5.1.1 never\r\n",
    b"552 too many\r\n",
    b"251 forwarded\r\n",
    b"220 go\r\n",
    b"250-p\r\n250 AUTH PLAIN LOGIN\r\n",
    b"250-p\r\n250 AUTH LOGIN\r\n",
    b"235 welcome\r\n",
    b"334 VXNlcm5hbWU6\r\n",
    b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n",
    b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n250 taken\r\n",
    b"250-",
    b"\r\n",
    b"\n",
    b"\xff\0",
    b"2",
    b"x",
];

/// What a name and a secret look like on the wire: with AUTH PLAIN, and one by one.
const SECRETS: [&str; 3] = ["AGFubgBzM2NyZXQ=", "YW5u", "czNjcmV0"];

/// Options, then what the primary says.
pub fn primary(data: &[u8]) {
    converse(data);
}

/// How many messages it took, for somebody at least.
fn converse(data: &[u8]) -> usize {
    let mut choices = Choices::new(data);
    let first = choices.byte();
    let tls = match first & 3 {
        0 => Tls::Opportunistic,
        2 => Tls::Required,
        _ => Tls::Never,
    };
    let (login, only_ask) = (first & 4 > 0, first & 8 > 0);
    let envelope = Arc::new(envelope(&mut choices));
    // How eagerly the primary speaks, and whether the connection is lost at the end.
    let lmtp = choices.below(4) == 0;
    let (longest, lost) = (1 + choices.below(40) as usize, choices.flag());
    let said = choices.rest();
    let mut pieces = Random::of(data).cut(said, longest).into_iter();
    let mut options = Options::new("mx.example", tls);
    if lmtp {
        options.protocol = Protocol::Lmtp;
    }
    options.login = login.then(|| Login {
        user: "ann".into(),
        secret: "s3cret".into(),
    });
    let session = Session::new(options);
    let mut shell = Shell {
        session,
        envelope,
        only_ask,
        lmtp,
        sent: 0,
        taken: 0,
        written: Vec::new(),
        fed: Vec::new(),
        unanswered: 0,
        wait: 0,
        interrupts: longest % 3 == 0,
    };
    while shell.go_on(&mut pieces) {
        match pieces.next() {
            Some(piece) => shell.hear(piece),
            None if lost => shell.session.disconnected(),
            None => shell.session.timed_out(),
        }
    }
    shell.taken
}

/// Drives a client session as `talk` does, and watches it.
struct Shell {
    session: Session,
    envelope: Arc<Envelope>,
    /// No content is to be sent.
    only_ask: bool,
    /// Each recipient is answered for by itself.
    lmtp: bool,
    /// Messages given to it.
    sent: u32,
    /// Messages that somebody got.
    taken: usize,
    /// Everything handed out to be written since the message began.
    written: Vec<u8>,
    /// What the primary said since the last write.
    fed: Vec<u8>,
    /// Bytes of the primary since something came of them.
    unanswered: usize,
    wait: u64,
    /// The primary speaks while the message is being written.
    interrupts: bool,
}

impl Shell {
    /// Until the primary is to speak; `false` once the session is over.
    fn go_on<'a>(&mut self, pieces: &mut impl Iterator<Item = &'a [u8]>) -> bool {
        for _ in 0..10_000 {
            match self.session.next() {
                Step::Write(bytes) => {
                    assert!(!bytes.is_empty());
                    if let Some(piece) = self.interrupts.then(|| pieces.next()).flatten() {
                        self.session.receive_while_writing(piece);
                        self.heard(piece.len());
                    }
                    if !self.session.is_encrypted() {
                        let text = String::from_utf8_lossy(&bytes);
                        let told = SECRETS.iter().any(|secret| text.contains(secret));
                        assert!(!told, "a secret in clear: {text}");
                    }
                    self.written.extend(bytes);
                    self.fed.clear();
                }
                Step::NeedInput => return true,
                Step::NeedBody => {
                    assert!(!self.only_ask, "a question has no content");
                    self.feed(pieces);
                }
                Step::StartTls => {
                    assert!(!self.session.is_encrypted());
                    self.session.tls_started();
                }
                Step::Idle if self.sent == 3 => self.session.quit(),
                Step::Idle => {
                    self.sent += 1;
                    self.written.clear();
                    let recipients = (0..self.envelope.recipients.len() as u32 + 1).collect();
                    let mail = Mail {
                        envelope: self.envelope.clone(),
                        recipients,
                        only_ask: self.only_ask,
                    };
                    self.session.send(mail).expect("it is idle");
                }
                Step::Outcome(outcome) => self.judge(&outcome),
                Step::Closed(_) => return false,
            }
        }
        panic!("the session never rests");
    }

    fn feed<'a>(&mut self, pieces: &mut impl Iterator<Item = &'a [u8]>) {
        for chunk in body(self.envelope.body.len).chunks(7) {
            self.session.body(chunk);
            if let Some(piece) = self.interrupts.then(|| pieces.next()).flatten() {
                self.hear(piece);
            }
        }
        self.session.body_end();
        if let Some(piece) = self.interrupts.then(|| pieces.next()).flatten() {
            self.hear(piece);
        }
    }

    fn hear(&mut self, piece: &[u8]) {
        self.session.receive(piece);
        self.fed.extend_from_slice(piece);
        self.heard(piece.len());
    }

    fn heard(&mut self, bytes: usize) {
        self.unanswered += bytes;
        let wait = self.session.wait().map_or(0, |wait| wait.number);
        if wait != self.wait || self.session.is_closed() {
            self.wait = wait;
            self.unanswered = bytes;
        }
        let max = REPLY_BYTES_MAX + REPLY_LINE_BYTES_MAX + bytes;
        assert!(self.unanswered <= max, "an endless reply is listened to");
    }

    fn judge(&mut self, outcome: &holdfast_smtp::client::Outcome) {
        let mut seen: Vec<u32> = outcome.results.iter().map(|r| r.recipient).collect();
        seen.sort_unstable();
        let all = 0..self.envelope.recipients.len() as u32;
        assert!(all.eq(seen), "each recipient once: {outcome:?}");
        for result in &outcome.results {
            assert!(result.reply.len() <= RECORDED_BYTES_MAX);
            assert!(!result.reply.chars().any(char::is_control), "{result:?}");
        }
        let delivered = |r: &holdfast_smtp::client::RecipientResult| r.fate == Fate::Delivered;
        let known = outcome.results.iter().any(|r| r.fate == Fate::Known);
        assert!(!known || self.only_ask, "{outcome:?}");
        if outcome.results.iter().any(delivered) {
            assert!(!self.only_ask, "{outcome:?}");
            self.taken += 1;
            let decided = !outcome.in_doubt && !outcome.connection_failed;
            assert!(decided || self.lmtp, "{outcome:?}");
            let wire = self.written.as_slice();
            let content = body(self.envelope.body.len);
            let chunk = format!("BDAT {} LAST\r\n", content.len());
            let whole = wire.ends_with(&[chunk.as_bytes(), &content].concat())
                || wire.ends_with(&crate::reference::stuffed(&content));
            assert!(whole, "delivered, and not sent: {}", wire.escape_ascii());
            // Some whole reply began behind the last byte of the message, and was a yes.
            let mut lines = self.fed.split_inclusive(|byte| *byte == b'\n');
            let yes = lines.any(|line| line.starts_with(b"2") && line.ends_with(b"\n"));
            assert!(
                yes,
                "delivered, and not answered: {}",
                self.fed.escape_ascii()
            );
        }
    }
}

/// Content of a known kind: lines, dots and no end of line at its end for odd lengths.
fn body(len: u64) -> Vec<u8> {
    b".first\r\n..second\r\n\r\nthird"
        .iter()
        .copied()
        .cycle()
        .take(len as usize)
        .collect()
}

fn envelope(choices: &mut Choices<'_>) -> Envelope {
    let id = MessageId::new(Timestamp(1_800_000_000_000), 1);
    let count = 1 + choices.below(4);
    let (wide, dsn) = (choices.flag(), choices.flag());
    let recipients = (0..count)
        .map(|n| Recipient {
            address: Address::parse(&format!("r{n}@b.example"), false).expect("an address"),
            notify: dsn.then(Notify::default),
            orcpt: dsn.then(|| "rfc822;x".into()),
        })
        .collect();
    Envelope {
        id,
        reverse_path: ReversePath::Null,
        recipients,
        body: BodyRef {
            id,
            // Never cut between CR and LF, which the door would have refused.
            len: [0, 8, 18, 26, 26, 34][choices.below(6) as usize],
            digest: [0; 32],
        },
        received_at: Timestamp(1_800_000_000_000),
        body_type: if wide {
            BodyType::EightBitMime
        } else {
            BodyType::SevenBit
        },
        smtputf8: false,
        ret: None,
        envid: dsn.then(|| "id".into()),
        helo: "c.example".into(),
        client: "192.0.2.1".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A corpus whose first bytes mean something else by now tries nothing.
    #[test]
    fn the_primaries_of_the_corpus_that_take_mail_get_some() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/primary");
        for (name, taken) in [
            ("plain", 1),
            ("pipelined", 1),
            ("chunking", 1),
            ("tls", 1),
            ("login", 1),
            ("lmtp", 1),
            ("only-asked", 0),
            ("login-in-clear", 0),
        ] {
            let input = std::fs::read(format!("{folder}/{name}")).unwrap();
            assert_eq!(converse(&input).min(1), taken, "{name}");
        }
    }
}

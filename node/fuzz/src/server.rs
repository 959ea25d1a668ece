//! A server session at the other end of arbitrary bytes, and a diary of what it did.

use holdfast_smtp::limits::{COMMAND_BYTES_MAX, PIECE_BYTES, TIMED_BLOCK_BYTES};
use holdfast_smtp::reply::Reply;
use holdfast_smtp::server::{Options, Question, Service, Session, Step};

/// What sessions are made of.
pub(crate) const WORDS: &[&[u8]] = &[
    b"EHLO c.example\r\n",
    b"HELO c\r\n",
    b"MAIL FROM:<>\r\n",
    b"MAIL FROM:<a@b.example> SIZE=70 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=x\r\n",
    b"RCPT TO:<a@b.example>\r\n",
    b"RCPT TO:<a@b.example> NOTIFY=NEVER ORCPT=rfc822;x\r\n",
    b"DATA\r\n",
    b"DATA\r\nbody\r\n.\r\n",
    b"BDAT 4\r\na\r\nb",
    b"BDAT 3 LAST\r\na\r\n",
    b"BDAT 0 LAST\r\n",
    b"RSET\r\n",
    b"NOOP\r\n",
    b"VRFY x\r\n",
    b"EXPN x\r\n",
    b"HELP\r\n",
    b"ETRN example.org\r\n",
    b"ETRN @example.org\r\n",
    b"ETRN #queue\r\n",
    b"AUTH PLAIN AGFubgBzM2NyZXQ=\r\n",
    b"AUTH PLAIN\r\n",
    b"AUTH LOGIN\r\n",
    b"AUTH LOGIN YW5u\r\n",
    b"AUTH PLAIN =\r\n",
    b"AGFubgBzM2NyZXQ=\r\n",
    b"YW5u\r\n",
    b"czNjcmV0\r\n",
    b"*\r\n",
    b"ATRN\r\n",
    b"ATRN a.example,b.example\r\n",
    b"STARTTLS\r\n",
    b"QUIT\r\n",
    b"GET / HTTP/1.1\r\n",
    b"\r\n.\r\n",
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b".",
    b"\n.\n",
    b"\xc3\xbc",
    b"x",
];

/// How the session is set up and what its questions are answered: the first bytes of an input.
pub(crate) const HEAD_BYTES: usize = 6;

/// What one session did, but for how its replies were grouped into writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Diary {
    pub(crate) events: Vec<Event>,
    /// All replies.
    pub(crate) said: Vec<u8>,
    /// The content of each message that was asked about.
    pub(crate) messages: Vec<Vec<u8>>,
    pub(crate) closed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Asked(String),
    Refused(u16),
    Reset,
    Tls,
    Turned,
}

/// A session, its desk, and the diary.
pub(crate) struct Server {
    session: Session,
    service: Service,
    secure: bool,
    /// Whose login was granted.
    user: Option<String>,
    answers: [u8; 4],
    questions: usize,
    body: Vec<u8>,
    turn: u64,
    in_turn: u64,
    /// The handshake is done at once, or the driver stops at it.
    pub(crate) handshakes: bool,
    /// A handshake was asked for and not done.
    pub(crate) at_handshake: bool,
    pub(crate) diary: Diary,
}

impl Server {
    /// Reads its options and answers from the head of an input: digits and letters in the
    /// corpus, anything in general.
    pub(crate) fn new(head: &[u8]) -> Self {
        let at = |place: usize| head.get(place).copied().unwrap_or(b'0');
        let sizes = [1 << 20, 64, 3000, 150_000];
        let size = sizes[usize::from(at(0)) % sizes.len()];
        let mut options = Options::new("mx.example", size, at(1) % 2 == 0);
        (options.service, options.secure) = match at(1) % 8 {
            2 => (Service::OnDemand, false),
            4 => (Service::Submission, false),
            5 => (Service::Submission, true),
            6 => (Service::OnDemand, true),
            7 => (Service::Submission, false),
            _ => (Service::Exchange, false),
        };
        Self::with(options, [at(2), at(3), at(4), at(5)])
    }

    /// Says yes to everything.
    pub(crate) fn willing() -> Self {
        let options = Options::new("mx.example", 1 << 20, true);
        Self::with(options, [b'0'; 4])
    }

    pub(crate) fn with(options: Options, answers: [u8; 4]) -> Self {
        Self {
            service: options.service,
            secure: options.secure,
            session: Session::new(options),
            user: None,
            answers,
            questions: 0,
            body: Vec::new(),
            turn: 0,
            in_turn: 0,
            handshakes: true,
            at_handshake: false,
            diary: Diary::default(),
        }
    }

    /// Takes bytes of the client and does all that follows from them.
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        self.session.receive(bytes);
        self.go_on();
        self.hears_in_time(bytes.len());
    }

    /// Does what there is to do without further input.
    pub(crate) fn go_on(&mut self) {
        for _ in 0..1_000_000 {
            match self.session.next() {
                Step::Write(bytes) => {
                    assert!(!bytes.is_empty(), "nothing is no write");
                    self.diary.said.extend(bytes);
                }
                Step::Ask(question) => self.answer(&question),
                Step::Body(piece) => {
                    assert!(!piece.is_empty() && piece.len() <= PIECE_BYTES);
                    self.body.extend(piece);
                }
                Step::Refused(reply) => {
                    assert!(reply.code >= 400, "{reply:?}");
                    self.diary.events.push(Event::Refused(reply.code));
                }
                Step::Reset => {
                    self.body.clear();
                    self.diary.events.push(Event::Reset);
                }
                Step::StartTls if self.handshakes => {
                    assert!(!self.secure, "TLS within TLS");
                    self.diary.events.push(Event::Tls);
                    self.session.tls_started();
                    (self.secure, self.user) = (true, None);
                }
                Step::StartTls => {
                    self.at_handshake = true;
                    return;
                }
                Step::NeedInput => return,
                Step::Close => {
                    self.diary.closed = true;
                    return;
                }
                // From here on the session reads nothing either.
                Step::Turn => {
                    if !self.diary.closed {
                        assert!(self.may_turn(), "{:?}", self.diary);
                        self.diary.events.push(Event::Turned);
                    }
                    self.diary.closed = true;
                    return;
                }
            }
        }
        panic!("the session never rests");
    }

    /// The number of the question decides, so that the same session gets the same answers.
    fn answer(&mut self, question: &Question) {
        self.is_in_place(question);
        self.diary
            .events
            .push(Event::Asked(format!("{question:?}")));
        if *question == Question::Message {
            self.diary.messages.push(std::mem::take(&mut self.body));
        }
        let choice = self.answers[self.questions % self.answers.len()];
        self.questions += 1;
        let reply = match choice % 8 {
            5 => Reply::new(451, 3, 0, "later"),
            6 => Reply::new(550, 1, 1, "never\r\n250 yes"),
            7 => Reply::new(421, 3, 2, "gone"),
            _ => Reply::new(250, 0, 0, "yes"),
        };
        if let Question::Login(login) = question
            && reply.is_positive()
        {
            self.user = Some(login.user.clone());
        }
        self.session.answer(reply);
        assert_eq!(self.session.user(), self.user.as_deref());
    }

    /// Each port has its own questions, and none hears a secret in clear or a stranger's wish.
    fn is_in_place(&self, question: &Question) {
        let (service, known) = (self.service, self.user.is_some());
        let in_place = match question {
            Question::Mail(_) | Question::Rcpt(_) | Question::Content | Question::Message => {
                service == Service::Exchange || service == Service::Submission && known
            }
            Question::Etrn(_) => service == Service::Exchange,
            Question::Login(_) => service != Service::Exchange && self.secure && !known,
            Question::Atrn(_) => service == Service::OnDemand && known,
        };
        assert!(in_place, "{service:?}: {question:?}, {:?}", self.diary);
    }

    /// The roles turn behind the reply to ATRN, and nothing was said since.
    fn may_turn(&self) -> bool {
        let asked = self.diary.events.last();
        matches!(asked, Some(Event::Asked(question)) if question.starts_with("Atrn"))
            && self.diary.said.ends_with(b"250 2.0.0 yes\r\n")
    }

    /// A client that sends on without completing anything is not listened to for ever.
    fn hears_in_time(&mut self, more: usize) {
        let turn = self.session.timer().turn;
        if turn != self.turn || self.diary.closed {
            self.turn = turn;
            self.in_turn = 0;
        }
        self.in_turn += more as u64;
        let max = TIMED_BLOCK_BYTES + COMMAND_BYTES_MAX as u64 + more as u64;
        assert!(self.in_turn <= max, "{} bytes bought nothing", self.in_turn);
    }

    /// The replies are lines of RFC 5321 section 4.2, each reply whole.
    pub(crate) fn speaks_smtp(&self) {
        let said = std::str::from_utf8(&self.diary.said).expect("replies are UTF-8");
        assert!(said.is_empty() || said.ends_with("\r\n"));
        let mut open: Option<&str> = None;
        for line in said.split_terminator("\r\n") {
            assert!(!line.chars().any(char::is_control), "{line:?}");
            let (code, rest) = line.split_at_checked(3).expect("a code");
            assert!(code.parse::<u16>().is_ok_and(|c| (200..600).contains(&c)));
            assert!(open.is_none_or(|open| open == code), "{line:?}");
            open = rest.starts_with('-').then_some(code);
            assert!(rest.starts_with(['-', ' ']), "{line:?}");
        }
        assert_eq!(open, None, "the last reply is whole");
    }
}

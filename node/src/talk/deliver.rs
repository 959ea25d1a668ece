//! Drives a [`client::Session`] over a connection to a primary: bytes, timeouts, TLS.
//!
//! Nothing is decided here but when to give up waiting. A [`Connection`] that is dropped is
//! cut: a message whose end was not written yet is then not delivered by it.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use holdfast_mail::Envelope;
use holdfast_smtp::client::{Closed, Mail, Options, Outcome, Protocol, Session, Step, Tls};
use holdfast_smtp::login::Login;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use crate::net::connect;
use crate::net::tls::{self, Trust};

/// How long the handshake may take that STARTTLS agreed on. RFC 3207 names no time; a minute
/// covers a slow host, and what fails is tried again without TLS.
pub const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the next piece of a message may take to come from our own disk or a peer's, while
/// the primary waits with an open transaction. Below the five minutes it has to grant us (RFC
/// 5321 section 4.5.3.2.7).
pub const CONTENT_TIMEOUT: Duration = Duration::from_secs(60);

/// How long to listen after a write failed: a server that goes says why (421) before it
/// closes, and that reply may still be on its way.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes read at a time. The longest replies, to EHLO, have about 1 KiB.
const INPUT_BYTES: usize = 4096;

/// The content of a message, piece by piece. `Err` says why it ends before its end.
pub trait Content: Send {
    fn next(&mut self) -> impl Future<Output = Result<Option<Bytes>, String>> + Send;
}

/// How to reach a primary.
#[derive(Clone, Debug)]
pub struct Dialing {
    /// How this host names itself in EHLO.
    pub helo: String,
    /// How long one TCP connect may take.
    pub connect_timeout: Duration,
    /// Caps the times of RFC 5321 section 4.5.3.2 until the session is ready for mail; for a
    /// probe, which is made again if it was too impatient.
    pub opening_wait_max: Duration,
    pub security: Security,
    pub login: Option<Login>,
    pub protocol: Protocol,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// TLS where it is offered and works.
    Opportunistic,
    /// No mail without it.
    Required(Trust),
}

impl Dialing {
    /// SMTP with what security there is, as to anybody.
    #[must_use]
    pub fn new(helo: &str, connect_timeout: Duration, opening_wait_max: Duration) -> Self {
        Self {
            helo: helo.to_owned(),
            connect_timeout,
            opening_wait_max,
            security: Security::Opportunistic,
            login: None,
            protocol: Protocol::Smtp,
        }
    }
}

/// Why there is no session to deliver through.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    #[error("no connection to {address}: {why}; mail is kept")]
    Connect { address: SocketAddr, why: io::Error },
    #[error("{address}: {why}; mail is kept")]
    Session { address: SocketAddr, why: Closed },
    #[error("{address}: the TLS handshake failed: {why}; mail is kept")]
    Handshake { address: SocketAddr, why: io::Error },
}

impl Unavailable {
    /// Where it was tried.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Connect { address, .. }
            | Self::Session { address, .. }
            | Self::Handshake { address, .. } => *address,
        }
    }
}

/// A session that got as far as EHLO, and the connection under it.
pub struct Connection {
    line: Line,
    stream: Box<dyn Duplex>,
    address: SocketAddr,
    /// Who wants it back instead of a QUIT.
    home: Option<oneshot::Sender<Self>>,
}

/// Connects, and goes through banner, EHLO and, where it is offered, STARTTLS. `host` is the
/// primary's name for TLS. Where security is opportunistic, a handshake that fails is followed by
/// one more connection without TLS: opportunistic encryption must not keep mail from its owner (RFC 7435 section 3).
pub async fn open(
    dialing: &Dialing,
    address: SocketAddr,
    host: &str,
) -> Result<Connection, Unavailable> {
    let tls = match dialing.security {
        Security::Opportunistic => Tls::Opportunistic,
        Security::Required(_) => Tls::Required,
    };
    match attempt(dialing, address, host, tls).await {
        Err(Unavailable::Handshake { why, .. }) if tls == Tls::Opportunistic => {
            tracing::info!(%address, host, %why, "TLS handshake failed, going on in clear text");
            attempt(dialing, address, host, Tls::Never).await
        }
        other => other,
    }
}

async fn attempt(
    dialing: &Dialing,
    address: SocketAddr,
    host: &str,
    tls: Tls,
) -> Result<Connection, Unavailable> {
    #[cfg(test)]
    if let Some(mut stream) = crate::net::simulated::switch().and_then(|it| it.outside()) {
        let session = Session::new(Options::new(&dialing.helo, Tls::Never));
        let mut line = Line::new(session, dialing.opening_wait_max);
        let step = line.drive(&mut stream, &mut NoContent).await;
        return line.opened(step, Box::new(stream), address);
    }
    let mut stream = connect::tcp(address, dialing.connect_timeout)
        .await
        .map_err(|why| Unavailable::Connect { address, why })?;
    let session = Session::new(Options {
        helo: dialing.helo.clone(),
        tls,
        login: dialing.login.clone(),
        protocol: dialing.protocol,
    });
    let mut line = Line::new(session, dialing.opening_wait_max);
    let step = line.drive(&mut stream, &mut NoContent).await;
    if step != Step::StartTls {
        return line.opened(step, Box::new(stream), address);
    }
    let trust = match dialing.security {
        Security::Opportunistic => Trust::Anyone,
        Security::Required(trust) => trust,
    };
    let handshake = tls::client(stream, host, trust);
    let mut stream = timeout(TLS_HANDSHAKE_TIMEOUT, handshake)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|why| Unavailable::Handshake { address, why })?;
    line.session.tls_started();
    let step = line.drive(&mut stream, &mut NoContent).await;
    line.opened(step, Box::new(stream), address)
}

impl Connection {
    /// Over a stream that somebody else connected, after the roles turned on it: the other side
    /// greets (RFC 2645 section 5.2.1).
    ///
    /// # Errors
    /// The session does not open.
    pub async fn turned(
        mut stream: Box<dyn Duplex>,
        address: SocketAddr,
        dialing: &Dialing,
    ) -> Result<Self, Unavailable> {
        let session = Session::new(Options::new(&dialing.helo, Tls::Never));
        let mut line = Line::new(session, dialing.opening_wait_max);
        let step = line.drive(&mut *stream, &mut NoContent).await;
        line.opened(step, stream, address)
    }

    /// Instead of being quit the connection goes back there.
    pub fn returns_to(&mut self, home: oneshot::Sender<Self>) {
        self.home = Some(home);
    }

    pub fn returns_to_nobody(&mut self) {
        self.home = None;
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.line.session.is_encrypted()
    }

    /// How many recipients one message may be sent to.
    #[must_use]
    pub fn recipients_max(&self) -> usize {
        self.line.session.recipients_max()
    }

    /// Whether another message may be sent.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.line.session.is_idle()
    }

    /// Sends one message. `None`: the session was not ready, nothing was tried.
    pub async fn deliver(&mut self, mail: Mail, content: &mut impl Content) -> Option<Outcome> {
        self.line.session.send(mail).ok()?;
        match self.line.drive(&mut *self.stream, content).await {
            Step::Outcome(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// Asks whether the recipients would be taken; nothing is sent. `None`: the session was not
    /// ready.
    pub async fn ask(&mut self, envelope: Envelope) -> Option<Outcome> {
        let recipients = (0..).take(envelope.recipients.len()).collect();
        let mail = Mail {
            envelope: Arc::new(envelope),
            recipients,
            only_ask: true,
        };
        self.deliver(mail, &mut NoContent).await
    }

    /// Listens to a session without work until the primary ends it. May be dropped at any
    /// time.
    pub async fn until_closed(&mut self) -> Closed {
        loop {
            if let Step::Closed(why) = self.line.session.next() {
                return why;
            }
            self.line.read_until(&mut *self.stream, None).await;
        }
    }

    /// Says QUIT and waits a moment for the answer (RFC 5321 section 4.1.1.10).
    pub async fn quit(mut self) {
        if let Some(home) = self.home.take() {
            // Whoever waited for it has gone: then it is cut.
            let _gone = home.send(self);
            return;
        }
        self.line.session.quit();
        let _ = self.line.drive(&mut *self.stream, &mut NoContent).await;
    }
}

/// What a session can be driven over.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A session, and what it takes to serve it.
struct Line {
    session: Session,
    input: Box<[u8]>,
    /// The number of the wait under way, and when it is over.
    deadline: Option<(u64, Instant)>,
    wait_max: Duration,
}

/// One turn of a connection.
enum Turn {
    Wrote(usize),
    Read(usize),
}

/// For steps that ask for none.
struct NoContent;

impl Content for NoContent {
    async fn next(&mut self) -> Result<Option<Bytes>, String> {
        Err("no message is under way".to_owned())
    }
}

impl Line {
    fn new(session: Session, wait_max: Duration) -> Self {
        Self {
            session,
            input: vec![0; INPUT_BYTES].into(),
            deadline: None,
            wait_max,
        }
    }

    /// The end of the opening: ready for mail, or not.
    fn opened(
        mut self,
        step: Step,
        stream: Box<dyn Duplex>,
        address: SocketAddr,
    ) -> Result<Connection, Unavailable> {
        match step {
            Step::Idle => {
                self.wait_max = Duration::MAX;
                Ok(Connection {
                    line: self,
                    stream,
                    address,
                    home: None,
                })
            }
            Step::Closed(why) => Err(Unavailable::Session { address, why }),
            Step::Write(_)
            | Step::NeedInput
            | Step::NeedBody
            | Step::StartTls
            | Step::Outcome(_) => {
                let why = Closed::Abandoned("the session did not open".to_owned());
                Err(Unavailable::Session { address, why })
            }
        }
    }

    /// Does what the session asks for until it asks for something that is not ours to do.
    async fn drive(&mut self, stream: &mut dyn Duplex, content: &mut impl Content) -> Step {
        loop {
            match self.session.next() {
                Step::Write(bytes) => self.write(stream, &bytes).await,
                Step::NeedInput => {
                    let deadline = self.deadline();
                    self.read_until(stream, deadline).await;
                }
                Step::NeedBody => match timeout(CONTENT_TIMEOUT, content.next()).await {
                    Ok(Ok(Some(chunk))) => self.session.body(&chunk),
                    Ok(Ok(None)) => self.session.body_end(),
                    Ok(Err(why)) => self.session.abandon(&why),
                    Err(_) => self.session.abandon("reading it took too long"),
                },
                step => return step,
            }
        }
    }

    /// Writes, and reads what comes meanwhile: a server that answers a long group of commands
    /// may stop reading until its answers are taken (RFC 2920 section 3.1), and one that
    /// refuses in the middle of a message says so before its end.
    async fn write(&mut self, stream: &mut dyn Duplex, bytes: &[u8]) {
        let mut written = 0;
        while written < bytes.len() && !self.session.is_closed() {
            let deadline = self.deadline();
            let turn = turn(stream, &bytes[written..], &mut self.input);
            match until(deadline, turn).await {
                Some(Ok(Turn::Wrote(count))) if count > 0 => written += count,
                Some(Ok(Turn::Read(count))) if count > 0 => {
                    self.session.receive_while_writing(&self.input[..count]);
                }
                Some(Ok(_)) => self.session.disconnected(),
                Some(Err(_)) => self.last_words(stream).await,
                None => self.session.timed_out(),
            }
        }
        let deadline = self.deadline();
        match until(deadline, stream.flush()).await {
            Some(Ok(())) => {}
            Some(Err(_)) => self.last_words(stream).await,
            None => self.session.timed_out(),
        }
    }

    async fn read_until(&mut self, stream: &mut dyn Duplex, deadline: Option<Instant>) {
        match until(deadline, stream.read(&mut self.input)).await {
            Some(Ok(count)) if count > 0 => self.session.receive(&self.input[..count]),
            Some(_) => self.session.disconnected(),
            None => self.session.timed_out(),
        }
    }

    async fn last_words(&mut self, stream: &mut dyn Duplex) {
        let deadline = Instant::now() + LAST_WORDS_TIMEOUT;
        while !self.session.is_closed() {
            match timeout_at(deadline, stream.read(&mut self.input)).await {
                Ok(Ok(count)) if count > 0 => self.session.receive(&self.input[..count]),
                _ => self.session.disconnected(),
            }
        }
    }

    /// When the wait under way is over. Set once for each wait: a primary that sends a byte a
    /// minute does not get more time by it.
    fn deadline(&mut self) -> Option<Instant> {
        let wait = self.session.wait()?;
        match self.deadline {
            Some((number, at)) if number == wait.number => Some(at),
            _ => {
                let at = Instant::now() + wait.timeout.duration().min(self.wait_max);
                self.deadline = Some((wait.number, at));
                Some(at)
            }
        }
    }
}

/// Writes what can be written now, or reads what has come while nothing can.
async fn turn(stream: &mut dyn Duplex, bytes: &[u8], input: &mut [u8]) -> io::Result<Turn> {
    poll_fn(|context| {
        if let Poll::Ready(count) = Pin::new(&mut *stream).poll_write(context, bytes) {
            return Poll::Ready(count.map(Turn::Wrote));
        }
        let mut buffer = ReadBuf::new(input);
        match Pin::new(&mut *stream).poll_read(context, &mut buffer) {
            Poll::Ready(done) => Poll::Ready(done.map(|()| Turn::Read(buffer.filled().len()))),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// `None` once `deadline` has passed.
async fn until<T>(deadline: Option<Instant>, what: impl Future<Output = T>) -> Option<T> {
    match deadline {
        Some(deadline) => timeout_at(deadline, what).await.ok(),
        None => Some(what.await),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use holdfast_mail::{
        Address, BodyRef, BodyType, Envelope, MessageId, Recipient, ReversePath, Timestamp,
    };
    use holdfast_smtp::client::Fate;
    use tokio::io::{AsyncBufReadExt, DuplexStream};

    use super::*;
    use crate::net::listen::Listener;

    struct Pieces(Vec<Result<Bytes, String>>);

    impl Content for Pieces {
        async fn next(&mut self) -> Result<Option<Bytes>, String> {
            if self.0.is_empty() {
                return Ok(None);
            }
            self.0.remove(0).map(Some)
        }
    }

    fn mail(len: u64) -> Mail {
        let id = MessageId::new(Timestamp(1), 1);
        Mail {
            envelope: Arc::new(Envelope {
                id,
                reverse_path: ReversePath::Null,
                recipients: vec![Recipient {
                    address: Address::parse("a@x.y", false).unwrap(),
                    notify: None,
                    orcpt: None,
                }],
                body: BodyRef {
                    id,
                    len,
                    digest: [0; 32],
                },
                received_at: Timestamp(1),
                body_type: BodyType::SevenBit,
                smtputf8: false,
                ret: None,
                envid: None,
                helo: String::new(),
                client: String::new(),
            }),
            recipients: vec![0],
            only_ask: false,
        }
    }

    fn connection(stream: DuplexStream, wait_max: Duration) -> Connection {
        let session = Session::new(Options::new("mx.example", Tls::Never));
        Connection {
            line: Line::new(session, wait_max),
            stream: Box::new(stream),
            address: SocketAddr::from(([127, 0, 0, 1], 25)),
            home: None,
        }
    }

    /// A primary that says each reply once it has read the text before it.
    async fn primary(mut stream: DuplexStream, script: Vec<(&'static str, &'static str)>) {
        let mut seen = Vec::new();
        for (until, reply) in script {
            while !seen.ends_with(until.as_bytes()) {
                let mut byte = [0];
                if stream.read(&mut byte).await.unwrap() == 0 {
                    return;
                }
                seen.push(byte[0]);
            }
            stream.write_all(reply.as_bytes()).await.unwrap();
        }
    }

    async fn deliver(
        script: Vec<(&'static str, &'static str)>,
        buffer: usize,
        content: Vec<Result<Bytes, String>>,
    ) -> Outcome {
        deliver_within(Duration::MAX, script, buffer, content).await
    }

    async fn deliver_within(
        wait_max: Duration,
        script: Vec<(&'static str, &'static str)>,
        buffer: usize,
        content: Vec<Result<Bytes, String>>,
    ) -> Outcome {
        let (ours, theirs) = tokio::io::duplex(buffer);
        tokio::spawn(primary(theirs, script));
        let mut connection = connection(ours, wait_max);
        let Connection { line, stream, .. } = &mut connection;
        assert_eq!(line.drive(&mut **stream, &mut NoContent).await, Step::Idle);
        let len = content
            .iter()
            .flatten()
            .map(|piece| piece.len() as u64)
            .sum();
        connection
            .deliver(mail(len), &mut Pieces(content))
            .await
            .unwrap()
    }

    const OPENING: [(&str, &str); 2] = [
        ("", "220 hi\r\n"),
        ("EHLO mx.example\r\n", "250-hi\r\n250 PIPELINING\r\n"),
    ];

    #[tokio::test]
    async fn a_message_goes_through_a_narrow_connection() {
        let mut script = OPENING.to_vec();
        script.push(("DATA\r\n", "250 ok\r\n250 ok\r\n354 ok\r\n"));
        script.push(("\r\n.\r\n", "250 taken\r\n"));
        let content = vec![Ok(Bytes::from(vec![b'x'; 100_000])), Ok("\r\n".into())];
        let outcome = deliver(script, 16, content).await;
        assert_eq!(outcome.results[0].fate, Fate::Delivered);
        assert_eq!(outcome.results[0].reply, "250 taken");
    }

    #[tokio::test]
    async fn a_primary_that_says_nothing_after_the_dot_leaves_doubt() {
        let mut script = OPENING.to_vec();
        script.push(("DATA\r\n", "250 ok\r\n250 ok\r\n354 ok\r\n"));
        script.push(("\r\n.\r\n", "25"));
        script.push(("never", ""));
        let patience = Duration::from_millis(200);
        let outcome = deliver_within(patience, script, 4096, vec![Ok("x\r\n".into())]).await;
        assert!(outcome.in_doubt && outcome.connection_failed);
    }

    #[tokio::test]
    async fn content_that_ends_with_an_error_never_gets_its_dot() {
        let mut script = OPENING.to_vec();
        script.push(("DATA\r\n", "250 ok\r\n250 ok\r\n354 ok\r\n"));
        script.push(("\r\n.\r\n", "250 taken\r\n"));
        let content = vec![Ok("x\r\n".into()), Err("damaged".to_owned())];
        let outcome = deliver(script, 4096, content).await;
        assert_eq!(outcome.results[0].fate, Fate::Deferred);
        assert!(!outcome.in_doubt && outcome.connection_failed);
    }

    #[tokio::test]
    async fn a_refusal_in_the_middle_of_a_message_is_heard() {
        let mut script = OPENING.to_vec();
        script.push(("DATA\r\n", "250 ok\r\n250 ok\r\n354 ok\r\n"));
        script.push(("xxx", "552 too big\r\n"));
        script.push(("never", ""));
        let content = vec![Ok(Bytes::from(vec![b'x'; 1_000_000]))];
        let outcome = deliver(script, 64, content).await;
        assert_eq!(outcome.results[0].fate, Fate::Refused);
        assert_eq!(outcome.results[0].reply, "552 too big");
    }

    /// Serves one connection under STARTTLS after another, and says what it heard in clear and
    /// under TLS. Ends with the listener's owner.
    async fn tls_primary(
        listener: Listener,
        server: tls::SmtpServer,
        heard: Arc<Mutex<Vec<(bool, String)>>>,
    ) {
        loop {
            let (plain, _) = listener.accept().await;
            let server = server.clone();
            let heard = heard.clone();
            tokio::spawn(async move {
                let mut plain = plain;
                if talk(&mut plain, false, &heard).await {
                    // A client that does not trust the certificate goes.
                    if let Ok(mut encrypted) = server.accept(plain).await {
                        talk(&mut encrypted, true, &heard).await;
                    }
                }
            });
        }
    }

    /// Whether TLS is to begin.
    async fn talk(
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        encrypted: bool,
        heard: &Mutex<Vec<(bool, String)>>,
    ) -> bool {
        let mut stream = tokio::io::BufReader::new(stream);
        if !encrypted {
            let _gone = stream.write_all(b"220 hi\r\n").await;
        }
        loop {
            let mut line = String::new();
            if !matches!(stream.read_line(&mut line).await, Ok(1..)) {
                return false;
            }
            let line = line.trim_end().to_owned();
            heard.lock().unwrap().push((encrypted, line.clone()));
            let reply = match line.as_str() {
                "STARTTLS" => "220 go on",
                "DATA" => "354 go on",
                line if line.contains("HLO") && encrypted => "250-hi\r\n250 AUTH PLAIN",
                line if line.contains("HLO") => "250-hi\r\n250 STARTTLS",
                line if line.starts_with("AUTH") => "235 welcome",
                "hi" => continue,
                _ => "250 ok",
            };
            let _gone = stream.write_all(format!("{reply}\r\n").as_bytes()).await;
            let _gone = stream.flush().await;
            if line == "STARTTLS" {
                return true;
            }
        }
    }

    #[tokio::test]
    async fn mail_and_secrets_go_only_to_the_key_that_was_pinned() {
        let identity = tls::Identity::self_signed("mail.example").unwrap();
        let key = identity.key().unwrap();
        let server = tls::smtp_server(identity).unwrap();
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.address().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let primary = tokio::spawn(tls_primary(listener, server, heard.clone()));
        let patience = Duration::from_secs(10);
        let dialing = |security| Dialing {
            security,
            protocol: Protocol::Lmtp,
            login: Some(Login {
                user: "us".to_owned(),
                secret: "secret".to_owned(),
            }),
            ..Dialing::new("mx.example", patience, patience)
        };
        for trust in [Trust::Key([7; 32]), Trust::Roots] {
            let opened = open(&dialing(Security::Required(trust)), address, "mail.example").await;
            let Err(why) = opened else {
                panic!("{trust:?} was trusted")
            };
            assert!(matches!(why, Unavailable::Handshake { .. }), "{why}");
        }
        let said = |word: &str| {
            let heard = heard.lock().unwrap();
            heard.iter().filter(|(_, line)| line.contains(word)).count()
        };
        assert_eq!((said("AUTH"), said("MAIL")), (0, 0), "{heard:?}");

        let right = dialing(Security::Required(Trust::Key(key)));
        let mut connection = open(&right, address, "mail.example").await.unwrap();
        let content = Pieces(vec![Ok("hi\r\n".into())]);
        let outcome = connection.deliver(mail(4), &mut { content }).await.unwrap();
        assert_eq!(outcome.results[0].fate, Fate::Delivered);
        connection.quit().await;
        primary.abort();
        let heard = heard.lock().unwrap();
        let auth = "AUTH PLAIN AHVzAHNlY3JldA==".to_owned();
        assert!(heard.contains(&(true, auth)), "{heard:?}");
        assert!(heard.contains(&(true, "LHLO mx.example".to_owned())));
    }
}

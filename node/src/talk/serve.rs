//! Drives an [`smtp::server::Session`](holdfast_smtp::server::Session) over a connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use holdfast_smtp::limits::TLS_TIME_MAX;
use holdfast_smtp::reply::Reply;
use holdfast_smtp::server::{Question, Session, Step};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::server::TlsStream;

use super::deliver::Duplex;
use crate::failpoint;
use crate::net::tls::SmtpServer;

/// Bytes read at a time; what one idle session costs beside its task.
const READ_BYTES: usize = 16 << 10;

/// A client that does not take a reply in this time is gone (RFC 5321 section 4.5.3.2.7's five
/// minutes are for waiting for it to speak).
const WRITE_TIME_MAX: Duration = Duration::from_secs(60);

/// After our last word a client is heard out for this long, or this many bytes. A socket that is
/// closed with unread input is reset, and a client that is still sending would never see the
/// reply that says why (RFC 9293 section 3.6.1).
const FAREWELL_TIME_MAX: Duration = Duration::from_secs(2);
const FAREWELL_BYTES_MAX: usize = 1 << 20;

/// Who decides: answers questions and takes content.
pub trait Desk {
    /// `None` closes the connection without an answer: what became of the message is unknown.
    fn ask(
        &mut self,
        question: Question,
        session: &Session,
    ) -> impl Future<Output = Option<Reply>> + Send;
    /// Content. A failure must be remembered and told at [`Question::Message`].
    fn body(&mut self, bytes: Vec<u8>) -> impl Future<Output = ()> + Send;
    /// The client is about to read this refusal, the desk's own or the session's.
    fn refused(&mut self, reply: &Reply);
    /// The transaction is over without a message.
    fn reset(&mut self);
}

/// A client's connection.
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self::Plain(stream)
    }
}

impl Stream {
    /// TLS from the first byte (RFC 8314).
    ///
    /// # Errors
    /// The handshake fails, or takes too long.
    pub async fn secured(stream: TcpStream, tls: &SmtpServer) -> io::Result<Self> {
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long");
        let secured = timeout(TLS_TIME_MAX, tls.accept(stream)).await;
        Ok(Self::Tls(Box::new(secured.map_err(late)??)))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// A connection on which the client is the server from now on.
pub type Caller = Box<dyn Duplex>;

/// Serves one connection to its end, or until the roles turn. `stop` ends it between transactions.
pub async fn serve(
    stream: impl Into<Stream>,
    mut session: Session,
    tls: Option<SmtpServer>,
    desk: &mut impl Desk,
    mut stop: watch::Receiver<bool>,
) -> io::Result<Option<Caller>> {
    let mut stream = stream.into();
    let mut buffer = vec![0; READ_BYTES];
    let mut waiting = Waiting::new(&session);
    loop {
        match session.next() {
            Step::Write(bytes) => {
                let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the client does not read");
                let written = async {
                    stream.write_all(&bytes).await?;
                    stream.flush().await
                };
                timeout(WRITE_TIME_MAX, written).await.map_err(late)??;
                failpoint::reach("reply-written");
                waiting.pause();
            }
            Step::Ask(question) => {
                match desk.ask(question, &session).await {
                    Some(reply) => session.answer(reply),
                    None => return Ok(None),
                }
                waiting.pause();
            }
            Step::Body(bytes) => {
                let begin = Instant::now();
                desk.body(bytes).await;
                waiting.since += begin.elapsed();
            }
            Step::Refused(reply) => desk.refused(&reply),
            Step::Reset => desk.reset(),
            Step::StartTls => {
                let (Stream::Plain(plain), Some(tls)) = (stream, &tls) else {
                    return Err(io::Error::other("STARTTLS twice"));
                };
                let late =
                    |_| io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long");
                let upgraded = timeout(session.timer().time_max, tls.accept(plain))
                    .await
                    .map_err(late)??;
                stream = Stream::Tls(Box::new(upgraded));
                session.tls_started();
            }
            Step::NeedInput => {
                if session.is_idle() && *stop.borrow() {
                    session.shut_down(
                        "this server is shutting down; the other mail exchangers take your mail",
                    );
                    continue;
                }
                let read = tokio::select! {
                    read = timeout_at(waiting.deadline(&session), stream.read(&mut buffer)) => read,
                    changed = stop.changed(), if session.is_idle() => {
                        if changed.is_err() {
                            session.shut_down("this server is shutting down");
                        }
                        continue;
                    }
                };
                match read {
                    Ok(Ok(0)) => return Ok(None),
                    Ok(Ok(count)) => session.receive(&buffer[..count]),
                    Ok(Err(error)) => return Err(error),
                    Err(_) => session.timed_out(),
                }
            }
            Step::Turn => return Ok(Some(Box::new(stream))),
            Step::Close => {
                farewell(stream, &mut buffer).await;
                return Ok(None);
            }
        }
    }
}

/// Since when the client has owed us what the session's timer names.
struct Waiting {
    turn: u64,
    since: Instant,
}

impl Waiting {
    fn new(session: &Session) -> Self {
        Self {
            turn: session.timer().turn,
            since: Instant::now(),
        }
    }

    /// The client was kept waiting for us: its time begins anew.
    fn pause(&mut self) {
        self.since = Instant::now();
    }

    fn deadline(&mut self, session: &Session) -> Instant {
        let timer = session.timer();
        if timer.turn != self.turn {
            self.turn = timer.turn;
            self.since = Instant::now();
        }
        self.since + timer.time_max
    }
}

/// Closes so that the client can read our last words. It may have closed already.
async fn farewell(mut stream: Stream, buffer: &mut [u8]) {
    let listen = async {
        stream.shutdown().await?;
        let mut heard = 0;
        while heard < FAREWELL_BYTES_MAX {
            match stream.read(buffer).await? {
                0 => break,
                count => heard += count,
            }
        }
        io::Result::Ok(())
    };
    let _gone = timeout(FAREWELL_TIME_MAX, listen).await;
}

#[cfg(test)]
mod tests;

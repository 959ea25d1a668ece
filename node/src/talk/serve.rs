//! Drives an [`smtp::server::Session`](holdfast_smtp::server::Session) over a connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use holdfast_smtp::reply::Reply;
use holdfast_smtp::server::{Question, Session, Step};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::server::TlsStream;

use crate::net::tls::SmtpServer;

/// Bytes read at a time; what one idle session costs beside its task.
const READ_BYTES: usize = 16 << 10;

/// A client that does not take a reply in this time is gone (RFC 5321 section 4.5.3.2.7's five
/// minutes are for waiting for it to speak).
const WRITE_TIME_MAX: Duration = Duration::from_secs(60);

/// A handshake takes two round trips.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(30);

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
    /// The transaction is over without a message.
    fn reset(&mut self);
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
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

/// Serves one connection to its end. `stop` ends it between transactions.
pub async fn serve(
    stream: TcpStream,
    mut session: Session,
    tls: Option<SmtpServer>,
    desk: &mut impl Desk,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut stream = Stream::Plain(stream);
    let mut buffer = vec![0; READ_BYTES];
    // The whole of a command, or of a block of content, must arrive within its time: a client
    // that sends a byte a minute is not waited for.
    let mut since = Instant::now();
    loop {
        match session.next() {
            Step::Write(bytes) => {
                let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the client does not read");
                timeout(WRITE_TIME_MAX, stream.write_all(&bytes))
                    .await
                    .map_err(late)??;
                since = Instant::now();
            }
            Step::Ask(question) => {
                match desk.ask(question, &session).await {
                    Some(reply) => session.answer(reply),
                    None => return Ok(()),
                }
                since = Instant::now();
            }
            Step::Body(bytes) => {
                desk.body(bytes).await;
                since = Instant::now();
            }
            Step::Reset => desk.reset(),
            Step::StartTls => {
                let (Stream::Plain(plain), Some(tls)) = (stream, &tls) else {
                    return Err(io::Error::other("STARTTLS twice"));
                };
                let late =
                    |_| io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long");
                let upgraded = timeout(HANDSHAKE_TIME_MAX, tls.accept(plain))
                    .await
                    .map_err(late)??;
                stream = Stream::Tls(Box::new(upgraded));
                session.tls_started();
                since = Instant::now();
            }
            Step::NeedInput => {
                if session.is_idle() && *stop.borrow() {
                    session.shut_down(
                        "this server is shutting down; the other mail exchangers take your mail",
                    );
                    continue;
                }
                let deadline = since + session.time_max();
                let read = tokio::select! {
                    read = timeout_at(deadline, stream.read(&mut buffer)) => read,
                    changed = stop.changed(), if session.is_idle() => {
                        if changed.is_err() {
                            session.shut_down("this server is shutting down");
                        }
                        continue;
                    }
                };
                match read {
                    Ok(Ok(0)) => return Ok(()),
                    Ok(Ok(count)) => session.receive(&buffer[..count]),
                    Ok(Err(error)) => return Err(error),
                    Err(_) => session.shut_down("timeout: nothing was said for too long"),
                }
            }
            Step::Close => {
                // The client may have closed already.
                let _gone = timeout(WRITE_TIME_MAX, stream.shutdown()).await;
                return Ok(());
            }
        }
    }
}

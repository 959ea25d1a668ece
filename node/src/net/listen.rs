//! Listening sockets.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures::future::select_all;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

/// Connections that the kernel holds for us while we are busy. As many as a storm of senders
/// after an outage opens within a second.
const BACKLOG: i32 = 1024;

/// After running out of file descriptors: long enough for a connection to end, short enough
/// that nobody notices.
pub(super) const PAUSE_WHEN_EXHAUSTED: Duration = Duration::from_millis(50);

/// A bound TCP socket.
#[derive(Debug)]
pub struct Listener(TcpListener);

impl Listener {
    /// Binds `address`; port 0 takes a free one.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Self::from_std(socket.into())
    }

    /// One that listens already.
    pub(super) fn from_std(socket: std::net::TcpListener) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self(TcpListener::from_std(socket)?))
    }

    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// The next connection. Errors of one connection or a lack of descriptors are waited out:
    /// a listener that gave up would look like a dead server.
    pub async fn accept(&self) -> (TcpStream, SocketAddr) {
        loop {
            match self.0.accept().await {
                Ok((stream, peer)) => {
                    // Replies are short and awaited: Nagle's algorithm would delay them.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%peer, "the connection was gone at once: {error}");
                        continue;
                    }
                    return (stream, peer);
                }
                Err(error) => {
                    if !matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
                    ) {
                        tracing::warn!("cannot accept a connection, trying again: {error}");
                        tokio::time::sleep(PAUSE_WHEN_EXHAUSTED).await;
                    }
                }
            }
        }
    }
}

/// The next connection to any of these; none ever comes where there are none.
pub async fn accept_any<'a>(doors: impl Iterator<Item = &'a Listener>) -> TcpStream {
    let doors: Vec<_> = doors.map(|door| Box::pin(door.accept())).collect();
    if doors.is_empty() {
        return std::future::pending().await;
    }
    let ((stream, _), ..) = select_all(doors).await;
    stream
}

/// Ends a connection whose peer has acknowledged nothing for so long: it is gone, without a word.
///
/// # Errors
/// The kernel does not do that; the connection then ends much later.
pub fn end_when_silent(stream: &TcpStream, limit: Duration) -> io::Result<()> {
    SockRef::from(stream).set_tcp_user_timeout(Some(limit))
}

impl axum::serve::Listener for Listener {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        Self::accept(self).await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.address()
    }
}

//! SMTP lines over TCP, as little as a sender and a receiver in a demo need.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest line taken: RFC 5321's 1000 with room for a generous peer.
const LINE_BYTES_MAX: u64 = 8 << 10;
/// A peer that says nothing for so long is taken for dead. RFC 5321 asks senders to wait for
/// minutes; a demo cannot.
const SILENCE_MAX: Duration = Duration::from_secs(30);
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

pub(crate) struct Wire(BufReader<TcpStream>);

/// A reply's code and the text of its last line.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) code: u16,
    pub(crate) text: String,
}

impl Reply {
    pub(crate) fn is_positive(&self) -> bool {
        self.code < 400
    }
}

impl Wire {
    pub(crate) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    pub(crate) async fn connect(address: SocketAddr) -> io::Result<Self> {
        Self::new(in_time(CONNECT_TIME_MAX, TcpStream::connect(address)).await?)
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        in_time(SILENCE_MAX, self.0.get_mut().write_all(bytes)).await
    }

    /// One line with its CRLF; `None` at the end of the stream.
    pub(crate) async fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        let mut bounded = (&mut self.0).take(LINE_BYTES_MAX);
        in_time(SILENCE_MAX, bounded.read_until(b'\n', &mut line)).await?;
        match line.last() {
            None => Ok(None),
            Some(b'\n') => Ok(Some(line)),
            Some(_) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a line without end",
            )),
        }
    }

    pub(crate) async fn exact(&mut self, count: usize, into: &mut Vec<u8>) -> io::Result<()> {
        let start = into.len();
        into.resize(start + count, 0);
        in_time(SILENCE_MAX, self.0.read_exact(&mut into[start..])).await?;
        Ok(())
    }

    pub(crate) async fn reply(&mut self) -> io::Result<Reply> {
        loop {
            let Some(line) = self.line().await? else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end();
            let code = line
                .get(..3)
                .and_then(|code| code.parse().ok())
                .ok_or_else(|| {
                    io::Error::new(io::ErrorKind::InvalidData, "a reply without code")
                })?;
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(Reply {
                    code,
                    text: line.to_owned(),
                });
            }
        }
    }
}

async fn in_time<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match timeout(limit, work).await {
        Ok(done) => done,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

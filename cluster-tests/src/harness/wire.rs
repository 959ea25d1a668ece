//! SMTP lines over a blocking socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// Longer than a node waits for a quorum before it gives up.
const SILENCE_MAX: Duration = Duration::from_secs(90);
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
const LINE_BYTES_MAX: u64 = 8 << 10;

pub(crate) struct Wire {
    stream: BufReader<TcpStream>,
    /// The reply that was read last, with all its lines.
    pub(crate) said: String,
}

impl Wire {
    pub(crate) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        stream.set_write_timeout(Some(SILENCE_MAX))?;
        Ok(Self {
            stream: BufReader::new(stream),
            said: String::new(),
        })
    }

    pub(crate) fn connect(address: SocketAddr) -> io::Result<Self> {
        Self::new(TcpStream::connect_timeout(&address, CONNECT_TIME_MAX)?)
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// A line with its end; `None` at the end of the stream.
    pub(crate) fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        (&mut self.stream)
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut line)?;
        match line.last() {
            None => Ok(None),
            Some(b'\n') => Ok(Some(line)),
            Some(_) => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    pub(crate) fn exact(&mut self, count: usize, into: &mut Vec<u8>) -> io::Result<()> {
        let start = into.len();
        into.resize(start + count, 0);
        self.stream.read_exact(&mut into[start..])
    }

    /// Ends the connection for every handle of it.
    pub(crate) fn hang_up(&self) {
        // It may have ended already.
        drop(self.stream.get_ref().shutdown(Shutdown::Both));
    }

    /// The code of the next reply.
    pub(crate) fn reply(&mut self) -> io::Result<u16> {
        self.said.clear();
        loop {
            let line = self.line()?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let code = std::str::from_utf8(line.get(..3).unwrap_or_default())
                .ok()
                .and_then(|code| code.parse().ok())
                .ok_or(io::ErrorKind::InvalidData)?;
            self.said += &String::from_utf8_lossy(&line);
            if line.get(3) != Some(&b'-') {
                return Ok(code);
            }
        }
    }
}

/// A dot before each line that begins with one, and the final dot (RFC 5321 section 4.5.2).
pub(crate) fn stuffed(text: &[u8]) -> Vec<u8> {
    let mut stuffed = Vec::with_capacity(text.len() + text.len() / 64 + 3);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(b".") {
            stuffed.push(b'.');
        }
        stuffed.extend_from_slice(line);
    }
    stuffed.extend_from_slice(b".\r\n");
    stuffed
}

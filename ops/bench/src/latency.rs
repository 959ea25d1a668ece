//! How long a sender waits: for the answer to its final dot, and for the whole transaction.
//!
//! Without a pace every session sends as fast as it is answered, so that the faster server is
//! asked more at a time; at one pace both have the same work.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::{DOMAIN, MESSAGE_BYTES};

/// What one message took.
#[derive(Clone, Copy)]
pub(crate) struct Delay {
    /// From the end of data to 250.
    end_of_data: Duration,
    /// From MAIL to the same 250.
    transaction: Duration,
}

impl Delay {
    pub(crate) fn end_of_data(&self) -> Duration {
        self.end_of_data
    }

    pub(crate) fn transaction(&self) -> Duration {
        self.transaction
    }
}

/// Sends `messages` over `sessions` connections that are re-used; at most `pace` of them a
/// second, all sessions together, if one is given.
pub(crate) fn delays(
    to: &[SocketAddr],
    sessions: usize,
    messages: usize,
    pace: Option<u32>,
) -> io::Result<Vec<Delay>> {
    let begin = Instant::now();
    let step = pace.map(|pace| Duration::from_secs(1) / pace);
    let threads: Vec<_> = (0..sessions)
        .map(|session| {
            let address = to[session % to.len()];
            let share = messages / sessions + usize::from(session < messages % sessions);
            let schedule = move |message: usize| {
                step.map(|step| begin + step * (message * sessions + session) as u32)
            };
            std::thread::spawn(move || one_session(address, share, schedule))
        })
        .collect();
    let mut delays = Vec::with_capacity(messages);
    for thread in threads {
        let session = thread
            .join()
            .map_err(|_| io::Error::other("a session failed"))?;
        delays.extend(session?);
    }
    Ok(delays)
}

fn one_session(
    address: SocketAddr,
    messages: usize,
    schedule: impl Fn(usize) -> Option<Instant>,
) -> io::Result<Vec<Delay>> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut replies = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    let mut ask = |bytes: &[u8], code: &str| -> io::Result<Duration> {
        let begin = Instant::now();
        stream.write_all(bytes)?;
        loop {
            let mut line = String::new();
            if replies.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if line.as_bytes().get(3) == Some(&b'-') {
                continue;
            }
            if !line.starts_with(code) {
                return Err(io::Error::other(format!("{address} said {line}")));
            }
            return Ok(begin.elapsed());
        }
    };
    ask(b"", "220")?;
    ask(b"EHLO load.elsewhere.example\r\n", "250")?;
    let mut content = b"Subject: load\r\n\r\n".to_vec();
    while content.len() < MESSAGE_BYTES {
        content.extend_from_slice(&[b'x'; 76]);
        content.extend_from_slice(b"\r\n");
    }
    content.extend_from_slice(b".\r\n");
    let recipient = format!("RCPT TO:<user@{DOMAIN}>\r\n");
    (0..messages)
        .map(|message| {
            if let Some(at) = schedule(message) {
                std::thread::sleep(at.saturating_duration_since(Instant::now()));
            }
            let begin = Instant::now();
            ask(b"MAIL FROM:<sender@elsewhere.example>\r\n", "250")?;
            ask(recipient.as_bytes(), "250")?;
            ask(b"DATA\r\n", "354")?;
            let end_of_data = ask(&content, "250")?;
            Ok(Delay {
                end_of_data,
                transaction: begin.elapsed(),
            })
        })
        .collect()
}

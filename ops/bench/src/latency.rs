//! How long a sender waits for the answer to its final dot.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::{DOMAIN, MESSAGE_BYTES};

/// Sends `messages` over `sessions` connections that are re-used; one delay for each message.
pub(crate) fn end_of_data_to_reply(
    to: &[SocketAddr],
    sessions: usize,
    messages: usize,
) -> io::Result<Vec<Duration>> {
    let threads: Vec<_> = (0..sessions)
        .map(|session| {
            let address = to[session % to.len()];
            let share = messages / sessions + usize::from(session < messages % sessions);
            std::thread::spawn(move || one_session(address, share))
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

fn one_session(address: SocketAddr, messages: usize) -> io::Result<Vec<Duration>> {
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
        .map(|_| {
            ask(b"MAIL FROM:<sender@elsewhere.example>\r\n", "250")?;
            ask(recipient.as_bytes(), "250")?;
            ask(b"DATA\r\n", "354")?;
            ask(&content, "250")
        })
        .collect()
}

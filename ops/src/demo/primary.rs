//! The customer's own mail server: takes everything, by DATA and by BDAT, and shows it to the
//! one who counts.

use std::io;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};

use crate::demo::wire::Wire;

/// Told the first recipient and the bytes of each message, before it is acknowledged.
pub(crate) type Arrived = Arc<dyn Fn(&str, &[u8]) + Send + Sync>;

/// Largest message and chunk taken: ten times the largest letter.
const MESSAGE_BYTES_MAX: usize = 50 << 20;

const GREETING: &[u8] = b"220 primary.example.test ESMTP\r\n";
const EXTENSIONS: &[u8] =
    b"250-primary.example.test\r\n250-PIPELINING\r\n250-SIZE 52428800\r\n250-8BITMIME\r\n\
250-SMTPUTF8\r\n250-CHUNKING\r\n250 ENHANCEDSTATUSCODES\r\n";

pub(crate) async fn serve(listener: TcpListener, arrived: Arrived) {
    // Ends with its task, and the sessions with it.
    let mut sessions = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let arrived = Arc::clone(&arrived);
        sessions.spawn(async move { session(stream, arrived).await });
        while sessions.try_join_next().is_some() {}
    }
}

#[derive(Default)]
struct Transaction {
    recipient: Option<String>,
    text: Vec<u8>,
}

/// Ends with an error when the client goes away without QUIT: nothing that matters here.
async fn session(stream: TcpStream, arrived: Arrived) -> io::Result<()> {
    let mut wire = Wire::new(stream)?;
    wire.write(GREETING).await?;
    let mut mail = Transaction::default();
    while let Some(line) = wire.line().await? {
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        let verb = line
            .split(' ')
            .next()
            .unwrap_or_default()
            .to_ascii_uppercase();
        match verb.as_str() {
            "EHLO" => wire.write(EXTENSIONS).await?,
            "HELO" => wire.write(b"250 primary.example.test\r\n").await?,
            "MAIL" => {
                mail = Transaction::default();
                wire.write(b"250 2.1.0 sender ok\r\n").await?;
            }
            "RCPT" => {
                let path = line.split(['<', '>']).nth(1).unwrap_or_default();
                mail.recipient.get_or_insert_with(|| path.to_owned());
                wire.write(b"250 2.1.5 recipient ok\r\n").await?;
            }
            "DATA" if mail.recipient.is_some() => {
                wire.write(b"354 go on\r\n").await?;
                data(&mut wire, &mut mail.text).await?;
                finish(&mut wire, &mut mail, &arrived).await?;
            }
            "BDAT" => {
                let mut words = line.split_ascii_whitespace().skip(1);
                let size = words.next().and_then(|size| size.parse::<usize>().ok());
                let last = words
                    .next()
                    .is_some_and(|word| word.eq_ignore_ascii_case("LAST"));
                let Some(size) = size.filter(|size| mail.text.len() + size <= MESSAGE_BYTES_MAX)
                else {
                    return wire.write(b"552 5.3.4 the chunk is too large\r\n").await;
                };
                wire.exact(size, &mut mail.text).await?;
                if mail.recipient.is_none() {
                    wire.write(b"503 5.5.1 no recipient\r\n").await?;
                } else if last {
                    finish(&mut wire, &mut mail, &arrived).await?;
                } else {
                    wire.write(b"250 2.0.0 chunk taken\r\n").await?;
                }
            }
            "RSET" | "NOOP" => {
                if verb == "RSET" {
                    mail = Transaction::default();
                }
                wire.write(b"250 2.0.0 ok\r\n").await?;
            }
            "QUIT" => return wire.write(b"221 2.0.0 bye\r\n").await,
            "DATA" => wire.write(b"503 5.5.1 no recipient\r\n").await?,
            _ => wire.write(b"500 5.5.2 unknown command\r\n").await?,
        }
    }
    Ok(())
}

async fn data(wire: &mut Wire, text: &mut Vec<u8>) -> io::Result<()> {
    while let Some(line) = wire.line().await? {
        if line == b".\r\n" {
            return Ok(());
        }
        text.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
        if text.len() > MESSAGE_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

async fn finish(wire: &mut Wire, mail: &mut Transaction, arrived: &Arrived) -> io::Result<()> {
    let Transaction { recipient, text } = std::mem::take(mail);
    arrived(recipient.as_deref().unwrap_or_default(), &text);
    wire.write(b"250 2.0.0 delivered\r\n").await
}

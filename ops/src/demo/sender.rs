//! A sender as the world has them: it keeps a message until somebody says 250, and takes it to
//! the next mail exchanger when one does not.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::demo::letter;
use crate::demo::tally::Tally;
use crate::demo::wire::{Reply, Wire};

/// After every exchanger has been tried in vain. Real senders wait for minutes.
const PAUSE: Duration = Duration::from_millis(200);
/// Then the sender says QUIT, so that connections come and go as they do on a real port 25.
const LETTERS_PER_CONNECTION_MAX: u32 = 20;

/// The letters that no sender has taken yet.
#[derive(Debug)]
pub(crate) struct Outbox {
    next: AtomicU32,
    letters: u32,
    domain: String,
    exchangers: Vec<SocketAddr>,
}

impl Outbox {
    pub(crate) fn new(letters: u32, domain: &str, exchangers: Vec<SocketAddr>) -> Self {
        Self {
            next: AtomicU32::new(0),
            letters,
            domain: domain.to_owned(),
            exchangers,
        }
    }

    fn take(&self) -> Option<u32> {
        let letter = self.next.fetch_add(1, Ordering::Relaxed);
        (letter < self.letters).then_some(letter)
    }
}

/// Sends letters until none are left. `preferred` is the exchanger tried first for each.
pub(crate) async fn run(outbox: Arc<Outbox>, tally: Arc<Tally>, preferred: usize) {
    let mut sessions: Vec<Option<Session>> = outbox.exchangers.iter().map(|_| None).collect();
    while let Some(letter) = outbox.take() {
        let text = letter::bytes(letter, &outbox.domain);
        let recipient = letter::recipient(letter, &outbox.domain);
        for attempt in 0.. {
            let at = (preferred + attempt) % sessions.len();
            match try_once(
                &mut sessions[at],
                outbox.exchangers[at],
                letter,
                &recipient,
                &text,
            )
            .await
            {
                Ok(reply) if reply.is_positive() => {
                    tally.accepted(letter);
                    break;
                }
                Ok(reply) if reply.code >= 500 => {
                    tally.refused(letter, reply.text);
                    break;
                }
                // 4xx, or no answer: whether a cut connection's message was taken is not known,
                // and a sender that must not lose it sends it again.
                deferred => {
                    if deferred.is_err() {
                        sessions[at] = None;
                    }
                    tally.tried_again();
                    if (attempt + 1) % sessions.len() == 0 {
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        }
    }
    for mut session in sessions.into_iter().flatten() {
        session.quit().await;
    }
}

async fn try_once(
    session: &mut Option<Session>,
    exchanger: SocketAddr,
    letter: u32,
    recipient: &str,
    text: &[u8],
) -> io::Result<Reply> {
    if session
        .as_ref()
        .is_some_and(|open| open.sent >= LETTERS_PER_CONNECTION_MAX)
        && let Some(mut open) = session.take()
    {
        open.quit().await;
    }
    let open = match session {
        Some(open) => open,
        None => match Session::open(exchanger).await? {
            Ok(opened) => session.insert(opened),
            Err(reply) => return Ok(reply),
        },
    };
    let reply = open.send(letter, recipient, text).await?;
    if reply.code == 421 {
        *session = None;
    }
    Ok(reply)
}

struct Session {
    wire: Wire,
    sent: u32,
}

impl Session {
    /// The inner error is a refusal in words.
    async fn open(exchanger: SocketAddr) -> io::Result<Result<Self, Reply>> {
        let mut wire = Wire::connect(exchanger).await?;
        let greeting = wire.reply().await?;
        if !greeting.is_positive() {
            return Ok(Err(greeting));
        }
        wire.write(b"EHLO sender.test\r\n").await?;
        let reply = wire.reply().await?;
        if !reply.is_positive() {
            return Ok(Err(reply));
        }
        Ok(Ok(Self { wire, sent: 0 }))
    }

    async fn send(&mut self, letter: u32, recipient: &str, text: &[u8]) -> io::Result<Reply> {
        self.sent += 1;
        let envelope = format!(
            "MAIL FROM:<demo@sender.test> SIZE={} BODY=8BITMIME\r\nRCPT TO:<{recipient}>\r\n",
            text.len()
        );
        // Half of the letters go by BDAT, half by DATA: both are ways in.
        let by_chunk = letter % 2 == 1;
        let opening = if by_chunk { "" } else { "DATA\r\n" };
        self.wire
            .write(format!("{envelope}{opening}").as_bytes())
            .await?;
        let mail = self.wire.reply().await?;
        let rcpt = self.wire.reply().await?;
        if !by_chunk {
            let data = self.wire.reply().await?;
            if mail.is_positive() && rcpt.is_positive() && data.code == 354 {
                self.wire.write(&stuffed(text)).await?;
                return self.wire.reply().await;
            }
            if data.code == 354 {
                return Err(io::Error::other(
                    "DATA was let in without sender or recipient",
                ));
            }
            self.reset().await?;
            return Ok([mail, rcpt, data]
                .into_iter()
                .find(|reply| !reply.is_positive())
                .unwrap_or(Reply {
                    code: 451,
                    text: "DATA was answered neither with 354 nor with an error".into(),
                }));
        }
        for refusal in [mail, rcpt] {
            if !refusal.is_positive() {
                self.reset().await?;
                return Ok(refusal);
            }
        }
        self.wire
            .write(format!("BDAT {} LAST\r\n", text.len()).as_bytes())
            .await?;
        self.wire.write(text).await?;
        self.wire.reply().await
    }

    async fn reset(&mut self) -> io::Result<()> {
        self.wire.write(b"RSET\r\n").await?;
        self.wire.reply().await.map(drop)
    }

    async fn quit(&mut self) {
        // The mail is safe already; a peer that hangs up first is as good.
        if self.wire.write(b"QUIT\r\n").await.is_ok() {
            let _ = self.wire.reply().await;
        }
    }
}

/// RFC 5321 section 4.5.2: a dot before each line that begins with one; then the final dot.
fn stuffed(text: &[u8]) -> Vec<u8> {
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::net::TcpListener;

    use super::*;
    use crate::demo::primary;

    #[tokio::test]
    async fn a_letter_arrives_as_it_was_sent_by_data_and_by_bdat() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let arrived = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&arrived);
        let primary = tokio::spawn(primary::serve(
            listener,
            Arc::new(move |to: &str, text: &[u8]| {
                into.lock().unwrap().push((to.to_owned(), text.to_vec()))
            }),
        ));
        // The first exchanger is dead: what it does not take goes to the second.
        let dead = TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        let tally = Arc::new(Tally::new(25));
        let outbox = Arc::new(Outbox::new(25, "example.test", vec![dead, address]));
        run(outbox, Arc::clone(&tally), 0).await;
        primary.abort();
        assert_eq!(tally.summary().accepted, 25);
        assert_eq!(tally.summary().tried_again, 25);
        let arrived = arrived.lock().unwrap();
        assert_eq!(arrived.len(), 25);
        for (to, text) in arrived.iter() {
            let number = letter::number(to).unwrap();
            assert!(*text == letter::bytes(number, "example.test"), "{to}");
        }
    }

    #[test]
    fn dots_at_the_beginning_of_lines_are_doubled() {
        assert_eq!(stuffed(b"a\r\n.\r\n..b.\r\n"), b"a\r\n..\r\n...b.\r\n.\r\n");
    }
}

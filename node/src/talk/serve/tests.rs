//! A session over real sockets: time, TLS and the manner of parting.

use std::sync::{Arc, Mutex};

use holdfast_fuzz::ENDS_OF_DATA;
use holdfast_smtp::server::Options;

use super::*;
use crate::net::listen::Listener;
use crate::net::{connect, tls};

/// Says yes to everything but what it is told to refuse, and writes down what happened.
#[derive(Clone, Default)]
struct Diary {
    lines: Arc<Mutex<Vec<String>>>,
    silent_about_messages: bool,
}

impl Diary {
    fn note(&self, line: String) {
        self.lines.lock().unwrap().push(line);
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }
}

impl Desk for Diary {
    async fn ask(&mut self, question: Question, session: &Session) -> Option<Reply> {
        if question == Question::Message {
            self.note(format!("message by {}", session.protocol()));
            if self.silent_about_messages {
                return None;
            }
        }
        Some(Reply::new(250, 0, 0, "ok"))
    }

    async fn body(&mut self, bytes: Vec<u8>) {
        self.note(format!("body {}", bytes.escape_ascii()));
    }

    fn refused(&mut self, reply: &Reply) {
        self.note(format!("refused {}", reply.code));
    }

    fn reset(&mut self) {
        self.note("reset".into());
    }
}

struct Server {
    client: Stream,
    diary: Diary,
    stop: watch::Sender<bool>,
    served: tokio::task::JoinHandle<io::Result<Option<Caller>>>,
}

impl Server {
    async fn start(diary: Diary) -> Self {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let client = connect::tcp(listener.address().unwrap(), Duration::from_secs(5))
            .await
            .unwrap();
        let (stream, _) = listener.accept().await;
        let (stop, stopped) = watch::channel(false);
        let session = Session::new(Options::new("mx.example", 10 << 20, true));
        let tls = tls::smtp_server(tls::Identity::self_signed("mx.example").unwrap()).unwrap();
        let mut desk = diary.clone();
        let served =
            tokio::spawn(
                async move { serve(stream, session, Some(tls), &mut desk, stopped).await },
            );
        let mut server = Self {
            client: Stream::Plain(client),
            diary,
            stop,
            served,
        };
        assert_eq!(server.hear().await, "220 mx.example ESMTP Holdfast\r\n");
        server
    }

    async fn say(&mut self, text: &str) {
        self.client.write_all(text.as_bytes()).await.unwrap();
        self.client.flush().await.unwrap();
    }

    /// One reply, or nothing at the end.
    async fn hear(&mut self) -> String {
        let mut heard = String::new();
        let mut byte = [0];
        while self.client.read(&mut byte).await.unwrap() > 0 {
            heard.push(char::from(byte[0]));
            let last = heard.lines().last().unwrap_or_default();
            if heard.ends_with("\r\n") && last.as_bytes().get(3) == Some(&b' ') {
                break;
            }
        }
        heard
    }

    async fn ask(&mut self, text: &str) -> String {
        self.say(text).await;
        self.hear().await
    }

    async fn begin_data(&mut self) {
        assert!(
            self.ask("EHLO c.example\r\n")
                .await
                .starts_with("250-mx.example\r\n")
        );
        for (line, code) in [
            ("MAIL FROM:<>", "250"),
            ("RCPT TO:<a@b.example>", "250"),
            ("DATA", "354"),
        ] {
            assert!(
                self.ask(&format!("{line}\r\n")).await.starts_with(code),
                "{line}"
            );
        }
    }
}

#[tokio::test]
async fn a_message_travels_under_tls_and_nothing_is_remembered_from_before() {
    let mut server = Server::start(Diary::default()).await;
    server.ask("EHLO liar.example\r\n").await;
    server.ask("MAIL FROM:<before@tls.example>\r\n").await;
    assert!(server.ask("STARTTLS\r\n").await.starts_with("220 2.0.0"));
    let Stream::Plain(plain) = server.client else {
        panic!()
    };
    let (mut near, far) = tokio::io::duplex(1 << 16);
    let mut encrypted = tls::client(plain, "mx.example", tls::Trust::Anyone)
        .await
        .unwrap();
    let (mut far_read, mut far_write) = tokio::io::split(far);
    tokio::spawn(async move {
        let (mut read, mut write) = tokio::io::split(&mut encrypted);
        let out = async { tokio::io::copy(&mut far_read, &mut write).await };
        let back = async { tokio::io::copy(&mut read, &mut far_write).await };
        let _ended = tokio::join!(out, back);
    });
    let mut lines = Vec::new();
    for (line, code) in [
        ("RCPT TO:<a@b.example>", "503"),
        ("MAIL FROM:<>", "503"),
        ("EHLO c.example", "250"),
        ("MAIL FROM:<>", "250"),
        ("RCPT TO:<a@b.example>", "250"),
        ("DATA", "354"),
        ("hi\r\n.", "250"),
    ] {
        near.write_all(format!("{line}\r\n").as_bytes())
            .await
            .unwrap();
        let mut buffer = vec![0; 4096];
        let count = near.read(&mut buffer).await.unwrap();
        let reply = String::from_utf8_lossy(&buffer[..count]).into_owned();
        assert!(reply.starts_with(code), "{line}: {reply}");
        lines.push(reply);
    }
    assert!(!lines[2].contains("STARTTLS"), "{}", lines[2]);
    let lines = server.diary.lines();
    assert_eq!(
        lines[2..],
        ["body hi\\r\\n", "message by ESMTPS"],
        "{lines:?}"
    );
}

/// The reduced table: the whole one, without sockets, is in `smtp/tests/smuggling.rs`.
#[tokio::test]
async fn no_variant_of_the_end_of_data_smuggles_a_message_through_tls() {
    for variant in ENDS_OF_DATA {
        for cut in [1, 11, 4096] {
            let mut server = Server::start(Diary::default()).await;
            server.ask("STARTTLS\r\n").await;
            let Stream::Plain(plain) = server.client else {
                panic!()
            };
            let mut client = tls::client(plain, "mx.example", tls::Trust::Anyone)
                .await
                .unwrap();
            let mut heard = vec![0; 4096];
            for line in ["EHLO c", "MAIL FROM:<>", "RCPT TO:<a@b.example>", "DATA"] {
                client
                    .write_all(format!("{line}\r\n").as_bytes())
                    .await
                    .unwrap();
                assert!(client.read(&mut heard).await.unwrap() > 0);
            }
            let smuggled = b"MAIL FROM:<smuggled@example.org>\r\n.\r\n";
            let content = [b"first", variant, smuggled].concat();
            for record in content.chunks(cut) {
                // The server may have hung up already: that is what it is for.
                let _refused = client.write_all(record).await;
                let _refused = client.flush().await;
            }
            drop(client);
            let _reset = server.served.await.unwrap();
            let lines = server.diary.lines();
            let messages = lines.iter().filter(|line| line.starts_with("message"));
            // The last one holds a true end, and then a NUL.
            let whole = variant == b"\r\n.\r\n\0";
            assert_eq!(
                messages.count(),
                usize::from(whole),
                "{variant:?}: {lines:?}"
            );
            let refused = if whole { "refused 500" } else { "refused 550" };
            assert!(
                lines.iter().any(|line| line == refused),
                "{variant:?}: {lines:?}"
            );
            assert!(
                !lines.iter().any(|line| line.contains("smuggled")),
                "{lines:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_client_that_still_sends_hears_why_its_content_is_refused() {
    let mut server = Server::start(Diary::default()).await;
    server.begin_data().await;
    // Far more than the session reads before it refuses.
    let content = format!("bare\nline feed\r\n{}", "more\r\n".repeat(20_000));
    let (answer, ()) = {
        let Server { client, .. } = &mut server;
        let (mut read, mut write) = tokio::io::split(client);
        let mut answer = vec![0; 1024];
        tokio::join!(
            async {
                let count = read.read(&mut answer).await.unwrap();
                String::from_utf8_lossy(&answer[..count]).into_owned()
            },
            async {
                write.write_all(content.as_bytes()).await.unwrap();
            }
        )
    };
    assert!(answer.starts_with("550 5.5.2 "), "{answer}");
    drop(server.client);
    server.served.await.unwrap().unwrap();
    assert_eq!(server.diary.lines(), ["refused 550", "reset"]);
}

#[test]
fn bytes_that_trickle_do_not_buy_time() {
    let mut session = Session::new(Options::new("mx.example", 10 << 20, false));
    let mut take = |bytes: &[u8]| {
        session.receive(bytes);
        loop {
            match session.next() {
                Step::NeedInput => return session.timer().turn,
                Step::Ask(_) => session.answer(Reply::new(250, 0, 0, "ok")),
                _ => {}
            }
        }
    };
    let greeted = take(b"");
    assert_eq!(
        [take(b"N"), take(b"O"), take(b"O"), take(b"P\r")],
        [greeted; 4]
    );
    assert_ne!(take(b"\n"), greeted);
    let in_data = take(b"HELO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nDATA\r\n");
    assert_eq!([take(b"a line\r\n"), take(b"another\r\n")], [in_data; 2]);
    assert_ne!(take(&b"line\r\n".repeat(30_000)), in_data);
}

#[tokio::test]
async fn a_stop_ends_idle_sessions_and_lets_a_transaction_finish() {
    let mut idle = Server::start(Diary::default()).await;
    idle.stop.send_replace(true);
    assert!(idle.hear().await.starts_with("421 4.3.2 "));
    assert_eq!(idle.hear().await, "");

    let mut busy = Server::start(Diary::default()).await;
    busy.begin_data().await;
    busy.stop.send_replace(true);
    assert!(busy.ask("hi\r\n.\r\n").await.starts_with("250 "));
    assert!(busy.hear().await.starts_with("421 4.3.2 "));
    assert_eq!(
        busy.diary.lines(),
        ["body hi\\r\\n", "message by ESMTP", "refused 421"]
    );
}

#[tokio::test]
async fn a_message_whose_fate_is_unknown_gets_no_answer() {
    let mut server = Server::start(Diary {
        silent_about_messages: true,
        ..Diary::default()
    })
    .await;
    server.begin_data().await;
    assert_eq!(server.ask("hi\r\n.\r\n").await, "");
    server.served.await.unwrap().unwrap();
}

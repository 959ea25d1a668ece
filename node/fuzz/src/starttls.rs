//! STARTTLS: nothing said in clear counts behind the handshake, on either side.

use holdfast_smtp::client::{Closed, Options, Session, Step, Tls, Violation};
use holdfast_smtp::server;

use crate::choices::Choices;
use crate::server::{Event, Server};

/// What a client says before STARTTLS; nothing of it may be remembered.
const BEFORE: [&str; 5] = [
    "",
    "EHLO liar.example\r\n",
    "EHLO liar.example\r\nMAIL FROM:<before@tls.example>\r\n",
    "EHLO liar.example\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\n",
    "EHLO liar.example\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nBDAT 2\r\nxy",
];

/// What came before, then bytes that are injected, and said again under TLS.
pub fn starttls(data: &[u8]) {
    let mut choices = Choices::new(data);
    let before = BEFORE[choices.below(BEFORE.len() as u64) as usize];
    let bytes = choices.rest();
    if !bytes.is_empty() {
        in_the_same_read(before, bytes);
        before_the_handshake(before, bytes);
        behind_the_primarys_220(bytes);
    }
    under_tls(before, bytes);
}

fn in_the_same_read(before: &str, injected: &[u8]) {
    let mut server = upgraded(before);
    let known = server.diary.clone();
    server.take(&[b"STARTTLS\r\n", injected].concat());
    assert!(server.diary.closed && !server.at_handshake);
    let said = String::from_utf8_lossy(&server.diary.said[known.said.len()..]).into_owned();
    assert!(
        said.starts_with("554 5.5.0 ") && said.lines().count() == 1,
        "{said}"
    );
    let new = &server.diary.events[known.events.len()..];
    let asked = new.iter().any(|event| matches!(event, Event::Asked(_)));
    assert!(!asked, "injected commands were obeyed: {new:?}");
}

fn before_the_handshake(before: &str, injected: &[u8]) {
    let mut server = upgraded(before);
    server.handshakes = false;
    server.take(b"STARTTLS\r\n");
    assert!(server.at_handshake);
    let said = server.diary.said.len();
    server.take(injected);
    assert!(server.diary.closed);
    assert_eq!(server.diary.said.len(), said, "nothing is said in clear");
}

/// Under TLS a session is as a fresh one would be.
fn under_tls(before: &str, stream: &[u8]) {
    let mut upgraded = upgraded(before);
    upgraded.take(b"STARTTLS\r\n");
    let (events, said) = (upgraded.diary.events.len(), upgraded.diary.said.len());
    let mut fresh = Server::with(
        server::Options::new("mx.example", 1 << 20, false),
        [b'0'; 4],
    );
    fresh.go_on();
    let greeting = fresh.diary.said.len();
    for byte in stream {
        upgraded.take(&[*byte]);
        fresh.take(&[*byte]);
    }
    let after = |said: &[u8]| {
        String::from_utf8_lossy(said)
            .replace("502 5.5.1 STARTTLS is not offered", "no second STARTTLS")
            .replace("503 5.5.1 TLS is active already", "no second STARTTLS")
    };
    let (here, there) = (
        after(&upgraded.diary.said[said..]),
        after(&fresh.diary.said[greeting..]),
    );
    // Patience is per connection, so what was said before counts against it.
    if here.contains("\n421 ") || there.contains("\n421 ") {
        return;
    }
    assert_eq!(here, there);
    assert_eq!(upgraded.diary.messages, fresh.diary.messages);
    let new = upgraded.diary.events[events..].iter();
    let code = |event: &Event| match event {
        Event::Refused(502 | 503) => Event::Refused(503),
        other => other.clone(),
    };
    assert!(new.map(code).eq(fresh.diary.events.iter().map(code)));
}

fn upgraded(before: &str) -> Server {
    let mut server = Server::willing();
    server.go_on();
    server.take(before.as_bytes());
    server
}

/// RFC 3207 section 6 for the client: replies injected behind the 220.
fn behind_the_primarys_220(injected: &[u8]) {
    let mut session = Session::new(Options::new("mx.example", Tls::Opportunistic));
    for said in ["220 primary\r\n", "250-primary\r\n250 STARTTLS\r\n"] {
        session.receive(said.as_bytes());
        assert!(matches!(session.next(), Step::Write(_)));
    }
    session.receive(&[b"220 go\r\n", injected].concat());
    let step = session.next();
    assert_eq!(step, Step::Closed(Closed::Violation(Violation::Injected)));
}

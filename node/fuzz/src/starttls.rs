//! STARTTLS: nothing said in clear counts behind the handshake, on either side.

use holdfast_smtp::client::{Closed, Options, Session, Step, Tls, Violation};
use holdfast_smtp::server::{self, Service};

use crate::choices::Choices;
use crate::server::{Event, Server};

/// What a client says before STARTTLS; nothing of it may be remembered.
const BEFORE: [&str; 6] = [
    "",
    "EHLO liar.example\r\n",
    "EHLO liar.example\r\nMAIL FROM:<before@tls.example>\r\n",
    "EHLO liar.example\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\n",
    "EHLO liar.example\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nBDAT 2\r\nxy",
    "EHLO liar.example\r\nAUTH PLAIN AGFubgBzM2NyZXQ=\r\n",
];

/// Which port it is, by the first two bits of an input.
const SERVICES: [Service; 4] = [
    Service::Exchange,
    Service::Exchange,
    Service::Submission,
    Service::OnDemand,
];

/// What came before, then bytes that are injected, and said again under TLS.
pub fn starttls(data: &[u8]) {
    let mut choices = Choices::new(data);
    let first = usize::from(choices.byte());
    let (before, service) = (BEFORE[first % BEFORE.len()], SERVICES[first >> 6]);
    let bytes = choices.rest();
    if !bytes.is_empty() {
        in_the_same_read(service, before, bytes);
        before_the_handshake(service, before, bytes);
        behind_the_primarys_220(bytes);
    }
    under_tls(service, before, bytes);
}

fn in_the_same_read(service: Service, before: &str, injected: &[u8]) {
    let mut server = upgraded(service, before);
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

fn before_the_handshake(service: Service, before: &str, injected: &[u8]) {
    let mut server = upgraded(service, before);
    server.handshakes = false;
    server.take(b"STARTTLS\r\n");
    assert!(server.at_handshake);
    let said = server.diary.said.len();
    server.take(injected);
    assert!(server.diary.closed);
    assert_eq!(server.diary.said.len(), said, "nothing is said in clear");
}

/// Under TLS a session is as one that was under TLS from its first byte.
fn under_tls(service: Service, before: &str, stream: &[u8]) {
    let mut upgraded = upgraded(service, before);
    upgraded.take(b"STARTTLS\r\n");
    let (events, said) = (upgraded.diary.events.len(), upgraded.diary.said.len());
    let mut fresh = server(service, true);
    fresh.go_on();
    let greeting = fresh.diary.said.len();
    for byte in stream {
        upgraded.take(&[*byte]);
        fresh.take(&[*byte]);
    }
    let text = |said: &[u8]| String::from_utf8_lossy(said).into_owned();
    let here = text(&upgraded.diary.said[said..]);
    let there = text(&fresh.diary.said[greeting..]);
    // Patience is per connection, so what was said before counts against it.
    if here.contains("\n421 ") || there.contains("\n421 ") {
        return;
    }
    assert_eq!(here, there);
    assert_eq!(upgraded.diary.messages, fresh.diary.messages);
    assert_eq!(upgraded.diary.events[events..], fresh.diary.events);
}

/// Says yes to everything.
fn server(service: Service, secure: bool) -> Server {
    let options = server::Options {
        service,
        secure,
        ..server::Options::new("mx.example", 1 << 20, true)
    };
    Server::with(options, [b'0'; 4])
}

/// About to be.
fn upgraded(service: Service, before: &str) -> Server {
    let mut server = server(service, false);
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

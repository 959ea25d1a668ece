//! Parsers of single words and lines: addresses, commands, ids, statuses, trace lines.

use holdfast_mail::{Address, Domain, MessageId, ReversePath, Status, Timestamp, address, trace};
use holdfast_smtp::request::{Etrn, Request};

/// What commands and addresses are made of.
pub(crate) const WORDS: &[&[u8]] = &[
    b"MAIL FROM:<",
    b"RCPT TO:<",
    b"EHLO ",
    b"ETRN ",
    b"ATRN ",
    b"AUTH ",
    b"BDAT ",
    b" LAST",
    b"@",
    b"#",
    b"<",
    b">",
    b"\"",
    b"\\",
    b".",
    b":",
    b",",
    b" SIZE=",
    b" BODY=8BITMIME",
    b" SMTPUTF8",
    b" RET=FULL",
    b" ENVID=",
    b" AUTH=<>",
    b" NOTIFY=SUCCESS,DELAY",
    b" ORCPT=rfc822;",
    b" ORCPT=utf-8;",
    b"+2B",
    b"[192.0.2.1]",
    b"[IPv6:2001:db8::1]",
    b"\xc3\xbc",
    b"\xc4\xb0",
    b"\xe2\x80\xa8",
    b"\xc2\x85",
    b"\xff",
    b"\r",
    b"\n",
    b"\t",
    b"\0",
    b"Received: from a\r\n\tby mx.example with ESMTP\r\n",
    b"xn--",
    b"postmaster",
];

/// One text, taken for everything it could be.
pub fn words(data: &[u8]) {
    command(data);
    hops(data);
    let text = String::from_utf8_lossy(data);
    for utf8 in [false, true] {
        if let Ok(address) = Address::parse(&text, utf8) {
            mailbox(&address, utf8);
        }
    }
    if let Ok(domain) = Domain::parse(&text) {
        name(&domain);
    }
    if let Ok(id) = text.parse::<MessageId>() {
        assert!(id.to_string().eq_ignore_ascii_case(&text));
        assert_eq!(MessageId::from_bytes(&id.to_bytes()), Some(id));
    }
    if let Some(status) = Status::leading(&text) {
        assert!(status.to_string().len() <= 9, "{status}");
    }
}

fn mailbox(address: &Address, utf8: bool) {
    let text = address.as_str();
    assert_eq!(Address::parse(text, utf8).as_ref(), Ok(address));
    assert!(text.len() + 2 <= address::PATH_OCTETS_MAX, "{text}");
    assert!(!address.local().is_empty());
    assert!(utf8 || text.is_ascii());
    one_line(text);
    if let Some(domain) = address.domain() {
        name(domain);
        assert!(text.len() > address.local().len());
    }
}

fn name(domain: &Domain) {
    let text = domain.as_str();
    assert_eq!(Domain::parse(text).as_ref(), Ok(domain));
    assert!(text.len() <= address::DOMAIN_OCTETS_MAX);
    assert!(!text.contains([' ', '\0', '@', '<', '>']), "{text:?}");
    one_line(text);
}

/// Nothing in it ends a line, for anybody downstream.
fn one_line(text: &str) {
    let breaks = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    assert!(!text.contains(breaks), "{text:?}");
}

fn command(line: &[u8]) {
    match Request::parse(line) {
        Err(refusal) => {
            assert!((500..=555).contains(&refusal.code), "{refusal:?}");
            let wire = refusal.to_bytes();
            assert!(wire.ends_with(b"\r\n"));
            let text = &wire[..wire.len() - 2];
            assert!(!text.iter().any(u8::is_ascii_control), "{refusal:?}");
        }
        Ok(Request::Helo(name) | Request::Ehlo(name)) => received(&name),
        Ok(Request::Mail(mail)) => {
            if let ReversePath::Mailbox(address) = &mail.reverse_path {
                mailbox(address, mail.smtputf8);
                assert!(address.domain().is_some());
            }
            parameter(mail.envid.as_deref());
        }
        Ok(Request::Rcpt(recipient)) => {
            mailbox(&recipient.address, true);
            parameter(recipient.orcpt.as_deref());
        }
        Ok(Request::Etrn(Etrn::Domain(domain) | Etrn::Below(domain))) => {
            name(&domain);
            assert!(!domain.is_literal());
        }
        Ok(Request::Etrn(Etrn::Queue(queue))) => one_line(&queue),
        Ok(Request::Atrn(domains)) => domains.iter().for_each(name),
        Ok(Request::Auth { mechanism, initial }) => {
            parameter(Some(&mechanism));
            parameter(initial.as_deref());
        }
        Ok(_) => {}
    }
}

/// A parameter that is passed on is one word: it cannot become two, or end its line.
fn parameter(value: Option<&str>) {
    if let Some(value) = value {
        assert!(!value.contains(char::is_whitespace), "{value:?}");
        one_line(value);
    }
}

/// The greeting's name stands in a line that we write.
fn received(name: &str) {
    let line = trace::received(&trace::Arrival {
        helo: name,
        client: "192.0.2.1",
        by: "mx.example",
        with: "ESMTP",
        id: MessageId::new(Timestamp(1), 1),
        at: Timestamp(1),
        only_recipient: None,
    });
    assert!(line.ends_with("\r\n"));
    for (number, line) in line.trim_end().split("\r\n").enumerate() {
        assert!(line.len() <= 998, "RFC 5322 section 2.1.1");
        assert_eq!(line.starts_with('\t'), number > 0, "{line:?}");
        one_line(line.trim_start_matches('\t'));
    }
}

fn hops(header: &[u8]) {
    let ours = [Domain::parse("mx.example").expect("a name")];
    let hops = trace::hops(header, &ours);
    assert!(hops.ours <= hops.received);
    let own = b"Received: from x\r\n\tby mx.example with ESMTP\r\n";
    let more = trace::hops(&[own, header].concat(), &ours);
    // A header that begins with a folded line goes on where ours ended.
    if !header.starts_with(b" ") && !header.starts_with(b"\t") {
        assert_eq!(
            (more.received, more.ours),
            (hops.received + 1, hops.ours + 1)
        );
    }
}

//! The trace lines of RFC 5321 section 4.4.

use crate::{Domain, MessageId, Timestamp};

/// What a `Received` line tells of one arrival.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// The argument of HELO or EHLO, already checked to be free of controls.
    pub helo: &'a str,
    /// The client's address, without port.
    pub client: &'a str,
    /// This host, as its banner names it.
    pub by: &'a str,
    /// `SMTP`, `ESMTP`, `ESMTPS`, `UTF8SMTP`, … of the IANA "Mail Transmission Types".
    pub with: &'a str,
    pub id: MessageId,
    pub at: Timestamp,
    /// Named only when there is one recipient: several would tell each of the others (RFC
    /// 5321 section 7.6).
    pub only_recipient: Option<&'a str>,
}

/// The `Received` line, folded, each line ending with CRLF.
#[must_use]
pub fn received(a: &Arrival<'_>) -> String {
    let literal = if a.client.contains(':') {
        format!("[IPv6:{}]", a.client)
    } else {
        format!("[{}]", a.client)
    };
    let recipient = a
        .only_recipient
        .map(|r| format!("\r\n\tfor <{r}>"))
        .unwrap_or_default();
    format!(
        "Received: from {} ({literal})\r\n\tby {} with {} id {}{recipient};\r\n\t{}\r\n",
        a.helo,
        a.by,
        a.with,
        a.id,
        a.at.rfc5322()
    )
}

/// The `Return-Path` line is left to the final delivery system (RFC 5321 section 4.4).
/// Counts, in a message's header section, the `Received` fields and those whose `by` host is
/// one of `ours`: the two signs of a mail loop (RFC 5321 section 6.3).
#[must_use]
pub fn hops(header: &[u8], ours: &[Domain]) -> Hops {
    let mut hops = Hops::default();
    let mut field: Option<Vec<u8>> = None;
    let mut finish = |field: Option<Vec<u8>>| {
        let Some(field) = field else { return };
        hops.received += 1;
        let text = String::from_utf8_lossy(&field).to_ascii_lowercase();
        let mut words = text.split_ascii_whitespace();
        while let Some(word) = words.next() {
            if word == "by" {
                let host = words
                    .next()
                    .unwrap_or_default()
                    .trim_end_matches([';', '.']);
                if ours.iter().any(|name| name.as_str() == host) {
                    hops.ours += 1;
                }
                break;
            }
        }
    };
    for line in header.split(|b| *b == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            break;
        }
        if line[0] == b' ' || line[0] == b'\t' {
            if let Some(field) = &mut field {
                field.extend_from_slice(line);
            }
            continue;
        }
        finish(field.take());
        const NAME: &[u8] = b"received:";
        if line.len() >= NAME.len() && line[..NAME.len()].eq_ignore_ascii_case(NAME) {
            field = Some(line.to_vec());
        }
    }
    finish(field.take());
    hops
}

/// How often a message has been received, in all and by us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hops {
    pub received: usize,
    pub ours: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_line_is_counted_when_it_comes_back() {
        let arrival = Arrival {
            helo: "client.example",
            client: "192.0.2.7",
            by: "mx1.holdfast.example",
            with: "ESMTPS",
            id: MessageId::new(Timestamp(1), 2),
            at: Timestamp(1_709_210_096_789),
            only_recipient: Some("joe@example.org"),
        };
        let line = received(&arrival);
        assert!(line.lines().all(|line| line.len() <= 78), "{line}");
        let ours = [Domain::parse("mx1.holdfast.example").unwrap()];
        let header =
            format!("{line}Received: from a by b\r\nSubject: x\r\n\r\nReceived: by body\r\n");
        assert_eq!(
            hops(header.as_bytes(), &ours),
            Hops {
                received: 2,
                ours: 1
            }
        );
    }
}

//! Finger: one line asks for one domain's mail, or for nothing, whoever dresses it up.

use holdfast_mail::{Domain, address::DOMAIN_OCTETS_MAX};
use holdfast_smtp::finger::{QUERY_OCTETS_MAX, Query, parse};

/// What queries are made of.
pub(crate) const WORDS: &[&[u8]] = &[
    b"example.org",
    b"/W",
    b"/w ",
    b" ",
    b"\t",
    b"\r",
    b"\r\n",
    b"\0",
    b"@",
    b"@other.example",
    b".",
    b"-",
    b"xn--",
    b"[192.0.2.1]",
    b"[IPv6:2001:db8::1]",
    b"\xc3\xbc.example",
    b"\xc2\xa0",
    b"\xe2\x80\xa8",
    b"\xff",
    b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];

/// The first line of a connection, as far as it is read.
pub fn finger(data: &[u8]) {
    let read = &data[..data.len().min(QUERY_OCTETS_MAX)];
    let line = read.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let query = parse(line);
    assert_eq!(query, slowly(line), "{}", line.escape_ascii());
    if let Query::Domain(domain) = query {
        asks_for(domain);
    }
}

/// Word by word.
fn slowly(line: &[u8]) -> Query {
    let Ok(text) = std::str::from_utf8(line) else {
        return Query::Unknown;
    };
    let mut words: Vec<&str> = text.split([' ', '\t', '\r']).collect();
    words.retain(|word| !word.is_empty());
    if let Some(first) = words.first_mut()
        && first.to_ascii_lowercase().starts_with("/w")
    {
        *first = &first[2..];
    }
    words.retain(|word| !word.is_empty());
    match words[..] {
        [] => Query::Everybody,
        _ if line.contains(&b'@') => Query::Forward,
        [name] => match Domain::parse(name) {
            Ok(domain) if !domain.is_literal() => Query::Domain(domain),
            _ => Query::Unknown,
        },
        _ => Query::Unknown,
    }
}

/// The domain stands in the answer, which is one line; and asking by it asks for the same.
fn asks_for(domain: Domain) {
    let name = domain.as_str();
    assert!(name.len() <= DOMAIN_OCTETS_MAX, "{name}");
    let ends = |c: char| c.is_control() || c.is_whitespace();
    assert!(!name.contains(ends), "{name:?}");
    for asked in [format!("{name}\r"), format!("/W {name}.\t\r")] {
        assert!(asked.len() < QUERY_OCTETS_MAX);
        assert_eq!(parse(asked.as_bytes()), Query::Domain(domain.clone()));
    }
}

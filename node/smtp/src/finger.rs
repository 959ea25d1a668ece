//! Finger (RFC 1288), as far as held mail can be asked for with it: `finger example.org@mx1…`.

use holdfast_mail::Domain;

/// Octets of a query: the longest domain, `/W`, and room for what is not understood. RFC 1288
/// names no limit, which makes it ours to set.
pub const QUERY_OCTETS_MAX: usize = 512;

/// What may stand around the words of a query. RFC 1288 section 2.2 knows spaces; the others slip in.
const BLANKS: [char; 3] = [' ', '\t', '\r'];

/// What one connection asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    Domain(Domain),
    /// `{C}`: who is here? RFC 1288 section 3.2.2: "An RUIP that … refuses MUST" say so.
    Everybody,
    /// `{Q2}`: ask another host for me. A server that does is a tool for hiding.
    Forward,
    /// A name that is no domain.
    Unknown,
}

/// Reads a query line, without its end.
#[must_use]
pub fn parse(line: &[u8]) -> Query {
    let Ok(text) = std::str::from_utf8(line) else {
        return Query::Unknown;
    };
    // Section 2.5.4: /W asks for more words, and we have none.
    let text = text.trim_matches(BLANKS);
    let text = match text.get(..2) {
        Some(switch) if switch.eq_ignore_ascii_case("/w") => text[2..].trim_start_matches(BLANKS),
        _ => text,
    };
    if text.is_empty() {
        return Query::Everybody;
    }
    if text.contains('@') {
        return Query::Forward;
    }
    Domain::parse(text)
        .ok()
        .filter(|domain| !domain.is_literal())
        .map_or(Query::Unknown, Query::Domain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_a_domain_or_is_refused() {
        let domain = Query::Domain(Domain::parse("example.org").unwrap());
        for line in [
            "example.org",
            "/W example.org",
            "/w  EXAMPLE.ORG ",
            "example.org\r",
        ] {
            assert_eq!(parse(line.as_bytes()), domain, "{line}");
        }
        for line in ["", "/W", " \r"] {
            assert_eq!(parse(line.as_bytes()), Query::Everybody, "{line}");
        }
        for line in ["example.org@other.example", "@other.example", "a@b@c"] {
            assert_eq!(parse(line.as_bytes()), Query::Forward, "{line}");
        }
        for line in [
            &b"two words"[..],
            b"[192.0.2.1]",
            b"\xff\xfe",
            b"a\0b",
            b"\xc3\xa9/W",
            b"/W\xc2\xa0example.org",
        ] {
            assert_eq!(parse(line), Query::Unknown, "{line:?}");
        }
    }
}

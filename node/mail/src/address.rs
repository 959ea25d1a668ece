//! Addresses as SMTP writes them (RFC 5321 section 4.1.2), kept as received.
//!
//! A local part belongs to the host that owns the domain: nothing here unquotes, folds case or
//! interprets `%` and `!`. Only the domain is normalised (lower case), for it is what routing
//! compares.

use std::fmt;

/// RFC 5321 section 4.5.3.1.1, octets. What is kept about a name by itself keeps to it; an address need not:
/// "To the maximum extent possible, implementation techniques that impose no limits on the length of these
/// objects should be used" (section 4.5.3.1), and VERP and SRS write whole addresses into local parts.
pub const LOCAL_PART_OCTETS_MAX: usize = 64;
/// RFC 5321 section 4.5.3.1.2, octets.
pub const DOMAIN_OCTETS_MAX: usize = 255;
/// RFC 5321 section 4.5.3.1.3, octets, both angle brackets included.
pub const PATH_OCTETS_MAX: usize = 256;

/// A mailbox: local part and domain. `<postmaster>` without a domain is [`Address`] with
/// `domain() == None` (RFC 5321 section 4.1.1.3).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Address {
    raw: Box<str>,
    /// The byte offset of the `@` that parts local part and domain.
    at: Option<usize>,
    domain: Option<Domain>,
}

/// The argument of MAIL FROM: a mailbox, or `<>`, which nothing may be bounced to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ReversePath {
    Null,
    Mailbox(Address),
}

/// A domain name or address literal, in lower case, without a trailing dot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Domain(Box<str>);

/// Why a text is not an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("the address has no domain")]
    NoDomain,
    #[error("the local part is not valid")]
    LocalPart,
    #[error("the domain is not valid")]
    Domain,
    #[error("the address is longer than RFC 5321 allows")]
    TooLong,
    #[error("the address needs SMTPUTF8")]
    NeedsUtf8,
}

impl Address {
    /// Reads a mailbox, without angle brackets or source route. `utf8` tells whether the
    /// transaction asked for SMTPUTF8 (RFC 6531): without it, any octet above 127 is refused.
    pub fn parse(text: &str, utf8: bool) -> Result<Self, AddressError> {
        if !utf8 && !text.is_ascii() {
            return Err(AddressError::NeedsUtf8);
        }
        // The last `@` outside a quoted string; a domain never holds one.
        if text.eq_ignore_ascii_case("postmaster") {
            return Ok(Self {
                raw: text.into(),
                at: None,
                domain: None,
            });
        }
        let at = text.rfind('@').ok_or(AddressError::NoDomain)?;
        let (local, domain) = (&text[..at], &text[at + 1..]);
        if text.len() + 2 > PATH_OCTETS_MAX {
            return Err(AddressError::TooLong);
        }
        if !is_dot_string(local) && !is_quoted_string(local) {
            return Err(AddressError::LocalPart);
        }
        let domain = Domain::parse(domain)?;
        Ok(Self {
            raw: text.into(),
            at: Some(at),
            domain: Some(domain),
        })
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.raw
    }

    /// The local part as received, quotes and all.
    #[must_use]
    pub fn local(&self) -> &str {
        &self.raw[..self.at.unwrap_or(self.raw.len())]
    }

    #[must_use]
    pub fn domain(&self) -> Option<&Domain> {
        self.domain.as_ref()
    }

    /// Whether the local part keeps to the length and the dots of RFC 5321 (sections 4.5.3.1.1 and 4.1.2),
    /// as versions up to feature level 3 insist on.
    #[must_use]
    pub fn is_strict(&self) -> bool {
        let local = self.local();
        // No atom holds a quote, so whatever begins with one is a quoted string.
        let has_empty_atom = !local.starts_with('"') && local.split('.').any(str::is_empty);
        local.len() <= LOCAL_PART_OCTETS_MAX && !has_empty_atom
    }
}

impl ReversePath {
    /// The mailbox without brackets; empty for `<>`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Null => "",
            Self::Mailbox(address) => address.as_str(),
        }
    }
}

impl Domain {
    /// Reads a domain name (labels of letters, digits, hyphens and, tolerated as hosts in the
    /// wild have them, underscores; U-labels) or an address literal in brackets.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        // Folded before it is measured: some letters grow, and what is kept must parse again.
        let folded = text.strip_suffix('.').unwrap_or(text).to_lowercase();
        let text = folded.as_str();
        if text.len() > DOMAIN_OCTETS_MAX {
            return Err(AddressError::TooLong);
        }
        let literal = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        let valid = match literal {
            Some(inside) => {
                let v6 = inside.len() > 5 && inside.starts_with("ipv6:");
                if v6 {
                    inside[5..].parse::<std::net::Ipv6Addr>().is_ok()
                } else {
                    inside.parse::<std::net::Ipv4Addr>().is_ok()
                }
            }
            None => !text.is_empty() && text.split('.').all(is_label),
        };
        if !valid {
            return Err(AddressError::Domain);
        }
        Ok(Self(folded.into()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    #[must_use]
    pub fn is_literal(&self) -> bool {
        self.0.starts_with('[')
    }
}

fn is_label(label: &str) -> bool {
    !label.is_empty()
        && label.len() <= 63
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_' || is_u_char(c))
}

/// RFC 6531 section 3.3 allows any non-ASCII character; the C1 controls and separators that
/// could break a line for somebody downstream are left out.
fn is_u_char(c: char) -> bool {
    !c.is_ascii() && !c.is_control() && !c.is_whitespace()
}

/// Atoms between dots. RFC 5321 section 4.1.2 has no empty ones; but large providers gave such addresses
/// (`joe.@`, `a..b@`) away for years, and whose mail it is, is not for us to say.
fn is_dot_string(local: &str) -> bool {
    let is_atext =
        |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || is_u_char(c);
    // Where a primary makes a file's name of it, two dots alone would lead out of its directory.
    let climbs = local.split('/').any(|part| part == "..");
    local.chars().all(|c| c == '.' || is_atext(c)) && local.chars().any(|c| c != '.') && !climbs
}

fn is_quoted_string(local: &str) -> bool {
    let Some(inside) = local
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
    else {
        return false;
    };
    if local.len() < 2 {
        return false;
    }
    let mut chars = inside.chars();
    while let Some(c) = chars.next() {
        let quoted = if c == '\\' { chars.next() } else { Some(c) };
        match (c, quoted) {
            ('\\', Some(' '..='~')) => {}
            ('"', _) | (_, None) => return false,
            (_, Some(' '..='~')) => {}
            (_, Some(other)) if is_u_char(other) => {}
            _ => return false,
        }
    }
    true
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.raw)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.raw)
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// With brackets, as in MAIL FROM.
impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_addresses_are_kept_as_received_with_the_domain_in_lower_case() {
        for (text, domain) in [
            ("joe@Example.ORG", "example.org"),
            ("a.b+c%d!e@x.y", "x.y"),
            ("\"a @ b\\\"\"@x.y", "x.y"),
            ("joe@[192.0.2.1]", "[192.0.2.1]"),
            ("joe@[IPv6:2001:db8::1]", "[ipv6:2001:db8::1]"),
            ("joe@example.org.", "example.org"),
        ] {
            let address = Address::parse(text, false).unwrap();
            assert_eq!(address.as_str(), text);
            assert_eq!(address.domain().map(Domain::as_str), Some(domain), "{text}");
        }
        assert_eq!(Address::parse("Postmaster", false).unwrap().domain(), None);
        assert!(Address::parse("jürgen@straße.example", true).is_ok());
    }

    #[test]
    fn a_domain_that_was_accepted_is_accepted_again_as_kept() {
        let grows = format!("{}.example", "\u{130}".repeat(31));
        for text in ["ÄÖ.Example", grows.as_str(), "[IPv6:::1]"] {
            if let Ok(domain) = Domain::parse(text) {
                assert_eq!(Domain::parse(domain.as_str()), Ok(domain), "{text}");
            }
        }
        assert_eq!(Domain::parse(&grows), Err(AddressError::Domain));
    }

    #[test]
    fn what_senders_write_is_an_address_even_where_rfc_5321_has_a_narrower_form() {
        let of = |local: &str| format!("{local}@x.y");
        let longest = PATH_OCTETS_MAX - "<@x.y>".len();
        for (local, is_strict) in [
            ("joe".to_owned(), true),
            ("a".repeat(64), true),
            ("\"a..b.\"".to_owned(), true),
            ("a".repeat(65), false),
            ("a".repeat(longest), false),
            (format!("\"{}\"", "a".repeat(63)), false),
            ("joe.".to_owned(), false),
            (".joe".to_owned(), false),
            ("a..b".to_owned(), false),
            ("SRS0=a/b=TT=far.example=joe.".to_owned(), false),
        ] {
            let text = of(&local);
            let address = Address::parse(&text, false).unwrap();
            assert_eq!((address.as_str(), address.local()), (&*text, &*local));
            assert_eq!(address.is_strict(), is_strict, "{text}");
        }
        assert!(Address::parse("postmaster", false).unwrap().is_strict());
        let too_long = of(&"a".repeat(longest + 1));
        assert_eq!(Address::parse(&too_long, false), Err(AddressError::TooLong));
    }

    #[test]
    fn what_is_no_address_is_refused_with_its_reason() {
        use AddressError as E;
        for (text, why) in [
            ("joe", E::NoDomain),
            ("@x.y", E::LocalPart),
            (".@x.y", E::LocalPart),
            ("...@x.y", E::LocalPart),
            ("../b@x.y", E::LocalPart),
            ("a/../b@x.y", E::LocalPart),
            ("a b@x.y", E::LocalPart),
            ("\"a\"b\"@x.y", E::LocalPart),
            ("\"@x.y", E::LocalPart),
            ("\"a\\\"@x.y", E::LocalPart),
            ("a\r@x.y", E::LocalPart),
            ("a@", E::Domain),
            ("a@-x.y", E::Domain),
            ("a@x..y", E::Domain),
            ("a@[300.1.1.1]", E::Domain),
            ("a@[ipv6:zz]", E::Domain),
            ("j\u{fc}rgen@x.y", E::NeedsUtf8),
        ] {
            assert_eq!(Address::parse(text, false), Err(why), "{text:?}");
        }
    }
}

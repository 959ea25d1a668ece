//! Commands, parsed.

use holdfast_mail::address::PATH_OCTETS_MAX;
use holdfast_mail::{Address, AddressError, BodyType, Domain, Notify, Recipient, Ret, ReversePath};

use crate::reply::Reply;

/// One command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    Helo(String),
    Ehlo(String),
    Mail(Mail),
    Rcpt(Recipient),
    Data,
    /// A chunk of this many bytes follows.
    Bdat {
        len: u64,
        last: bool,
    },
    Rset,
    Noop,
    Help,
    Vrfy,
    Expn,
    Etrn(Etrn),
    /// RFC 4954.
    Auth {
        /// In capitals.
        mechanism: String,
        initial: Option<String>,
    },
    /// RFC 2645: domains whose mail the client wants; none: whatever there is for it.
    Atrn(Vec<Domain>),
    StartTls,
    Quit,
}

/// MAIL and its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    pub reverse_path: ReversePath,
    /// SIZE (RFC 1870), bytes.
    pub size: Option<u64>,
    pub body_type: BodyType,
    pub smtputf8: bool,
    pub ret: Option<Ret>,
    /// xtext, as received.
    pub envid: Option<String>,
}

/// What ETRN asks for (RFC 1985 section 5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Etrn {
    /// The domain itself.
    Domain(Domain),
    /// `@`: the domain and what is below it.
    Below(Domain),
    /// `#`: a queue by name.
    Queue(String),
}

/// Longest xtext parameter: RFC 3461 sections 4.2 and 4.4 (ORCPT 500, ENVID 100) and RFC 4954
/// section 3 (AUTH 500), octets.
const ORCPT_OCTETS_MAX: usize = 500;
const ENVID_OCTETS_MAX: usize = 100;
const AUTH_OCTETS_MAX: usize = 500;

fn syntax(text: impl Into<String>) -> Reply {
    Reply::new(501, 5, 4, text)
}

fn unknown_parameter(keyword: &str) -> Reply {
    // RFC 5321 section 4.1.1.11: 555 for parameters that are not recognised.
    Reply::new(
        555,
        5,
        4,
        format!("the parameter {keyword} is not recognised or implemented"),
    )
}

impl Request {
    /// Parses a line without its CRLF. An `Err` is the refusal.
    pub fn parse(line: &[u8]) -> Result<Self, Reply> {
        let text = std::str::from_utf8(line)
            .map_err(|_| Reply::new(500, 5, 2, "a command is not UTF-8"))?;
        if text.chars().any(char::is_control) {
            return Err(Reply::new(
                500,
                5,
                2,
                "a control character stands in the command",
            ));
        }
        let (verb, argument) = match text.split_once(' ') {
            Some((verb, argument)) => (verb, argument.trim()),
            None => (text.trim_end(), ""),
        };
        let verb = verb.to_ascii_uppercase();
        if !matches!(verb.as_str(), "MAIL" | "RCPT") && !argument.is_ascii() {
            return Err(Reply::new(500, 5, 2, "only MAIL and RCPT may carry UTF-8"));
        }
        let nothing = |request: Self| {
            if argument.is_empty() {
                Ok(request)
            } else {
                Err(syntax(format!("{verb} takes no argument")))
            }
        };
        match verb.as_str() {
            "HELO" => Ok(Self::Helo(host(argument)?)),
            "EHLO" => Ok(Self::Ehlo(host(argument)?)),
            "MAIL" => mail(path_argument(argument, "FROM:")?),
            "RCPT" => rcpt(path_argument(argument, "TO:")?),
            "DATA" => nothing(Self::Data),
            "BDAT" => bdat(argument),
            "RSET" => nothing(Self::Rset),
            "NOOP" => Ok(Self::Noop),
            "HELP" => Ok(Self::Help),
            "QUIT" => nothing(Self::Quit),
            "STARTTLS" => nothing(Self::StartTls),
            "VRFY" if argument.is_empty() => Err(syntax("VRFY needs an address")),
            "VRFY" => Ok(Self::Vrfy),
            "EXPN" => Ok(Self::Expn),
            "ETRN" => etrn(argument),
            "AUTH" => auth(argument),
            "ATRN" => atrn(argument),
            _ => Err(Reply::new(500, 5, 1, "the command is not recognised")),
        }
    }
}

/// A mechanism, and perhaps its first response.
fn auth(argument: &str) -> Result<Request, Reply> {
    let mut words = argument.split(' ').filter(|word| !word.is_empty());
    match (words.next(), words.next(), words.next()) {
        (Some(mechanism), initial, None) => Ok(Request::Auth {
            mechanism: mechanism.to_ascii_uppercase(),
            initial: initial.map(str::to_owned),
        }),
        _ => Err(syntax("the form is AUTH mechanism [response]")),
    }
}

/// RFC 2645 section 5.2.1: `ATRN [SP domain *("," domain)]`.
fn atrn(argument: &str) -> Result<Request, Reply> {
    let names = argument.split(',').map(str::trim);
    let names = names.filter(|_| !argument.is_empty());
    names
        .map(|name| Domain::parse(name).map_err(|_| syntax("the form is ATRN domain,domain,…")))
        .collect::<Result<_, _>>()
        .map(Request::Atrn)
}

/// The argument of HELO or EHLO. RFC 5321 section 4.1.4 forbids refusing a client because the
/// name does not resolve; what is no name at all would spoil the trace line.
fn host(argument: &str) -> Result<String, Reply> {
    match Domain::parse(argument) {
        Ok(domain) => Ok(domain.to_string()),
        Err(_) => Err(syntax(
            "the argument must be a domain name or an address literal",
        )),
    }
}

/// `FROM:<…> params` or `TO:<…> params`: the path inside the brackets, and the parameters.
fn path_argument<'a>(argument: &'a str, prefix: &str) -> Result<(&'a str, &'a str), Reply> {
    let wrong = || syntax(format!("the form is {prefix}<address>"));
    let start = argument.get(..prefix.len()).ok_or_else(wrong)?;
    if !start.eq_ignore_ascii_case(prefix) {
        return Err(wrong());
    }
    let rest = argument[prefix.len()..]
        .trim_start()
        .strip_prefix('<')
        .ok_or_else(wrong)?;
    let mut quoted = false;
    let mut escaped = false;
    for (place, c) in rest.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '>' if !quoted => {
                let parameters = &rest[place + 1..];
                if !parameters.is_empty() && !parameters.starts_with(' ') {
                    return Err(wrong());
                }
                if place + 2 > PATH_OCTETS_MAX {
                    return Err(Reply::new(501, 5, 4, "the path is longer than 256 octets"));
                }
                return Ok((&rest[..place], parameters));
            }
            _ => {}
        }
    }
    Err(wrong())
}

/// Strips a source route. RFC 5321 section 3.3: "Servers MUST be prepared to encounter a list of
/// source routes in the forward-path, but they SHOULD ignore the routes". The mailbox behind it
/// is what counts: a route never makes us a relay.
fn without_route(path: &str) -> Result<&str, Reply> {
    let Some(route) = path.strip_prefix('@') else {
        return Ok(path);
    };
    let wrong = || syntax("the source route is not valid");
    let (hosts, mailbox) = route.split_once(':').ok_or_else(wrong)?;
    let mut hosts = hosts.split(',').enumerate();
    let valid = hosts.all(|(place, host)| {
        let host = if place == 0 {
            Some(host)
        } else {
            host.strip_prefix('@')
        };
        host.is_some_and(|host| Domain::parse(host).is_ok())
    });
    if valid { Ok(mailbox) } else { Err(wrong()) }
}

fn address(path: &str, utf8: bool) -> Result<Address, Reply> {
    Address::parse(without_route(path)?, utf8).map_err(|error| match error {
        AddressError::NeedsUtf8 => Reply::new(553, 6, 7, "the address needs SMTPUTF8 at MAIL"),
        other => Reply::new(501, 1, 3, other.to_string()),
    })
}

/// The parameters, keywords in upper case. One that is given twice is refused: which of the two
/// counts is a question that servers answer differently.
fn parameters(text: &str) -> Result<Vec<(String, Option<&str>)>, Reply> {
    let mut found: Vec<(String, Option<&str>)> = Vec::new();
    for word in text.split_ascii_whitespace() {
        let (keyword, value) = match word.split_once('=') {
            Some((keyword, value)) => (keyword.to_ascii_uppercase(), Some(value)),
            None => (word.to_ascii_uppercase(), None),
        };
        if found.iter().any(|(known, _)| *known == keyword) {
            return Err(syntax(format!("the parameter {keyword} is given twice")));
        }
        found.push((keyword, value));
    }
    Ok(found)
}

fn mail((path, rest): (&str, &str)) -> Result<Request, Reply> {
    let mut mail = Mail {
        reverse_path: ReversePath::Null,
        size: None,
        body_type: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
    };
    for (keyword, value) in parameters(rest)? {
        match (keyword.as_str(), value) {
            ("SIZE", Some(value)) => {
                let digits = value.len() <= 20 && value.bytes().all(|b| b.is_ascii_digit());
                let size = value.parse().ok().filter(|_| digits);
                mail.size = Some(size.ok_or_else(|| syntax("SIZE needs a number"))?);
            }
            ("BODY", Some(value)) if value.eq_ignore_ascii_case("7BIT") => {}
            ("BODY", Some(value)) if value.eq_ignore_ascii_case("8BITMIME") => {
                mail.body_type = BodyType::EightBitMime;
            }
            ("BODY", Some(_)) => return Err(syntax("BODY is 7BIT or 8BITMIME")),
            ("SMTPUTF8", None) => mail.smtputf8 = true,
            ("RET", Some(value)) => {
                mail.ret = Some(if value.eq_ignore_ascii_case("FULL") {
                    Ret::Full
                } else if value.eq_ignore_ascii_case("HDRS") {
                    Ret::Headers
                } else {
                    return Err(syntax("RET is FULL or HDRS"));
                });
            }
            ("ENVID", Some(value)) => {
                if value.len() > ENVID_OCTETS_MAX || !is_xtext(value) {
                    return Err(syntax("ENVID is xtext of at most 100 octets"));
                }
                mail.envid = Some(value.to_owned());
            }
            // RFC 4954 section 5: who wrote the message, by the client's word. Where that is not
            // trusted, and here nobody's is, the server "MUST behave as if the AUTH=<> parameter
            // was supplied".
            ("AUTH", Some(value)) => {
                if value.len() > AUTH_OCTETS_MAX || (value != "<>" && !is_xtext(value)) {
                    return Err(syntax("AUTH is <> or xtext of at most 500 octets"));
                }
            }
            _ => return Err(unknown_parameter(&keyword)),
        }
    }
    if !path.is_empty() {
        let address = address(path, mail.smtputf8)?;
        if address.domain().is_none() {
            return Err(Reply::new(501, 1, 7, "the sender's address needs a domain"));
        }
        mail.reverse_path = ReversePath::Mailbox(address);
    }
    Ok(Request::Mail(mail))
}

/// Whether UTF-8 is allowed in it, only the session knows; it checks.
fn rcpt((path, rest): (&str, &str)) -> Result<Request, Reply> {
    let mut recipient = Recipient {
        address: address(path, true)?,
        notify: None,
        orcpt: None,
    };
    for (keyword, value) in parameters(rest)? {
        match (keyword.as_str(), value) {
            ("NOTIFY", Some(value)) => {
                recipient.notify = Some(notify(value)?);
            }
            ("ORCPT", Some(value)) => {
                if !is_orcpt(value) {
                    return Err(syntax("ORCPT is type;xtext"));
                }
                recipient.orcpt = Some(value.to_owned());
            }
            _ => return Err(unknown_parameter(&keyword)),
        }
    }
    Ok(Request::Rcpt(recipient))
}

fn notify(value: &str) -> Result<Notify, Reply> {
    if value.eq_ignore_ascii_case("NEVER") {
        return Ok(Notify::default());
    }
    let mut notify = Notify::default();
    for word in value.split(',') {
        match word.to_ascii_uppercase().as_str() {
            "SUCCESS" => notify.success = true,
            "FAILURE" => notify.failure = true,
            "DELAY" => notify.delay = true,
            _ => {
                return Err(syntax(
                    "NOTIFY is NEVER or a list of SUCCESS, FAILURE and DELAY",
                ));
            }
        }
    }
    Ok(notify)
}

/// `addr-type;xtext` (RFC 3461 section 4.2). Whether UTF-8 is allowed in it, as it is for the type
/// `utf-8` (RFC 6533 section 3), the session checks.
fn is_orcpt(value: &str) -> bool {
    value.len() <= ORCPT_OCTETS_MAX
        && value.split_once(';').is_some_and(|(kind, text)| {
            !kind.is_empty()
                && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && if kind.eq_ignore_ascii_case("utf-8") {
                    text.chars().all(|c| c.is_ascii_graphic() || is_u_char(c))
                } else {
                    is_xtext(text)
                }
        })
}

/// Not ASCII, and no character that ends a word or a line for somebody downstream.
fn is_u_char(c: char) -> bool {
    !c.is_ascii() && !c.is_control() && !c.is_whitespace()
}

/// RFC 3461 section 4: printable ASCII but `+` and `=`, or `+` and two upper-case hexadecimal
/// digits.
fn is_xtext(text: &str) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let good = match byte {
            b'+' => {
                let hex = |b: Option<u8>| b.is_some_and(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
                hex(bytes.next()) && hex(bytes.next())
            }
            b'=' => false,
            other => other.is_ascii_graphic(),
        };
        if !good {
            return false;
        }
    }
    true
}

/// RFC 3030 section 2.
fn bdat(argument: &str) -> Result<Request, Reply> {
    let wrong = || syntax("the form is BDAT length [LAST]").and_close();
    let mut words = argument.split_ascii_whitespace();
    let len = words
        .next()
        .filter(|w| w.bytes().all(|b| b.is_ascii_digit()))
        .ok_or_else(wrong)?;
    let len = len
        .parse()
        .ok()
        .filter(|len| *len <= crate::limits::CHUNK_BYTES_MAX)
        .ok_or_else(wrong)?;
    let last = match (words.next(), words.next()) {
        (None, _) => false,
        (Some(word), None) if word.eq_ignore_ascii_case("LAST") => true,
        _ => return Err(wrong()),
    };
    Ok(Request::Bdat { len, last })
}

fn etrn(argument: &str) -> Result<Request, Reply> {
    let domain = |text: &str| {
        Domain::parse(text)
            .ok()
            .filter(|domain| !domain.is_literal())
            .ok_or_else(|| syntax("ETRN needs a domain name"))
    };
    Ok(Request::Etrn(match argument.chars().next() {
        Some('@') => Etrn::Below(domain(&argument[1..])?),
        Some('#') => Etrn::Queue(argument[1..].to_owned()),
        _ => Etrn::Domain(domain(argument)?),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(line: &str) -> u16 {
        Request::parse(line.as_bytes())
            .err()
            .map_or(0, |reply| reply.code)
    }

    #[test]
    fn well_formed_commands_are_understood() {
        for line in [
            "EHLO client.example",
            "ehlo [192.0.2.1]",
            "MAIL FROM:<>",
            "mail from:<joe@example.org> SIZE=1000 BODY=8BITMIME RET=HDRS ENVID=a+2Bb",
            "MAIL FROM: <joe@example.org>",
            "MAIL FROM:<joe@example.org> AUTH=<>",
            "MAIL FROM:<joe@example.org> SIZE=1 AUTH=joe+2B@example.org",
            "MAIL FROM:<\"a>b\"@example.org>",
            "RCPT TO:<postmaster>",
            "RCPT TO:<@a.example,@b.example:joe@example.org> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;joe@example.org",
            "RCPT TO:<joe%other.example@example.org>",
            "RCPT TO:<j\u{fc}@example.org> ORCPT=utf-8;j\u{fc}@example.org",
            "BDAT 0 LAST",
            "NOOP whatever",
            "ETRN @example.org",
            "VRFY joe",
        ] {
            assert_eq!(code(line), 0, "{line}");
        }
    }

    #[test]
    fn malformed_commands_are_refused_with_their_code() {
        for (line, expected) in [
            ("", 500),
            ("WHAT", 500),
            ("EHLO", 501),
            ("EHLO a b", 501),
            ("MAIL", 501),
            ("MAIL FROM:joe@example.org", 501),
            ("MAIL FROM:<joe@example.org", 501),
            ("MAIL FROM:<joe@example.org>SIZE=1", 501),
            ("MAIL FROM:<joe@example.org> SIZE=x", 501),
            ("MAIL FROM:<joe@example.org> FOO=1", 555),
            ("MAIL FROM:<joe@example.org> BODY=BINARYMIME", 501),
            ("MAIL FROM:<joe@example.org> SIZE=1 size=2", 501),
            ("MAIL FROM:<joe@example.org> SIZE=99999999999999999999", 501),
            ("MAIL FROM:<joe@example.org> ENVID=a+2bb", 501),
            ("MAIL FROM:<joe@example.org> RET=SOME", 501),
            ("MAIL FROM:<joe@example.org> AUTH", 555),
            ("MAIL FROM:<joe@example.org> AUTH=a=b", 501),
            ("RCPT TO:<@:joe@example.org>", 501),
            ("RCPT TO:<@a.example,b.example:joe@example.org>", 501),
            ("RCPT TO:<@a.example joe@example.org>", 501),
            ("RCPT TO:<joe@example.org> ORCPT=rfc822;j\u{fc}", 501),
            ("MAIL FROM:<joe@example.org> ENVID=a=b", 501),
            ("MAIL FROM:<postmaster>", 501),
            ("MAIL FROM:<j\u{fc}@example.org>", 553),
            ("RCPT TO:<>", 501),
            ("RCPT TO:<joe>", 501),
            ("RCPT TO:<joe@example.org> NOTIFY=NEVER,DELAY", 501),
            ("RCPT TO:<joe@example.org> ORCPT=joe", 501),
            ("RCPT TO:<joe@example.org> ORCPT=utf-8;a\u{2028}b", 501),
            ("DATA now", 501),
            ("BDAT", 501),
            ("BDAT -1", 501),
            ("BDAT 5 FIRST", 501),
            ("ETRN", 501),
            ("NOOP \u{7}", 500),
        ] {
            assert_eq!(code(line), expected, "{line}");
        }
    }
}

//! Delivery status notifications: the bounce, and the notice that mail is late (RFC 3464).
//!
//! Pure: an envelope, what became of its recipients and a time go in, the lines of a message
//! come out. Who owes a notification to whom is decided here too ([`is_owed`]), so that no room
//! can forget `NOTIFY=NEVER` or answer `<>`.
//!
//! The first part is for people: what happened, and what to do. The second is for programs, the
//! third returns the message or its header section. A message that is returned whole may be
//! large, so [`Written`] is what stands before and after it.

mod returned;
mod text;
mod xtext;

use crate::Timestamp;
use crate::{Address, BodyType, Envelope, MessageId, Recipient, Ret, ReversePath, Status};

/// Octets of a header section that are returned. More than any mail system writes; what is
/// behind is left out, and the part says so by ending.
pub const HEADER_OCTETS_MAX: usize = 64 << 10;

/// Octets of a message that is returned whole to a sender who asked for it with `RET=FULL`. A
/// larger one costs him, and us, more than it tells: its header section is returned instead.
pub const FULL_OCTETS_MAX: u64 = 1 << 20;

/// Octets of one line in the second part; longer fields are folded at a space.
const LINE_OCTETS_MAX: usize = 76;

/// Octets of any line (RFC 5322 section 2.1.1).
const ANY_LINE_OCTETS_MAX: usize = 998;

/// Octets of a word in text, so that there is room for what stands before it in its line.
const WORD_OCTETS_MAX: usize = 900;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Nothing more will be tried for these recipients.
    Failed,
    /// Not delivered yet; it goes on.
    Delayed,
}

/// Why a recipient is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The primary said never.
    Refused,
    /// It was held for as long as the domain's owner wants mail held.
    Expired,
    /// Whoever runs the domain's mail returned it.
    Returned,
    /// It waits.
    Delayed,
}

/// One recipient, and what became of the message for it.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    pub recipient: &'a Recipient,
    pub why: Why,
    /// What the primary last said, code and all; empty if it never said anything.
    pub reply: &'a str,
    /// The primary, if it said anything.
    pub remote: Option<&'a str>,
    pub last_attempt: Option<Timestamp>,
    pub will_retry_until: Option<Timestamp>,
}

/// What a notification is made from.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    pub kind: Kind,
    /// The notification's own id.
    pub id: MessageId,
    pub at: Timestamp,
    /// The name of the mail system that reports.
    pub reporting: &'a str,
    /// Where it goes: the reverse-path of the original.
    pub to: &'a Address,
    pub original: &'a Envelope,
    /// Never empty.
    pub told: &'a [Told<'a>],
}

/// What is returned of the original.
#[derive(Clone, Copy, Debug)]
pub enum Returned<'a> {
    /// Its header section, as far as it could be read.
    Header(&'a [u8]),
    /// All of it: it goes between `head` and `tail`.
    Whole,
}

/// A notification, around what is returned whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub head: Vec<u8>,
    pub tail: Vec<u8>,
    pub body_type: BodyType,
    pub smtputf8: bool,
}

/// Whether the sender is to be told `kind` of this recipient. RFC 3461 section 4.1: without
/// NOTIFY a failure is told and a delay may be; `NEVER` is neither.
#[must_use]
pub fn is_owed(reverse_path: &ReversePath, recipient: &Recipient, kind: Kind) -> bool {
    let ReversePath::Mailbox(sender) = reverse_path else {
        return false;
    };
    // `<postmaster>` names nobody once it has left the host that wrote it.
    sender.domain().is_some()
        && recipient.notify.is_none_or(|notify| match kind {
            Kind::Failed => notify.failure,
            Kind::Delayed => notify.delay,
        })
}

/// Whether the sender asked for the whole message, and it can be returned whole.
#[must_use]
pub fn returns_whole(kind: Kind, original: &Envelope) -> bool {
    kind == Kind::Failed
        && original.ret == Some(Ret::Full)
        && original.body.len <= FULL_OCTETS_MAX
        // Nothing says that the way back carries what is not ASCII in a header section; that
        // section alone can be encoded, a message may not.
        && (!original.smtputf8 || !original.reverse_path.as_str().is_ascii())
}

/// Writes a notification. Lines end with CRLF.
#[must_use]
pub fn write(report: &Report<'_>, returned: Returned<'_>) -> Written {
    // Only a sender with such an address has a way back that must carry UTF-8 as it is.
    let global = !report.to.as_str().is_ascii();
    let boundary = format!("=_{}", report.id);
    let mut head = String::new();
    header(report, &boundary, &mut head);
    head.push_str("This is a delivery status notification in MIME format.\r\n");
    head.push_str(&format!("\r\n--{boundary}\r\n"));
    text::write(report, &mut head);
    head.push_str(&format!("\r\n--{boundary}\r\n"));
    fields(report, global, &mut head);
    head.push_str(&format!("\r\n--{boundary}\r\n"));
    let mut head = head.into_bytes();
    let eight_bit = returned::write(report.original, returned, global, &mut head);
    Written {
        head,
        tail: format!("\r\n--{boundary}--\r\n").into_bytes(),
        body_type: if global || eight_bit {
            BodyType::EightBitMime
        } else {
            BodyType::SevenBit
        },
        smtputf8: global,
    }
}

fn header(report: &Report<'_>, boundary: &str, out: &mut String) {
    let host = report.reporting;
    out.push_str(&format!(
        "From: Mail Delivery System <postmaster@{host}>\r\n\
         To: <{}>\r\n\
         Subject: {}\r\n\
         Date: {}\r\n\
         Message-ID: <{}@{host}>\r\n\
         Auto-Submitted: auto-replied\r\n\
         MIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=delivery-status;\r\n\
         \tboundary=\"{boundary}\"\r\n\
         \r\n",
        report.to,
        match report.kind {
            Kind::Failed => "Your message was not delivered",
            Kind::Delayed => "Your message is not delivered yet; it is still being tried",
        },
        report.at.rfc5322(),
        report.id,
    ));
}

/// The second part.
fn fields(report: &Report<'_>, global: bool, out: &mut String) {
    let (subtype, encoding) = if global {
        ("global-delivery-status", "8bit")
    } else {
        ("delivery-status", "7bit")
    };
    out.push_str(&format!(
        "Content-Type: message/{subtype}\r\n\
         Content-Description: For programs\r\n\
         Content-Transfer-Encoding: {encoding}\r\n\r\n"
    ));
    let original = report.original;
    if let Some(id) = original.envid.as_deref().and_then(xtext::decode) {
        exact(out, "Original-Envelope-Id", &id, global);
    }
    field(
        out,
        "Reporting-MTA",
        &format!("dns; {}", report.reporting),
        global,
    );
    if !original.helo.is_empty() {
        let from = format!("dns; {} ({})", original.helo, original.client);
        field(out, "Received-From-MTA", &from, global);
    }
    field(out, "Arrival-Date", &original.received_at.rfc5322(), global);
    for told in report.told {
        out.push_str("\r\n");
        recipient(told, report.kind, global, out);
    }
}

fn recipient(told: &Told<'_>, kind: Kind, global: bool, out: &mut String) {
    if let Some(orcpt) = told
        .recipient
        .orcpt
        .as_deref()
        .and_then(|o| xtext::orcpt(o, global))
    {
        exact(out, "Original-Recipient", &orcpt, global);
    }
    let address = xtext::address(told.recipient.address.as_str(), global);
    exact(out, "Final-Recipient", &address, global);
    let action = match kind {
        Kind::Failed => "failed",
        Kind::Delayed => "delayed",
    };
    field(out, "Action", action, global);
    field(out, "Status", &status(told, kind).to_string(), global);
    if let Some(remote) = told.remote.filter(|_| !told.reply.is_empty()) {
        field(out, "Remote-MTA", &format!("dns; {remote}"), global);
    }
    if is_smtp_reply(told.reply) {
        field(
            out,
            "Diagnostic-Code",
            &format!("smtp; {}", told.reply),
            global,
        );
    } else if !told.reply.is_empty() {
        field(
            out,
            "Diagnostic-Code",
            &format!("X-Holdfast; {}", told.reply),
            global,
        );
    }
    if let Some(at) = told.last_attempt {
        field(out, "Last-Attempt-Date", &at.rfc5322(), global);
    }
    if let Some(until) = told.will_retry_until.filter(|_| kind == Kind::Delayed) {
        field(out, "Will-Retry-Until", &until.rfc5322(), global);
    }
}

/// The enhanced status code that the reply begins with, a primary's or ours.
fn said(reply: &str) -> Option<Status> {
    Status::leading(match is_smtp_reply(reply) {
        true => reply.get(4..).unwrap_or_default(),
        false => reply,
    })
}

/// The enhanced status code: the primary's own where it gave one, ours where no server was asked.
fn status(told: &Told<'_>, kind: Kind) -> Status {
    let said = said(told.reply);
    let class = told
        .reply
        .as_bytes()
        .first()
        .map_or(0, |digit| digit.wrapping_sub(b'0'));
    match told.why {
        // RFC 3463 section 3.5: "X.4.7 Delivery time expired".
        Why::Expired => said
            .filter(|s| s.class == 5)
            .unwrap_or(Status::new(4, 4, 7)),
        Why::Refused | Why::Returned => said
            .filter(|s| s.class == 5)
            .unwrap_or(Status::new(5, 0, 0)),
        Why::Delayed => said.filter(|s| s.class == 4).unwrap_or(
            // "X.4.1 No answer from host".
            if kind == Kind::Delayed && class == 4 && is_smtp_reply(told.reply) {
                Status::new(4, 0, 0)
            } else {
                Status::new(4, 4, 1)
            },
        ),
    }
}

fn is_smtp_reply(reply: &str) -> bool {
    let bytes = reply.as_bytes();
    bytes.len() >= 3
        && matches!(bytes[0], b'2'..=b'5')
        && bytes[1..3].iter().all(u8::is_ascii_digit)
        && bytes.get(3).is_none_or(|byte| matches!(byte, b' ' | b'-'))
}

/// One field of text, folded, free of what would end it or could not travel.
fn field(out: &mut String, name: &str, value: &str, global: bool) {
    let able: String = value
        .chars()
        .map(|c| if c.is_ascii() || global { c } else { '?' })
        .collect();
    let mut line = format!("{name}:");
    for word in words(&able) {
        if line.len() + 1 + word.len() > LINE_OCTETS_MAX && line.len() > name.len() + 1 {
            out.push_str(&line);
            out.push_str("\r\n");
            line.clear();
        }
        line.push(' ');
        line.push_str(word);
    }
    out.push_str(&line);
    out.push_str("\r\n");
}

/// One field whose value names something: another number of spaces would name something else, and
/// so would half of it. Left out where no line can hold it as it is; an address that was accepted
/// never is.
fn exact(out: &mut String, name: &str, value: &str, global: bool) {
    let able = |c: char| !c.is_control() && (c.is_ascii() || global);
    let line = format!("{name}: {value}");
    if line.len() <= ANY_LINE_OCTETS_MAX && value.chars().all(able) {
        out.push_str(&line);
        out.push_str("\r\n");
    }
}

/// The words of a text in which anything may be.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c == ' ' || c.is_control())
        .flat_map(|mut rest| {
            std::iter::from_fn(move || {
                let (word, behind) = rest.split_at(rest.floor_char_boundary(WORD_OCTETS_MAX));
                rest = behind;
                Some(word).filter(|word| !word.is_empty())
            })
        })
}

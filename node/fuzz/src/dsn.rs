//! Notifications: whatever a stranger's envelope, a primary's answer and a message's header hold,
//! what is written of them is a report for those it is owed for, and nothing else.

use holdfast_mail::dsn::{self, Kind, Report, Returned, Told, Why, Written};
use holdfast_mail::{
    Address, BodyRef, BodyType, Envelope, MessageId, Notify, Recipient, Ret, ReversePath, Timestamp,
};

use crate::choices::Choices;
use crate::mime::{self, Entity};
use crate::random::Random;
use crate::reference::is_strict;

/// What envelopes, answers and headers are made of.
pub(crate) const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b"\t",
    b" ",
    b"  ",
    b"\r\nBcc: x@y.example\r\n",
    b"\r\n\r\n",
    b"\r\n\r\nFinal-Recipient: rfc822; x@y.example\r\nAction: delivered\r\nStatus: 2.0.0\r\n",
    b"\r\n--=_",
    b"--",
    b"550 5.1.1 never",
    b"450 4.2.1 later",
    b"5.3.4 too large",
    b"421",
    b"rfc822;",
    b"utf-8;",
    b"x@y.example",
    b"\\x{FC}",
    b"\\x{",
    b"+0D+0A",
    b"+20",
    b"++++++++",
    b"=",
    b"(",
    b"\xc3\xbc",
    b"\xe2\x80\xa8",
    b"\xc2\x85",
    b"\xff",
    b"Subject: x\r\n",
    b" folded\r\n",
];

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const HOST: &str = "mx1.holdfast.example";

/// Recipients and senders; some grow when they are encoded.
const ADDRESSES: [&str; 8] = [
    "joe@a.example",
    "postmaster",
    "\"a  \\\"b\\\" c\"@a.example",
    "a+b=c/d@[IPv6:2001:db8::1]",
    "ü@bücher.example",
    "\"ü  \\\\ +\"@a.example",
    "用户@例.example",
    "++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++ü@üüüüüüüüüüüüüüüüüüüüüüüüüüüüüüü.\
     üüüüüüüüüüüüüüüüüüüüüüüüüüüüüüü.üüüüüüüüüüüüüüüüüüüüüüüüüü.example",
];

/// A message that failed or is late, then the beginning of it.
pub fn dsn(data: &[u8]) {
    let mut choices = Choices::new(data);
    let kind = if choices.flag() {
        Kind::Delayed
    } else {
        Kind::Failed
    };
    let envelope = envelope(&mut choices);
    let known: Vec<Known> = envelope
        .recipients
        .iter()
        .map(|_| Known::new(&mut choices))
        .collect();
    let told: Vec<Told<'_>> = envelope
        .recipients
        .iter()
        .zip(&known)
        .filter(|(recipient, _)| is_owed(&envelope, recipient, kind))
        .map(|(recipient, known)| known.told(recipient))
        .collect();
    let ReversePath::Mailbox(to) = &envelope.reverse_path else {
        assert!(told.is_empty(), "nothing is owed to nobody");
        return;
    };
    if told.is_empty() {
        return;
    }
    let report = Report {
        kind,
        // Nobody knows it before the notification is written.
        id: MessageId::new(NOW, Random::of(data).draw().into()),
        at: NOW,
        reporting: HOST,
        to,
        original: &envelope,
        told: &told,
    };
    let message = choices.rest();
    let whole = dsn::returns_whole(kind, &envelope);
    let returned = if whole {
        Returned::Whole
    } else {
        Returned::Header(message)
    };
    let written = dsn::write(&report, returned);
    assert_eq!(written.smtputf8, !to.as_str().is_ascii());
    if whole {
        assert!(is_strict(&written.head) && is_strict(&written.tail));
        check(&report, &written, None);
    } else {
        check(&report, &written, Some(message));
    }
}

/// The rule of RFC 3461 section 4.1, held against ours.
fn is_owed(envelope: &Envelope, recipient: &Recipient, kind: Kind) -> bool {
    let owed = dsn::is_owed(&envelope.reverse_path, recipient, kind);
    let wanted = match (recipient.notify, kind) {
        (None, _) => true,
        (Some(notify), Kind::Failed) => notify.failure,
        (Some(notify), Kind::Delayed) => notify.delay,
    };
    let sender = envelope.reverse_path.as_str();
    assert_eq!(owed, wanted && sender.contains('@'));
    owed
}

/// Reads it as a program would that has to find out what became of a message.
fn check(report: &Report<'_>, written: &Written, returned: Option<&[u8]>) {
    let bytes = [&written.head[..], &written.tail].concat();
    mime::lines(&bytes);
    assert!(is_strict(&bytes));
    if written.body_type == BodyType::SevenBit {
        assert!(bytes.is_ascii(), "8 bits in 7");
    }
    let message = Entity::read(&bytes);
    let names = [
        "From",
        "To",
        "Subject",
        "Date",
        "Message-ID",
        "Auto-Submitted",
        "MIME-Version",
        "Content-Type",
    ];
    assert_eq!(message.names(), names);
    assert_eq!(message.only("To"), format!("<{}>", report.to));
    let kind = message.only("Content-Type");
    let boundary = kind
        .strip_prefix("multipart/report; report-type=delivery-status;\tboundary=\"")
        .and_then(|rest| rest.strip_suffix('"'))
        .expect("a boundary");
    let parts = mime::parts(message.body, boundary);
    let [prose, fields, original] = parts[..] else {
        panic!("{} parts", parts.len());
    };
    for part in [prose, fields, original] {
        let part = Entity::read(part);
        let names = [
            "Content-Type",
            "Content-Description",
            "Content-Transfer-Encoding",
        ];
        assert_eq!(part.names(), names);
    }
    for_people(report, &Entity::read(prose));
    for_programs(report, &Entity::read(fields));
    if let Some(returned) = returned {
        let content = Entity::read(original).content();
        let expected = header_section(returned);
        if is_strict(expected) {
            assert_eq!(content, expected);
        }
    }
}

/// Everybody is named whom it is about.
fn for_people(report: &Report<'_>, part: &Entity<'_>) {
    let text = String::from_utf8(part.content()).expect("UTF-8");
    for told in report.told {
        let line = format!("\r\n    {}\r\n", told.recipient.address);
        assert!(text.contains(&line), "{text}");
    }
}

/// RFC 3464 section 2.1: fields of the message, and behind an empty line those of each recipient.
fn for_programs(report: &Report<'_>, part: &Entity<'_>) {
    let global = part.only("Content-Type") == "message/global-delivery-status";
    assert_eq!(global, !report.to.as_str().is_ascii());
    let content = part.content();
    let text = std::str::from_utf8(&content).expect("UTF-8");
    let mut blocks = text.split("\r\n\r\n").map(|block| {
        let block = block.trim_end_matches("\r\n");
        mime::fields(format!("{block}\r\n").as_bytes())
    });
    let message = blocks.next().expect("fields of the message");
    let order = [
        "Original-Envelope-Id",
        "Reporting-MTA",
        "Received-From-MTA",
        "Arrival-Date",
    ];
    in_order(&message, &order, &["Reporting-MTA", "Arrival-Date"]);
    let blocks: Vec<_> = blocks.collect();
    assert_eq!(blocks.len(), report.told.len(), "{text}");
    for (fields, told) in blocks.iter().zip(report.told) {
        for_one(report, told, fields);
    }
}

fn for_one(report: &Report<'_>, told: &Told<'_>, fields: &[(String, String)]) {
    let order = [
        "Original-Recipient",
        "Final-Recipient",
        "Action",
        "Status",
        "Remote-MTA",
        "Diagnostic-Code",
        "Last-Attempt-Date",
        "Will-Retry-Until",
    ];
    in_order(fields, &order, &["Final-Recipient", "Action", "Status"]);
    let value = |name: &str| {
        let field = fields.iter().find(|(known, _)| known == name);
        field.map(|(_, value)| value.as_str())
    };
    let is_delayed = report.kind == Kind::Delayed;
    let (kind, address) = value("Final-Recipient")
        .and_then(|value| value.split_once("; "))
        .expect("a type");
    let given = told.recipient.address.as_str();
    let encoded = kind == "utf-8" && address.is_ascii();
    let plain = if encoded {
        plain(address)
    } else {
        address.to_owned()
    };
    assert_eq!(plain, given);
    assert_eq!(kind == "utf-8", !given.is_ascii());
    let action = if is_delayed { "delayed" } else { "failed" };
    assert_eq!(value("Action"), Some(action));
    let status = value("Status").expect("a status");
    assert!(matches!(status.as_bytes()[0], b'4' | b'5'), "{status}");
    assert!(holdfast_mail::Status::leading(status).is_some());
    let answered = !told.reply.is_empty();
    let asked = answered && told.remote.is_some();
    assert_eq!(value("Remote-MTA").is_some(), asked);
    assert_eq!(value("Diagnostic-Code").is_some(), answered);
    let until = is_delayed && told.will_retry_until.is_some();
    assert_eq!(value("Will-Retry-Until").is_some(), until);
}

/// No other field, none twice, and those that must be there.
fn in_order(fields: &[(String, String)], order: &[&str], needed: &[&str]) {
    let mut rest = order.iter();
    for (name, _) in fields {
        assert!(rest.any(|known| known == name), "{name} in {fields:?}");
    }
    for name in needed {
        assert!(fields.iter().any(|(known, _)| known == name), "no {name}");
    }
}

/// RFC 6533 section 3: `\x{HEXPOINT}` stands for a character.
fn plain(address: &str) -> String {
    let mut parts = address.split("\\x{");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (point, rest) = part.split_once('}').expect("a brace");
        let point = u32::from_str_radix(point, 16).expect("hexadecimal");
        out.push(char::from_u32(point).expect("a character"));
        out.push_str(rest);
    }
    out
}

/// Whole lines, up to the first that is empty.
fn header_section(message: &[u8]) -> &[u8] {
    let mut end = 0;
    while let Some(at) = message[end..].iter().position(|byte| *byte == b'\n') {
        let line = &message[end..=end + at];
        if line == b"\n" || line == b"\r\n" {
            break;
        }
        end += line.len();
    }
    &message[..end]
}

/// What became of the message for one recipient.
struct Known {
    why: Why,
    reply: String,
    remote: Option<String>,
    last_attempt: Option<Timestamp>,
    will_retry_until: Option<Timestamp>,
}

impl Known {
    fn new(choices: &mut Choices<'_>) -> Self {
        let whys = [Why::Refused, Why::Expired, Why::Returned, Why::Delayed];
        let why = whys[choices.below(4) as usize];
        let reply = match choices.below(4) {
            0 => String::new(),
            1 => "550 5.1.1 never".to_owned(),
            _ => text(choices),
        };
        Self {
            why,
            reply,
            remote: choices.flag().then(|| text(choices)),
            last_attempt: choices.flag().then_some(NOW),
            will_retry_until: choices.flag().then_some(NOW),
        }
    }

    fn told<'a>(&'a self, recipient: &'a Recipient) -> Told<'a> {
        Told {
            recipient,
            why: self.why,
            reply: &self.reply,
            remote: self.remote.as_deref(),
            last_attempt: self.last_attempt,
            will_retry_until: self.will_retry_until,
        }
    }
}

fn envelope(choices: &mut Choices<'_>) -> Envelope {
    let id = MessageId::new(NOW, 1);
    let reverse_path = match choices.below(8) {
        7 => ReversePath::Null,
        _ => ReversePath::Mailbox(address(choices)),
    };
    let recipients = (0..=choices.below(3))
        .map(|_| Recipient {
            address: address(choices),
            notify: choices.flag().then(|| Notify {
                success: false,
                failure: choices.flag(),
                delay: choices.flag(),
            }),
            orcpt: choices.flag().then(|| text(choices)),
        })
        .collect();
    Envelope {
        id,
        reverse_path,
        recipients,
        body: BodyRef {
            id,
            len: [100, dsn::FULL_OCTETS_MAX + 1][usize::from(choices.flag())],
            digest: [0; 32],
        },
        received_at: Timestamp(choices.below(1 << 24)),
        body_type: if choices.flag() {
            BodyType::EightBitMime
        } else {
            BodyType::SevenBit
        },
        smtputf8: choices.flag(),
        ret: [None, Some(Ret::Headers), Some(Ret::Full)][choices.below(3) as usize],
        envid: choices.flag().then(|| text(choices)),
        helo: text(choices),
        client: "192.0.2.7".to_owned(),
    }
}

fn address(choices: &mut Choices<'_>) -> Address {
    let text = ADDRESSES[choices.below(ADDRESSES.len() as u64) as usize];
    Address::parse(text, true).expect("an address")
}

/// Anything, and rarely a lot of it.
fn text(choices: &mut Choices<'_>) -> String {
    let count = choices.byte();
    let bytes = choices.bytes((count % 64).into());
    let times = if count >= 192 { 100 } else { 1 };
    String::from_utf8_lossy(bytes).repeat(times)
}

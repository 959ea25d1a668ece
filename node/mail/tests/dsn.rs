//! Plays `dsn/*.txt`: what is known of a message above the line `==`, the notification that is
//! written of it below.
//!
//! ```text
//! kind failed|delayed
//! from ADDRESS        (the reverse-path)
//! received SPAN       before the notification is written: 5d, 2h, 90s
//! envid XTEXT   ret full|headers   eightbit   smtputf8   (as the client gave them)
//! to ADDRESS          followed by what is known of this recipient:
//!   orcpt TEXT   why refused|expired|returned|delayed   reply TEXT   remote HOST
//!   tried SPAN (ago)   until SPAN (from now)
//! > LINE              a line of the original's header section
//! ```
//!
//! `BLESS=1` writes what happened into the files, to be read before it is committed. Whatever a
//! case says, what the RFCs ask of every notification is checked of it.

use std::path::Path;
use std::time::Duration;
use std::{env, fs};

use holdfast_mail::dsn::{self, Kind, Report, Returned, Told, Why, Written};
use holdfast_mail::{
    Address, BodyRef, BodyType, Envelope, MessageId, Notify, Recipient, Ret, ReversePath, Timestamp,
};

/// 2027-01-15T08:00:00Z, when every notification is written.
const NOW: Timestamp = Timestamp(1_800_000_000_000);

const HOST: &str = "mx1.holdfast.example";

#[test]
fn every_case_is_written_as_its_file_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("dsn");
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(paths.len() >= 8, "the cases are missing");
    for path in paths {
        let text = fs::read_to_string(&path).unwrap();
        let (given, expected) = text.split_once("==\n").expect("a line ==");
        let case = Case::parse(given);
        let written = case.write();
        let shown = case.shown(&written);
        keeps_the_rules(&case, &written);
        if env::var_os("BLESS").is_some() {
            fs::write(&path, format!("{given}==\n{shown}")).unwrap();
        } else {
            assert_eq!(shown, expected, "{}", path.display());
        }
    }
}

/// RFC 3464 section 2: "Whenever an SMTP transaction is used to send a DSN, the MAIL FROM command
/// MUST use a NULL return address", so nothing may answer such mail, or two servers would answer
/// each other for ever (RFC 5321 section 6.1).
#[test]
fn nothing_is_owed_to_the_null_reverse_path() {
    let joe = recipient("joe@a.example");
    assert!(!dsn::is_owed(&ReversePath::Null, &joe, Kind::Failed));
    let nobody = ReversePath::Mailbox(Address::parse("postmaster", false).unwrap());
    assert!(!dsn::is_owed(&nobody, &joe, Kind::Failed));
}

/// RFC 3461 section 4.1: NEVER forbids notifications under any conditions; a NOTIFY with FAILURE
/// or DELAY asks for that one alone.
#[test]
fn notify_decides_what_is_owed() {
    let from = ReversePath::Mailbox(Address::parse("ann@b.example", false).unwrap());
    let notify = |success, failure, delay| {
        Some(Notify {
            success,
            failure,
            delay,
        })
    };
    for (notify, failed, delayed) in [
        (None, true, true),
        (notify(false, false, false), false, false),
        (notify(true, false, false), false, false),
        (notify(false, true, false), true, false),
        (notify(false, false, true), false, true),
    ] {
        let joe = Recipient {
            notify,
            ..recipient("joe@a.example")
        };
        assert_eq!(
            dsn::is_owed(&from, &joe, Kind::Failed),
            failed,
            "{notify:?}"
        );
        assert_eq!(
            dsn::is_owed(&from, &joe, Kind::Delayed),
            delayed,
            "{notify:?}"
        );
    }
}

fn keeps_the_rules(case: &Case, written: &Written) {
    let head = String::from_utf8(written.head.clone()).unwrap();
    // RFC 3464 section 2: "(a) The report-type parameter of the multipart/report content is
    // "delivery-status"."
    assert!(head.contains("multipart/report; report-type=delivery-status;"));
    // "The DSN MUST be addressed (in both the message header and the transport envelope) to the
    // return address from the transport envelope which accompanied the original message".
    assert!(head.contains(&format!("\r\nTo: <{}>\r\n", case.from)));
    // RFC 3834 section 5.1 wants automatic answers told apart from people's.
    assert!(head.contains("\r\nAuto-Submitted: auto-replied\r\n"));
    // Section 2.3.2: "This field MUST be present in each set of per-recipient data." Section
    // 2.3.3: "This field MUST be present for each recipient named in the DSN." Section 2.3.4:
    // "This field MUST be present for each delivery attempt which is described by a DSN."
    for name in ["Final-Recipient:", "Action:", "Status:"] {
        assert_eq!(head.matches(name).count(), case.told.len(), "{name}");
    }
    // Section 2.1: "Encoding considerations: "7bit" encoding is sufficient and MUST be used to
    // maintain readability when viewed by non-MIME mail readers."
    let (before, fields) = head.split_once("Content-Type: message/").unwrap();
    let (fields, behind) = fields.split_once("\r\n--=_").unwrap();
    if fields.starts_with("delivery-status") {
        assert!(fields.is_ascii() && fields.contains("Content-Transfer-Encoding: 7bit\r\n"));
    }
    // RFC 5322 section 2.1.1: "Each line of characters MUST be no more than 998 characters".
    assert!(head.lines().all(|line| line.len() <= 998));
    // Section 2.3.5: "It MUST NOT be included if no remote MTA was involved in the attempted
    // delivery of the message to that recipient."
    let spoken = case
        .told
        .iter()
        .filter(|told| !told.reply.is_empty())
        .count();
    assert_eq!(fields.matches("Remote-MTA:").count(), spoken);
    // Nothing but what the envelope says may need an extension on its way back.
    if written.body_type == BodyType::SevenBit {
        assert!(before.is_ascii() && behind.is_ascii());
    }
    assert_eq!(written.smtputf8, !case.from.is_ascii());
    // RFC 5321 section 2.3.8: only CRLF ends a line.
    let whole = [&written.head[..], &written.tail[..]].concat();
    let mut last = 0;
    for byte in whole {
        assert!(byte != b'\n' || last == b'\r');
        assert!(last != b'\r' || byte == b'\n');
        last = byte;
    }
}

struct Case {
    kind: Kind,
    from: String,
    envelope: Envelope,
    told: Vec<Known>,
    header: String,
}

struct Known {
    recipient: Recipient,
    why: Why,
    reply: String,
    remote: Option<String>,
    tried: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl Case {
    fn parse(text: &str) -> Self {
        let id = MessageId::new(NOW, 1);
        let mut case = Self {
            kind: Kind::Failed,
            from: String::new(),
            envelope: Envelope {
                id,
                reverse_path: ReversePath::Null,
                recipients: Vec::new(),
                body: BodyRef {
                    id,
                    len: 100,
                    digest: [0; 32],
                },
                received_at: NOW,
                body_type: BodyType::SevenBit,
                smtputf8: false,
                ret: None,
                envid: None,
                helo: "mail.sender.example".to_owned(),
                client: "192.0.2.7".to_owned(),
            },
            told: Vec::new(),
            header: String::new(),
        };
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (word, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
            let envelope = &mut case.envelope;
            match word {
                "kind" if rest == "delayed" => case.kind = Kind::Delayed,
                "kind" => {}
                "from" => {
                    rest.clone_into(&mut case.from);
                    envelope.reverse_path =
                        ReversePath::Mailbox(Address::parse(rest, true).unwrap());
                }
                "received" => envelope.received_at = Timestamp(NOW.0 - millis(rest)),
                "envid" => envelope.envid = Some(rest.to_owned()),
                "ret" if rest == "full" => envelope.ret = Some(Ret::Full),
                "ret" => envelope.ret = Some(Ret::Headers),
                "eightbit" => envelope.body_type = BodyType::EightBitMime,
                "smtputf8" => envelope.smtputf8 = true,
                "large" => envelope.body.len = dsn::FULL_OCTETS_MAX + 1,
                "to" => case.told.push(Known {
                    recipient: recipient(rest),
                    why: Why::Refused,
                    reply: String::new(),
                    remote: None,
                    tried: None,
                    until: None,
                }),
                ">" => case.header.push_str(&format!("{rest}\r\n")),
                _ => {
                    let told = case.told.last_mut().expect("a recipient first");
                    match word {
                        "orcpt" => told.recipient.orcpt = Some(rest.to_owned()),
                        "reply" => rest.clone_into(&mut told.reply),
                        "remote" => told.remote = Some(rest.to_owned()),
                        "tried" => told.tried = Some(Timestamp(NOW.0 - millis(rest))),
                        "until" => told.until = Some(Timestamp(NOW.0 + millis(rest))),
                        "why" => {
                            told.why = match rest {
                                "refused" => Why::Refused,
                                "expired" => Why::Expired,
                                "returned" => Why::Returned,
                                "delayed" => Why::Delayed,
                                _ => panic!("{line}"),
                            }
                        }
                        _ => panic!("no such line: {line}"),
                    }
                }
            }
        }
        case
    }

    fn write(&self) -> Written {
        let to = Address::parse(&self.from, true).unwrap();
        let told: Vec<_> = self
            .told
            .iter()
            .map(|known| Told {
                recipient: &known.recipient,
                why: known.why,
                reply: &known.reply,
                remote: known.remote.as_deref(),
                last_attempt: known.tried,
                will_retry_until: known.until,
            })
            .collect();
        let report = Report {
            kind: self.kind,
            id: MessageId::new(NOW, 7),
            at: NOW,
            reporting: HOST,
            to: &to,
            original: &self.envelope,
            told: &told,
        };
        let returned = if dsn::returns_whole(self.kind, &self.envelope) {
            Returned::Whole
        } else {
            Returned::Header(self.header.as_bytes())
        };
        dsn::write(&report, returned)
    }

    fn shown(&self, written: &Written) -> String {
        let mut text = String::from_utf8(written.head.clone()).unwrap();
        if dsn::returns_whole(self.kind, &self.envelope) {
            text.push_str("(the whole message)\r\n");
        }
        text.push_str(std::str::from_utf8(&written.tail).unwrap());
        text.replace("\r\n", "\n")
    }
}

fn recipient(text: &str) -> Recipient {
    Recipient {
        address: Address::parse(text, true).unwrap(),
        notify: None,
        orcpt: None,
    }
}

fn millis(text: &str) -> u64 {
    let (number, unit) = text.split_at(text.len() - 1);
    let unit = match unit {
        "s" => Duration::from_secs(1),
        "m" => Duration::from_secs(60),
        "h" => Duration::from_secs(3600),
        "d" => Duration::from_secs(86_400),
        _ => panic!("no such span: {text}"),
    };
    number.parse::<u64>().unwrap() * u64::try_from(unit.as_millis()).unwrap()
}

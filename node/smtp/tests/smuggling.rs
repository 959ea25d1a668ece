//! Nothing but CRLF "." CRLF ends a message, wherever it stands and however it arrives.
//!
//! RFC 5321 section 4.1.1.4: "In particular, the sequence "<LF>.<LF>" (bare line feeds, without
//! carriage returns) MUST NOT be treated as equivalent to <CRLF>.<CRLF> as the end of mail data
//! indication."

use std::sync::Arc;

use holdfast_fuzz::{ENDS_OF_DATA, Random, content, lenient_ends, stuffed};
use holdfast_mail::{
    Address, BodyRef, BodyType, Envelope, MessageId, Recipient, ReversePath, Timestamp,
};
use holdfast_smtp::client;
use holdfast_smtp::reply::Reply;
use holdfast_smtp::server::{Options, Question, Session, Step};

const SMUGGLED: &[u8] = b"MAIL FROM:<smuggled@example.org>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n";

/// What became of a stream of bytes behind DATA.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    /// Messages taken, each with its content.
    messages: Vec<Vec<u8>>,
    /// Senders that were asked about after the first.
    senders: Vec<String>,
    /// The codes of the replies.
    codes: Vec<String>,
    closed: bool,
}

/// A session in which DATA has just been answered with 354.
fn in_data(tls: bool) -> Session {
    let mut session = Session::new(Options::new("mx.example", 1 << 20, true));
    let mut before = Outcome::default();
    let mut say = |session: &mut Session, line: &str| {
        session.receive(line.as_bytes());
        run(session, &mut before, &mut Vec::new());
    };
    if tls {
        say(&mut session, "STARTTLS\r\n");
    }
    for line in [
        "EHLO c.example\r\n",
        "MAIL FROM:<a@example.org>\r\n",
        "RCPT TO:<b@example.org>\r\n",
        "DATA\r\n",
    ] {
        say(&mut session, line);
    }
    assert_eq!(before.codes.last().unwrap(), "354");
    session
}

fn run(session: &mut Session, outcome: &mut Outcome, body: &mut Vec<u8>) {
    loop {
        match session.next() {
            Step::Write(bytes) => {
                let text = String::from_utf8(bytes).unwrap();
                outcome
                    .codes
                    .extend(text.lines().map(|line| line[..3].to_owned()));
            }
            Step::Ask(question) => {
                match question {
                    Question::Message => outcome.messages.push(std::mem::take(body)),
                    Question::Mail(mail) => outcome.senders.push(mail.reverse_path.to_string()),
                    _ => {}
                }
                session.answer(Reply::new(250, 0, 0, "ok"));
            }
            Step::Body(bytes) => body.extend(bytes),
            Step::Refused(_) => {}
            Step::Reset => body.clear(),
            Step::StartTls => session.tls_started(),
            Step::NeedInput => return,
            Step::Close | Step::Turn => {
                outcome.closed = true;
                return;
            }
        }
    }
}

fn outcome(tls: bool, parts: &[&[u8]]) -> Outcome {
    let mut session = in_data(tls);
    let mut outcome = Outcome::default();
    let mut body = Vec::new();
    for part in parts {
        session.receive(part);
        run(&mut session, &mut outcome, &mut body);
        if outcome.closed {
            break;
        }
    }
    outcome
}

/// The same bytes in one read, byte by byte, and cut at each place.
fn cuts(bytes: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    let halves = (1..bytes.len()).map(|at| vec![&bytes[..at], &bytes[at..]]);
    [vec![bytes], bytes.chunks(1).collect()]
        .into_iter()
        .chain(halves)
}

#[test]
fn sixteen_variants_of_the_end_smuggle_nothing_with_and_without_tls() {
    let mut cases = 0;
    for (number, variant) in ENDS_OF_DATA.iter().enumerate() {
        for (before, behind) in [
            (&b""[..], &b"more\r\n.\r\n"[..]),
            (
                b"Subject: x\r\n\r\nfirst\r\nsecond",
                b"more\r\nlast\r\n.\r\n",
            ),
            (b"Subject: x\r\n\r\nlast", b""),
        ] {
            let bytes = [before, variant, SMUGGLED, behind].concat();
            for parts in cuts(&bytes) {
                for tls in [false, true] {
                    let outcome = outcome(tls, &parts);
                    assert!(outcome.closed, "{variant:?} {parts:?}");
                    assert!(outcome.senders.is_empty(), "{variant:?} {parts:?}");
                    if number == 15 {
                        // A true end; the NUL behind it breaks the next command.
                        assert_eq!(outcome.codes, ["250", "500"], "{parts:?}");
                        assert_eq!(outcome.messages.len(), 1);
                    } else {
                        assert_eq!(outcome.codes, ["550"], "{variant:?} {parts:?}");
                        assert!(outcome.messages.is_empty());
                    }
                }
                cases += 1;
            }
        }
    }
    assert!(cases > 4000);
}

/// Bodies with `middle` at their start, in the middle of a line, and at their end.
fn bodies(middle: &[u8]) -> [Vec<u8>; 3] {
    let hidden = [SMUGGLED, b"more\r\n"].concat();
    [
        [middle, &hidden].concat(),
        [b"Subject: x\r\n\r\nfirst", middle, &hidden].concat(),
        [b"Subject: x\r\n\r\nlast", middle].concat(),
    ]
}

#[test]
fn a_chunk_with_any_of_the_variants_is_refused_whole() {
    for variant in ENDS_OF_DATA {
        for body in bodies(variant) {
            let mut session = in_data(false);
            session.receive(b".\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.org>\r\n");
            run(&mut session, &mut Outcome::default(), &mut Vec::new());
            let mut outcome = Outcome::default();
            session.receive(format!("BDAT {} LAST\r\n", body.len()).as_bytes());
            session.receive(&body);
            run(&mut session, &mut outcome, &mut Vec::new());
            assert_eq!(outcome.codes, ["550"], "{variant:?}");
            assert!(outcome.closed && outcome.messages.is_empty(), "{variant:?}");
        }
    }
}

/// What our client does with a body: all that it writes behind the last reply of the envelope,
/// and whether the primary was given the end.
fn brought(body: &[u8], chunking: bool, cut: usize) -> (Vec<u8>, bool) {
    let mut session = client::Session::new(client::Options::new("mx.example", client::Tls::Never));
    let ehlo: &[u8] = if chunking {
        b"250-p\r\n250 CHUNKING\r\n"
    } else {
        b"250 p\r\n"
    };
    let replies = [
        b"220 p\r\n",
        ehlo,
        b"250 ok\r\n",
        b"250 ok\r\n",
        b"354 go\r\n",
    ];
    let mut replies = replies[..4 + usize::from(!chunking)].iter();
    let mut written = Vec::new();
    loop {
        match session.next() {
            client::Step::Write(bytes) => written.extend(bytes),
            client::Step::Idle => session.send(mail(body.len() as u64)).unwrap(),
            client::Step::NeedInput => match replies.next() {
                Some(reply) => {
                    written.clear();
                    session.receive(reply);
                }
                None => return (written, true),
            },
            client::Step::NeedBody => {
                body.chunks(cut).for_each(|chunk| session.body(chunk));
                session.body_end();
            }
            client::Step::Outcome(_) => {}
            client::Step::Closed(_) => return (written, false),
            client::Step::StartTls => unreachable!("TLS is not wanted"),
        }
    }
}

fn mail(len: u64) -> client::Mail {
    let id = MessageId::new(Timestamp(1), 1);
    client::Mail {
        envelope: Arc::new(Envelope {
            id,
            reverse_path: ReversePath::Null,
            recipients: vec![Recipient {
                address: Address::parse("b@example.org", false).unwrap(),
                notify: None,
                orcpt: None,
            }],
            body: BodyRef {
                id,
                len,
                digest: [0; 32],
            },
            received_at: Timestamp(1),
            body_type: BodyType::SevenBit,
            smtputf8: false,
            ret: None,
            envid: None,
            helo: String::new(),
            client: String::new(),
        }),
        recipients: vec![0],
        only_ask: false,
    }
}

#[test]
fn what_a_chunk_may_hold_is_one_message_even_to_a_primary_that_takes_every_variant() {
    for middle in [
        &b"\r\n.\r\n"[..],
        b".\r\n",
        b"\r\n.",
        b"\r\n..\r\n",
        b"\r\n.\r\n.\r\n",
        b"\r\n.\r\nQUIT\r\n",
    ] {
        for body in bodies(middle) {
            for cut in 1..=body.len() {
                let (wire, ended) = brought(&body, false, cut);
                assert!(ended);
                assert_eq!(wire, stuffed(&body));
                let early = lenient_ends(&wire)
                    .into_iter()
                    .find(|end| *end < wire.len() - 1);
                assert_eq!(early, None, "{}", wire.escape_ascii());

                let (wire, ended) = brought(&body, true, cut);
                let header = format!("BDAT {} LAST\r\n", body.len());
                assert!(ended);
                assert_eq!(wire, [header.as_bytes(), &body].concat());
            }
        }
    }
}

/// The door refuses such content, and this is the second lock: whatever wrote it to the store.
#[test]
fn a_body_with_any_of_the_variants_never_reaches_its_end_at_a_primary() {
    for variant in ENDS_OF_DATA {
        for body in bodies(variant) {
            for chunking in [false, true] {
                for cut in [1, 3, body.len()] {
                    let (wire, ended) = brought(&body, chunking, cut);
                    assert!(!ended, "{}", wire.escape_ascii());
                    assert!(!wire.ends_with(b"\r\n.\r\n"), "{}", wire.escape_ascii());
                }
            }
        }
    }
}

#[test]
fn a_hundred_thousand_random_streams_end_where_the_slow_reader_says() {
    const WORDS: [&[u8]; 12] = [
        b"\r\n",
        b"\r\n",
        b"\r\n",
        b".",
        b".",
        b"\r\n.\r\n",
        b"\r",
        b"\n",
        b"\0",
        b"a",
        b"long line",
        b"..",
    ];
    let mut chance = Random::new(0x5eed);
    let mut random = |below: usize| chance.below(below);
    let (mut taken, mut broken) = (0, 0);
    for _ in 0..100_000 {
        let mut bytes = Vec::new();
        for _ in 0..1 + random(12) {
            // Faults are rare, or every stream would be short.
            let word = if random(4) > 0 {
                random(6)
            } else {
                random(WORDS.len())
            };
            bytes.extend_from_slice(WORDS[word]);
        }
        let place = random(bytes.len() + 1);
        let outcome = outcome(false, &[&bytes[..place], &bytes[place..]]);
        match content(&bytes) {
            Ok(Some((content, _))) => {
                assert_eq!(outcome.messages, [content], "{bytes:?} cut {place}");
                taken += 1;
            }
            Ok(None) => assert!(
                outcome.messages.is_empty() && !outcome.closed,
                "{bytes:?} cut {place}"
            ),
            Err(()) => {
                assert_eq!(
                    (outcome.codes, outcome.closed),
                    (vec!["550".into()], true),
                    "{bytes:?} cut {place}"
                );
                broken += 1;
            }
        }
    }
    assert!(taken > 10_000 && broken > 10_000, "{taken} {broken}");
}

#[test]
fn content_is_read_at_the_speed_of_memory() {
    // No time is asserted: a busy machine would fail it. The work is: 64 MiB in mail-like lines,
    // which a reader that handles bytes one by one takes seconds for, and many times that where
    // it copies what it has for every line.
    let line = [&[b'x'; 76][..], b"\r\n"].concat();
    let block = line.repeat(840);
    let mut session = Session::new(Options::new("mx.example", 1 << 30, false));
    let mut outcome = Outcome::default();
    for said in [
        "HELO c\r\n",
        "MAIL FROM:<>\r\n",
        "RCPT TO:<b@example.org>\r\n",
        "DATA\r\n",
    ] {
        session.receive(said.as_bytes());
        run(&mut session, &mut outcome, &mut Vec::new());
    }
    let mut pieces = 0;
    let mut total = 0;
    for _ in 0..1024 {
        session.receive(&block);
        loop {
            match session.next() {
                Step::Body(piece) => {
                    pieces += 1;
                    total += piece.len();
                }
                Step::NeedInput => break,
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(pieces, total >> 16, "every piece but the last is full");
    assert!(total > 60 << 20);
}

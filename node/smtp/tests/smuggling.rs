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

/// How our client brings a body.
#[derive(Clone, Copy, Debug)]
struct Way {
    chunking: bool,
    tls: bool,
}

const WAYS: [Way; 4] = [
    Way {
        chunking: false,
        tls: false,
    },
    Way {
        chunking: false,
        tls: true,
    },
    Way {
        chunking: true,
        tls: false,
    },
    Way {
        chunking: true,
        tls: true,
    },
];

/// All that our client writes to a primary that says yes to everything, and whether it takes the
/// body for delivered.
fn brought(pieces: &[&[u8]], way: Way) -> (Vec<u8>, bool) {
    let len = pieces.iter().map(|piece| piece.len() as u64).sum();
    let mut session = client::Session::new(client::Options::new(
        "mx.example",
        client::Tls::Opportunistic,
    ));
    let ehlo: &[u8] = match (way.chunking, way.tls) {
        (false, false) => b"250 p\r\n",
        (false, true) => b"250-p\r\n250 STARTTLS\r\n",
        (true, false) => b"250-p\r\n250 CHUNKING\r\n",
        (true, true) => b"250-p\r\n250-CHUNKING\r\n250 STARTTLS\r\n",
    };
    let mut rest = pieces.iter();
    let (mut wire, mut heard, mut sent, mut delivered) = (Vec::new(), 0, false, false);
    loop {
        match session.next() {
            client::Step::Write(bytes) => wire.extend(bytes),
            client::Step::StartTls => session.tls_started(),
            client::Step::Idle if sent => session.quit(),
            client::Step::Idle => {
                session.send(mail(len)).unwrap();
                sent = true;
            }
            client::Step::NeedInput => {
                let reply = match wire[heard..].split(|byte| *byte == b' ').next().unwrap() {
                    b"" => b"220 p\r\n",
                    b"EHLO" => ehlo,
                    b"DATA\r\n" => b"354 go\r\n",
                    _ => b"250 ok\r\n",
                };
                heard = wire.len();
                session.receive(reply);
            }
            client::Step::NeedBody => match rest.next() {
                Some(piece) => session.body(piece),
                None => session.body_end(),
            },
            client::Step::Outcome(outcome) => {
                let fate = outcome.results[0].fate;
                delivered = fate == client::Fate::Delivered;
            }
            client::Step::Closed(_) => return (wire, delivered),
        }
    }
}

/// What a primary that keeps to the letter sees in all that was written to it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    commands: Vec<String>,
    messages: Vec<Vec<u8>>,
    /// Content whose end has not come.
    open: Option<Vec<u8>>,
}

fn seen(mut wire: &[u8]) -> Seen {
    let mut seen = Seen::default();
    while !wire.is_empty() {
        let end = wire.windows(2).position(|pair| pair == b"\r\n").unwrap();
        let command = String::from_utf8(wire[..end].to_vec()).unwrap();
        wire = &wire[end + 2..];
        let message = match command.split(' ').collect::<Vec<_>>()[..] {
            ["DATA"] => content(wire).unwrap_or(None),
            ["BDAT", len, "LAST"] => {
                let len: usize = len.parse().unwrap();
                wire.get(..len).map(|content| (content.to_vec(), len))
            }
            _ => {
                seen.commands.push(command);
                continue;
            }
        };
        seen.commands.push(command);
        let Some((message, used)) = message else {
            seen.open = Some(wire.to_vec());
            break;
        };
        seen.messages.push(message);
        wire = &wire[used..];
    }
    seen
}

/// The commands around one message, however it is brought.
fn commands(way: Way, len: usize) -> Vec<String> {
    let mut commands = vec!["EHLO mx.example".to_owned()];
    if way.tls {
        commands.extend(["STARTTLS", "EHLO mx.example"].map(String::from));
    }
    commands.extend(["MAIL FROM:<>", "RCPT TO:<b@example.org>"].map(String::from));
    commands.push(match way.chunking {
        false => "DATA".to_owned(),
        true => format!("BDAT {len} LAST"),
    });
    commands
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
            for (pieces, way) in
                cuts(&body).flat_map(|pieces| WAYS.map(|way| (pieces.clone(), way)))
            {
                let (wire, delivered) = brought(&pieces, way);
                assert!(delivered, "{way:?} {pieces:?}");
                let mut expected = body.clone();
                if !way.chunking && !body.ends_with(b"\r\n") {
                    expected.extend_from_slice(b"\r\n");
                }
                let mut commands = commands(way, body.len());
                commands.push("QUIT".to_owned());
                let one = Seen {
                    commands,
                    messages: vec![expected],
                    open: None,
                };
                assert_eq!(seen(&wire), one, "{way:?} {pieces:?}");
                if !way.chunking {
                    let content = stuffed(&body);
                    assert!(wire.ends_with(&[&content, &b"QUIT\r\n"[..]].concat()));
                    let early = lenient_ends(&content)
                        .into_iter()
                        .find(|end| *end < content.len() - 1);
                    assert_eq!(early, None, "{}", wire.escape_ascii());
                }
            }
        }
    }
}

/// The door refuses such content, and this is the second lock: whatever wrote it to the store.
#[test]
fn a_body_with_any_of_the_variants_never_reaches_its_end_at_a_primary() {
    let mut cases = 0;
    for variant in ENDS_OF_DATA {
        for body in bodies(variant) {
            for pieces in cuts(&body) {
                for way in WAYS {
                    let (wire, delivered) = brought(&pieces, way);
                    assert!(!delivered, "{way:?} {pieces:?}");
                    nothing_is_taken(&seen(&wire), way, &body);
                    cases += 1;
                }
            }
        }
    }
    assert!(cases > 12_000);
}

/// What is in front of it may be at the primary already.
#[test]
fn a_variant_behind_content_that_was_written_ends_nothing() {
    let line = [&[b'x'; 76][..], b"\r\n"].concat();
    let written = line.repeat(client::WRITE_BYTES_MIN / line.len() + 1);
    for variant in ENDS_OF_DATA {
        let hidden = [variant, SMUGGLED].concat();
        let body = [&written[..], &hidden].concat();
        // Whole, byte by byte, and cut within the variant and behind it.
        for pieces in cuts(&hidden).take(2 + variant.len()) {
            for way in WAYS {
                let pieces = [&[&written[..]], &pieces[..]].concat();
                let (wire, delivered) = brought(&pieces, way);
                assert!(!delivered, "{way:?}");
                let seen = seen(&wire);
                assert!(seen.open.is_some(), "{way:?}");
                nothing_is_taken(&seen, way, &body);
            }
        }
    }
}

/// Neither by a primary that keeps to the letter, nor by one that takes every variant for the end.
fn nothing_is_taken(seen: &Seen, way: Way, body: &[u8]) {
    assert_eq!(seen.messages, [[0; 0]; 0]);
    assert!(commands(way, body.len()).starts_with(&seen.commands));
    if let Some(open) = &seen.open {
        assert!(open.len() < body.len(), "{}", open.escape_ascii());
        // Behind the lines that have no dot.
        let from = open.windows(3).rposition(|end| end == b"x\r\n");
        let behind = &open[from.map_or(0, |at| at + 3)..];
        let early = lenient_ends(behind);
        assert!(way.chunking || early.is_empty(), "{}", open.escape_ascii());
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

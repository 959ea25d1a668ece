//! What a client sent is what the primary gets, byte for byte, and as one message.

use std::sync::Arc;

use holdfast_mail::{
    Address, BodyRef, BodyType, Envelope, MessageId, Recipient, ReversePath, Timestamp,
};
use holdfast_smtp::client;

use crate::choices::Choices;
use crate::random::Random;
use crate::reference::{content, lenient_ends, stuffed};
use crate::server::Server;

/// Our server takes a message, our client brings it on, and another server takes it again.
pub fn identity(data: &[u8]) {
    let mut choices = Choices::new(data);
    let (chunked_in, chunking, pipelining) = (choices.flag(), choices.flag(), choices.flag());
    let longest = 1 + choices.below(80) as usize;
    let wanted = with_line_ends(choices.rest());
    let mut random = Random::of(data);

    let mut stream = b"EHLO c.example\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\n".to_vec();
    if chunked_in {
        stream.extend(format!("BDAT {} LAST\r\n", wanted.len()).into_bytes());
        stream.extend(&wanted);
    } else {
        stream.extend(b"DATA\r\n");
    }
    let mut first = Server::willing();
    first.go_on();
    for piece in random.cut(&stream, longest) {
        first.take(piece);
    }
    if !chunked_in {
        for piece in random.cut(&stuffed(&wanted), longest) {
            first.take(piece);
        }
    }
    let taken = first.diary.messages.pop().expect("strict content is taken");
    let mut expected = wanted;
    if !chunked_in {
        close_last_line(&mut expected);
    }
    assert_eq!(taken, expected, "taken as it was sent");

    let (second, wire) = bring(&taken, chunking, pipelining, longest, &mut random);
    if !chunking {
        close_last_line(&mut expected);
        let end = wire.len();
        assert_eq!(content(&wire), Ok(Some((expected.clone(), end))));
        let early = lenient_ends(&wire).into_iter().find(|at| *at < end - 1);
        assert_eq!(
            early,
            None,
            "a lenient primary sees an end: {}",
            wire.escape_ascii()
        );
    }
    assert_eq!(second.diary.messages, [expected], "brought as it was taken");
}

/// LF becomes CRLF, and what no strict server takes is left out.
fn with_line_ends(bytes: &[u8]) -> Vec<u8> {
    let mut strict = Vec::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'\r' | 0 => {}
            b'\n' => strict.extend_from_slice(b"\r\n"),
            other => strict.push(*other),
        }
    }
    strict
}

/// DATA has no way to say that the last line has no end.
fn close_last_line(content: &mut Vec<u8>) {
    if !content.is_empty() && !content.ends_with(b"\r\n") {
        content.extend_from_slice(b"\r\n");
    }
}

/// Brings `body` to a server of ours with a client of ours; and what was written behind the
/// reply to DATA.
fn bring(
    body: &[u8],
    chunking: bool,
    pipelining: bool,
    longest: usize,
    random: &mut Random,
) -> (Server, Vec<u8>) {
    let mut server = Server::willing();
    server.go_on();
    let mut client = client::Session::new(client::Options::new("mx.example", client::Tls::Never));
    let mut heard = 0;
    let mut wire: Option<Vec<u8>> = None;
    loop {
        match client.next() {
            client::Step::Write(bytes) => {
                if let Some(wire) = &mut wire {
                    wire.extend_from_slice(&bytes);
                }
                for piece in random.cut(&bytes, longest) {
                    server.take(piece);
                }
            }
            client::Step::NeedInput => {
                let said = offered(&server.diary.said, chunking, pipelining);
                assert!(said.len() > heard, "both wait");
                if said.windows(6).any(|text| text == b"\r\n354 ") {
                    wire.get_or_insert_default();
                }
                for piece in random.cut(&said[heard..], longest) {
                    client.receive(piece);
                }
                heard = said.len();
            }
            client::Step::NeedBody => {
                for piece in random.cut(body, longest) {
                    client.body(piece);
                }
                client.body_end();
            }
            client::Step::Idle => client.send(mail(body)).expect("it is idle"),
            client::Step::Outcome(outcome) => {
                let delivered =
                    |result: &client::RecipientResult| result.fate == client::Fate::Delivered;
                assert!(outcome.results.iter().all(delivered), "{outcome:?}");
                return (server, wire.unwrap_or_default());
            }
            other => panic!("{other:?}"),
        }
    }
}

/// What a server with fewer extensions would have said, of the same length.
fn offered(said: &[u8], chunking: bool, pipelining: bool) -> Vec<u8> {
    let mut text = String::from_utf8_lossy(said).into_owned();
    if !chunking {
        text = text.replace("250-CHUNKING", "250-XCHUNKIN");
    }
    if !pipelining {
        text = text.replace("250-PIPELINING", "250-XPIPELININ");
    }
    text.into_bytes()
}

/// A message with this body for one recipient.
fn mail(body: &[u8]) -> client::Mail {
    let id = MessageId::new(Timestamp(1_800_000_000_000), 1);
    let address = Address::parse("a@b.example", false).expect("an address");
    client::Mail {
        envelope: Arc::new(Envelope {
            id,
            reverse_path: ReversePath::Null,
            recipients: vec![Recipient {
                address,
                notify: None,
                orcpt: None,
            }],
            body: BodyRef {
                id,
                len: body.len() as u64,
                digest: [0; 32],
            },
            received_at: Timestamp(1_800_000_000_000),
            body_type: BodyType::SevenBit,
            smtputf8: false,
            ret: None,
            envid: None,
            helo: "c.example".into(),
            client: "192.0.2.1".into(),
        }),
        recipients: vec![0],
        only_ask: false,
    }
}

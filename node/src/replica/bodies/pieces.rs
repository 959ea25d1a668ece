//! Whatever pieces peers send, and wherever their streams break: a body is what one stream sent of it,
//! whole, or it is not here.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use holdfast_fuzz::Choices;
use holdfast_mail::MessageId;
use holdfast_proto::cluster as wire;
use tokio::runtime::Handle;

use super::{Bodies, Receiver, lock};
use crate::replica::tests::Alone;

const STREAMS: usize = 3;
const BODIES: usize = 4;
/// Several make more than one chunk of the store.
const LONG_BYTES: usize = 100 << 10;

/// Where a target, which is a function of its input alone, finds a node.
static NODE: Mutex<Option<(Handle, Bodies)>> = Mutex::new(None);

/// What must be so of one body.
#[derive(Default)]
struct Expected {
    /// The stream that brings it, and what has come.
    comes: Option<(usize, Vec<u8>)>,
    /// It is here.
    whole: Option<Vec<u8>>,
}

fn pieces(data: &[u8]) {
    static NUMBERS: AtomicU64 = AtomicU64::new(0);
    let node = NODE.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (runtime, bodies) = node.expect("a node");
    let now = crate::replica::now();
    let ids: [MessageId; BODIES] = std::array::from_fn(|_| {
        MessageId::new(now, NUMBERS.fetch_add(1, Ordering::Relaxed).into())
    });
    let mut expected: [Expected; BODIES] = std::array::from_fn(|_| Expected::default());
    let mut streams: [Receiver; STREAMS] = std::array::from_fn(|_| Receiver::new(bodies.clone()));
    let mut choices = Choices::new(data);
    while !choices.is_over() {
        let (stream, number) = (choices.below(3) as usize, choices.below(4) as usize);
        let body = &mut expected[number];
        let mut piece = wire::BodyPiece {
            body: Bytes::copy_from_slice(&ids[number].to_bytes()),
            ..wire::BodyPiece::default()
        };
        match choices.below(8) {
            0 => {
                streams[stream] = Receiver::new(bodies.clone());
                for body in &mut expected {
                    body.comes.take_if(|(by, _)| *by == stream);
                }
                continue;
            }
            1 => {
                piece.abandoned = true;
                assert!(matches!(streams[stream].take(piece), Ok(None)));
                body.comes.take_if(|(by, _)| *by == stream);
                continue;
            }
            2 => {
                piece.body = Bytes::copy_from_slice(choices.bytes(15));
                assert!(streams[stream].take(piece).is_err(), "an id has 16 bytes");
                continue;
            }
            _ => {}
        }
        piece.first = choices.flag();
        let count = choices.below(64) as usize;
        let mut content = choices.bytes(count).to_vec();
        if choices.flag() {
            content.resize(LONG_BYTES, b'x');
        }
        piece.data = content.clone().into();
        if piece.first {
            match &body.comes {
                _ if body.whole.is_some() => body.comes = None,
                Some((by, _)) if *by != stream => {}
                _ => body.comes = Some((stream, Vec::new())),
            }
        }
        let is_again = piece.first && body.whole.is_some();
        let mut comes = body.comes.take_if(|(by, _)| *by == stream);
        if let Some((_, sent)) = &mut comes {
            sent.extend_from_slice(&content);
        }
        let sent = comes.as_ref().map_or(&[][..], |(_, sent)| sent);
        let (mut len, mut digest) = (sent.len() as u64, blake3::hash(sent).as_bytes().to_vec());
        let ends = choices.below(4);
        match ends {
            0 => {}
            1 => len += choices.below(3) + 1,
            _ => digest[31] ^= u8::from(ends == 2),
        }
        if ends > 0 {
            piece.end = Some(wire::BodyEnd {
                len,
                digest: digest.into(),
            });
        }
        let stored = streams[stream].take(piece).map(|stored| {
            stored.map(|stored| runtime.block_on(stored).expect("an answer").is_ok())
        });
        match (comes, ends) {
            (Some(comes), 0) => {
                assert!(matches!(stored, Ok(None)));
                body.comes = Some(comes);
            }
            (Some(_), 1 | 2) => assert!(stored.is_err(), "another body than was sent"),
            (Some((_, sent)), _) => {
                assert!(matches!(stored, Ok(Some(true))), "a whole body is kept");
                body.whole = Some(sent);
            }
            // Here already, or somebody else brings it, or its beginning was missed.
            (None, ends) => {
                let told = (is_again && ends > 0).then_some(true);
                assert!(matches!(stored, Ok(stored) if stored == told));
            }
        }
    }
    drop(streams);
    for (id, body) in ids.iter().zip(&expected) {
        assert!(
            !lock(&bodies.0.arrivals).contains_key(id),
            "nobody brings it"
        );
        assert_eq!(bodies.present(*id).expect("a disk"), body.whole.is_some());
        if let Some(whole) = &body.whole {
            let mut reader = bodies.store().reader(*id).expect("a body");
            let mut read = Vec::new();
            while let Some(chunk) = reader.next().expect("as it was sent") {
                read.extend_from_slice(&chunk);
            }
            assert!(read == *whole, "not what was sent");
        }
    }
    bodies.store().delete(&ids).expect("a disk");
}

#[test]
fn a_body_is_what_one_stream_sent_of_it_or_is_not_here() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let alone = runtime.block_on(Alone::start());
    let node = (runtime.handle().clone(), alone.cluster.bodies().clone());
    *NODE.lock().unwrap_or_else(PoisonError::into_inner) = Some(node);
    let target = holdfast_fuzz::Target {
        name: "pieces",
        run: pieces,
        words: &[b"\x03\x01\x04", b"\x00\x00\x05\x01\x02\xff\xff\x00\x03"],
        rounds: 1_000,
    };
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    holdfast_fuzz::play(&target, &corpus);
    *NODE.lock().unwrap_or_else(PoisonError::into_inner) = None;
    runtime.block_on(alone.close());
}

//! The same bytes mean the same, however they were cut; and content ends where the rule says.

use crate::random::Random;
use crate::reference;
use crate::server::{Diary, Event, HEAD_BYTES, Server};

/// A client that sends arbitrary bytes: options and answers, then its stream.
pub fn session(data: &[u8]) {
    let (head, stream) = data.split_at(data.len().min(HEAD_BYTES));
    let slow = byte_by_byte(head, stream);
    for longest in [stream.len().max(1), 7, 300] {
        let mut server = Server::new(head);
        server.go_on();
        for piece in Random::of(data).cut(stream, longest) {
            server.take(piece);
        }
        server.speaks_smtp();
        assert_same(&server.diary, &slow);
    }
}

/// The slowest client; and, while content comes, the slow reader beside the session.
fn byte_by_byte(head: &[u8], stream: &[u8]) -> Diary {
    let mut server = Server::new(head);
    server.go_on();
    let mut content_from = None;
    for (at, byte) in stream.iter().enumerate() {
        let (said, messages) = (server.diary.said.len(), server.diary.messages.len());
        server.take(&[*byte]);
        let now = &server.diary;
        let Some(from) = content_from else {
            if now.said[said..].starts_with(b"354 ") {
                content_from = Some(at + 1);
            }
            continue;
        };
        if now.said.len() == said && now.messages.len() == messages {
            continue;
        }
        content_from = None;
        let read = reference::content(&stream[from..=at]);
        if now.messages.len() > messages {
            let end = at + 1 - from;
            assert_eq!(read, Ok(Some((now.messages[messages].clone(), end))));
        } else if now.said[said..].starts_with(b"552 ") {
            assert!(
                matches!(read, Ok(Some(_))),
                "too large, and read to its end"
            );
        } else {
            assert_eq!(read, Err(()), "{}", now.said[said..].escape_ascii());
            assert!(now.closed, "nothing behind broken content is read");
        }
    }
    if let Some(from) = content_from {
        assert_eq!(reference::content(&stream[from..]), Ok(None));
    }
    server.speaks_smtp();
    server.diary
}

/// The one exception is on the safe side: bytes that came too early end the session.
fn assert_same(cut: &Diary, slow: &Diary) {
    if cut == slow {
        return;
    }
    let mut events = cut.events.as_slice();
    if let [before @ .., Event::Reset] = events {
        events = before;
    }
    let before = match events.split_last() {
        Some((Event::Refused(554), before)) => before,
        Some((Event::Refused(503), before)) if is_atrn(slow.events.get(before.len())) => before,
        _ => panic!("cut otherwise, the bytes mean something else:\n{cut:?}\n{slow:?}"),
    };
    assert!(cut.closed, "out of step, and not closed");
    assert!(slow.events.starts_with(before), "\n{cut:?}\n{slow:?}");
    assert!(slow.messages.starts_with(&cut.messages));
    let text = cut.said.strip_suffix(b"\r\n").unwrap_or_default();
    let last = text.windows(2).rposition(|pair| pair == b"\r\n");
    let replies = &cut.said[..last.map_or(0, |at| at + 2)];
    assert!(slow.said.starts_with(replies), "\n{cut:?}\n{slow:?}");
}

fn is_atrn(event: Option<&Event>) -> bool {
    matches!(event, Some(Event::Asked(question)) if question.starts_with("Atrn"))
}

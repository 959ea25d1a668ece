//! BDAT: the length and nothing else ends a chunk, and content is as strict as after DATA.

use crate::choices::Choices;
use crate::random::Random;
use crate::reference::is_strict;
use crate::server::Server;

/// Content in chunks: how long they are, then the content.
pub fn bdat(data: &[u8]) {
    let mut choices = Choices::new(data);
    let longest = 1 + choices.below(96) as usize;
    let read = 1 + choices.below(64) as usize;
    let content = choices.rest();

    let mut stream = b"EHLO c.example\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\n".to_vec();
    let mut random = Random::of(data);
    for chunk in random.cut(content, longest) {
        stream.extend(format!("BDAT {}\r\n", chunk.len()).into_bytes());
        stream.extend(chunk);
    }
    stream.extend(b"BDAT 0 LAST\r\nNOOP\r\n");

    let mut server = Server::willing();
    server.go_on();
    for piece in random.cut(&stream, read) {
        server.take(piece);
    }
    server.speaks_smtp();
    let said = String::from_utf8_lossy(&server.diary.said);
    if is_strict(content) {
        assert_eq!(server.diary.messages, [content]);
        assert!(said.ends_with("250 2.0.0 Ok\r\n"), "{said}");
        assert!(!server.diary.closed);
    } else {
        assert!(server.diary.messages.is_empty(), "{said}");
        assert!(server.diary.closed, "{said}");
        assert!(
            said.lines()
                .last()
                .is_some_and(|line| line.starts_with("550 5.5.2 "))
        );
    }
}

//! A message's content as it goes over the wire: dot-stuffed after DATA, as it is after BDAT.
//!
//! The end of the data is written only once every byte that the envelope promised was: half a
//! message with a final dot would be somebody's mail, cut. Nor is it written behind content that
//! two servers could read differently: the door refuses a bare CR, a bare LF and a NUL, and this
//! is the second lock, for whatever else may write to a store.

use holdfast_mail::mutant;

use crate::body::Octets;

/// How the content of this message is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// RFC 5321 section 4.5.2: lines that begin with a dot get a second one, `.` ends it.
    Dot,
    /// RFC 3030: the length came first.
    Chunk,
}

#[derive(Debug)]
pub(super) struct Content {
    framing: Framing,
    /// Bytes the envelope promised.
    len: u64,
    /// Bytes fed so far.
    fed: u64,
    /// The last two bytes fed; CRLF at the start, where a line begins.
    last: [u8; 2],
    /// How it keeps to line ends.
    octets: Octets,
}

/// Why content is not sent to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("it is longer than its envelope says")]
    Longer,
    #[error("it is shorter than its envelope says")]
    Shorter,
    #[error("it holds a bare CR, a bare LF or a NUL, by which mail could be smuggled")]
    LineEnds,
}

impl Content {
    pub(super) fn new(framing: Framing, len: u64) -> Self {
        Self {
            framing,
            len,
            fed: 0,
            last: *b"\r\n",
            octets: Octets::default(),
        }
    }

    /// Whether nothing more is to be written. After a BDAT header that is so with the last
    /// byte; after DATA it takes [`Content::end`].
    pub(super) fn is_complete(&self) -> bool {
        self.framing == Framing::Chunk && self.fed == self.len
    }

    pub(super) fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        let fed = self.fed + chunk.len() as u64;
        if fed > self.len {
            return Err(Fault::Longer);
        }
        // With its last byte a chunk is complete, so a CR may not be it.
        if !self.octets.check(chunk) || (fed == self.len && !self.octets.whole()) {
            return Err(Fault::LineEnds);
        }
        self.fed = fed;
        match self.framing {
            Framing::Chunk => out.extend_from_slice(chunk),
            Framing::Dot => self.stuff(chunk, out),
        }
        Ok(())
    }

    pub(super) fn end(&mut self, out: &mut Vec<u8>) -> Result<(), Fault> {
        if self.fed != self.len {
            return Err(Fault::Shorter);
        }
        if self.framing == Framing::Dot {
            // RFC 5321 section 4.1.1.4: the mail data ends with <CRLF>.<CRLF>; the first CRLF
            // is the end of the last line, which content from BDAT may lack.
            if self.last != *b"\r\n" {
                out.extend_from_slice(b"\r\n");
            }
            out.extend_from_slice(b".\r\n");
        }
        Ok(())
    }

    /// A dot is doubled after CRLF only: content with a bare CR or LF does not come here, so that
    /// no primary can see a line begin where we see none.
    fn stuff(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        out.reserve(chunk.len() + 16);
        let mut from = 0;
        for (at, byte) in chunk.iter().enumerate() {
            if *byte != b'.' {
                continue;
            }
            let before = match at {
                0 => self.last,
                1 => [self.last[1], chunk[0]],
                _ => [chunk[at - 2], chunk[at - 1]],
            };
            if before == *b"\r\n" && !mutant("dots-are-not-stuffed") {
                out.extend_from_slice(&chunk[from..at]);
                out.push(b'.');
                from = at;
            }
        }
        out.extend_from_slice(&chunk[from..]);
        self.last = match chunk {
            [] => self.last,
            [one] => [self.last[1], *one],
            [.., a, b] => [*a, *b],
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stuffed(chunks: &[&[u8]]) -> Vec<u8> {
        let len = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        let mut content = Content::new(Framing::Dot, len);
        let mut out = Vec::new();
        for chunk in chunks {
            content.push(chunk, &mut out).unwrap();
        }
        content.end(&mut out).unwrap();
        out
    }

    #[test]
    fn a_dot_at_the_beginning_of_a_line_is_doubled_however_the_content_is_cut() {
        // RFC 5321 section 4.5.2: "Before sending a line of mail text, the SMTP client checks
        // the first character of the line. If it is a period, one additional period is
        // inserted at the beginning of the line."
        for (content, wire) in [
            (&b""[..], &b".\r\n"[..]),
            (b".", b"..\r\n.\r\n"),
            (b".\r\n", b"..\r\n.\r\n"),
            (b"a.b\r\n..c\r\n.\r\n", b"a.b\r\n...c\r\n..\r\n.\r\n"),
            (b"no end", b"no end\r\n.\r\n"),
        ] {
            assert_eq!(stuffed(&[content]), wire);
            for cut in 0..=content.len() {
                let (head, tail) = content.split_at(cut);
                assert_eq!(stuffed(&[head, tail]), wire, "cut at {cut}");
            }
            let bytes: Vec<_> = content.chunks(1).collect();
            assert_eq!(stuffed(&bytes), wire, "byte by byte");
        }
    }

    #[test]
    fn content_of_another_length_than_promised_never_gets_its_end() {
        for framing in [Framing::Dot, Framing::Chunk] {
            let mut out = Vec::new();
            let mut short = Content::new(framing, 3);
            short.push(b"ab", &mut out).unwrap();
            assert_eq!(short.end(&mut out), Err(Fault::Shorter));
            assert_eq!(short.push(b"cd", &mut out), Err(Fault::Longer));
            assert_eq!(out, b"ab");
        }
    }
}

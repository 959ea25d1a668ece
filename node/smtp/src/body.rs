//! Message content after DATA: unstuffed, with strict line ends.
//!
//! Only CRLF "." CRLF ends it, or "." CRLF at the very start. A bare CR, a bare LF or a NUL
//! makes the whole refused: relaying it would hand the next server the material that command
//! smuggling is made of.

use holdfast_mail::mutant;

/// Reads content piece by piece.
#[derive(Debug)]
pub(crate) struct Content(State);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Behind a CRLF, or at the start.
    LineStart,
    /// Behind a line's first dot, which is not content.
    Dot,
    /// Behind a dot and CR.
    DotCr,
    Line,
    Cr,
}

/// How far a call came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// All input is used; more is to come.
    More,
    /// The content ended; this many bytes of the input belong to it.
    End(usize),
    /// A bare CR, bare LF or NUL.
    Broken,
}

impl Content {
    pub(crate) fn new() -> Self {
        Self(State::LineStart)
    }

    /// Adds the content in `input` to `out`: never more than `input` is long.
    pub(crate) fn read(&mut self, input: &[u8], out: &mut Vec<u8>) -> Progress {
        let mut at = 0;
        while at < input.len() {
            let byte = input[at];
            match self.0 {
                State::LineStart if byte == b'.' => {
                    self.0 = State::Dot;
                    at += 1;
                }
                State::Dot if byte == b'\n' && mutant("bare-lf-ends-a-line") => {
                    return Progress::End(at + 1);
                }
                State::Dot if byte == b'\r' => {
                    self.0 = State::DotCr;
                    at += 1;
                }
                // A line that began with a dot and goes on: the dot was stuffing.
                State::LineStart | State::Dot => self.0 = State::Line,
                State::DotCr if byte == b'\n' => return Progress::End(at + 1),
                State::Cr if byte == b'\n' => {
                    out.push(byte);
                    self.0 = State::LineStart;
                    at += 1;
                }
                State::DotCr | State::Cr => return Progress::Broken,
                State::Line => {
                    let rest = &input[at..];
                    match memchr::memchr3(b'\r', b'\n', 0, rest) {
                        None => {
                            out.extend_from_slice(rest);
                            return Progress::More;
                        }
                        Some(place) if rest[place] == b'\r' => {
                            // With its CR, or one octet of input would be two of content.
                            out.extend_from_slice(&rest[..=place]);
                            self.0 = State::Cr;
                            at += place + 1;
                        }
                        Some(place) if rest[place] == b'\n' && mutant("bare-lf-ends-a-line") => {
                            out.extend_from_slice(&rest[..place]);
                            out.extend_from_slice(b"\r\n");
                            self.0 = State::LineStart;
                            at += place + 1;
                        }
                        Some(_) => return Progress::Broken,
                    }
                }
            }
        }
        Progress::More
    }
}

/// The same strictness for BDAT, where the length and not a dot ends the content.
#[derive(Debug, Default)]
pub(crate) struct Octets {
    after_cr: bool,
}

impl Octets {
    /// Whether `input` keeps to CRLF; a CR may be its last byte.
    pub(crate) fn check(&mut self, mut input: &[u8]) -> bool {
        if mutant("chunks-are-not-strict") {
            return true;
        }
        if self.after_cr {
            match input.first() {
                Some(b'\n') => input = &input[1..],
                Some(_) => return false,
                None => return true,
            }
            self.after_cr = false;
        }
        while let Some(place) = memchr::memchr3(b'\r', b'\n', 0, input) {
            match (input[place], input.get(place + 1)) {
                (b'\r', Some(b'\n')) => input = &input[place + 2..],
                (b'\r', None) => {
                    self.after_cr = true;
                    return true;
                }
                _ => return false,
            }
        }
        true
    }

    /// Whether content may end here.
    pub(crate) fn whole(&self) -> bool {
        !self.after_cr
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole input in pieces of `cut`: content, and what is left behind the end.
    fn read(bytes: &[u8], cut: usize) -> Result<(Vec<u8>, Option<Vec<u8>>), ()> {
        let mut content = Content::new();
        let mut out = Vec::new();
        for (count, part) in bytes.chunks(cut).enumerate() {
            match content.read(part, &mut out) {
                Progress::More => {}
                Progress::End(used) => {
                    return Ok((out, Some(bytes[count * cut + used..].to_vec())));
                }
                Progress::Broken => return Err(()),
            }
        }
        Ok((out, None))
    }

    #[test]
    fn content_is_unstuffed_and_ends_at_the_lone_dot_however_it_arrives() {
        for (bytes, content, rest) in [
            (&b".\r\nQUIT"[..], &b""[..], &b"QUIT"[..]),
            (b"a\r\n.\r\n", b"a\r\n", b""),
            (b"..\r\n...\r\n.a\r\n.\r\n", b".\r\n..\r\na\r\n", b""),
            (b"\r\n.\r\n", b"\r\n", b""),
            (b"a.\r\n.\r\n.\r\n", b"a.\r\n", b".\r\n"),
        ] {
            for cut in 1..=bytes.len() {
                let expected = Ok((content.to_vec(), Some(rest.to_vec())));
                assert_eq!(read(bytes, cut), expected, "{bytes:?} cut {cut}");
            }
        }
    }

    #[test]
    fn chunks_keep_to_crlf_across_their_seams() {
        for (parts, good) in [
            (&[&b"a\r"[..], b"\nb"][..], true),
            (&[b"a\r", b"b"], false),
            (&[b"a\n"], false),
            (&[b"a\0"], false),
            (&[b"a\r\r\n"], false),
        ] {
            let mut octets = Octets::default();
            assert_eq!(
                parts.iter().all(|part| octets.check(part)),
                good,
                "{parts:?}"
            );
        }
        let mut octets = Octets::default();
        assert!(octets.check(b"a\r") && !octets.whole());
    }
}

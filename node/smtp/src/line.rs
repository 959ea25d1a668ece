//! Command lines, with strict line ends.
//!
//! RFC 5321 section 2.3.8: "conforming implementations MUST NOT recognize or generate any other
//! character or character sequence as a line terminator." What one server takes for a line end
//! and another does not, smuggles commands or whole messages between them.

use crate::limits::COMMAND_BYTES_MAX;

/// Bytes that have arrived and not been used.
#[derive(Default)]
pub(crate) struct Input {
    bytes: Vec<u8>,
    start: usize,
    /// Dropping the rest of an overlong line.
    skipping: bool,
}

/// What the buffer holds next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// Not a whole line yet.
    Incomplete,
    /// Without its CRLF.
    Whole(Vec<u8>),
    /// It was longer than [`COMMAND_BYTES_MAX`], and has been dropped to its end.
    TooLong,
    /// A bare CR, a bare LF, or a NUL: nothing behind it may be trusted.
    Broken,
}

impl Input {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn rest(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    pub(crate) fn consume(&mut self, count: usize) {
        self.start += count;
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        }
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.start = 0;
        self.skipping = false;
    }

    pub(crate) fn line(&mut self) -> Line {
        let rest = self.rest();
        let Some(end) = memchr::memchr3(b'\r', b'\n', 0, rest) else {
            let waiting = rest.len();
            if waiting > COMMAND_BYTES_MAX {
                self.skipping = true;
                self.consume(waiting);
            }
            return Line::Incomplete;
        };
        match (rest[end], rest.get(end + 1)) {
            (b'\r', Some(b'\n')) => {
                let too_long = self.skipping || end + 2 > COMMAND_BYTES_MAX;
                let line = rest[..end].to_vec();
                self.consume(end + 2);
                self.skipping = false;
                if too_long {
                    Line::TooLong
                } else {
                    Line::Whole(line)
                }
            }
            (b'\r', None) => {
                if end > COMMAND_BYTES_MAX {
                    self.skipping = true;
                    self.consume(end);
                }
                Line::Incomplete
            }
            _ => Line::Broken,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8], cut: usize) -> Vec<Line> {
        let mut input = Input::default();
        let mut found = Vec::new();
        for part in bytes.chunks(cut) {
            input.push(part);
            loop {
                match input.line() {
                    Line::Incomplete => break,
                    Line::Broken => {
                        found.push(Line::Broken);
                        return found;
                    }
                    line => found.push(line),
                }
            }
        }
        found
    }

    #[test]
    fn only_crlf_ends_a_line_however_the_bytes_arrive() {
        for cut in 1..20 {
            assert_eq!(
                lines(b"NOOP\r\n\r\nQUIT\r\nrest", cut),
                [
                    Line::Whole(b"NOOP".into()),
                    Line::Whole(b"".into()),
                    Line::Whole(b"QUIT".into())
                ]
            );
            for broken in [
                &b"a\nQUIT\r\n"[..],
                b"a\rQUIT\r\n",
                b"a\0\r\nQUIT\r\n",
                b"a\r\r\nQUIT\r\n",
            ] {
                assert_eq!(lines(broken, cut), [Line::Broken], "{broken:?} cut {cut}");
            }
        }
    }

    #[test]
    fn an_overlong_line_is_dropped_to_its_end_and_no_further() {
        let mut bytes = vec![b'x'; COMMAND_BYTES_MAX * 3];
        bytes.extend_from_slice(b"\r\nNOOP\r\n");
        for cut in [1, 7, 1000, 2049, 100_000] {
            assert_eq!(
                lines(&bytes, cut),
                [Line::TooLong, Line::Whole(b"NOOP".into())],
                "{cut}"
            );
        }
    }
}

//! Command lines, with strict line ends.
//!
//! RFC 5321 section 2.3.8: "conforming implementations MUST NOT recognize or generate any other
//! character or character sequence as a line terminator." What one server takes for a line end
//! and another does not, smuggles commands or whole messages between them.

use crate::limits::COMMAND_BYTES_MAX;

/// Bytes that have arrived and not been used. Bounded: what is used leaves, and the shell reads
/// on only when what is left is less than a command line.
#[derive(Default)]
pub(crate) struct Input {
    bytes: Vec<u8>,
    start: usize,
}

/// What the buffer holds next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// Not a whole line yet.
    Incomplete,
    /// Without its CRLF.
    Whole(Vec<u8>),
    /// No CRLF within [`COMMAND_BYTES_MAX`].
    TooLong,
    /// A bare CR, a bare LF, or a NUL: nothing behind it may be trusted.
    Broken,
}

impl Input {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        // What is left of a command is short. Without this a client that never stops between two
        // commands would make the buffer grow for ever.
        self.bytes.drain(..self.start);
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn rest(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    pub(crate) fn consume(&mut self, count: usize) {
        self.start = self.bytes.len().min(self.start + count);
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.start = 0;
    }

    /// Takes the next line. Whether it is whole, too long or broken follows from its bytes alone,
    /// not from how they were cut: the first fault counts.
    pub(crate) fn line(&mut self) -> Line {
        let rest = self.rest();
        let window = &rest[..rest.len().min(COMMAND_BYTES_MAX)];
        let full = window.len() == COMMAND_BYTES_MAX;
        match memchr::memchr3(b'\r', b'\n', 0, window) {
            None if full => Line::TooLong,
            None => Line::Incomplete,
            Some(end) if window[end] != b'\r' => Line::Broken,
            Some(end) => match window.get(end + 1) {
                Some(b'\n') => {
                    let line = window[..end].to_vec();
                    self.consume(end + 2);
                    Line::Whole(line)
                }
                Some(_) => Line::Broken,
                None if full => Line::TooLong,
                None => Line::Incomplete,
            },
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
                    fault @ (Line::Broken | Line::TooLong) => {
                        found.push(fault);
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
                b"\nQUIT\r\n",
            ] {
                assert_eq!(lines(broken, cut), [Line::Broken], "{broken:?} cut {cut}");
            }
        }
    }

    #[test]
    fn a_line_is_too_long_from_one_byte_on_however_the_bytes_arrive() {
        let longest = COMMAND_BYTES_MAX - 2;
        for cut in [1, 7, 1000, 2047, 2048, 2049, 100_000] {
            let mut bytes = vec![b'x'; longest];
            bytes.extend_from_slice(b"\r\nNOOP\r\n");
            let whole = [
                Line::Whole(vec![b'x'; longest]),
                Line::Whole(b"NOOP".into()),
            ];
            assert_eq!(lines(&bytes, cut), whole, "{cut}");
            bytes.insert(0, b'x');
            assert_eq!(lines(&bytes, cut), [Line::TooLong], "{cut}");
            // A fault behind the limit is no longer looked at.
            bytes[COMMAND_BYTES_MAX] = 0;
            assert_eq!(lines(&bytes, cut), [Line::TooLong], "{cut}");
            bytes[COMMAND_BYTES_MAX - 1] = 0;
            assert_eq!(lines(&bytes, cut), [Line::Broken], "{cut}");
        }
    }

    #[test]
    fn a_client_that_never_pauses_between_commands_does_not_fill_memory() {
        let mut input = Input::default();
        let stream: Vec<u8> = b"NOOP\r\n".repeat(10_000);
        for part in stream.chunks(4095) {
            input.push(part);
            while input.line() != Line::Incomplete {}
            assert!(input.bytes.len() <= 4095 + COMMAND_BYTES_MAX);
        }
    }
}

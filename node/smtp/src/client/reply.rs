//! Replies of a primary: bytes in, one [`Reply`] at a time out.
//!
//! The primary is a host like any other: it may be broken, hijacked or hostile. Nothing it
//! sends can grow our memory beyond the limits below, and nothing of it reaches a log or the
//! ledger before controls are taken out and the length is cut.

use std::fmt::Write as _;

use super::Violation;

/// Longest line of a reply, bytes with its end. RFC 5321 section 4.5.3.1.5 allows 512; four
/// times that leaves room for hosts that put a whole URL and a ticket number into a refusal.
pub const REPLY_LINE_BYTES_MAX: usize = 2048;

/// Longest reply, bytes over all its lines. A long EHLO answer has about 1 KiB and a legal
/// notice in a banner a few; more than this is somebody who keeps us from our work.
pub const REPLY_BYTES_MAX: usize = 32 * 1024;

/// How much of a reply is kept with a message, bytes of UTF-8, code included.
pub const RECORDED_BYTES_MAX: usize = 512;

/// One complete reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) code: u16,
    /// The text of each line, without code, free of controls.
    pub(super) lines: Vec<String>,
}

/// Cuts the byte stream of a primary into replies.
#[derive(Debug, Default)]
pub(super) struct Replies {
    buffer: Vec<u8>,
    /// How much of `buffer` is known to hold no line end.
    scanned: usize,
    /// The first lines of a reply whose last line is not here yet.
    partial: Option<Reply>,
    /// Bytes of the lines in `partial`.
    partial_bytes: usize,
}

impl Reply {
    pub(super) fn severity(&self) -> Severity {
        match self.code / 100 {
            2 => Severity::Done,
            3 => Severity::GoOn,
            4 => Severity::Later,
            _ => Severity::Never,
        }
    }

    /// Whether a refusal says that there is no such mailbox: by RFC 5321 section 4.2.2 with 550, 551
    /// or 553; by RFC 3463 section 3 with a status whose subject is addressing or the mailbox.
    pub(super) fn is_about_a_mailbox(&self) -> bool {
        let text = self.lines.first().map_or("", |line| line.as_str());
        let mut parts = text.split([' ', '.']);
        let subject = match (parts.next(), parts.next(), parts.next()) {
            (Some("5"), Some(subject), Some(detail)) if detail.parse::<u16>().is_ok() => {
                Some(subject)
            }
            _ => None,
        };
        matches!(self.code, 550 | 551 | 553) && subject.is_none_or(|s| s == "1" || s == "2")
    }

    /// The reply as people read it, on one line of at most [`RECORDED_BYTES_MAX`] bytes.
    pub(super) fn recorded(&self) -> String {
        let mut text = String::with_capacity(64);
        let _ = write!(text, "{}", self.code);
        for line in self.lines.iter().filter(|line| !line.is_empty()) {
            text.push(' ');
            text.push_str(line);
            if text.len() > RECORDED_BYTES_MAX {
                break;
            }
        }
        recordable(&text)
    }
}

/// The first digit of a reply code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Severity {
    Done,
    GoOn,
    Later,
    Never,
}

impl Replies {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether anything has arrived that is not part of a reply handed out already.
    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_empty() && self.partial.is_none()
    }

    /// The next complete reply, if it is here.
    pub(super) fn next(&mut self) -> Result<Option<Reply>, Violation> {
        while let Some(end) = self.line_end()? {
            // A bare LF ends a line here too: a reply carries nobody's mail, so there is
            // nothing to smuggle, and refusing it would only keep mail from its owner.
            let line = &self.buffer[..end];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let (code, last, text) = parts(line)?;
            let text = printable(text);
            self.partial_bytes += end + 1;
            self.buffer.drain(..=end);
            self.scanned = 0;
            if self.partial_bytes > REPLY_BYTES_MAX {
                return Err(Violation::ReplyTooLong);
            }
            let reply = self.partial.get_or_insert_with(|| Reply {
                code,
                lines: Vec::new(),
            });
            if reply.code != code {
                return Err(Violation::MixedCodes);
            }
            reply.lines.push(text);
            if last {
                self.partial_bytes = 0;
                return Ok(self.partial.take());
            }
        }
        Ok(None)
    }

    fn line_end(&mut self) -> Result<Option<usize>, Violation> {
        let found = self.buffer[self.scanned..]
            .iter()
            .position(|byte| *byte == b'\n')
            .map(|at| at + self.scanned);
        self.scanned = self.buffer.len();
        if found.map_or(self.buffer.len(), |end| end + 1) > REPLY_LINE_BYTES_MAX {
            return Err(Violation::LineTooLong);
        }
        Ok(found)
    }
}

/// Code, whether it is the last line, and text. A line may be a bare code (RFC 5321 section
/// 4.2: "any text, including no text at all … MUST be acceptable").
fn parts(line: &[u8]) -> Result<(u16, bool, &[u8]), Violation> {
    let (digits, rest) = line.split_at_checked(3).ok_or(Violation::NotAReply)?;
    if !(b'2'..=b'5').contains(&digits[0]) || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Violation::NotAReply);
    }
    let code = digits
        .iter()
        .fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    match rest.split_first() {
        None => Ok((code, true, rest)),
        Some((b' ', text)) => Ok((code, true, text)),
        Some((b'-', text)) => Ok((code, false, text)),
        Some(_) => Err(Violation::NotAReply),
    }
}

/// The text with every control character, and whatever is no UTF-8, replaced: a reply ends up
/// in logs, terminals and web pages.
fn printable(text: &[u8]) -> String {
    String::from_utf8_lossy(text)
        .chars()
        .map(|c| match c {
            '\t' => ' ',
            c if c.is_control() => '?',
            c => c,
        })
        .collect()
}

/// The first [`RECORDED_BYTES_MAX`] bytes of `text`, never half a character.
pub(super) fn recordable(text: &str) -> String {
    let mut end = text.len().min(RECORDED_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Option<Reply>, Violation> {
        let mut replies = Replies::default();
        replies.push(bytes);
        replies.next()
    }

    #[test]
    fn any_text_including_no_text_at_all_is_acceptable() {
        // RFC 5321 section 4.2: "in the general case, any text, including no text at all
        // (although senders SHOULD NOT send bare codes), MUST be acceptable."
        for (bytes, recorded) in [
            (&b"250\r\n"[..], "250"),
            (b"250 \r\n", "250"),
            (b"250 ok\n", "250 ok"),
            (b"250-\r\n250-a\r\n250 b\r\n", "250 a b"),
            (b"550 \x1b[2J\x00\xff\r\n", "550 ?[2J?\u{fffd}"),
        ] {
            let reply = read(bytes).unwrap().unwrap();
            assert_eq!(reply.recorded(), recorded);
        }
    }

    #[test]
    fn what_is_no_reply_is_a_violation() {
        // RFC 5321 section 4.2: "SMTP servers MUST NOT send reply codes whose first digits are
        // other than 2, 3, 4, or 5."
        for (bytes, why) in [
            (&b"\r\n"[..], Violation::NotAReply),
            (b"25\r\n", Violation::NotAReply),
            (b"2500 ok\r\n", Violation::NotAReply),
            (b"150 ok\r\n", Violation::NotAReply),
            (b"650 ok\r\n", Violation::NotAReply),
            (b"HTTP/1.1 400 Bad Request\r\n", Violation::NotAReply),
            (b"250-a\r\n550 b\r\n", Violation::MixedCodes),
            (&[b'2'; REPLY_LINE_BYTES_MAX + 1], Violation::LineTooLong),
            (
                &b"250-x\r\n".repeat(REPLY_BYTES_MAX / 7 + 1),
                Violation::ReplyTooLong,
            ),
        ] {
            assert_eq!(read(bytes), Err(why));
        }
    }

    #[test]
    fn a_recorded_reply_is_cut_between_characters() {
        let reply = Reply {
            code: 550,
            lines: vec!["ü".repeat(400)],
        };
        assert_eq!(reply.recorded().len(), RECORDED_BYTES_MAX);
        let odd = Reply {
            code: 550,
            lines: vec![format!("x{}", "ü".repeat(400))],
        };
        assert_eq!(odd.recorded().len(), RECORDED_BYTES_MAX - 1);
    }
}

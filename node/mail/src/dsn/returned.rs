//! The third part: what is returned of the original.

use std::fmt::Write as _;

use super::{ANY_LINE_OCTETS_MAX, HEADER_OCTETS_MAX, Returned};
use crate::Envelope;

/// Octets of a line of quoted-printable (RFC 2045 section 6.7), its soft line break included.
const QUOTED_LINE_MAX: usize = 76;

/// Writes the part, or for a message returned whole what stands before it. Says whether eight
/// bits are in it.
pub(super) fn write(
    original: &Envelope,
    returned: Returned<'_>,
    global: bool,
    out: &mut Vec<u8>,
) -> bool {
    let mut begin = |kind: &str, description: &str, encoding: &str| {
        out.extend_from_slice(
            format!(
                "Content-Type: {kind}\r\n\
                 Content-Description: {description}\r\n\
                 Content-Transfer-Encoding: {encoding}\r\n\r\n"
            )
            .as_bytes(),
        );
    };
    match returned {
        Returned::Whole => {
            let eight_bit =
                original.smtputf8 || original.body_type == crate::BodyType::EightBitMime;
            let kind = if original.smtputf8 {
                "message/global"
            } else {
                "message/rfc822"
            };
            begin(
                kind,
                "Your message",
                if eight_bit { "8bit" } else { "7bit" },
            );
            eight_bit
        }
        Returned::Header(header) => {
            let header = section(header);
            let kind = if original.smtputf8 {
                "message/global-headers"
            } else {
                "text/rfc822-headers"
            };
            let description = "The header of your message";
            let lines = has_lines(header);
            let plain = lines && header.is_ascii();
            match (plain, global) {
                (true, _) => {
                    begin(kind, description, "7bit");
                    out.extend_from_slice(header);
                    false
                }
                (false, true) if lines && std::str::from_utf8(header).is_ok() => {
                    begin(kind, description, "8bit");
                    out.extend_from_slice(header);
                    true
                }
                (false, _) => {
                    begin(kind, description, "quoted-printable");
                    out.extend_from_slice(quoted_printable(header).as_bytes());
                    false
                }
            }
        }
    }
}

/// Whether its lines travel as they are (RFC 2045 sections 2.7 and 2.8): 998 octets at most, and
/// CR and LF only together.
fn has_lines(text: &[u8]) -> bool {
    text.split_inclusive(|byte| *byte == b'\n').all(|line| {
        line.strip_suffix(b"\r\n").is_some_and(|line| {
            line.len() <= ANY_LINE_OCTETS_MAX && !line.iter().any(|byte| matches!(byte, b'\r' | 0))
        })
    })
}

/// The lines before the first empty one, each whole.
fn section(message: &[u8]) -> &[u8] {
    let message = &message[..message.len().min(HEADER_OCTETS_MAX)];
    let mut end = 0;
    for line in message.split_inclusive(|byte| *byte == b'\n') {
        if line == b"\r\n" || line == b"\n" || !line.ends_with(b"\n") {
            break;
        }
        end += line.len();
    }
    &message[..end]
}

/// RFC 2045 section 6.7, for text whose lines end with CRLF.
pub(super) fn quoted_printable(text: &[u8]) -> String {
    let mut out = String::new();
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let content = line
            .strip_suffix(b"\n")
            .map_or(line, |l| l.strip_suffix(b"\r").unwrap_or(l));
        let mut column = 0;
        for (at, byte) in content.iter().enumerate() {
            let last = at + 1 == content.len();
            let mut piece = String::new();
            match byte {
                b' ' | b'\t' if !last => piece.push(char::from(*byte)),
                b'!'..=b'~' if *byte != b'=' => piece.push(char::from(*byte)),
                // Writing to a String cannot fail.
                _ => drop(write!(piece, "={byte:02X}")),
            }
            if column + piece.len() >= QUOTED_LINE_MAX {
                out.push_str("=\r\n");
                column = 0;
            }
            column += piece.len();
            out.push_str(&piece);
        }
        out.push_str("\r\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_lines_of_the_header_section_are_returned() {
        assert_eq!(section(b"A: 1\r\n b\r\n\r\nbody\r\n"), b"A: 1\r\n b\r\n");
        assert_eq!(section(b"A: 1\r\nB: cut"), b"A: 1\r\n");
        assert_eq!(section(b"\r\nbody"), b"");
    }

    /// RFC 2045 section 6.7: "encoded lines must not be longer than 76 characters, not counting
    /// the trailing CRLF".
    #[test]
    fn quoted_lines_are_short_and_keep_their_trailing_blanks() {
        let text = format!("Subject: {} \r\nX=\r\n", "ü".repeat(60));
        let quoted = quoted_printable(text.as_bytes());
        assert!(
            quoted.lines().all(|line| line.len() <= QUOTED_LINE_MAX),
            "{quoted}"
        );
        assert!(quoted.ends_with("=20\r\nX=3D\r\n"), "{quoted}");
    }
}

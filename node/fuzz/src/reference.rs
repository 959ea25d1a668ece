//! Slow readers and writers of content that know nothing but the rule, and lenient ones that
//! break it.

/// The end-of-data variants that servers have been seen to take for the end: the union of the
/// published lists of SMTP smuggling. Two of them hold a true end.
pub const ENDS_OF_DATA: [&[u8]; 16] = [
    b"\n.\n",
    b"\n.\r",
    b"\r.\n",
    b"\r.\r",
    b"\n.\r\n",
    b"\r.\r\n",
    b"\r\n.\n",
    b"\r\n.\r",
    b"\r\n.\r\r\n",
    b"\r\r\n.\r\r\n",
    b"\r\n\0.\r\n",
    b"\r\n.\0\r\n",
    b"\0\r\n.\r\n",
    b"\r\0\n.\r\n",
    b"\r\n.\r\0\n",
    b"\r\n.\r\n\0",
];

/// What content is made of where it is interesting.
pub(crate) const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\r\n.\r\n",
    b".",
    b"..",
    b"\r\n.",
    b".\r\n",
    b"\n",
    b"\r",
    b"\0",
    b"\n.\n",
    b"\r.\r",
    b"\r\n..\r\n",
    b"\x80\xff",
    b"a line",
    b"Subject: x\r\n\r\n",
];

/// Reads content after DATA: content and length with the end, `None` where the end is not there
/// yet, `Err` where a bare CR, a bare LF or a NUL is.
#[expect(clippy::result_unit_err, reason = "there is one way to be wrong")]
pub fn content(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, ()> {
    let mut content = Vec::new();
    let mut line = Vec::new();
    for (at, byte) in bytes.iter().enumerate() {
        let after_cr = line.last() == Some(&b'\r');
        if *byte == 0 || (*byte == b'\n') != after_cr {
            return Err(());
        }
        line.push(*byte);
        if line.ends_with(b"\r\n") {
            if line == b".\r\n" {
                return Ok(Some((content, at + 1)));
            }
            content.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
            line.clear();
        }
    }
    Ok(None)
}

/// Whether CR and LF come in pairs only, and no NUL.
#[must_use]
pub fn is_strict(bytes: &[u8]) -> bool {
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'\r' if bytes.get(at + 1) == Some(&b'\n') => at += 2,
            b'\r' | b'\n' | 0 => return false,
            _ => at += 1,
        }
    }
    true
}

/// Strict content as it goes behind DATA, end and all.
#[must_use]
pub fn stuffed(content: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    let mut rest = content;
    while !rest.is_empty() {
        let end = rest
            .windows(2)
            .position(|pair| pair == b"\r\n")
            .map_or(rest.len(), |at| at + 2);
        let (line, behind) = rest.split_at(end);
        if line.starts_with(b".") {
            wire.push(b'.');
        }
        wire.extend_from_slice(line);
        if !line.ends_with(b"\r\n") {
            wire.extend_from_slice(b"\r\n");
        }
        rest = behind;
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

/// Where a server that takes every one of [`ENDS_OF_DATA`] for the end sees ends in what was
/// written behind its 354: places right behind each.
#[must_use]
pub fn lenient_ends(wire: &[u8]) -> Vec<usize> {
    // The reply to DATA is the end of a line.
    let whole = [b"\r\n", wire].concat();
    let mut ends: Vec<usize> = (0..whole.len())
        .flat_map(|at| {
            ENDS_OF_DATA
                .iter()
                .chain(&[&b"\r\n.\r\n"[..]])
                .filter(|end| whole[at..].starts_with(end))
                .map(|end| at + end.len() - 2)
                .collect::<Vec<_>>()
        })
        .collect();
    ends.sort_unstable();
    ends.dedup();
    ends
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lenient_server_sees_ends_where_a_strict_one_sees_none() {
        // A true end is also one for those who do not wait for its last byte.
        assert_eq!(lenient_ends(b"a\n.\nb\r\n.\r\n"), [4, 9, 10]);
        assert_eq!(lenient_ends(b"a\r\n..\r\n.\r\n"), [9, 10]);
        assert_eq!(lenient_ends(b".\r\n"), [2, 3]);
        assert_eq!(
            content(b"..a\r\n.\r\nrest"),
            Ok(Some((b".a\r\n".to_vec(), 8)))
        );
        assert_eq!(stuffed(b".a\r\nb"), b"..a\r\nb\r\n.\r\n");
        assert!(is_strict(b"a\r\n") && !is_strict(b"a\r") && !is_strict(b"\na"));
    }
}

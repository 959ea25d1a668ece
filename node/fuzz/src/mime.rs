//! A small strict reader of messages in parts (RFC 2045, 2046, 5322), which knows nothing of how
//! ours are written.

/// Octets of a line without its end (RFC 5322 section 2.1.1).
const LINE_OCTETS_MAX: usize = 998;
/// The same in quoted-printable (RFC 2045 section 6.7).
const QUOTED_LINE_OCTETS_MAX: usize = 76;

/// A header section and what is behind its empty line.
#[derive(Debug)]
pub(crate) struct Entity<'a> {
    /// Name and value, unfolded.
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: &'a [u8],
}

impl<'a> Entity<'a> {
    /// # Panics
    /// Where it is none.
    pub(crate) fn read(bytes: &'a [u8]) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.expect("an empty line behind the header");
        Self {
            fields: fields(&bytes[..end + 2]),
            body: &bytes[end + 4..],
        }
    }

    pub(crate) fn names(&self) -> Vec<&str> {
        self.fields.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// The value of the only field with this name.
    pub(crate) fn only(&self, name: &str) -> &str {
        let mut found = self.fields.iter().filter(|(known, _)| known == name);
        let value = found.next().unwrap_or_else(|| panic!("no {name}"));
        assert!(found.next().is_none(), "{name} is there twice");
        &value.1
    }

    /// The content behind its encoding, which it keeps to.
    pub(crate) fn content(&self) -> Vec<u8> {
        let (is_ascii, body) = (self.body.is_ascii(), self.body);
        match self.only("Content-Transfer-Encoding") {
            "7bit" => assert!(is_ascii, "8 bits in 7: {}", body.escape_ascii()),
            "8bit" => {}
            "quoted-printable" => return unquoted(body),
            other => panic!("an encoding {other}"),
        }
        body.to_vec()
    }
}

/// The fields of a header section, or of a block of such lines.
pub(crate) fn fields(section: &[u8]) -> Vec<(String, String)> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in lines(section) {
        let text = std::str::from_utf8(line).expect("UTF-8 in a field");
        assert!(!text.trim().is_empty(), "a line of blanks is no field");
        if text.starts_with([' ', '\t']) {
            let (_, value) = fields.last_mut().expect("a field before its second line");
            value.push_str(text);
            continue;
        }
        let (name, value) = text.split_once(':').expect("a colon");
        let good = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        assert!(!name.is_empty() && name.bytes().all(good), "{text}");
        let value = value.strip_prefix(' ').unwrap_or(value);
        fields.push((name.to_owned(), value.to_owned()));
    }
    fields
}

/// What stands between the lines of a boundary; the last of them closes the message.
pub(crate) fn parts<'a>(body: &'a [u8], boundary: &str) -> Vec<&'a [u8]> {
    let open = format!("--{boundary}");
    let mut parts = Vec::new();
    let (mut at, mut begun, mut closed) = (0, None, false);
    for line in body.split_inclusive(|byte| *byte == b'\n') {
        let behind = at + line.len();
        if let Some(rest) = line.strip_prefix(open.as_bytes()) {
            assert!(!closed, "a boundary behind the last");
            // The end of the line before belongs to the boundary.
            parts.extend(begun.map(|from| &body[from..at - 2]));
            begun = Some(behind);
            closed = rest == b"--\r\n";
            assert!(closed || rest == b"\r\n", "{}", line.escape_ascii());
        }
        at = behind;
    }
    assert!(closed && begun == Some(body.len()), "it ends as it should");
    parts
}

/// Lines without their ends, each of a length that travels.
pub(crate) fn lines(bytes: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<_> = bytes.split(|byte| *byte == b'\n').collect();
    let last = lines.pop();
    assert_eq!(last, Some(&b""[..]), "the last line has an end");
    for line in &mut lines {
        *line = line.strip_suffix(b"\r").expect("CR before LF");
        assert!(line.len() <= LINE_OCTETS_MAX, "{}", line.escape_ascii());
    }
    lines
}

fn unquoted(quoted: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    if quoted.is_empty() {
        return out;
    }
    for line in lines(quoted) {
        assert!(line.len() <= QUOTED_LINE_OCTETS_MAX);
        assert!(!line.ends_with(b" ") && !line.ends_with(b"\t"));
        let mut rest = line.iter();
        let mut soft = false;
        while let Some(byte) = rest.next() {
            assert!(matches!(byte, b'\t' | b' '..=b'~'));
            if *byte != b'=' {
                out.push(*byte);
                continue;
            }
            let Some(high) = rest.next() else {
                soft = true;
                break;
            };
            let digits = [*high, *rest.next().expect("two digits")];
            let digits = std::str::from_utf8(&digits).expect("ASCII");
            assert!(!digits.contains(|c: char| c.is_ascii_lowercase()));
            out.push(u8::from_str_radix(digits, 16).expect("hexadecimal"));
        }
        if !soft {
            out.extend_from_slice(b"\r\n");
        }
    }
    out
}

//! The messages of the demo: made from their number alone, so that what arrives can be compared
//! with what was sent without keeping either.

/// 1 KiB, the size of a short note with its header.
pub(crate) const BYTES_MIN: usize = 1 << 10;
/// 5 MiB: a photograph or two.
pub(crate) const BYTES_MAX: usize = 5 << 20;

/// One in this many is large, as in real mail.
const LARGE_EVERY: u32 = 30;

/// The size of message `number`.
pub(crate) fn size(number: u32) -> usize {
    let mut random = Random::new(number);
    match number {
        0 => BYTES_MIN,
        1 => BYTES_MAX,
        _ if number.is_multiple_of(LARGE_EVERY) => random.between(1 << 20, BYTES_MAX),
        // Each doubling is as likely as the next: many small, few of the larger.
        _ => BYTES_MIN << random.between(0, 7) | random.between(0, BYTES_MIN - 1),
    }
}

/// The whole message, with CRLF line ends, as it is given to the cluster.
pub(crate) fn bytes(number: u32, domain: &str) -> Vec<u8> {
    let size = size(number);
    let mut text = format!(
        "From: Demo <demo@sender.test>\r\nTo: {to}\r\nSubject: Letter {number}\r\n\
         Message-ID: <letter{number}@sender.test>\r\nMIME-Version: 1.0\r\n\
         Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n",
        to = recipient(number, domain),
    )
    .into_bytes();
    text.reserve(size.saturating_sub(text.len()));
    let mut random = Random::new(number ^ 0x5eed);
    // What transports have damaged before: dots that begin lines, bytes above 127, From at the
    // beginning of a line, trailing blanks, empty lines.
    const TRAPS: [&str; 7] = [
        ".",
        "..",
        ".hidden",
        "Grüße aus Åre",
        "From here on",
        "blank at the end ",
        "",
    ];
    while text.len() + 160 < size {
        if random.between(0, 15) == 0 {
            text.extend_from_slice(TRAPS[random.between(0, TRAPS.len() - 1)].as_bytes());
        } else {
            random.letters(76, &mut text);
        }
        text.extend_from_slice(b"\r\n");
    }
    let rest = size.saturating_sub(text.len() + 2);
    random.letters(rest, &mut text);
    text.extend_from_slice(b"\r\n");
    text
}

pub(crate) fn recipient(number: u32, domain: &str) -> String {
    format!("letter{number}@{domain}")
}

/// The number in a recipient's address.
pub(crate) fn number(recipient: &str) -> Option<u32> {
    let (local, _) = recipient.split_once('@')?;
    local.strip_prefix("letter")?.parse().ok()
}

/// Whether `arrived` is message `number` behind at least one whole `Received` field, and nothing
/// else.
pub(crate) fn is_intact(number: u32, domain: &str, arrived: &[u8]) -> bool {
    arrived
        .strip_suffix(bytes(number, domain).as_slice())
        .is_some_and(is_trace)
}

fn is_trace(text: &[u8]) -> bool {
    let Some(text) = text.strip_suffix(b"\r\n") else {
        return false;
    };
    let mut lines = text.split(|byte| *byte == b'\n');
    lines.next().is_some_and(begins_received)
        && lines
            .all(|line| begins_received(line) || line.starts_with(b"\t") || line.starts_with(b" "))
}

fn begins_received(line: &[u8]) -> bool {
    line.get(..9)
        .is_some_and(|name| name.eq_ignore_ascii_case(b"Received:"))
}

/// xorshift64*: the same numbers on every machine, for every release.
struct Random(u64);

impl Random {
    fn new(seed: u32) -> Self {
        Self((u64::from(seed) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// From `low` to `high`, both included.
    fn between(&mut self, low: usize, high: usize) -> usize {
        low + (self.next() >> 16) as usize % (high - low + 1)
    }

    fn letters(&mut self, count: usize, into: &mut Vec<u8>) {
        const ALPHABET: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut left = count;
        while left > 0 {
            let mut bits = self.next();
            for _ in 0..left.min(10) {
                into.push(ALPHABET[(bits & 63) as usize]);
                bits >>= 6;
                left -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_has_its_size_and_only_lawful_lines() {
        for number in [0, 1, 2, 3, 17, 30, 60, 299] {
            let text = bytes(number, "example.test");
            assert_eq!(text.len(), size(number), "{number}");
            assert!(text.ends_with(b"\r\n"));
            for line in text.split_inclusive(|byte| *byte == b'\n') {
                assert!(line.ends_with(b"\r\n") && line.len() <= 1000, "{number}");
            }
        }
        let sizes: Vec<usize> = (0..300).map(size).collect();
        assert_eq!(sizes.iter().min(), Some(&BYTES_MIN));
        assert_eq!(sizes.iter().max(), Some(&BYTES_MAX));
    }

    #[test]
    fn a_letter_is_known_again_by_its_recipient() {
        assert_eq!(number(&recipient(42, "example.test")), Some(42));
        for other in ["letter@example.test", "x42@example.test", "letter42"] {
            assert_eq!(number(other), None, "{other}");
        }
    }

    #[test]
    fn only_the_same_bytes_behind_trace_lines_are_intact() {
        let letter = bytes(2, "example.test");
        let behind = |trace: &str| [trace.as_bytes(), &letter].concat();
        let trace = "Received: from a\r\n\tby b; today\r\nReceived: from c by d\r\n";
        assert!(is_intact(2, "example.test", &behind(trace)));
        assert!(!is_intact(3, "example.test", &behind(trace)));
        for bad in [
            "",
            "X-Added: 1\r\n",
            "Received: from a\r\nX-Added: 1\r\n",
            "\tReceived: a\r\n",
            "Received: a",
        ] {
            assert!(!is_intact(2, "example.test", &behind(bad)), "{bad}");
        }
        let mut changed = behind(trace);
        let last = changed.len() - 3;
        changed[last] ^= 1;
        assert!(!is_intact(2, "example.test", &changed));
        changed.pop();
        assert!(!is_intact(2, "example.test", &changed));
    }
}

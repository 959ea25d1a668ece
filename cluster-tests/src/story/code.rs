//! An authenticator: what it shows for a key at a time (RFC 6238), reckoned by `openssl`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// How long one code is shown, seconds.
const STEP: u64 = 30;

/// The code for a key in letters and digits (RFC 4648 section 6), at so many seconds of Unix time.
///
/// # Panics
/// If it is no key, or there is no openssl.
#[must_use]
pub fn code(key: &str, seconds: u64) -> String {
    let key = bytes(key);
    let mut hex = String::new();
    for byte in &key {
        // Writing to a string does not fail.
        let _infallible = write!(hex, "{byte:02x}");
    }
    let key = format!("hexkey:{hex}");
    let mut hash = Command::new("openssl")
        .args(["dgst", "-sha1", "-mac", "HMAC", "-macopt", &key, "-binary"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("openssl");
    let mut input = hash.stdin.take().expect("a pipe");
    input
        .write_all(&(seconds / STEP).to_be_bytes())
        .expect("a pipe");
    drop(input);
    let hash = hash.wait_with_output().expect("a hash").stdout;
    // RFC 4226 section 5.3.
    let at = usize::from(hash.last().expect("a hash") & 0xf);
    let four: [u8; 4] = hash[at..at + 4].try_into().expect("four octets");
    format!(
        "{:06}",
        (u32::from_be_bytes(four) & 0x7fff_ffff) % 1_000_000
    )
}

fn bytes(key: &str) -> Vec<u8> {
    let (mut bits, mut count, mut bytes) = (0_u32, 0, Vec::new());
    for letter in key.chars().filter(|letter| letter.is_ascii_alphanumeric()) {
        let value = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".find(letter.to_ascii_uppercase());
        let value = value.expect("a letter of a key");
        bits = bits << 5 | u32::try_from(value).unwrap_or(0);
        count += 5;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_standard() {
        // RFC 6238 appendix B, the last six of its eight digits.
        let key = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";
        for (seconds, shown) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (2_000_000_000, "279037"),
        ] {
            assert_eq!(code(key, seconds), shown);
        }
    }
}

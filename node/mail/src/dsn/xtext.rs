//! Addresses and envelope ids in and out of the encodings that SMTP parameters need.

use std::fmt::Write as _;

/// xtext of RFC 3461 section 4: `+` and two hexadecimal digits stand for an octet. `None` if it
/// is not that, or holds what no field may.
pub(super) fn decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = String::new();
    while let Some(byte) = bytes.next() {
        let octet = if byte == b'+' {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            u8::try_from(digit(bytes.next())? * 16 + digit(bytes.next())?).ok()?
        } else {
            byte
        };
        if !(0x20..0x7f).contains(&octet) {
            return None;
        }
        out.push(char::from(octet));
    }
    Some(out)
}

/// `addr-type; address` from an ORCPT parameter, which was kept as received.
pub(super) fn orcpt(orcpt: &str, global: bool) -> Option<String> {
    let (kind, address) = orcpt.split_once(';')?;
    if kind.eq_ignore_ascii_case("utf-8") {
        // It has an encoding of its own instead of xtext. A program that reads a 7-bit report
        // reads that form; in the other the characters stand as they are.
        let address = if global {
            from_unitext(address).unwrap_or_else(|| address.to_owned())
        } else {
            to_unitext(&from_unitext(address).unwrap_or_else(|| address.to_owned()))
        };
        return Some(format!("{kind}; {address}"));
    }
    Some(format!("{kind}; {}", decode(address)?))
}

/// A mailbox as `rfc822`, or as `utf-8` where it is not ASCII.
pub(super) fn address(address: &str, global: bool) -> String {
    match (address.is_ascii(), global) {
        (true, _) => format!("rfc822; {address}"),
        (false, true) => format!("utf-8; {address}"),
        (false, false) => format!("utf-8; {}", to_unitext(address)),
    }
}

/// RFC 6533 section 3, `utf-8-addr-xtext`: what is not plain ASCII as `\x{HEXPOINT}`.
fn to_unitext(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if c.is_ascii_graphic() && !matches!(c, '\\' | '+' | '=') {
            out.push(c);
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "\\x{{{:02X}}}", u32::from(c));
        }
    }
    out
}

fn from_unitext(text: &str) -> Option<String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let (point, behind) = rest[at..].strip_prefix("\\x{")?.split_once('}')?;
        let c = char::from_u32(u32::from_str_radix(point, 16).ok()?)?;
        out.push(Some(c).filter(|c| !c.is_control())?);
        rest = behind;
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xtext_is_read_and_what_could_break_a_line_is_not() {
        assert_eq!(decode("joe+2Bx@a.b").as_deref(), Some("joe+x@a.b"));
        for text in ["+0D+0A", "+4", "+zz", "+00", "+C3+BC"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }

    /// RFC 6533 section 3: "The 'unitext' encoding uses "\x{HEXPOINT}" syntax … for encoding any
    /// Unicode character outside of ASCII range, as well as for encoding CTLs, SP, '\', '+', and
    /// '='."
    #[test]
    fn unitext_is_written_and_read_back() {
        for (plain, encoded) in [
            ("jürgen@a.b", r"j\x{FC}rgen@a.b"),
            ("a+b=c@x", r"a\x{2B}b\x{3D}c@x"),
            ("用户@例.example", r"\x{7528}\x{6237}@\x{4F8B}.example"),
        ] {
            assert_eq!(to_unitext(plain), encoded);
            assert_eq!(from_unitext(encoded).as_deref(), Some(plain));
        }
        for text in [r"\x{D800}", r"\x{A}", r"\x{", r"\y"] {
            assert_eq!(from_unitext(text), None, "{text}");
        }
    }
}

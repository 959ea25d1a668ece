//! The commands of a mail transaction, written with the parameters the primary offered.

use holdfast_mail::{BodyType, Envelope, Notify, Recipient, Ret};

use super::extensions::Extensions;

/// `MAIL FROM:<…>` with what the envelope carries and the primary understands.
pub(super) fn mail(envelope: &Envelope, offered: &Extensions, out: &mut Vec<u8>) {
    write(out, &["MAIL FROM:<", envelope.reverse_path.as_str(), ">"]);
    if offered.size {
        write(out, &[" SIZE=", &envelope.body.len.to_string()]);
    }
    if envelope.body_type == BodyType::EightBitMime && offered.eight_bit_mime {
        write(out, &[" BODY=8BITMIME"]);
    }
    if offered.smtputf8 && (needs_smtputf8(envelope) || offered.dsn && has_utf8_orcpt(envelope)) {
        write(out, &[" SMTPUTF8"]);
    }
    if offered.dsn {
        match envelope.ret {
            Some(Ret::Full) => write(out, &[" RET=FULL"]),
            Some(Ret::Headers) => write(out, &[" RET=HDRS"]),
            None => {}
        }
        if let Some(envid) = envelope.envid.as_deref().filter(|text| is_word(text)) {
            write(out, &[" ENVID=", envid]);
        }
    }
    write(out, &["\r\n"]);
}

/// `RCPT TO:<…>`.
pub(super) fn rcpt(recipient: &Recipient, offered: &Extensions, out: &mut Vec<u8>) {
    write(out, &["RCPT TO:<", recipient.address.as_str(), ">"]);
    if offered.dsn {
        if let Some(notify) = recipient.notify {
            write(out, &[" NOTIFY="]);
            write_notify(notify, out);
        }
        // RFC 6533 section 3: as it is, an address in UTF-8 goes only to who has SMTPUTF8. Without ORCPT a
        // notification names the recipient alone; with one that is refused, no mail would come at all.
        let goes = |text: &&str| is_word(text) && (offered.smtputf8 || text.is_ascii());
        if let Some(orcpt) = recipient.orcpt.as_deref().filter(goes) {
            write(out, &[" ORCPT=", orcpt]);
        }
    }
    write(out, &["\r\n"]);
}

/// Whether the envelope can only go to a primary with SMTPUTF8.
pub(super) fn needs_smtputf8(envelope: &Envelope) -> bool {
    envelope.smtputf8
        || !envelope.reverse_path.as_str().is_ascii()
        || envelope
            .recipients
            .iter()
            .any(|recipient| !recipient.address.as_str().is_ascii())
}

/// Whether a parameter of RCPT is one that only a primary with SMTPUTF8, told of it at MAIL, can read.
fn has_utf8_orcpt(envelope: &Envelope) -> bool {
    let mut orcpts = envelope
        .recipients
        .iter()
        .filter_map(|to| to.orcpt.as_ref());
    orcpts.any(|orcpt| !orcpt.is_ascii())
}

fn write_notify(notify: Notify, out: &mut Vec<u8>) {
    let mut separator = "";
    for (asked, keyword) in [
        (notify.success, "SUCCESS"),
        (notify.failure, "FAILURE"),
        (notify.delay, "DELAY"),
    ] {
        if asked {
            write(out, &[separator, keyword]);
            separator = ",";
        }
    }
    if separator.is_empty() {
        write(out, &["NEVER"]);
    }
}

/// ENVID and ORCPT are passed on as they came. One that could end the command, or add another
/// parameter to it, is left out: the door refuses such, and this is the second lock.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| !c.is_control() && !c.is_whitespace())
}

fn write(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notify_without_any_wish_is_never() {
        for (notify, text) in [
            (Notify::default(), "NEVER"),
            (
                Notify {
                    success: true,
                    failure: false,
                    delay: true,
                },
                "SUCCESS,DELAY",
            ),
        ] {
            let mut out = Vec::new();
            write_notify(notify, &mut out);
            assert_eq!(out, text.as_bytes());
        }
    }

    #[test]
    fn a_parameter_that_would_break_the_line_is_no_word() {
        for text in ["", "a b", "a\r\nRCPT TO:<x@y.z>", "a\u{85}b", "a\u{2028}b"] {
            assert!(!is_word(text), "{text:?}");
        }
        assert!(is_word("rfc822;joe+40x.y"));
    }
}

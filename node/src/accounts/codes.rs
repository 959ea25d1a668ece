//! The second factor: time-based codes of RFC 6238, as every authenticator makes them.

use std::time::{SystemTime, UNIX_EPOCH};

use totp_rs::{Builder, Secret, Totp};

/// Octets of a secret: 160 bits, as RFC 4226 section 4 recommends.
const SECRET_OCTETS: usize = 20;

/// A secret that is offered to somebody, until they have shown that their device knows it.
pub struct Enrolment {
    pub secret: Vec<u8>,
    /// For typing, in base32.
    pub text: String,
    /// For authenticators: `otpauth:` as they read it.
    pub uri: String,
}

impl Enrolment {
    /// # Errors
    /// The system has no random bytes.
    pub fn new(account: &str, issuer: &str) -> Result<Self, String> {
        let mut secret = vec![0; SECRET_OCTETS];
        getrandom::fill(&mut secret).map_err(|error| error.to_string())?;
        Ok(Self::of(secret, account, issuer))
    }

    /// One that was offered before.
    #[must_use]
    pub fn of(secret: Vec<u8>, account: &str, issuer: &str) -> Self {
        let text = Secret::new(secret.clone().into()).to_base32();
        // Names and hosts need no escape but these (see `is_account_name`).
        let account = account.replace('+', "%2B").replace('@', "%40");
        let uri = format!("otpauth://totp/{issuer}:{account}?secret={text}&issuer={issuer}");
        Self { secret, text, uri }
    }
}

/// The step whose code it is, now or half a minute to either side.
#[must_use]
pub fn code_fits(secret: &[u8], code: &str) -> Option<u64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    fits_at(secret, code, since.as_secs())
}

fn fits_at(secret: &[u8], code: &str, seconds: u64) -> Option<u64> {
    let code: String = code.chars().filter(|c| !c.is_whitespace()).collect();
    if code.len() != 6 || !code.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    totp(secret)?.check(&code, seconds)
}

fn totp(secret: &[u8]) -> Option<Totp> {
    Builder::new()
        .with_secret(Secret::new(secret.into()))
        .build()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6238 appendix B, SHA-1, the last six of eight digits.
    #[test]
    fn codes_are_those_of_the_rfc() {
        let secret = b"12345678901234567890";
        for (seconds, code) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_234_567_890, "005924"),
            (20_000_000_000, "353130"),
        ] {
            assert_eq!(fits_at(secret, code, seconds), Some(seconds / 30));
            // RFC 6238 section 5.2: one step back for the delay of the network and the hand.
            assert_eq!(fits_at(secret, code, seconds + 30), Some(seconds / 30));
            assert_eq!(fits_at(secret, code, seconds + 90), None);
        }
        assert_eq!(fits_at(secret, "287 082", 59), Some(1), "as it is shown");
        for code in ["", "28708", "2870821", "28708a", "ⅡⅧⅦ082"] {
            assert_eq!(fits_at(secret, code, 59), None, "{code}");
        }
        assert_eq!(fits_at(b"short", "287082", 59), None);
    }

    #[test]
    fn an_authenticator_is_told_who_and_where() {
        let offered = Enrolment::of(vec![0; 20], "ann+mx@example.org", "Holdfast");
        assert_eq!(
            offered.uri,
            "otpauth://totp/Holdfast:ann%2Bmx%40example.org\
             ?secret=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA&issuer=Holdfast"
        );
        let drawn = Enrolment::new("ann", "Holdfast").unwrap();
        assert_ne!(
            drawn.secret,
            Enrolment::new("ann", "Holdfast").unwrap().secret
        );
    }
}

//! Tokens: what programs show instead of a password.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use holdfast_ledger::account::{AccessToken, Account, Scopes};
use holdfast_ledger::query;
use holdfast_mail::Timestamp;

use crate::replica::Cluster;

/// Begins every token, so that leaked ones can be searched for.
const PREFIX: &str = "holdfast_";

const ID_OCTETS: usize = 16;
const SECRET_OCTETS: usize = 32;

/// A token just made. Its text is shown once, and kept nowhere.
pub struct NewToken {
    pub text: String,
    pub token: AccessToken,
}

impl NewToken {
    /// # Errors
    /// The system has no random bytes.
    pub fn draw(
        label: &str,
        scopes: Scopes,
        valid_for: Option<Duration>,
        now: Timestamp,
    ) -> Result<Self, String> {
        let mut drawn = [0; ID_OCTETS + SECRET_OCTETS];
        getrandom::fill(&mut drawn).map_err(|error| error.to_string())?;
        let mut id = [0; ID_OCTETS];
        id.copy_from_slice(&drawn[..ID_OCTETS]);
        Ok(Self {
            text: format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(drawn)),
            token: AccessToken {
                id,
                secret_hash: *blake3::hash(&drawn[ID_OCTETS..]).as_bytes(),
                scopes,
                label: label.to_owned(),
                expires_at: valid_for.map(|span| now.plus(span)),
            },
        })
    }
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token is unknown, expired or was removed")]
    Unknown,
    #[error("the token may not do this; make one with the scope that is needed")]
    Scope,
    #[error("the tokens cannot be read")]
    Unreadable,
}

/// Whose token it is, if it is good for what is wanted.
///
/// # Errors
/// It is not.
pub fn bearer(
    cluster: &Cluster,
    text: &str,
    wanted: Scopes,
    now: Timestamp,
) -> Result<(Account, AccessToken), TokenError> {
    let (id, secret) = parse(text).ok_or(TokenError::Unknown)?;
    let found = query::access_token(&cluster.view(), &id).map_err(|error| {
        tracing::error!("the tokens cannot be read: {error}");
        TokenError::Unreadable
    })?;
    let (account, token) = found.ok_or(TokenError::Unknown)?;
    judge(&token, &secret, wanted, now)?;
    Ok((account, token))
}

fn judge(
    token: &AccessToken,
    secret: &[u8],
    wanted: Scopes,
    now: Timestamp,
) -> Result<(), TokenError> {
    // Hashes compare in constant time.
    if blake3::hash(secret) != token.secret_hash || token.expires_at.is_some_and(|at| now >= at) {
        return Err(TokenError::Unknown);
    }
    if token.scopes.include(wanted) {
        Ok(())
    } else {
        Err(TokenError::Scope)
    }
}

/// Whether it looks like one.
pub(super) fn is_token(text: &str) -> bool {
    text.starts_with(PREFIX)
}

fn parse(text: &str) -> Option<([u8; ID_OCTETS], Vec<u8>)> {
    let bytes = URL_SAFE_NO_PAD.decode(text.strip_prefix(PREFIX)?).ok()?;
    let (id, secret) = bytes.split_at_checked(ID_OCTETS)?;
    (secret.len() == SECRET_OCTETS)
        .then(|| (id.try_into().ok(), secret.to_vec()))
        .and_then(|(id, secret)| Some((id?, secret)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_its_scopes_and_its_time() {
        let read = Scopes {
            read: true,
            ..Scopes::default()
        };
        let hour = Some(Duration::from_secs(3600));
        let made = NewToken::draw("backup", read, hour, Timestamp(0)).unwrap();
        let (id, secret) = parse(&made.text).unwrap();
        assert_eq!(id, made.token.id);
        let judge = |secret: &[u8], wanted, at| judge(&made.token, secret, wanted, Timestamp(at));
        assert_eq!(judge(&secret, read, 0), Ok(()));
        assert_eq!(judge(&secret, Scopes::ALL, 0), Err(TokenError::Scope));
        assert_eq!(judge(&secret, read, 3_600_000), Err(TokenError::Unknown));
        assert_eq!(judge(&[0; 32], read, 0), Err(TokenError::Unknown));
    }

    #[test]
    fn what_is_no_token_is_not_read() {
        let made = NewToken::draw("", Scopes::ALL, None, Timestamp(0)).unwrap();
        for text in [
            "",
            "holdfast_",
            &made.text[1..],
            &made.text[..40],
            "holdfast_!!!",
        ] {
            assert!(parse(text).is_none(), "{text}");
        }
    }
}

//! Sessions, as texts that the browser keeps and every node can read.
//!
//! A session says who signed in, under which epoch of the account, and when; a keyed hash seals
//! it. It ends when its time is over, and at once on all nodes when the account's epoch changes:
//! with a sign-out, a new password, or the account's end.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use holdfast_ledger::account::Account;
use holdfast_ledger::{KvError, query};
use holdfast_mail::Timestamp;

use crate::replica::Cluster;

/// How long a session lasts: a working day.
pub const SESSION_TIME: Duration = Duration::from_secs(12 * 3600);

const SEAL_OCTETS: usize = 32;

/// The cluster's key for sealing sessions.
#[derive(Clone)]
pub struct Seal([u8; 32]);

/// Somebody who signed in.
#[derive(Clone)]
pub struct Session {
    pub account: Account,
    /// As the browser keeps it.
    pub text: String,
    /// What a form must bring back, so that another site's page cannot send it.
    pub form_key: String,
}

impl Seal {
    /// `ca_key`: what only the nodes of this cluster have.
    #[must_use]
    pub fn new(ca_key: &[u8]) -> Self {
        Self(blake3::derive_key("holdfast 2026 portal sessions", ca_key))
    }

    /// What the browser is given.
    #[must_use]
    pub fn begin(&self, account: &Account, now: Timestamp) -> String {
        let said = format!("{}/{}/{}", now.0, account.epoch, account.name);
        let mut bytes = self.seal("session", said.as_bytes()).as_bytes().to_vec();
        bytes.extend(said.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Who it is, if it is a session of this cluster that has not ended.
    ///
    /// # Errors
    /// The account cannot be read.
    pub fn read(
        &self,
        cluster: &Cluster,
        text: &str,
        now: Timestamp,
    ) -> Result<Option<Session>, KvError> {
        let Some((begun_at, epoch, name)) = self.open(text) else {
            return Ok(None);
        };
        if now >= begun_at.plus(SESSION_TIME) {
            return Ok(None);
        }
        let account = query::account(&cluster.view(), &name)?;
        Ok(account
            .filter(|account| account.epoch == epoch)
            .map(|account| Session {
                account,
                text: text.to_owned(),
                form_key: URL_SAFE_NO_PAD.encode(self.seal("form", text.as_bytes()).as_bytes()),
            }))
    }

    fn open(&self, text: &str) -> Option<(Timestamp, u64, String)> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (seal, said) = bytes.split_at_checked(SEAL_OCTETS)?;
        // In constant time.
        if self.seal("session", said) != <[u8; SEAL_OCTETS]>::try_from(seal).ok()? {
            return None;
        }
        let mut parts = std::str::from_utf8(said).ok()?.splitn(3, '/');
        let begun_at = parts.next()?.parse().ok().map(Timestamp)?;
        let epoch = parts.next()?.parse().ok()?;
        Some((begun_at, epoch, parts.next()?.to_owned()))
    }

    /// Whether a form brought back the session's key.
    #[must_use]
    pub fn is_form_key(session: &Session, given: &str) -> bool {
        blake3::hash(session.form_key.as_bytes()) == blake3::hash(given.as_bytes())
    }

    fn seal(&self, what: &str, bytes: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(what.as_bytes());
        hasher.update(&[0]);
        hasher.update(bytes);
        hasher.finalize()
    }
}

#[cfg(test)]
mod tests {
    use holdfast_ledger::account::SendLimits;

    use super::*;

    fn account() -> Account {
        Account {
            name: "ann/x@example.org".to_owned(),
            password: String::new(),
            second_factor: None,
            domains: vec![],
            created_at: Timestamp(1),
            epoch: 7,
            locked_until: None,
            places: vec![],
            signed_in_at: None,
            signed_in_from: String::new(),
            tokens: vec![],
            send_limits: SendLimits::default(),
        }
    }

    #[test]
    fn a_session_is_read_by_whoever_has_the_key() {
        let text = Seal::new(b"key").begin(&account(), Timestamp(5));
        let read = Seal::new(b"key").open(&text);
        assert_eq!(
            read,
            Some((Timestamp(5), 7, "ann/x@example.org".to_owned()))
        );
        assert_eq!(Seal::new(b"other").open(&text), None);
    }

    #[test]
    fn no_letter_of_a_session_can_be_changed() {
        let seal = Seal::new(b"key");
        let text = seal.begin(&account(), Timestamp(5));
        for at in 0..text.len() {
            let mut forged = text.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).unwrap();
            assert_eq!(seal.open(&forged), None, "at {at}");
            assert_eq!(seal.open(&text[..at]), None, "cut at {at}");
        }
    }
}

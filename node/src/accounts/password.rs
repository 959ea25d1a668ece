//! Passwords, hashed with Argon2id (RFC 9106) by the parameters that OWASP recommends, which are
//! the library's own: 19 MiB, two passes.

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};

/// Shorter ones are guessed from their hash.
pub const PASSWORD_OCTETS_MIN: usize = 10;

/// Nobody types more.
pub const PASSWORD_OCTETS_MAX: usize = 1000;

/// Of no password: who tries an account that does not exist waits as long as for one that does.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$YmFja3VwTVhiYWNrdXA\
                      $CnzXNQX9U0QvL8qPmq9kW9VJVRxm3n2l4J2kT4oWbYE";

pub(super) fn hash(password: &str) -> Result<String, String> {
    Argon2::default()
        .hash_password(password.as_bytes())
        .map(|hash| hash.to_string())
        .map_err(|error| error.to_string())
}

pub(super) fn is_right(password: &str, hash: Option<&str>) -> bool {
    if password.len() > PASSWORD_OCTETS_MAX {
        return false;
    }
    let Ok(parsed) = PasswordHash::new(hash.unwrap_or(NOBODY)) else {
        return false;
    };
    let fits = Argon2::default().verify_password(password.as_bytes(), &parsed);
    fits.is_ok() && hash.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_password_that_was_hashed_is_right() {
        let hashed = hash("correct horse battery").unwrap();
        assert!(
            hashed.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{hashed}"
        );
        assert!(is_right("correct horse battery", Some(&hashed)));
        assert!(!is_right("correct horse batterx", Some(&hashed)));
        assert!(!is_right("", Some(&hashed)));
        assert!(!is_right("correct horse battery", Some("not a hash")));
        assert_ne!(hash("correct horse battery").unwrap(), hashed, "salted");
    }

    #[test]
    fn an_account_that_does_not_exist_costs_a_hash_too() {
        assert!(PasswordHash::new(NOBODY).is_ok());
        assert!(!is_right("whatever", None));
    }
}

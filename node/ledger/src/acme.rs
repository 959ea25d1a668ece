//! A certificate for the names under which the cluster takes mail, ordered from an authority by ACME
//! (RFC 8555) once for all nodes.
//!
//! Account, answers and certificate are entered in the log: so any node can go on with the order of
//! another, answer the authority, and present the certificate. Its private key is a row like others.

use holdfast_proto::ledger as proto;

use crate::Undecodable;

/// Octets of the directory's URL; what HTTP servers take as a request line at the least is 8,000
/// (RFC 9110 section 4.1), and directories are short.
pub const ACME_URL_OCTETS_MAX: usize = 2_000;

/// Addresses of an account (RFC 8555 section 7.1.2): few authorities take more than one.
pub const ACME_CONTACTS_MAX: usize = 8;

/// Octets of one: `mailto:` and an address (RFC 5321 section 4.5.3.1).
pub const ACME_CONTACT_OCTETS_MAX: usize = 330;

/// Octets of the authorities, as PEM, under whose certificates the directory may be. About thirty.
pub const ACME_AUTHORITIES_OCTETS_MAX: usize = 64 << 10;

/// Octets of an account's URL and key, with which it signs. A few hundred are usual.
pub const ACME_ACCOUNT_OCTETS_MAX: usize = 16 << 10;

/// Names in one certificate: the limit of the largest public authority, and far more nodes than a
/// cluster has.
pub const ACME_NAMES_MAX: usize = 100;

/// Octets of a name (RFC 1035 section 2.3.4).
pub const ACME_NAME_OCTETS_MAX: usize = 255;

/// Octets of a token: 128 bits in base64url are 22 (RFC 8555 section 8.3), and authorities take twice
/// that.
pub const ACME_TOKEN_OCTETS_MAX: usize = 200;

/// Octets of a key authorization: a token, a dot and 43 of a hash (RFC 8555 section 8.1).
pub const ACME_ANSWER_OCTETS_MAX: usize = 300;

/// Octets of a certificate with those above it, as PEM. With a hundred names and three above about
/// fifteen thousand.
pub const ACME_CHAIN_OCTETS_MAX: usize = 64 << 10;

/// Octets of its private key, as PEM: RSA of 4096 bits needs 3,300.
pub const ACME_KEY_OCTETS_MAX: usize = 16 << 10;

/// Octets of why an order failed: it is read by people, in one line.
pub const ACME_WHY_OCTETS_MAX: usize = 1_000;

/// What is entered about it.
#[derive(Clone, PartialEq, Eq)]
pub enum AcmeChange {
    /// Order from this directory. Another directory, or other contacts, need another account; and an
    /// order that failed is tried at once.
    Use(AcmeDirectory),
    /// Order no more, and forget the account and the certificate with its key.
    Stop,
    /// The leader is about to order. Answers of orders before it are forgotten.
    Try {
        /// How often it was tried since the last certificate; refused if somebody else tried
        /// meanwhile.
        tries: u32,
    },
    /// What that came to, if not to a certificate.
    Failed { why: String },
    /// The account that the directory has given.
    Account {
        directory: String,
        /// Its URL and key, as the client library writes them.
        credentials: Vec<u8>,
    },
    /// What every node says to the authority that asks for a token (RFC 8555 section 8.3).
    Answer {
        token: String,
        key_authorization: String,
    },
    /// The certificate.
    Issued(AcmeIssued),
}

/// Where certificates are ordered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AcmeDirectory {
    /// `https:` URL (RFC 8555 section 7.1.1).
    pub url: String,
    /// `mailto:` URLs; may be none.
    pub contacts: Vec<String>,
    /// PEM; whose certificate the directory must have. Empty: one that the machine trusts.
    pub authorities: String,
}

/// A certificate that was ordered, as one authority gave it.
#[derive(Clone, PartialEq, Eq)]
pub struct AcmeIssued {
    /// Of the authority.
    pub directory: String,
    /// PEM, the certificate first.
    pub chain: String,
    /// PEM.
    pub key: String,
    /// That it was ordered for.
    pub names: Vec<String>,
}

impl AcmeChange {
    /// What is entered must be small, and be what it says.
    pub(crate) fn is_sound(&self) -> bool {
        match self {
            Self::Use(directory) => directory.is_sound(),
            Self::Stop | Self::Try { .. } => true,
            Self::Failed { why } => why.len() <= ACME_WHY_OCTETS_MAX,
            Self::Account { credentials, .. } => {
                (1..=ACME_ACCOUNT_OCTETS_MAX).contains(&credentials.len())
            }
            Self::Answer {
                token,
                key_authorization,
            } => {
                is_acme_token(token)
                    && (1..=ACME_ANSWER_OCTETS_MAX).contains(&key_authorization.len())
            }
            Self::Issued(issued) => issued.is_sound(),
        }
    }

    pub(crate) fn to_proto(&self) -> proto::acme::Change {
        use proto::acme::Change;
        match self {
            Self::Use(directory) => Change::Use(directory.to_proto()),
            Self::Stop => Change::Stop(true),
            Self::Try { tries } => Change::Try(*tries),
            Self::Failed { why } => Change::Failed(why.clone()),
            Self::Account {
                directory,
                credentials,
            } => Change::Account(proto::AcmeAccount {
                directory: directory.clone(),
                credentials: credentials.clone().into(),
            }),
            Self::Answer {
                token,
                key_authorization,
            } => Change::Answer(proto::AcmeAnswer {
                token: token.clone(),
                key_authorization: key_authorization.clone(),
            }),
            Self::Issued(issued) => Change::Issued(proto::AcmeIssued {
                directory: issued.directory.clone(),
                chain: issued.chain.clone(),
                key: issued.key.clone(),
                names: issued.names.clone(),
            }),
        }
    }

    pub(crate) fn from_proto(change: proto::acme::Change) -> Result<Self, Undecodable> {
        use proto::acme::Change;
        Ok(match change {
            Change::Use(directory) => Self::Use(AcmeDirectory::from_proto(directory)),
            Change::Stop(_) => Self::Stop,
            Change::Try(tries) => Self::Try { tries },
            Change::Failed(why) => Self::Failed { why },
            Change::Account(account) => Self::Account {
                directory: account.directory,
                credentials: account.credentials.into(),
            },
            Change::Answer(answer) => Self::Answer {
                token: answer.token,
                key_authorization: answer.key_authorization,
            },
            Change::Issued(issued) => Self::Issued(AcmeIssued {
                directory: issued.directory,
                chain: issued.chain,
                key: issued.key,
                names: issued.names,
            }),
        })
    }
}

impl AcmeDirectory {
    fn is_sound(&self) -> bool {
        let is_contact = |contact: &String| {
            contact.starts_with("mailto:") && contact.len() <= ACME_CONTACT_OCTETS_MAX
        };
        self.url.starts_with("https://")
            && self.url.len() <= ACME_URL_OCTETS_MAX
            && self.contacts.len() <= ACME_CONTACTS_MAX
            && self.contacts.iter().all(is_contact)
            && self.authorities.len() <= ACME_AUTHORITIES_OCTETS_MAX
    }

    pub(crate) fn to_proto(&self) -> proto::AcmeDirectory {
        proto::AcmeDirectory {
            url: self.url.clone(),
            contacts: self.contacts.clone(),
            authorities: self.authorities.clone(),
        }
    }

    pub(crate) fn from_proto(directory: proto::AcmeDirectory) -> Self {
        Self {
            url: directory.url,
            contacts: directory.contacts,
            authorities: directory.authorities,
        }
    }
}

impl AcmeIssued {
    fn is_sound(&self) -> bool {
        let is_name = |name: &String| (1..=ACME_NAME_OCTETS_MAX).contains(&name.len());
        (1..=ACME_CHAIN_OCTETS_MAX).contains(&self.chain.len())
            && (1..=ACME_KEY_OCTETS_MAX).contains(&self.key.len())
            && (1..=ACME_NAMES_MAX).contains(&self.names.len())
            && self.names.iter().all(is_name)
    }
}

/// Whether it can be a token: letters, digits, `-` and `_` only, for it is part of a path (RFC 8555
/// section 8.3).
#[must_use]
pub fn is_acme_token(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=ACME_TOKEN_OCTETS_MAX).contains(&text.len()) && text.bytes().all(fits)
}

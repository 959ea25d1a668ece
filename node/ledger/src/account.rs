//! Who may sign in to look after domains, and with what.
//!
//! Passwords are checked by the node that was given one, with a hash that is slow on purpose. What
//! came of it is entered in the log: so a guess counts on every node, and a code of the second
//! factor is good once in the whole cluster.

use std::net::IpAddr;
use std::time::Duration;

use holdfast_mail::{Domain, Timestamp, network};
use holdfast_proto::ledger as proto;

use crate::wire::{domain, exactly};
use crate::{KvError, Undecodable, row};

/// Octets of a name; e-mail addresses fit.
pub const ACCOUNT_NAME_OCTETS_MAX: usize = 254;

/// Tokens of one account: they are in its row.
pub const ACCOUNT_TOKENS_MAX: usize = 50;

/// Octets of a token's label.
pub const TOKEN_LABEL_OCTETS_MAX: usize = 100;

/// Wrong passwords or codes from one network within [`FAILURE_PERIOD`] that lock an account for it, for
/// [`LOCK_TIME`]: a guesser has about 500 tries a day, and who forgot a password is not locked out for
/// long. Not for other networks: else five guesses each quarter of an hour kept a customer out for good.
pub const FAILURES_MAX: u32 = 5;
pub const FAILURE_PERIOD: Duration = Duration::from_secs(15 * 60);
pub const LOCK_TIME: Duration = Duration::from_secs(15 * 60);

/// The same from all networks together that nobody has signed in from lately: then the account is locked
/// for all of those, so that a guesser with many addresses has no more than 2,400 tries a day.
pub const FAILURES_EVERYWHERE_MAX: u32 = 25;

/// How long a network counts as one of the account's own after somebody signed in from there: whatever
/// others try elsewhere, it is not locked out.
pub const FAMILIAR_TIME: Duration = Duration::from_secs(30 * 24 * 3600);

/// Networks that an account's row remembers, about 50 octets each. Those that failed are fewer, for the
/// account is locked before; beyond it strangers are forgotten first, and the oldest of them.
pub const PLACES_MAX: usize = 64;

/// Recipients that one account may send to in an hour unless an operator says otherwise: an office's
/// day, and few enough that a stolen password does not get the nodes onto every blocklist before
/// somebody looks.
pub const SEND_RECIPIENTS_DEFAULT: u64 = 1_000;

/// Octets of mail that it may hand in in an hour: a stolen password must not fill the nodes' disks
/// with mail that nobody takes.
pub const SEND_BYTES_DEFAULT: u64 = 1_000_000_000;

/// What an account may send in an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendLimits {
    pub recipients: u64,
    pub bytes: u64,
}

impl Default for SendLimits {
    fn default() -> Self {
        Self {
            recipients: SEND_RECIPIENTS_DEFAULT,
            bytes: SEND_BYTES_DEFAULT,
        }
    }
}

impl SendLimits {
    /// A zero stands for the default.
    pub(crate) fn from_proto(limits: proto::SendLimits) -> Self {
        let or = |value: u64, default| if value == 0 { default } else { value };
        Self {
            recipients: or(limits.recipients, SEND_RECIPIENTS_DEFAULT),
            bytes: or(limits.bytes, SEND_BYTES_DEFAULT),
        }
    }
}

#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    /// Hash of the password, as a PHC string.
    pub password: String,
    /// The secret of RFC 6238, if codes are asked for.
    pub second_factor: Option<Vec<u8>>,
    pub domains: Vec<Domain>,
    pub created_at: Timestamp,
    /// Sessions begun under another epoch have ended.
    pub epoch: u64,
    /// For whoever comes from a network that is not the account's own.
    pub locked_until: Option<Timestamp>,
    pub places: Vec<Place>,
    pub signed_in_at: Option<Timestamp>,
    pub signed_in_from: String,
    pub tokens: Vec<AccessToken>,
    pub send_limits: SendLimits,
}

/// A network from which somebody tried to sign in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub network: String,
    pub locked_until: Option<Timestamp>,
    pub signed_in_at: Option<Timestamp>,
}

/// A key for programs.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessToken {
    pub id: [u8; 16],
    /// BLAKE3 of the secret, which has 256 bits: no slow hash is needed.
    pub secret_hash: [u8; 32],
    pub scopes: Scopes,
    pub label: String,
    /// None: never.
    pub expires_at: Option<Timestamp>,
}

/// What a token is good for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes {
    /// See the domain's state and its list of mail.
    pub read: bool,
    /// Ask for delivery.
    pub deliver: bool,
    /// Keep mail back, release and delete it.
    pub mail: bool,
    /// Change how mail is held, and recipients.
    pub settings: bool,
    /// Send mail in the domains' names.
    pub send: bool,
    /// Get the domains' mail (ATRN): its content, which nothing else here shows.
    pub fetch: bool,
}

#[derive(Clone, PartialEq, Eq)]
pub enum AccountChange {
    Add {
        password: String,
        domains: Vec<Domain>,
    },
    Remove,
    /// Ends all sessions.
    Password(String),
    /// Ends all sessions.
    SecondFactor(Option<Vec<u8>>),
    Domains(Vec<Domain>),
    /// Ends all sessions.
    SignOut,
    Unlock,
    /// Somebody tried to sign in.
    SignIn {
        good: bool,
        /// Of the code, by RFC 6238; 0: the account has no second factor.
        step: u64,
        from: String,
    },
    AddToken(AccessToken),
    RemoveToken([u8; 16]),
    /// Recipients and octets in an hour; 0: the default.
    SendLimits {
        recipients: u64,
        bytes: u64,
    },
}

impl Account {
    pub(crate) fn from_row(
        name: &str,
        key: &[u8],
        row: proto::AccountRow,
    ) -> Result<Self, KvError> {
        let unreadable = |error| row::unreadable(key, error);
        let time = |ms| (ms > 0).then_some(Timestamp(ms));
        Ok(Self {
            name: name.to_owned(),
            password: row.password,
            second_factor: (!row.second_factor.is_empty()).then(|| row.second_factor.to_vec()),
            domains: domains_from(row.domains).map_err(unreadable)?,
            created_at: Timestamp(row.created_at_ms),
            epoch: row.epoch,
            locked_until: time(row.locked_until_ms),
            places: row
                .places
                .into_iter()
                .map(|place| Place {
                    network: place.network,
                    locked_until: time(place.locked_until_ms),
                    signed_in_at: time(place.signed_in_at_ms),
                })
                .collect(),
            signed_in_at: time(row.signed_in_at_ms),
            signed_in_from: row.signed_in_from,
            tokens: row
                .tokens
                .into_iter()
                .map(AccessToken::from_proto)
                .collect::<Result<_, _>>()
                .map_err(unreadable)?,
            send_limits: SendLimits::from_proto(row.send_limits.unwrap_or_default()),
        })
    }

    /// Whether it is locked for all networks but its own.
    #[must_use]
    pub fn is_locked(&self, now: Timestamp) -> bool {
        self.locked_until.is_some_and(|until| now < until)
    }

    /// Whether it is locked for somebody at this address.
    #[must_use]
    pub fn is_locked_for(&self, from: &str, now: Timestamp) -> bool {
        let network = network_of(from);
        let place = self.places.iter().find(|place| place.network == network);
        let is_familiar = place.is_some_and(|place| place.is_familiar(now));
        let is_shut = place.is_some_and(|place| place.locked_until.is_some_and(|at| now < at));
        is_shut || self.is_locked(now) && !is_familiar
    }
}

impl Place {
    /// Whether somebody signed in from there lately.
    #[must_use]
    pub fn is_familiar(&self, now: Timestamp) -> bool {
        let until = self.signed_in_at.map(|at| at.plus(FAMILIAR_TIME));
        until.is_some_and(|until| now < until)
    }
}

/// What counts as one client among those who sign in; a text that is no address is one by itself.
pub(crate) fn network_of(from: &str) -> String {
    match from.parse::<IpAddr>() {
        Ok(address) => network::client(address).to_string(),
        Err(_) => from.to_owned(),
    }
}

/// Lower-case letters, digits and `._@+-`: names of people and their e-mail addresses.
#[must_use]
pub fn is_account_name(name: &str) -> bool {
    let fits = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"._@+-".contains(&c);
    !name.is_empty() && name.len() <= ACCOUNT_NAME_OCTETS_MAX && name.bytes().all(fits)
}

impl Scopes {
    pub const ALL: Self = Self {
        read: true,
        deliver: true,
        mail: true,
        settings: true,
        send: true,
        fetch: true,
    };

    /// Whether everything in `other` is in this.
    #[must_use]
    pub fn include(self, other: Self) -> bool {
        self.bits() & other.bits() == other.bits()
    }

    /// What it includes, in words.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        [
            (self.read, "read"),
            (self.deliver, "deliver"),
            (self.mail, "mail"),
            (self.settings, "settings"),
            (self.send, "send"),
            (self.fetch, "fetch"),
        ]
        .into_iter()
        .filter_map(|(is, name)| is.then_some(name))
    }

    /// # Errors
    /// The word that names none.
    pub fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, &'a str> {
        let mut scopes = Self::default();
        for name in names {
            match name {
                "read" => scopes.read = true,
                "deliver" => scopes.deliver = true,
                "mail" => scopes.mail = true,
                "settings" => scopes.settings = true,
                "send" => scopes.send = true,
                "fetch" => scopes.fetch = true,
                other => return Err(other),
            }
        }
        Ok(scopes)
    }

    pub(crate) fn bits(self) -> u32 {
        u32::from(self.read)
            | u32::from(self.deliver) << 1
            | u32::from(self.mail) << 2
            | u32::from(self.settings) << 3
            | u32::from(self.send) << 4
            | u32::from(self.fetch) << 5
    }

    /// What a newer version may grant is not granted here.
    pub(crate) fn from_bits(bits: u32) -> Self {
        Self {
            read: bits & 1 != 0,
            deliver: bits & 2 != 0,
            mail: bits & 4 != 0,
            settings: bits & 8 != 0,
            send: bits & 16 != 0,
            fetch: bits & 32 != 0,
        }
    }
}

impl AccessToken {
    /// What it is called where it is listed: its id, in hexadecimal.
    #[must_use]
    pub fn name(&self) -> String {
        self.id.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub(crate) fn to_proto(&self) -> proto::AccessToken {
        proto::AccessToken {
            id: self.id.to_vec().into(),
            secret_hash: self.secret_hash.to_vec().into(),
            scopes: self.scopes.bits(),
            label: self.label.clone(),
            expires_at_ms: self.expires_at.map_or(0, |at| at.0),
        }
    }

    fn from_proto(token: proto::AccessToken) -> Result<Self, Undecodable> {
        Ok(Self {
            id: exactly("token id", &token.id)?,
            secret_hash: exactly("secret hash", &token.secret_hash)?,
            scopes: Scopes::from_bits(token.scopes),
            label: token.label,
            expires_at: (token.expires_at_ms > 0).then_some(Timestamp(token.expires_at_ms)),
        })
    }
}

impl AccountChange {
    pub(crate) fn to_proto(&self) -> proto::of_account::Change {
        use proto::of_account::Change;
        match self {
            Self::Add { password, domains } => Change::Add(proto::AddAccount {
                password: password.clone(),
                domains: Some(domains_to(domains)),
            }),
            Self::Remove => Change::Remove(true),
            Self::Password(hash) => Change::Password(hash.clone()),
            Self::SecondFactor(secret) => {
                Change::SecondFactor(secret.clone().unwrap_or_default().into())
            }
            Self::Domains(domains) => Change::Domains(domains_to(domains)),
            Self::SignOut => Change::SignOut(true),
            Self::Unlock => Change::Unlock(true),
            Self::SignIn { good, step, from } => Change::SignIn(proto::SignIn {
                good: *good,
                step: *step,
                from: from.clone(),
            }),
            Self::AddToken(token) => Change::AddToken(token.to_proto()),
            Self::RemoveToken(id) => Change::RemoveToken(id.to_vec().into()),
            Self::SendLimits { recipients, bytes } => Change::SendLimits(proto::SendLimits {
                recipients: *recipients,
                bytes: *bytes,
            }),
        }
    }

    pub(crate) fn from_proto(change: proto::of_account::Change) -> Result<Self, Undecodable> {
        use proto::of_account::Change;
        Ok(match change {
            Change::Add(add) => Self::Add {
                password: add.password,
                domains: domains_from(add.domains.unwrap_or_default().names)?,
            },
            Change::Remove(_) => Self::Remove,
            Change::Password(hash) => Self::Password(hash),
            Change::SecondFactor(secret) => {
                Self::SecondFactor((!secret.is_empty()).then(|| secret.to_vec()))
            }
            Change::Domains(domains) => Self::Domains(domains_from(domains.names)?),
            Change::SignOut(_) => Self::SignOut,
            Change::Unlock(_) => Self::Unlock,
            Change::SignIn(sign_in) => Self::SignIn {
                good: sign_in.good,
                step: sign_in.step,
                from: sign_in.from,
            },
            Change::AddToken(token) => Self::AddToken(AccessToken::from_proto(token)?),
            Change::RemoveToken(id) => Self::RemoveToken(exactly("token id", &id)?),
            Change::SendLimits(limits) => Self::SendLimits {
                recipients: limits.recipients,
                bytes: limits.bytes,
            },
        })
    }
}

fn domains_to(domains: &[Domain]) -> proto::DomainNames {
    proto::DomainNames {
        names: domains.iter().map(Domain::to_string).collect(),
    }
}

fn domains_from(names: Vec<String>) -> Result<Vec<Domain>, Undecodable> {
    names.iter().map(|name| domain(name)).collect()
}

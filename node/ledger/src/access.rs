//! Who may use the operators' API from afar, and for what.

use std::fmt;

use holdfast_proto::ledger as proto;

use crate::Undecodable;

/// People at once: more than an operator has, and few enough to be listed in one answer.
pub const GRANTS_MAX: usize = 1_000;

/// Of a name; with what is put before it, it is a label in a certificate's DNS name.
pub const PERSON_NAME_OCTETS_MAX: usize = 32;

/// What somebody may do; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look.
    Viewer,
    /// And run what is there: domains, mail, maintenance.
    Operator,
    /// And say who belongs to the cluster, and who has access.
    Admin,
}

impl Role {
    pub(crate) fn to_proto(self) -> proto::Role {
        match self {
            Self::Viewer => proto::Role::Viewer,
            Self::Operator => proto::Role::Operator,
            Self::Admin => proto::Role::Admin,
        }
    }

    pub(crate) fn from_proto(value: i32) -> Result<Self, Undecodable> {
        match proto::Role::try_from(value) {
            Ok(proto::Role::Viewer) => Ok(Self::Viewer),
            Ok(proto::Role::Operator) => Ok(Self::Operator),
            Ok(proto::Role::Admin) => Ok(Self::Admin),
            Ok(proto::Role::Unspecified) | Err(_) => Err(Undecodable::unknown("role")),
        }
    }

    /// As it is typed and printed.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Viewer, Self::Operator, Self::Admin]
            .into_iter()
            .find(|role| role.to_string() == text)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        })
    }
}

/// What a person may be called: lower-case letters, digits and hyphens, a letter first: it is printed, typed and part of a DNS
/// name in a certificate.
#[must_use]
pub fn is_person_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    name.len() <= PERSON_NAME_OCTETS_MAX
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name.bytes().all(inner)
}

//! How mail for a domain goes to its primary.

use holdfast_proto::ledger as proto;

use crate::Undecodable;
use crate::wire::exactly;

/// Octets of a name or a secret for AUTH: RFC 4616 section 2 asks servers for 255.
pub const LOGIN_OCTETS_MAX: usize = 255;

/// The default is SMTP to the configured host, under TLS where it is offered.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Route {
    /// The primaries are whom the MX records name before us, not the configured host.
    pub by_mx: bool,
    /// RFC 2033.
    pub lmtp: bool,
    pub tls: RouteTls,
    /// Name and secret for AUTH.
    pub login: Option<(String, String)>,
    /// A host's name may lead to a private address. An address that was configured always may.
    pub private: bool,
    /// SHA-256 of the primary's public key (its SubjectPublicKeyInfo): any other gets no mail.
    pub key: Option<[u8; 32]>,
    /// Mail for hosts below the domain that have no record is taken, and goes to the host it names.
    pub direct: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RouteTls {
    #[default]
    Opportunistic,
    /// Whatever the certificate.
    Required,
    /// The certificate must be good, for the host's name.
    Verified,
}

/// Without the secret: this is logged, and told in the audit.
impl std::fmt::Debug for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words = [
            if self.by_mx { "mx" } else { "host" },
            if self.lmtp { "lmtp" } else { "smtp" },
            match self.tls {
                RouteTls::Opportunistic => "tls opportunistic",
                RouteTls::Required => "tls required",
                RouteTls::Verified => "tls verified",
            },
        ];
        f.write_str(&words.join(", "))?;
        if let Some((user, _)) = &self.login {
            write!(f, ", login {user}")?;
        }
        if let Some(key) = &self.key {
            f.write_str(", key ")?;
            for byte in key {
                write!(f, "{byte:02x}")?;
            }
        }
        if self.private {
            f.write_str(", private addresses")?;
        }
        if self.direct {
            f.write_str(", hosts directly")?;
        }
        Ok(())
    }
}

impl Route {
    /// Whether it makes sense: a secret goes to nobody in clear text, and LMTP has no MX (RFC 2033
    /// section 5).
    pub(crate) fn is_sound(&self) -> bool {
        let encrypted = self.tls != RouteTls::Opportunistic;
        let short = |text: &str| {
            (1..=LOGIN_OCTETS_MAX).contains(&text.len()) && !text.chars().any(char::is_control)
        };
        let login = self.login.as_ref();
        let login = login.is_none_or(|(user, secret)| encrypted && short(user) && short(secret));
        login && (self.key.is_none() || encrypted) && !(self.by_mx && self.lmtp)
    }

    pub(crate) fn to_proto(&self) -> proto::Route {
        let (user, secret) = self.login.clone().unwrap_or_default();
        proto::Route {
            by_mx: self.by_mx,
            lmtp: self.lmtp,
            tls: match self.tls {
                RouteTls::Opportunistic => proto::RouteTls::Opportunistic,
                RouteTls::Required => proto::RouteTls::Required,
                RouteTls::Verified => proto::RouteTls::Verified,
            }
            .into(),
            user,
            secret,
            private: self.private,
            key: self.key.map(|key| key.to_vec()).unwrap_or_default().into(),
            direct: self.direct,
        }
    }

    pub(crate) fn from_proto(route: proto::Route) -> Result<Self, Undecodable> {
        let tls = match route.tls() {
            proto::RouteTls::Opportunistic if route.tls != 0 => {
                return Err(Undecodable::unknown("TLS"));
            }
            proto::RouteTls::Opportunistic => RouteTls::Opportunistic,
            proto::RouteTls::Required => RouteTls::Required,
            proto::RouteTls::Verified => RouteTls::Verified,
        };
        let key = (!route.key.is_empty()).then(|| exactly("key", &route.key));
        Ok(Self {
            by_mx: route.by_mx,
            lmtp: route.lmtp,
            tls,
            login: (!route.user.is_empty()).then_some((route.user, route.secret)),
            private: route.private,
            key: key.transpose()?,
            direct: route.direct,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_shown_and_never_sent_in_clear() {
        let mut route = Route {
            login: Some(("backup".to_owned(), "s3cret".to_owned())),
            ..Route::default()
        };
        assert!(!route.is_sound());
        route.tls = RouteTls::Required;
        assert!(route.is_sound());
        assert_eq!(
            format!("{route:?}"),
            "host, smtp, tls required, login backup"
        );
        route.login = Some(("backup".to_owned(), "s3\r\nRSET".to_owned()));
        assert!(!route.is_sound());
    }

    #[test]
    fn a_key_is_pinned_under_tls_and_lmtp_goes_by_no_mx() {
        let pinned = Route {
            key: Some([7; 32]),
            ..Route::default()
        };
        assert!(!pinned.is_sound());
        let by_mx = Route {
            by_mx: true,
            lmtp: true,
            ..Route::default()
        };
        assert!(!by_mx.is_sound());
    }
}

//! Names to addresses, and domains to those who take their mail.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::RData;
use holdfast_mail::route::Exchanger;

/// Addresses of one name that are looked at; a zone with more is no mail server.
const ADDRESSES_MAX: usize = 16;

/// MX records of one domain that are looked at.
const EXCHANGERS_MAX: usize = 32;

/// What the DNS says of a domain's mail.
#[derive(Debug)]
pub enum Exchangers {
    Mx(Vec<Exchanger>),
    /// No MX record: the domain itself is the host (RFC 5321 section 5.1).
    Implicit,
    /// There is no such domain, and waiting will not make one.
    NoDomain,
}

/// The system's resolvers. Cheap to clone; answers are cached for as long as their TTL says.
#[derive(Clone)]
pub struct Resolver(Arc<TokioResolver>);

impl Resolver {
    /// Reads `/etc/resolv.conf`.
    pub fn system() -> io::Result<Self> {
        let builder = TokioResolver::builder_tokio().map_err(io::Error::other)?;
        Ok(Self(Arc::new(builder.build().map_err(io::Error::other)?)))
    }

    /// The addresses of `host`, which may be an address itself. `localhost` needs no DNS (RFC
    /// 6761 section 6.3).
    pub async fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        if host.eq_ignore_ascii_case("localhost") {
            return Ok(vec![Ipv4Addr::LOCALHOST.into()]);
        }
        // The final dot keeps the search domains of resolv.conf out of it.
        let found = self
            .0
            .lookup_ip(format!("{}.", host.trim_end_matches('.')))
            .await;
        let found = found.map_err(io::Error::other)?;
        Ok(found.iter().take(ADDRESSES_MAX).collect())
    }

    /// Who takes mail for `domain`. An error passes.
    pub async fn exchangers(&self, domain: &str) -> io::Result<Exchangers> {
        let found = match self.0.mx_lookup(format!("{domain}.")).await {
            Ok(found) => found,
            Err(error) if error.is_nx_domain() => return Ok(Exchangers::NoDomain),
            Err(error) if error.is_no_records_found() => return Ok(Exchangers::Implicit),
            Err(error) => return Err(io::Error::other(error)),
        };
        let exchangers: Vec<_> = found
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::MX(mx) => Some(Exchanger {
                    preference: mx.preference,
                    host: mx
                        .exchange
                        .to_utf8()
                        .trim_end_matches('.')
                        .to_ascii_lowercase(),
                }),
                _ => None,
            })
            .take(EXCHANGERS_MAX)
            .collect();
        if exchangers.is_empty() {
            return Ok(Exchangers::Implicit);
        }
        Ok(Exchangers::Mx(exchangers))
    }
}

//! Names to addresses, and domains to those who take their mail.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, Record, RecordType};
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

/// Asks resolvers. Cheap to clone.
#[derive(Clone)]
pub struct Resolver(Arc<TokioResolver>);

/// Whether a resolver keeps answers for as long as their TTL says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    Kept,
    /// For whoever has just changed a zone and looks whether it is right now.
    None,
}

impl Resolver {
    /// Asks `servers`, or if there are none those that `/etc/resolv.conf` names.
    ///
    /// # Errors
    /// That file cannot be read.
    pub fn new(servers: &[SocketAddr], memory: Memory) -> io::Result<Self> {
        let mut builder = match servers {
            [] => TokioResolver::builder_tokio().map_err(io::Error::other)?,
            servers => {
                let provider = TokioRuntimeProvider::default();
                TokioResolver::builder_with_config(config(servers), provider)
            }
        };
        let options = builder.options_mut();
        if memory == Memory::None {
            options.cache_size = 0;
        }
        // What senders see is in the DNS, not in this machine's file.
        if memory == Memory::None || !servers.is_empty() {
            options.use_hosts_file = ResolveHosts::Never;
        }
        Ok(Self(Arc::new(builder.build().map_err(io::Error::other)?)))
    }

    /// The name that `host` is an alias of, if it is one.
    pub async fn alias(&self, host: &str) -> Option<String> {
        let found = self.0.lookup(format!("{host}."), RecordType::CNAME).await;
        let found = found.ok()?;
        found
            .answers()
            .iter()
            .find_map(|record| match &record.data {
                RData::CNAME(name) => Some(name.0.to_utf8().trim_end_matches('.').to_owned()),
                _ => None,
            })
    }

    /// The names that an address leads back to.
    pub async fn pointers(&self, address: IpAddr) -> Vec<String> {
        let Ok(found) = self.0.reverse_lookup(address).await else {
            return Vec::new();
        };
        let name = |record: &Record| match &record.data {
            RData::PTR(name) => Some(name.0.to_utf8().trim_end_matches('.').to_owned()),
            _ => None,
        };
        found.answers().iter().filter_map(name).collect()
    }

    /// Whether there is any text at `name`.
    pub async fn has_text(&self, name: &str) -> bool {
        self.0.txt_lookup(format!("{name}.")).await.is_ok()
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

    /// The same; none where the DNS says that there are none, and an error only if it did not say.
    pub async fn addresses_or_none(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        match self
            .0
            .lookup_ip(format!("{}.", host.trim_end_matches('.')))
            .await
        {
            Ok(found) => Ok(found.iter().take(ADDRESSES_MAX).collect()),
            Err(error) if error.is_nx_domain() || error.is_no_records_found() => Ok(Vec::new()),
            Err(error) => Err(io::Error::other(error)),
        }
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

fn config(servers: &[SocketAddr]) -> ResolverConfig {
    let server = |address: &SocketAddr| {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
        let at_port = |mut connection: ConnectionConfig| {
            connection.port = address.port();
            connection
        };
        NameServerConfig::new(address.ip(), true, connections.map(at_port).to_vec())
    };
    ResolverConfig::from_parts(None, vec![], servers.iter().map(server).collect())
}

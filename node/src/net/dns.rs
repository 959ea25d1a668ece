//! Names to addresses.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use hickory_resolver::TokioResolver;

/// Addresses of one name that are looked at; a zone with more is no mail server.
const ADDRESSES_MAX: usize = 16;

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
}

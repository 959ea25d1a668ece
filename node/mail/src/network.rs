//! IP networks: who is near, and what counts as one client.

use std::fmt;
use std::net::IpAddr;

/// All addresses that begin with the same bits, as in `192.0.2.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    /// Nothing behind the prefix.
    address: IpAddr,
    prefix: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    #[error("it is neither an address nor ADDRESS/BITS, such as 192.0.2.0/24 or 2001:db8::/32")]
    Syntax,
    /// Somebody who writes `192.0.2.7/8` has slipped, and would open the door for millions.
    #[error("its address has bits behind the prefix")]
    HostBits,
}

impl Network {
    /// Reads `192.0.2.0/24`, or one address. An IPv4 network is written as one, not mapped.
    pub fn parse(text: &str) -> Result<Self, NetworkError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NetworkError::Syntax)?;
        let whole = bits(address);
        let prefix = match prefix {
            None => whole,
            // No signs, no leading zeros: one network has one text.
            Some(text) if text.starts_with(['+', '0']) && text != "0" => {
                return Err(NetworkError::Syntax);
            }
            Some(text) => text
                .parse()
                .ok()
                .filter(|prefix| *prefix <= whole)
                .ok_or(NetworkError::Syntax)?,
        };
        if first(address, prefix) != address {
            return Err(NetworkError::HostBits);
        }
        Ok(Self { address, prefix })
    }

    /// An IPv4 client that came by an IPv6 socket is an IPv4 client.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && first(address, self.prefix) == self.address
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// What counts as one client. An IPv6 customer has at least a /64: counting single addresses would
/// count nothing.
#[must_use]
pub fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        v6 @ IpAddr::V6(_) => first(v6, 64),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// The networks that an address is in, the widest first, and how many times the room of one client each
/// has. A provider gives an IPv6 customer a /56 or a /48 for the asking: where only the /64 counts, one
/// host is as many clients as it likes.
pub fn circles(address: IpAddr) -> impl Iterator<Item = (Network, u32)> {
    const V4: &[(u8, u32)] = &[(32, 1)];
    const V6: &[(u8, u32)] = &[(48, 4), (56, 2), (64, 1)];
    let address = address.to_canonical();
    let circles = if address.is_ipv4() { V4 } else { V6 };
    circles.iter().map(move |&(prefix, room)| {
        let address = first(address, prefix);
        (Network { address, prefix }, room)
    })
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The first address with the same `prefix` bits.
fn first(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_has_the_addresses_that_begin_with_its_bits() {
        for (network, inside, outside) in [
            ("192.0.2.0/24", "192.0.2.255", "192.0.3.0"),
            ("192.0.2.7/32", "192.0.2.7", "192.0.2.6"),
            ("0.0.0.0/0", "203.0.113.1", "2001:db8::1"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::/0", "::1", "192.0.2.1"),
            ("192.0.2.0/24", "::ffff:192.0.2.9", "::192.0.2.9"),
        ] {
            let parsed = Network::parse(network).unwrap();
            assert!(parsed.contains(ip(inside)), "{network} {inside}");
            assert!(!parsed.contains(ip(outside)), "{network} {outside}");
            assert_eq!(parsed.to_string(), network);
        }
        assert_eq!(Network::parse("::1").unwrap().to_string(), "::1/128");
    }

    #[test]
    fn what_is_no_network_says_why() {
        for text in [
            "",
            "/8",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/08",
            "mx.example",
            "10.0.0.0/8/8",
            "10.0.0.0/-1",
        ] {
            assert_eq!(Network::parse(text), Err(NetworkError::Syntax), "{text}");
        }
        assert_eq!(Network::parse("10.0.0.1/8"), Err(NetworkError::HostBits));
        assert_eq!(
            Network::parse("2001:db8::1/64"),
            Err(NetworkError::HostBits)
        );
    }

    #[test]
    fn an_ipv6_customer_is_one_client() {
        assert_eq!(client(ip("2001:db8::1")), client(ip("2001:db8::2")));
        assert_ne!(client(ip("2001:db8::1")), client(ip("2001:db8:0:1::1")));
        assert_eq!(client(ip("::ffff:192.0.2.1")), ip("192.0.2.1"));
    }

    #[test]
    fn an_ipv6_address_counts_for_wider_networks_too_which_have_more_room() {
        let shown = |text| -> Vec<_> {
            let shown = |(network, room): (Network, u32)| (network.to_string(), room);
            circles(ip(text)).map(shown).collect()
        };
        let of = |network: &str, room| (network.to_owned(), room);
        assert_eq!(
            shown("2001:db8:1:1234::1"),
            [
                of("2001:db8:1::/48", 4),
                of("2001:db8:1:1200::/56", 2),
                of("2001:db8:1:1234::/64", 1)
            ]
        );
        assert_eq!(shown("192.0.2.1"), [of("192.0.2.1/32", 1)]);
        assert_eq!(shown("::ffff:192.0.2.1"), [of("192.0.2.1/32", 1)]);
    }
}

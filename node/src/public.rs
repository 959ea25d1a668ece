//! Whether anybody on the Internet means the same host by an address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Of the addresses that IANA sets aside, those for examples are left: nobody has them.
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    !PRIVATE_V4
        .iter()
        .any(|([a, b, c, d], length)| is_in(u32::from(ip), Ipv4Addr::new(*a, *b, *c, *d), *length))
}

fn is_in(ip: u32, network: Ipv4Addr, length: u32) -> bool {
    (ip ^ u32::from(network)).leading_zeros() >= length
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    if let Some(inside) = embedded(ip) {
        return is_public_v4(inside);
    }
    !PRIVATE_V6.iter().any(|(network, length)| {
        (u128::from(ip) ^ (u128::from(*network) << 64)).leading_zeros() >= *length
    })
}

/// The IPv4 address to which a translator, a relay or the machine itself takes what is sent to this
/// one.
fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let last = |bits: u128| Ipv4Addr::from(bits as u32);
    let bits = u128::from(ip);
    match ip.segments() {
        // Compatible, mapped and translated (RFC 4291 section 2.5.5, RFC 2765 section 2.1), and what a
        // NAT64 makes of a public one (RFC 6052 section 2.1). The first takes in :: and ::1.
        [0, 0, 0, 0, 0, 0 | 0xffff, ..]
        | [0, 0, 0, 0, 0xffff, 0, ..]
        | [0x64, 0xff9b, 0, 0, 0, 0, ..] => Some(last(bits)),
        // 6to4 (RFC 3056 section 2).
        [0x2002, ..] => Some(last(bits >> 80)),
        _ => None,
    }
}

/// IANA's registry of special addresses: what is nobody's, everybody's, or another's in each network.
const PRIVATE_V4: [([u8; 4], u32); 12] = [
    // "This network", and this host (RFC 791).
    ([0, 0, 0, 0], 8),
    ([10, 0, 0, 0], 8),
    // Between a provider and its customers (RFC 6598).
    ([100, 64, 0, 0], 10),
    ([127, 0, 0, 0], 8),
    ([169, 254, 0, 0], 16),
    ([172, 16, 0, 0], 12),
    // Protocols' own (RFC 6890), and relays of 6to4, of whom the nearest answers (RFC 7526).
    ([192, 0, 0, 0], 24),
    ([192, 88, 99, 0], 24),
    ([192, 168, 0, 0], 16),
    // Where devices are measured (RFC 2544).
    ([198, 18, 0, 0], 15),
    ([224, 0, 0, 0], 4),
    // Never given out, and everybody (RFC 1112, RFC 919).
    ([240, 0, 0, 0], 4),
];

/// The upper half of each network, and its length.
const PRIVATE_V6: [(u64, u32); 8] = [
    // A NAT64 of a network's own (RFC 8215).
    (0x0064_ff9b_0001_0000, 48),
    // Where packets are dropped (RFC 6666).
    (0x0100_0000_0000_0000, 64),
    // Protocols' own (RFC 2928): Teredo (RFC 4380), which hides an IPv4 address, and others.
    (0x2001_0000_0000_0000, 23),
    // Routers' own (RFC 9602).
    (0x5f00_0000_0000_0000, 16),
    (0xfc00_0000_0000_0000, 7),
    (0xfe80_0000_0000_0000, 10),
    // What was a site's own (RFC 3879).
    (0xfec0_0000_0000_0000, 10),
    (0xff00_0000_0000_0000, 8),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_make_us_talk_to_ourselves_or_to_a_private_network() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "0.255.255.255",
            "10.0.0.0",
            "10.1.2.3",
            "10.255.255.255",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.0.170",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::2",
            "::7f00:1",
            "::127.0.0.1",
            "::10.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:7f00:1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:100.64.0.1",
            "::ffff:0.0.0.0",
            "::ffff:255.255.255.255",
            "::ffff:0:127.0.0.1",
            "::ffff:0:192.168.1.1",
            "64:ff9b::127.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b::192.168.0.1",
            "64:ff9b:1::1",
            "64:ff9b:1:ffff::8.8.8.8",
            "100::1",
            "2001::1",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "2001:2::1",
            "2001:10::1",
            "2001:20::1",
            "2001:1ff:ffff::1",
            "2002:7f00:1::1",
            "2002:a00:1::1",
            "2002:c0a8:101::1",
            "2002:a9fe:a9fe::",
            "2002:6440:1::1",
            "5f00::1",
            "fc00::1",
            "fd00::1",
            "fdff:ffff:ffff:ffff::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "feff:ffff::1",
            "ff02::1",
            "ff0e::101",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn what_everybody_means_the_same_host_by_is_public() {
        for address in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.1",
            "126.255.255.255",
            "128.0.0.1",
            "169.253.255.255",
            "172.15.255.255",
            "172.32.0.1",
            "192.0.1.1",
            "192.0.2.1",
            "192.88.98.1",
            "192.167.255.255",
            "192.169.0.1",
            "198.17.255.255",
            "198.20.0.1",
            "203.0.113.25",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2001:200::1",
            "2001:db8::1",
            "2002:808:808::1",
            "2606:4700:4700::1111",
            "2a00:1450:4001::1a",
        ] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }
}
